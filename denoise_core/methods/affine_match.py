"""The trivial baseline of unpaired denoising: give noisy images the brightness and contrast of the clean ones.

Noise that is not zero-mean shifts brightness, and most of what an unpaired method gains over its input is this shift
undone. A claim is what it gains over this line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from denoise_core.config import MethodConfig, Param
from denoise_core.method import Assumptions, Context, Method, Phase, Recipe, Update

STEPS = 400


class AffineMatchConfig(MethodConfig):
    """How many crops are looked at."""

    batch_size: int = Param(64, "noisy crops and clean crops a step, over all workers", affects="data", ge=1)
    patch_size: int = Param(64, "side of a crop in pixels", affects="data", ge=1)


class AffineMatch(Method):
    """y = (x - mean of the noisy images) * (deviation of the clean ones / of the noisy ones) + mean of the clean ones.

    There are no weights: a step adds its crops to the sums of both kinds of images.
    """

    name = "affine_match"
    version = 1
    title = "Affine match"
    Config: ClassVar[type[MethodConfig]] = AffineMatchConfig
    config: AffineMatchConfig
    protocol = "iscl"
    whole_images = True
    assumes = Assumptions(False, False, False, fields=("noisy", "clean_unpaired"))
    recipes: ClassVar[Mapping[str, Recipe]] = {
        budget: Recipe(STEPS, {"patch_size": 32} if budget in ("smoke", "laptop") else {}, channels_last=False)
        for budget in ("smoke", "laptop", "gpu", "paper")
    }
    sums: Tensor

    def __init__(self, config: AffineMatchConfig, channels: int):
        super().__init__(config, channels)
        # noisy and clean: count, sum, sum of squares; float64, since the sums grow
        self.register_buffer("sums", torch.zeros(2, 3, dtype=torch.float64))

    def phases(self) -> tuple[Phase, ...]:
        """One phase without an optimizer."""
        return (Phase("measure", {}, self.assumes.fields, self.config.patch_size, self.config.batch_size),)

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """Adds the batch to the sums."""
        for row, name in zip(self.sums, self.assumes.fields, strict=True):
            values = batch[name].double()
            sums = torch.stack([values.new_tensor(values.numel()), values.sum(), values.square().sum()])
            if context.world > 1:
                dist.all_reduce(sums)
            row += sums
        yield from ()

    def denoise(self, noisy: Tensor) -> Tensor:
        """See the class; clipped to [0, 1]."""
        (noisy_mean, noisy_deviation), (clean_mean, clean_deviation) = (self._moments(row) for row in self.sums)
        return self._matched(noisy, noisy_mean, noisy_deviation, clean_mean, clean_deviation).clamp(0, 1)

    def _moments(self, row: Tensor) -> tuple[Tensor, Tensor]:
        count = row[0].clamp_min(1)
        mean = row[1] / count
        return mean.float(), (row[2] / count - mean.square()).clamp_min(0).sqrt().float()

    def _matched(
        self, noisy: Tensor, mean: Tensor, deviation: Tensor, clean_mean: Tensor, clean_deviation: Tensor
    ) -> Tensor:
        return (noisy - mean) * (clean_deviation / deviation.clamp_min(1e-6)) + clean_mean


class AffineMatchOfEachImage(AffineMatch):
    """The same with mean and deviation of the image that is denoised, which suits noise that differs by image."""

    name = "affine_match_image"
    title = "Affine match of each image"

    def denoise(self, noisy: Tensor) -> Tensor:
        """See the class; clipped to [0, 1]."""
        clean_mean, clean_deviation = self._moments(self.sums[1])
        deviation, mean = torch.std_mean(noisy, (1, 2, 3), correction=0, keepdim=True)
        return self._matched(noisy, mean, deviation, clean_mean, clean_deviation).clamp(0, 1)
