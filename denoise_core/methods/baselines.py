"""The reference lines of Neighbor2Neighbor's Table 1: the same network and budget with targets that users lack.

N2C learns from clean targets, N2N (Lehtinen et al. 2018) from a second noisy copy of each image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from torch import Tensor

from denoise_core.method import Assumptions, Citation, Context, Deviation, Update
from denoise_core.methods.neighbor2neighbor import UNetMethod


class PairedRegression(UNetMethod):
    """Mean squared error between the denoised image and a target field."""

    version = 1
    target: ClassVar[str]
    deviations = (
        Deviation(
            "Training",
            "public weights of Laine et al. (2019), trained on their own schedule",
            "not released",
            "the same network, images, steps and learning rate as the method that it is compared with",
        ),
    )

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """mean((f(y) - target)^2)."""
        loss = (self.network(batch["noisy"]).float() - batch[self.target]).square().mean()
        yield Update("network", loss, {"loss": loss})


class NoiseToClean(PairedRegression):
    """Supervised training, the upper reference."""

    name = "n2c"
    title = "N2C (supervised)"
    target = "clean"
    assumes = Assumptions(False, False, False, fields=("noisy", "clean"))


class NoiseToNoise(PairedRegression):
    """Two independent noisy copies of each image."""

    name = "n2n"
    title = "N2N (noisy pairs)"
    citation = Citation(
        "Lehtinen et al.: Noise2Noise: Learning Image Restoration without Clean Data, ICML 2018",
        "https://arxiv.org/abs/1803.04189",
    )
    target = "noisy2"
    assumes = Assumptions(zero_mean=True, pixel_independent=False, signal_independent=False, fields=("noisy", "noisy2"))
