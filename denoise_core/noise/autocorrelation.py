"""How the noise of a pixel goes with that of its neighbours and of other channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from denoise_core.noise.estimate import BLOCK, LEAST_DEVIATION, MOST_WINDOWS, WEAKEST, WINDOW
from denoise_core.noise.levels import CUT_OFF, clipped_part, structure_of, tiles_of, without_plane

REACH = 4
"""Largest lag, in pixels."""


@dataclass(frozen=True)
class Spatial:
    """``lags``: autocorrelation for lags down and right from -4 to 4, 1 in the middle.

    ``channels``: mean correlation over the pairs of channels, None for one channel.
    """

    lags: tuple[tuple[float, ...], ...]
    channels: float | None


def spatial(images: Sequence[Tensor], ends: tuple[float, float] | None, *, scene: bool = True) -> Spatial:
    """Of the flattest windows of images (C, H, W), as the median over them; of all where there is no ``scene``.

    Windows that are clipped at ``ends``, or in which there is nothing but rounding, do not count if there are others.
    """
    found = [_windows(image, scene) for image in images]
    windows = torch.cat([tiles.transpose(0, 1) for tiles in found if tiles.shape[-1] == found[0].shape[-1]])
    if scene:
        counts = without_plane(windows).square().mean((1, 2, 3)) >= LEAST_DEVIATION**2
        if ends is not None:
            counts &= clipped_part(windows, ends).amax(1) <= CUT_OFF[0]
        windows = windows[counts] if bool(counts.any()) else windows
        flattest = structure_of(windows).mean(1).argsort(stable=True)
        windows = windows[flattest[: math.ceil(WEAKEST * len(windows))]]
    residual = without_plane(windows) if scene else windows - windows.mean((2, 3), keepdim=True)
    variance = residual.square().mean((2, 3)).clamp_min(1e-12)
    channels = windows.shape[1]
    pairs = [
        ((residual[:, a] * residual[:, b]).mean((1, 2)) / (variance[:, a] * variance[:, b]).sqrt()).median()
        for a in range(channels)
        for b in range(a + 1, channels)
    ]
    return Spatial(
        _lags(residual.flatten(0, 1), variance.flatten()),
        float(torch.stack(pairs).mean()) if pairs else None,
    )


def _windows(image: Tensor, scene: bool) -> Tensor:
    """(C, N, S, S): evenly chosen windows of an image."""
    side = min(WINDOW, *(edge // BLOCK * BLOCK for edge in image.shape[1:]))
    tiles = tiles_of(image, side)
    most = MOST_WINDOWS * (4 if scene else 1)
    return tiles[:, :: math.ceil(tiles.shape[1] / most)]


def _lags(residual: Tensor, variance: Tensor) -> tuple[tuple[float, ...], ...]:
    """The square of lags of windows (N, S, S) with their variances; it is symmetric around its middle."""
    side = residual.shape[-1]
    table = torch.zeros(2 * REACH + 1, 2 * REACH + 1)
    for down in range(REACH + 1):
        for right in range(-REACH, REACH + 1):
            still = residual[:, : side - down, max(0, -right) : side - max(0, right)]
            moved = residual[:, down:, max(0, right) : side + min(0, right)]
            value = ((still * moved).mean((1, 2)) / variance).median()
            table[REACH + down, REACH + right] = table[REACH - down, REACH - right] = value
    return tuple(tuple(round(float(value), 4) for value in row) for row in table)
