"""Noise2Void (Krull, Buchholz, Jug: Learning Denoising from Single Noisy Images, CVPR 2019).

A few pixels of each crop are given the value of a neighbour, and the network learns to give back what was there. Since
it never sees a pixel's own value where it is asked for it, it can only learn what the surroundings tell: the signal,
not noise that is independent from pixel to pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from denoise_core.config import Param, choice, log
from denoise_core.method import Assumptions, Citation, Context, Deviation, Recipe, Update
from denoise_core.methods.neighbor2neighbor import UNetConfig, UNetMethod


class Noise2VoidConfig(UNetConfig):
    """The U-Net's hyperparameters and which pixels are hidden in what way."""

    share: float = Param(
        0.00198, "part of the pixels that is hidden, one in each square of 1 / share pixels", paper="section 4",
        search=log(0.002, 0.1), gt=0, le=0.25,
    )  # fmt: skip
    radius: int = Param(2, "neighbours lie in a square of 2 radius + 1 pixels", search=choice(1, 2, 5), ge=1, le=15)
    replacement: Literal["neighbour", "median"] = Param(
        "neighbour", "what hides a pixel: a random neighbour, or the neighbours' median, as in N2V2"
    )


class Noise2Void(UNetMethod):
    """Trains on single noisy images, with noise that is zero-mean and independent from pixel to pixel."""

    name = "noise2void"
    version = 1
    title = "Noise2Void"
    citation = Citation(
        "Krull, Buchholz, Jug: Noise2Void - Learning Denoising from Single Noisy Images, CVPR 2019",
        "https://arxiv.org/abs/1811.10980",
    )
    Config = Noise2VoidConfig
    config: Noise2VoidConfig
    protocol = "canonical"
    assumes = Assumptions(zero_mean=True, pixel_independent=True, signal_independent=False, fields=("noisy",))
    recipes: ClassVar[Mapping[str, Recipe]] = {
        **UNetMethod.recipes,
        "paper": Recipe(80_000, {"patch_size": 64, "batch_size": 128, "lr": 4e-4, "depth": 2, "init_scale": 1.0}),
    }
    deviations = (
        Deviation(
            "Network",
            "a U-Net of depth 2 with batch normalisation",
            "the same, 3x3 or 5x5 kernels, 32 or 96 features at first, doubled at each depth",
            "Neighbor2Neighbor's U-Net without batch normalisation (depth 2 in the paper budget), so that the methods "
            "of a race differ in what they learn from, not in their networks",
        ),
        Deviation(
            "Hidden pixels",
            "64 of 64 x 64 pixels, stratified",
            "1.5 % by default, 0.198 % in the example for BSD68",
            "0.198 % (`share`); with the laptop budget's crops and 300 steps, 3 % came out the same (25.2 dB on four "
            "images of BSD68 with noise of 25/255)",
        ),
        Deviation(
            "What hides a pixel",
            "the value of a random pixel of the surroundings",
            "of a square of 11 x 11 pixels, at the edges of the crop cut off; it may be the pixel itself",
            "of a square of 5 x 5 pixels, at the edges moved inside; never the pixel itself (`radius`)",
        ),
        Deviation(
            "Colour",
            "not stated",
            "the channels' values are replaced by those of different neighbours, in older versions at different places",
            "all channels of a pixel are hidden at once, by the same neighbour",
        ),
        Deviation("Loss", "squared error at the hidden pixels", "squared or absolute error", "squared error"),
        Deviation("Augmentation", "rotations and flips", "the same, optional", "none, as Neighbor2Neighbor"),
        Deviation(
            "Learning rate",
            "0.0004, halved when the validation loss does not fall",
            "the same; the weights with the best validation loss are kept",
            "0.0004, halved at four points of the training (paper), or one cosine cycle; the last weights are kept",
        ),
        Deviation("Normalisation", "not stated", "mean 0, standard deviation 1 over all images", "none: [0, 1]"),
    )

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """The mean over the hidden pixels of (f(y with these replaced) - y)^2 (section 3)."""
        noisy = batch["noisy"]
        mask = stratified(noisy, self.config.share, context)
        height, width = noisy.shape[-2:]
        own, count = neighbourhood(height, width, self.config.radius, noisy.device)
        if self.config.replacement == "median":
            values = medians(noisy, own, self.config.radius)
        else:
            values = neighbours(noisy, own, context.randint(count, mask.shape), self.config.radius)
        hidden = torch.where(mask[:, None], values, noisy)
        squares = (self.network(hidden).float() - noisy).square().mean(1)
        # their number differs a little from crop to crop; the ranks divide by the same
        loss = (squares * mask).sum() / context.over_ranks(mask.sum().float()).clamp_min(1)
        yield Update("network", loss, {"loss": loss})


def stratified(images: Tensor, share: float, context: Context) -> Tensor:
    """(N, H, W) bool for (N, C, H, W): one pixel at random of each square with a side of sqrt(1 / share) pixels.

    Squares that the right and lower edges cut have one where it falls inside.
    """
    count, _, height, width = images.shape
    side = round(math.sqrt(1 / share))
    drawn = context.randint(side * side, (count, math.ceil(height / side), math.ceil(width / side)))
    rows, columns = (torch.arange(length, device=images.device) for length in (height, width))
    place = (rows % side)[:, None] * side + columns % side
    return drawn[:, rows // side][:, :, columns // side] == place


def neighbourhood(height: int, width: int, radius: int, device: torch.device) -> tuple[Tensor, int]:
    """Each pixel's (top, left, own number) in its square of neighbours, (3, H, W), and how many neighbours there are.

    The square has 2 radius + 1 pixels a side, centred on the pixel, at the edges moved inside. Its pixels are numbered
    in rows. H and W must be at least 2 radius + 1.
    """
    side = 2 * radius + 1
    rows, columns = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    top = (rows - radius).clamp(0, height - side).expand(height, width)
    left = (columns - radius).clamp(0, width - side).expand(height, width)
    return torch.stack([top, left, (rows - top) * side + columns - left]), side * side - 1


def neighbours(images: Tensor, own: Tensor, numbers: Tensor, radius: int) -> Tensor:
    """Of each pixel of (N, C, H, W) the neighbour of that number, 0 .. (2 radius + 1)^2 - 2, without the pixel itself.

    ``numbers`` is (N, H, W); ``own`` as of :func:`neighbourhood`.
    """
    top, left, itself = own
    side = 2 * radius + 1
    numbers = numbers + (numbers >= itself)
    places = (top + numbers // side) * images.shape[-1] + left + numbers % side
    return images.flatten(2).gather(2, places[:, None].expand_as(images).flatten(2)).view_as(images)


def medians(images: Tensor, own: Tensor, radius: int) -> Tensor:
    """Of each pixel of (N, C, H, W) the median of its neighbours, the mean of the two in the middle."""
    count = (2 * radius + 1) ** 2 - 1
    numbers = torch.zeros_like(own[:1])
    every = torch.stack([neighbours(images, own, (numbers + one).expand(len(images), -1, -1), radius)
                         for one in range(count)])  # fmt: skip
    return every.sort(0).values[count // 2 - 1 : count // 2 + 1].mean(0)
