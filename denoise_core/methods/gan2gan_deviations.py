"""Where GAN2GAN's paper, its official code and this code differ."""

from __future__ import annotations

from denoise_core.method import Deviation

DEVIATIONS = (
    Deviation(
        "Model selection",
        "the last epoch, no validation set",
        "by default the epoch with the best PSNR on the test set",
        "the last step",
    ),
)
