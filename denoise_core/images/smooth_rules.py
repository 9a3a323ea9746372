"""What makes a window of a noisy image smooth: the rules of GAN2GAN (Cha et al., ICLR 2021, Eq. 4) and GCBD (Chen et
al., CVPR 2018; Eq. 3 of the former)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pywt
import torch
from torch import Tensor

from denoise_core.errors import UserError

STRIP = 2**16
"""Pixels that are transformed at once: the rows of one image or several small images."""

FLAT = 1e-6
"""A standard deviation below this part of the image's range is rounding, not noise."""


class SmoothRule(Protocol):
    """What makes a window smooth."""

    @property
    def size(self) -> int:
        """Side of a window in pixels."""

    @property
    def stride(self) -> int:
        """Distance of neighbouring windows in pixels, down and to the right."""

    def scores(self, images: Sequence[Tensor]) -> Tensor:
        """The smallest threshold at which each window is accepted, inf where at none: (N, rows, columns) float32.

        ``images`` are N >= 1 of one shape (C, H, W) with H, W >= ``size``, and each has the scores that it has alone,
        to the last bit. Window (i, j) begins at (i * stride, j * stride), and all that fit are scored: rows =
        (H - size) // stride + 1. With several channels, the largest score counts.
        """


@dataclass(frozen=True)
class WaveletRule:
    """GAN2GAN, Eq. 4: the four one-level Haar sub-bands of flat noise are alike, those of a structure are not.

    The score is mean_k |s_k - m| / m, with s_k the population standard deviations of the sub-bands and m their mean.
    White noise has a median of 0.0096 at 96 x 96 pixels, correlated noise more. ``size`` must be even.
    """

    size: int = 96
    stride: int = 24

    def __post_init__(self) -> None:
        if self.size < 4 or self.size % 2 or self.stride < 1:
            raise UserError(
                f"windows of {self.size} pixels at a stride of {self.stride} have no Haar transform; give an even "
                "size of at least 4 and a stride of at least 1."
            )

    def scores(self, images: Sequence[Tensor]) -> Tensor:
        """See :class:`SmoothRule`."""
        if self.stride % 2:
            return self._odd_scores(images)
        planes = [plane for image in images for plane in image]
        scores = self._plane_scores(planes)
        return scores.view(len(images), -1, *scores.shape[1:]).amax(1)

    def _odd_scores(self, images: Sequence[Tensor]) -> Tensor:
        """Windows at even and at odd places share no transform: up to four transforms, of twice the stride."""
        rows, columns = _grid(images[0], self.size, self.stride)
        result = torch.empty((len(images), rows, columns), device=images[0].device)
        twice = WaveletRule(self.size, 2 * self.stride)
        for down in range(min(rows, 2)):
            for right in range(min(columns, 2)):
                shifted = [image[:, down * self.stride :, right * self.stride :] for image in images]
                result[:, down::2, right::2] = twice.scores(shifted)
        return result

    def _plane_scores(self, planes: Sequence[Tensor]) -> Tensor:
        """The scores of N channels (H, W) at an even stride, (N, rows, columns).

        The sub-bands of a channel hold those of every window, so they are made once; sums of values and of squares
        over a window then give its deviations. float64: the difference of the sums loses half of the digits.
        """
        tile = math.gcd(self.size, self.stride)
        # Of each plane by itself, since the last bit of a mean depends on the layout in memory, which a stack would
        # change; both of one plane before the next, while it is in the processor's cache.
        middles, floors = zip(*((plane.mean(), _flat_below(plane)) for plane in planes), strict=True)
        tiles = _haar_tiles(planes, torch.stack(middles).double(), tile)
        sums = _window_sums(tiles, self.size // tile, self.stride // tile) / (self.size // 2) ** 2
        variance = (sums[:, 4:] - sums[:, :4].square()).clamp_(min=0) / 4  # of twice the sub-bands
        return _unevenness(variance.sqrt(), torch.stack(floors))


@dataclass(frozen=True)
class VarianceRule:
    """GCBD, Eq. 3: every sub-patch q of a window p has about its mean and its (population) variance.

    |E(q) - E(p)| <= mean_tolerance * E(p) and |V(q) - V(p)| <= variance_tolerance * V(p). The score is 0 where that
    holds and inf elsewhere: there is no threshold to choose. The defaults are those of GCBD.
    """

    size: int = 64
    stride: int = 32
    sub_size: int = 16
    sub_stride: int = 16
    mean_tolerance: float = 0.1
    variance_tolerance: float = 0.25

    def __post_init__(self) -> None:
        if not 2 <= self.sub_size <= self.size or self.stride < 1 or self.sub_stride < 1:
            raise UserError(
                f"windows of {self.size} pixels cannot hold sub-patches of {self.sub_size} at strides of {self.stride} "
                f"and {self.sub_stride}; give sub-patches of 2 to {self.size} pixels and strides of at least 1."
            )

    def scores(self, images: Sequence[Tensor]) -> Tensor:
        """See :class:`SmoothRule`."""
        accepted = torch.stack([torch.stack([self._channel(channel) for channel in image]).all(0) for image in images])
        return torch.where(accepted, 0.0, torch.inf)

    def _channel(self, image: Tensor) -> Tensor:
        """Which windows of an (H, W) image are accepted."""
        middle = image.mean().double()
        values = image[None].double() - middle
        mean, variance = _moments(values, self.size, self.stride)
        step = math.gcd(self.stride, self.sub_stride)  # a grid that holds the sub-patches of all windows
        sub_mean, sub_variance = (
            self._within(grid, step, mean.shape[1:]) for grid in _moments(values, self.sub_size, step)
        )
        mean, variance = mean[0, ..., None, None], variance[0, ..., None, None]
        alike = (sub_mean - mean).abs() <= self.mean_tolerance * (mean + middle)
        alike &= (sub_variance - variance).abs() <= self.variance_tolerance * variance
        return alike.all(-1).all(-1) & (variance[..., 0, 0].sqrt() > _flat_below(image))

    def _within(self, grid: Tensor, step: int, windows: Sequence[int]) -> Tensor:
        """Values on a ``grid`` of places ``step`` apart as (rows, columns, a, b): sub-patch (a, b) of each window."""
        apart, last = self.sub_stride // step, (self.size - self.sub_size) // self.sub_stride * self.sub_stride // step
        for axis in (1, 2):
            grid = grid.unfold(axis, last + 1, self.stride // step)[:, : windows[0]]
        return grid[0, :, : windows[1], ::apart, ::apart]


def plain_scores(rule: WaveletRule, image: Tensor) -> Tensor:
    """What ``rule.scores`` gives for one image, (rows, columns): the reference for it.

    From Eq. 4 as it is written, with one ``pywt.dwt2`` a window.
    """
    rows, columns = _grid(image, rule.size, rule.stride)
    scores = np.zeros((rows, columns))
    for channel in image:
        floor, values = float(_flat_below(channel)), channel.double().cpu().numpy()
        for i, j in np.ndindex(rows, columns):
            top, left = i * rule.stride, j * rule.stride
            approximation, details = pywt.dwt2(values[top : top + rule.size, left : left + rule.size], "haar")
            deviations = [band.std() for band in (approximation, *details)]
            mean = sum(deviations) / 4
            score = sum(abs(one - mean) for one in deviations) / 4 / mean if mean > floor else math.inf
            scores[i, j] = max(scores[i, j], score)
    return torch.from_numpy(scores).float()


def _grid(image: Tensor, size: int, stride: int) -> tuple[int, int]:
    """Rows and columns of windows."""
    height, width = image.shape[-2:]
    return (height - size) // stride + 1, (width - size) // stride + 1


def _haar_tiles(planes: Sequence[Tensor], middles: Tensor, tile: int) -> Tensor:
    """The sums of :func:`_haar` over tiles of ``tile`` pixels of N planes (H, W): (N, 8, H / tile, W / tile).

    In strips, so that a large image fits into memory and a strip into the processor's cache; small planes share one,
    since a call of torch costs as much as some thousand pixels.
    """
    height, width = (side // tile * tile for side in planes[0].shape)
    together, step = max(1, STRIP // (height * width)), max(1, STRIP // (width * tile)) * tile
    groups = []
    for first in range(0, len(planes), together):
        group, middle = planes[first : first + together], middles[first : first + together]
        strips = [[plane[top : min(top + step, height), :width] for plane in group] for top in range(0, height, step)]
        groups.append(torch.cat([_tile_sums(_haar(strip, middle), tile // 2) for strip in strips], dim=2))
    return torch.cat(groups)


def _haar(planes: Sequence[Tensor], middles: Tensor) -> Tensor:
    """Twice the one-level Haar sub-bands of N planes (H, W), less ``middles``, and the squares of that.

    ``middles`` is (N,) float64; the result (N, 8, H / 2, W / 2) float64, four sub-bands and four squares. Each step
    writes into it, since new memory and copies would take as long as the sums. Twice the sub-bands: a factor of two is
    exact and can wait for the few windows.
    """
    count, (height, width) = len(planes), planes[0].shape
    result = middles.new_empty((count, 8, height // 2, width // 2))
    bands, squares = result[:, :4], result[:, 4:]
    down = squares[:, 0:2], squares[:, 2:4]  # sums and differences of two rows, in the left and in the right columns
    half = middles.new_empty((count, height, width // 2))
    for first, out in enumerate(down):
        for plane, columns in zip(planes, half, strict=True):
            columns.copy_(plane[:, first::2])  # apart first: what follows then reads neighbours
        torch.add(half[:, 0::2], half[:, 1::2], out=out[:, 0])
        torch.sub(half[:, 0::2], half[:, 1::2], out=out[:, 1])
    torch.add(*down, out=bands[:, 0:2])
    torch.sub(*down, out=bands[:, 2:4])
    bands[:, 0].sub_(4 * middles[:, None, None])  # the means of the others are near zero by themselves
    torch.mul(bands, bands, out=squares)
    return result


def _tile_sums(values: Tensor, tile: int) -> Tensor:
    """The sums over the tiles of (..., H, W), (..., H / tile, W / tile)."""
    *stack, height, width = values.shape
    rows = values.view(*stack, height // tile, tile, width).sum(-2)
    return rows.view(*stack, height // tile, width // tile, tile).sum(-1)


def _window_sums(tiles: Tensor, size: int, stride: int) -> Tensor:
    """The sums over all windows of (..., H, W), (..., rows, columns)."""
    return tiles.unfold(-2, size, stride).sum(-1).unfold(-1, size, stride).sum(-1)


def box_sums(values: Tensor, size: int, stride: int) -> Tensor:
    """:func:`_window_sums` by way of tiles that the windows share."""
    tile = math.gcd(size, stride)
    height, width = (side // tile * tile for side in values.shape[1:])
    return _window_sums(_tile_sums(values[:, :height, :width].contiguous(), tile), size // tile, stride // tile)


def _moments(values: Tensor, size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Mean and population variance of all windows of (K, H, W) float64 values near zero."""
    mean = box_sums(values, size, stride) / size**2
    square = box_sums(values.square(), size, stride) / size**2
    return mean, (square - mean.square()).clamp_(min=0)


def _unevenness(deviations: Tensor, floors: Tensor) -> Tensor:
    """The scores of Eq. 4 from (N, 4, rows, columns) deviations, inf where there is no noise: (N, rows, columns)."""
    mean = deviations.mean(1)
    score = (deviations - mean[:, None]).abs().mean(1) / mean
    return torch.where(mean > floors[:, None, None], score, torch.inf).float()  # 0 / 0 is among what is replaced


def _flat_below(image: Tensor) -> Tensor:
    low, high = torch.aminmax(image)
    return FLAT * (high - low).double()
