"""Noisier2Noise (Moran, Schmidt, Zhong, Coady: Learning to Denoise from Unpaired Noisy Data, CVPR 2020).

Noise of the same kind is added to the noisy image y = x + n once more, z = y + m, and the network f learns to give y
for z. For Gaussian m with alpha times the standard deviation of n, E[x | z] = ((1 + alpha^2) E[y | z] - z) / alpha^2:
the network cannot tell n from m, so what it takes away of m tells how much of n there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from denoise_core.config import Param, choice
from denoise_core.images.source import ImageSource
from denoise_core.inference import pad_to_multiple
from denoise_core.method import Assumptions, Citation, Context, Deviation, Recipe, Update
from denoise_core.methods.classical import noise_levels
from denoise_core.methods.neighbor2neighbor import FAST, UNetConfig, UNetMethod
from denoise_core.seeding import generator

LOOKED_AT = 64
"""Crops that the noise level is estimated from."""
SMALL: Mapping[str, Any] = {**FAST, "alpha": 1.0, "repeats": 4}
"""For budgets whose networks have not seen much, see the deviation of alpha."""


class Noisier2NoiseConfig(UNetConfig):
    """The U-Net's hyperparameters, the noise that is added, and how often it is for a new image."""

    sigma: float = Param(
        0.0, "the noise's standard deviation at a range of 255; 0: estimated from the noisy training images", ge=0
    )
    alpha: float = Param(
        0.5, "the added noise's standard deviation over that of the noise", search=choice(0.25, 0.5, 0.75, 1.0), gt=0,
        le=10,
    )  # fmt: skip
    repeats: int = Param(1, "draws of added noise whose results are averaged", affects="inference", ge=1)


class Noisier2Noise(UNetMethod):
    """Trains on single noisy images with white Gaussian noise, whose level must be known or is estimated."""

    name = "noisier2noise"
    version = 1
    title = "Noisier2Noise"
    citation = Citation(
        "Moran, Schmidt, Zhong, Coady: Noisier2Noise: Learning to Denoise from Unpaired Noisy Data, CVPR 2020",
        "https://arxiv.org/abs/1910.11908",
    )
    Config = Noisier2NoiseConfig
    config: Noisier2NoiseConfig
    protocol = "canonical"
    assumes = Assumptions(zero_mean=True, pixel_independent=True, signal_independent=True, fields=("noisy",))
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "smoke": Recipe(4, {**SMALL, "features": 4, "patch_size": 64, "batch_size": 2, "padding": "minimal"}),
        "laptop": Recipe(1000, {**SMALL, "features": 24, "patch_size": 64, "padding": "minimal"}),
        "gpu": Recipe(20_000, {"patch_size": 128, "batch_size": 16, "lr": 1e-3, "lr_schedule": "one_cycle",
                               "repeats": 4}, "bf16"),
        "paper": Recipe(200_000, {"patch_size": 128, "batch_size": 32, "lr": 1e-3, "init_scale": 1.0}),
    }  # fmt: skip
    deviations = (
        Deviation(
            "Noise level",
            "known",
            "not released",
            "`sigma`, or the median of the levels of 64 crops (wavelet rule), kept with the weights",
        ),
        Deviation("Network", "a U-Net", "not released", "Neighbor2Neighbor's U-Net, as in the other methods"),
        Deviation(
            "alpha",
            "less than 1 for Gaussian noise, which leaves more of the image to learn from",
            "not released",
            "0.5; 1 in the smoke and laptop budgets, since the errors of a network that has seen little are multiplied "
            "by (1 + alpha^2) / alpha^2",
        ),
        Deviation(
            "New images",
            "noise is added to them too",
            "not released",
            "the same; the results of several seeded draws may be averaged (`repeats`)",
        ),
        Deviation("Learning rate and length", "not stated here", "not released",
                  "Adam at 0.001, halved at four points of the training (paper), or one cosine cycle"),
    )  # fmt: skip
    level: Tensor

    def __init__(self, config: Noisier2NoiseConfig, channels: int):
        super().__init__(config, channels)
        # the noise's standard deviation in the images' units; kept with the weights
        self.register_buffer("level", torch.full((), config.sigma / 255))

    def prepare(self, source: ImageSource) -> ImageSource:
        """Estimates the noise level where it is not told; the images stay as they are."""
        if self.config.sigma == 0:
            source.check(self.config.patch_size)
            crops = source.batch(size=LOOKED_AT, patch=self.config.patch_size, seed=0, step=0, fields=("noisy",))
            self.level.fill_(float(noise_levels(crops["noisy"]).median()))
        return source

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """mean((f(z) - y)^2) with z = y + m."""
        noisy = batch["noisy"]
        noisier = noisy + self.config.alpha * self.level * context.randn(noisy.shape)
        loss = (self.network(noisier).float() - noisy).square().mean()
        yield Update("network", loss, {"loss": loss})

    def denoise(self, noisy: Tensor) -> Tensor:
        """The mean over ``repeats`` draws of ((1 + alpha^2) f(z) - z) / alpha^2, clipped to [0, 1].

        The draws are the same for every image of a size.
        """
        alpha, total = self.config.alpha, torch.zeros_like(noisy)
        for repeat in range(self.config.repeats):
            random = generator(self.name, repeat)  # on the CPU: the same on every device
            added = torch.randn(noisy.shape[1:], generator=random).to(noisy)
            noisier = noisy + alpha * self.level * added
            total += ((1 + alpha**2) * self._applied(noisier) - noisier) / alpha**2
        return (total / self.config.repeats).clamp(0, 1)

    def _applied(self, noisy: Tensor) -> Tensor:
        """The network's answer, not clipped."""
        height, width = noisy.shape[-2:]
        padded = pad_to_multiple(noisy, 32, square=self.config.padding == "square")
        return self.network(padded)[..., :height, :width]  # type: ignore[no-any-return]
