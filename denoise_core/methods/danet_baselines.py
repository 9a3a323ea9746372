"""What DANet's claims stand beside: its denoiser with the L1 loss alone, and white noise of the pairs' variance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from denoise_core.config import MethodConfig, Param
from denoise_core.diagnostics import Diagnostic, describe_pairs
from denoise_core.images.source import ImageSource
from denoise_core.method import Assumptions, Context, Deviation, Method, Phase, Recipe, Update
from denoise_core.methods.danet import SAMPLES, DANet
from denoise_core.methods.danet_config import DANetConfig
from denoise_core.seeding import generator

STEPS = 200
BINS = 16
"""Of intensity, in which the variance is measured."""


class PlainL1(DANet):
    """DANet's first phase: the same denoiser, pairs, rate and number of updates, with |R(y) - x| alone.

    DANet trains it too, so it costs nothing beside any of its settings.
    """

    name = "danet_l1"
    title = "L1 alone"
    deviations: ClassVar[tuple[Deviation, ...]] = ()

    def __init__(self, config: DANetConfig, channels: int):
        super().__init__(config, channels)
        self.denoiser = self.synthetic = self.retrained = self.generator = None
        del self.critic

    def phases(self) -> tuple[Phase, ...]:
        """The plain denoiser's."""
        return (self._plain_phase(),)


class FittedNoiseConfig(MethodConfig):
    """How many crops are looked at, and how many draws are compared."""

    batch_size: int = Param(32, "pairs of crops a step, over all workers", affects="data", ge=1)
    patch_size: int = Param(64, "side of a crop in pixels", affects="data", ge=1)
    akld_draws: int = Param(50, "L: generated versions of each test image", affects="inference", ge=1)


class FittedNoise(Method):
    """White Gaussian noise with the pairs' mean and variance at each intensity; it denoises nothing.

    The trivial generator of noise: no network, no correlation. AKLD is better for white noise of the right variance
    than for the true noise drawn anew, so a generator's AKLD means little without this line. There are no weights: a
    step adds its crops to the sums of sixteen bins of intensity.
    """

    name = "fitted_noise"
    version = 1
    title = "White noise, fitted by intensity"
    Config: ClassVar[type[MethodConfig]] = FittedNoiseConfig
    config: FittedNoiseConfig
    protocol = "danet"
    denoises = False
    assumes = Assumptions(False, False, False, fields=("noisy", "clean"))
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "smoke": Recipe(4, {"patch_size": 16, "batch_size": 4, "akld_draws": 1}, channels_last=False),
        "laptop": Recipe(STEPS, {"akld_draws": 2}, channels_last=False),
        "gpu": Recipe(STEPS, channels_last=False),
        "paper": Recipe(STEPS, channels_last=False),
    }
    sums: Tensor

    def __init__(self, config: FittedNoiseConfig, channels: int):
        super().__init__(config, channels)
        # by bin: count, sum, sum of squares of the noise; float64, since the sums grow
        self.register_buffer("sums", torch.zeros(BINS, 3, dtype=torch.float64))

    def phases(self) -> tuple[Phase, ...]:
        """One phase without an optimizer."""
        return (Phase("measure", {}, self.assumes.fields, self.config.patch_size, self.config.batch_size),)

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """Adds the batch to the sums."""
        noise = (batch["noisy"] - batch["clean"]).double().flatten()
        place = _bin(batch["clean"]).flatten()
        values = torch.stack([torch.ones_like(noise), noise, noise.square()], dim=1)
        sums = torch.zeros_like(self.sums).index_add_(0, place, values)
        if context.world > 1:
            dist.all_reduce(sums)
        self.sums += sums
        yield from ()

    def denoise(self, noisy: Tensor) -> Tensor:
        """The noisy image, clipped to [0, 1]."""
        return noisy.clamp(0, 1)

    @property
    def draws(self) -> int:
        """As many as DANet's."""
        return self.config.akld_draws

    def generate(self, clean: Tensor, random: torch.Generator) -> Tensor:
        """x + mean(x) + s(x) n. A bin without a pixel in the training images takes the mean and variance of all."""
        every = self.sums.sum(dim=0)
        sums = torch.where(self.sums[:, :1] > 0, self.sums, every)
        mean = sums[:, 1] / sums[:, 0].clamp_min(1)
        deviation = (sums[:, 2] / sums[:, 0].clamp_min(1) - mean.square()).clamp_min(0).sqrt()
        white = torch.randn(clean.shape, generator=random).to(clean)
        place = _bin(clean)
        return clean + mean.to(clean.dtype)[place] + deviation.to(clean.dtype)[place] * white

    def diagnose(self, source: ImageSource) -> Sequence[Diagnostic]:
        """Its noise beside the true one."""
        crops = source.batch(size=SAMPLES, patch=self.config.patch_size, seed=0, step=0, fields=("noisy", "clean"))
        generated = self.generate(crops["clean"], generator("diagnose")).clamp(0, 1)
        return describe_pairs(crops["clean"], crops["noisy"], generated)


def _bin(clean: Tensor) -> Tensor:
    return (clean * BINS).long().clamp(0, BINS - 1)
