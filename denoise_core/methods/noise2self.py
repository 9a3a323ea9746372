"""Noise2Self (Batson, Royer: Blind Denoising by Self-Supervision, ICML 2019).

The pixels are divided among the parts of a partition by a grid. A step hides one part, replaces its pixels by the mean
of their neighbours, and learns to give them back: the function "hide a part, apply the network, take the part" is
J-invariant, it does not depend on a pixel's own value, so that its loss against the noisy image is that against the
clean one plus a constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_core.config import Param, choice
from denoise_core.method import Assumptions, Citation, Context, Deviation, Recipe, Update
from denoise_core.methods.neighbor2neighbor import FAST, UNetConfig, UNetMethod

WEIGHTS = ((0.5, 1.0, 0.5), (1.0, 0.0, 1.0), (0.5, 1.0, 0.5))
"""Of a pixel's neighbours in the mean that replaces it."""


class Noise2SelfConfig(UNetConfig):
    """The U-Net's hyperparameters, the grid, and what is done with new images."""

    grid: int = Param(4, "a part has one pixel of each square of so many pixels a side",
                      search=choice(3, 4, 5, 8), ge=2, le=32)  # fmt: skip
    output: Literal["network", "invariant"] = Param(
        "network", "the network on the image as it is, or the J-invariant function: one pass for each part",
        affects="inference",
    )  # fmt: skip


class Noise2Self(UNetMethod):
    """Trains on single noisy images, with noise that is zero-mean and independent from pixel to pixel."""

    name = "noise2self"
    version = 1
    title = "Noise2Self"
    citation = Citation(
        "Batson, Royer: Noise2Self: Blind Denoising by Self-Supervision, ICML 2019",
        "https://arxiv.org/abs/1901.11365",
    )
    Config = Noise2SelfConfig
    config: Noise2SelfConfig
    protocol = "canonical"
    assumes = Assumptions(zero_mean=True, pixel_independent=True, signal_independent=False, fields=("noisy",))
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "smoke": Recipe(4, {**FAST, "features": 4, "patch_size": 64, "batch_size": 2, "padding": "minimal"}),
        "laptop": Recipe(1000, {**FAST, "features": 24, "patch_size": 64, "padding": "minimal"}),
        "gpu": Recipe(20_000, {"patch_size": 128, "batch_size": 16, "lr": 1e-3, "lr_schedule": "one_cycle"}, "bf16"),
        "paper": Recipe(200_000, {"patch_size": 64, "batch_size": 32, "lr": 1e-3, "init_scale": 1.0}),
    }
    deviations = (
        Deviation(
            "Network",
            "a U-Net or a DnCNN",
            "the same",
            "Neighbor2Neighbor's U-Net, so that the methods of a race differ in what they learn from only",
        ),
        Deviation(
            "Order of the parts",
            "the loss is a sum over all parts",
            "one part a step in turn; the examples leave out the last one of the grid",
            "one part a step in turn, all of them",
        ),
        Deviation(
            "Replacement at the edges",
            "not stated",
            "the mean takes pixels outside of the image as 0",
            "the mean of the neighbours that there are",
        ),
        Deviation("Loss", "squared error at the hidden pixels", "its mean over all pixels", "its mean over the hidden"),
        Deviation(
            "New images",
            "the J-invariant function",
            "either: one pass for each part, or the network on the image as it is",
            "either (`output`); the network as it is, which is a little better, by default",
        ),
        Deviation("Learning rate and length", "not stated for these images", "0.001 in the examples",
                  "0.001 halved at four points of the training (paper), or one cosine cycle"),
    )  # fmt: skip

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """Proposition 1 for one part J of the partition: the mean over J of (f(x with J replaced)_J - x_J)^2."""
        noisy = batch["noisy"]
        part = context.step % self.config.grid**2
        height, width = noisy.shape[-2:]
        mask = part_of_grid(height, width, self.config.grid, part, noisy.device)
        hidden = torch.where(mask, means_of_neighbours(noisy), noisy)
        squares = (self.network(hidden).float() - noisy).square()
        loss = (squares * mask).mean() * mask.numel() / mask.sum()
        yield Update("network", loss, {"loss": loss})

    @property
    def reach(self) -> int:
        """The network's, and one pixel more where it gets means of neighbours."""
        return super().reach + (self.config.output != "network")

    def denoise(self, noisy: Tensor) -> Tensor:
        """The network's answer, or that of the J-invariant function, clipped to [0, 1]."""
        if self.config.output == "network":
            return super().denoise(noisy)
        means, result = means_of_neighbours(noisy), torch.zeros_like(noisy)
        height, width = noisy.shape[-2:]
        for part in range(self.config.grid**2):
            mask = part_of_grid(height, width, self.config.grid, part, noisy.device)
            if mask.any():
                result = torch.where(mask, super().denoise(torch.where(mask, means, noisy)), result)
        return result


def part_of_grid(height: int, width: int, side: int, part: int, device: torch.device) -> Tensor:
    """(H, W) bool: the pixels at place ``part`` (0 .. side^2 - 1, in rows) of each square of ``side`` pixels."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    return (rows % side == part // side)[:, None] & (columns % side == part % side)


def means_of_neighbours(images: Tensor) -> Tensor:
    """Of each pixel of (N, C, H, W) the mean of its eight neighbours inside of the image, by :data:`WEIGHTS`."""
    kernel = images.new_tensor(WEIGHTS)[None, None]
    alone = images.flatten(0, 1)[:, None]
    sums = F.conv2d(alone, kernel, padding=1)
    weights = F.conv2d(torch.ones_like(alone[:1]), kernel, padding=1)
    return (sums / weights.clamp_min(1e-6)).view_as(images)
