"""Properties of noise that are measured from noisy images alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW, BLOCK = 32, 4
"""Edge of the windows and of the blocks whose means tell their structure, in pixels."""
LEAST_SIDE = 16
"""Edge of the smallest window that is measured, where images are smaller than :data:`WINDOW`."""
MOST_IMAGES, MOST_WINDOWS = 200, 64
"""Images, and windows of each of their channels, that are looked at."""
WEAKEST = 0.05
"""Part of the windows that is measured: those with the weakest structure."""
LEAST_DEVIATION = 1 / 255
"""Standard deviation of a window from which on it counts: less is rounding."""
ACROSS = (1.0, -4.0, 6.0, -4.0, 1.0)
"""The fourth difference: it leaves white noise white along the other axis, and next to nothing of what is smooth."""
CORRELATED = 0.1
"""From which correlation of neighbours on noise counts as correlated.

White noise with a deviation of 10/255 or more measures below 0.02 on photographs and 0.07 on ``em_generated``, recorded
white noise (``w2s``) 0.00; film noise 0.17 to 0.2, a smartphone (``sidd_sample``) 0.23, cameras (``cc15``,
``polyu_sample``) 0.5, noise that was blurred 3 x 3 0.66.
"""


@dataclass(frozen=True)
class Correlation:
    """Correlation of the noise of neighbouring pixels, in [-1, 1], see :func:`noise_correlation`.

    ``deviation`` is the standard deviation of the measured windows in the images' units, with what is left of the scene
    in them. ``windows`` is how many were measured; with none, all values are 0.
    """

    horizontal: float
    vertical: float
    deviation: float
    windows: int

    @property
    def lag1(self) -> float:
        """Mean of both directions."""
        return (self.horizontal + self.vertical) / 2

    @property
    def correlated(self) -> bool:
        """Whether that is more than the scene makes of independent noise, see :data:`CORRELATED`."""
        return self.lag1 > CORRELATED


def noise_correlation(images: Sequence[Tensor]) -> Correlation:
    """The correlation of the noise of neighbouring pixels, from noisy images alone, each (C, H, W) of any size.

    Measured are the windows whose means over blocks deviate least from a plane: a rule that sees the scene below the
    noise, and does not prefer noise of one colour as one that asks for little correlation would. In each, the lag-1
    correlation along an axis is that after a fourth difference along the other: it takes away nearly all structure,
    and changes nothing for noise that is white, or is correlated along both axes independently, such as blurred noise.
    The median over the windows keeps textures from counting.

    What this cannot see is weak correlation over many pixels (``corr25``: 0.18, measured 0.04): it looks like the
    scene. Noise below 10/255 in images without flat places is taken for correlated. At most 200 images and 64 windows a
    channel are looked at, evenly chosen.
    """
    step = math.ceil(len(images) / MOST_IMAGES) or 1
    found = [table for image in images[::step] for table in _windows(image)]
    table = torch.cat(found) if found else torch.empty(0, 4)
    table = table[table[:, 1] >= LEAST_DEVIATION**2]
    if not len(table):
        return Correlation(0.0, 0.0, 0.0, 0)
    chosen = table[table[:, 0].argsort(stable=True)[: math.ceil(WEAKEST * len(table))]]
    _, variance, horizontal, vertical = chosen.median(0).values.tolist()
    return Correlation(horizontal, vertical, math.sqrt(variance), len(chosen))


def _windows(image: Tensor) -> list[Tensor]:
    """(N, 4): structure, variance, horizontal and vertical correlation of windows; nothing of too small an image."""
    side = min(WINDOW, *image.shape[1:]) // BLOCK * BLOCK
    if side < LEAST_SIDE:
        return []
    tiles = image.float().cpu().unfold(1, side, side).unfold(2, side, side).flatten(1, 2)  # (C, N, side, side)
    tiles = tiles[:, :: math.ceil(tiles.shape[1] / MOST_WINDOWS)].flatten(0, 1)
    variance = _level(tiles).square().mean((1, 2))
    structure = _level(F.avg_pool2d(tiles[:, None], BLOCK)[:, 0]).square().mean((1, 2))
    return [torch.stack([structure, variance, _neighbours(tiles), _neighbours(tiles.mT)], dim=1)]


def _neighbours(tiles: Tensor) -> Tensor:
    """(N,) horizontal lag-1 correlation of tiles (N, S, S) after a fourth difference down the columns."""
    rows = tiles.shape[1] - len(ACROSS) + 1
    fine = sum(weight * tiles[:, first : first + rows] for first, weight in enumerate(ACROSS))
    assert isinstance(fine, Tensor)
    variance = fine.square().mean((1, 2)).clamp_min(1e-12)
    return (fine[:, :, 1:] * fine[:, :, :-1]).mean((1, 2)) / variance


def _level(tiles: Tensor) -> Tensor:
    """``tiles`` (N, S, S) without the plane that fits each best."""
    side = tiles.shape[-1]
    ramp = torch.linspace(-1, 1, side)
    ramp = ramp / ramp.square().sum().sqrt() / math.sqrt(side)
    tiles = tiles - tiles.mean((1, 2), keepdim=True)
    down = (tiles * ramp[:, None]).sum((1, 2), keepdim=True)
    right = (tiles * ramp).sum((1, 2), keepdim=True)
    return tiles - down * ramp[:, None] - right * ramp
