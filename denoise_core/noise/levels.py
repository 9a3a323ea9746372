"""How strong noise is at each intensity, from single images or from the differences of repeated frames.

Intensities are in [0, 1], variances in their square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtrit  # scipy.stats takes a second to load, in every worker
from torch import Tensor
from torch.nn import functional as F

from denoise_core.noise.estimate import ACROSS, BLOCK

TILE = 16
"""Edge of the tiles whose mean and high-pass energy give one point of variance against intensity, in pixels."""
WEAKEST = 0.2
"""Part of the tiles of equal brightness that counts: those with the weakest structure."""
MOST_BINS, LEAST_FLAT, LEAST_FRAMES = 16, 8, 256
"""Bins of intensity, of equal numbers of tiles or pixels; there are fewer where there are few of them."""
LEAST_LEFT = 0.3
"""Of six: smoother noise than that is not told from the scene."""
LEVEL = 0.99
"""Probability of the interval of the line's slope."""
CUT_OFF, ENOUGH = (0.02, 0.1, 0.3), 0.4
"""Tiles and bins with more clipped pixels than this part show too little noise and are left out; the next larger part
is taken where less than 40 % of the tiles would stay."""


@dataclass(frozen=True)
class Line:
    """variance = ``offset`` + ``gain`` * intensity; ``sure``: the 99 % interval of the gain excludes zero."""

    offset: float
    gain: float
    sure: bool

    def variance(self, intensity: float) -> float:
        """The variance on the line, not below 0."""
        return max(0.0, self.offset + self.gain * intensity)


def high_pass(image: Tensor) -> Tensor:
    """(..., H - 2, W - 2): second differences along both axes, scaled so that white noise keeps its variance.

    Planes and all edges along an axis vanish [Immerkaer, Fast noise variance estimation, CVIU 1996].
    """
    for axis in (-2, -1):
        length = image.shape[axis] - 2
        inner = image.narrow(axis, 1, length)
        image = image.narrow(axis, 0, length) - 2 * inner + image.narrow(axis, 2, length)
    return image / 6


def without_plane(tiles: Tensor) -> Tensor:
    """``tiles`` (..., S, S) less the plane that fits each best."""
    side = tiles.shape[-1]
    ramp = torch.linspace(-1, 1, side)
    ramp = ramp / (ramp.square().sum() * side).sqrt()
    tiles = tiles - tiles.mean((-2, -1), keepdim=True)
    down = (tiles * ramp[:, None]).sum((-2, -1), keepdim=True)
    right = (tiles * ramp).sum((-2, -1), keepdim=True)
    return tiles - down * ramp[:, None] - right * ramp


def tiles_of(image: Tensor, side: int) -> Tensor:
    """(C, N, side, side): the tiles of an image (C, H, W); what is left over at the right and below is dropped."""
    return image.unfold(1, side, side).unfold(2, side, side).flatten(1, 2)


def structure_of(tiles: Tensor) -> Tensor:
    """(...,) for tiles (..., S, S): the variance of the means over blocks of 4 x 4 around a plane.

    It sees the scene below the noise, and next to nothing of what :func:`high_pass` sees.
    """
    means = F.avg_pool2d(tiles.flatten(0, -3)[:, None], BLOCK)[:, 0]
    return without_plane(means).square().mean((1, 2)).view(tiles.shape[:-2])


def clipped_part(tiles: Tensor, ends: tuple[float, float]) -> Tensor:
    """(...,) for tiles (..., S, S): the part of their pixels at ``ends``."""
    return ((tiles <= ends[0]) | (tiles >= ends[1])).float().mean((-2, -1))


@dataclass(frozen=True)
class Tiles:
    """What the tiles of one image measure; each (N,), but ``flat`` are the places of the flattest.

    ``mean``: intensity. ``fine``: variance of the high-pass. ``missed``: that around a plane over that of the
    high-pass, in flat tiles: 1 for white noise, else more, with what of the scene is finer than a tile.
    ``least_missed``: see :func:`missed_by_high_pass`, which sees less of the scene and less of the noise.
    """

    mean: Tensor
    fine: Tensor
    flat: Tensor
    missed: float
    least_missed: float

    @property
    def level(self) -> float:
        """The variance of the image's noise by its flattest tiles, as far as the high-pass sees it."""
        return float(self.fine[self.flat].median())


def measured_tiles(image: Tensor, ends: tuple[float, float]) -> Tiles:
    """The tiles of an image (C, H, W).

    The flattest are found among tiles of equal brightness of this image, or noise that grows with the intensity, or
    differs between images, would make dark tiles and weak images look flat. Tiles with many pixels at ``ends`` are no
    flat ones, unless there are hardly any others.
    """
    side = min(TILE, *(edge // BLOCK * BLOCK for edge in image.shape[1:]))
    tiles = tiles_of(image, side).flatten(0, 1)
    mean, structure = tiles.mean((1, 2)), structure_of(tiles)
    part = clipped_part(tiles, ends)
    limit = next((limit for limit in CUT_OFF if float((part <= limit).float().mean()) >= ENOUGH), 1.0)
    usable = torch.nonzero(part <= limit)[:, 0]
    groups = usable[mean[usable].argsort(stable=True)].tensor_split(max(1, min(MOST_BINS, len(usable) // 32)))
    flat = [group[structure[group].argsort(stable=True)[: math.ceil(WEAKEST * len(group))]] for group in groups]
    chosen = torch.cat(flat)
    fine, flat_tiles = high_pass(tiles).square().mean((1, 2)), tiles[chosen]
    whole = without_plane(flat_tiles).square().mean((1, 2))
    missed = max(1.0, float((whole / fine[chosen].clamp_min(1e-12)).median()))
    return Tiles(mean, fine, chosen, missed, min(missed, missed_by_high_pass(flat_tiles)))


def variance_by_intensity(images: Sequence[Tiles], *, correlated: bool) -> list[tuple[float, float]]:
    """(intensity, variance) of bins of the flattest tiles of all images, by intensity.

    ``correlated``: what the high-pass takes of each image's noise is added again.
    """
    mean = torch.cat([one.mean[one.flat] for one in images])
    fine = torch.cat([one.fine[one.flat] * (one.missed if correlated else 1.0) for one in images])
    parts = _bins(torch.stack([mean, fine], dim=1), LEAST_FLAT)
    return [(float(part[:, 0].mean()), float(part[:, 1].median())) for part in parts]


def missed_by_high_pass(tiles: Tensor) -> float:
    """The variance of the noise of flat tiles (N, S, S) over that of its high-pass: 1 for white noise, else more.

    By the correlations r1 and r2 of the noise at lags 1 and 2 along each axis, after a fourth difference along the
    other, which takes the scene away: second differences have 6 - 8 r1 + 2 r2 times the variance. Exact for noise that
    is correlated along both axes independently.
    """
    missed = 1.0
    for turned in (tiles, tiles.mT):
        rows = turned.shape[1] - len(ACROSS) + 1
        fine = torch.stack([weight * turned[:, k : k + rows] for k, weight in enumerate(ACROSS)]).sum(0)
        variance = fine.square().mean((1, 2)).clamp_min(1e-12)
        first, second = (
            float(((fine[:, :, lag:] * fine[:, :, :-lag]).mean((1, 2)) / variance).median()) for lag in (1, 2)
        )
        missed *= 6 / max(LEAST_LEFT, 6 - 8 * first + 2 * second)
    return max(1.0, missed)


def variance_of_frames(frames: Sequence[Tensor], ends: tuple[float, float]) -> Tensor:
    """(N, 3): intensity, variance and part of clipped values of the pixels of frames (C, H, W) of one scene.

    Exact for zero-mean noise. The intensity is that of the frames' mean over 3 x 3 pixels; what a whole frame is
    brighter than the others does not count.
    """
    stack = torch.stack(list(frames))
    level = stack.flatten(1).median(1).values.view(-1, 1, 1, 1)
    variance = (stack - level).var(0)
    clipped = ((stack <= ends[0]) | (stack >= ends[1])).float().mean(0)
    intensity = F.avg_pool2d(stack.mean(0), 3, stride=1, padding=1, count_include_pad=False)
    return torch.stack([part.flatten() for part in (intensity, variance, clipped)], dim=1)


def exact_variance_by_intensity(table: Tensor) -> list[tuple[float, float]]:
    """(intensity, variance) of bins of pixels of :func:`variance_of_frames`, by intensity."""
    bins = _bins(table, LEAST_FRAMES)
    open_bins = [part for part in bins if float(part[:, 2].mean()) <= CUT_OFF[0]] or bins
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in open_bins]


def _bins(table: Tensor, least: int) -> list[Tensor]:
    """The rows of ``table`` by their first column, in parts of nearly equal length."""
    count = min(MOST_BINS, max(1, len(table) // least))
    return list(table[table[:, 0].argsort(stable=True)].tensor_split(count))


def fit_line(curve: Sequence[tuple[float, float]]) -> Line:
    """The line through (intensity, variance), robust: what a texture adds to some bins counts little.

    Weighted least squares with weights after Tukey's biweight, which are narrower above the line than below it, for a
    texture adds variance and nothing takes any away. With less than four bins or one intensity, the line is level.
    """
    x, y = torch.tensor(curve, dtype=torch.float64).T
    middle = float(y.median())
    if len(curve) < 4 or float(x.max() - x.min()) < 1e-6 or middle <= 0:
        return Line(middle, 0.0, False)
    offset, gain = _median_line(x, y)
    weight = torch.ones_like(x)
    for _ in range(20):
        fitted = (offset + gain * x).clamp_min(0.05 * middle)  # errors of variances are relative
        residual = (y - offset - gain * x) / fitted
        scale = max(1.4826 * float(residual.abs().median()), 0.02)
        width = torch.where(residual > 0, 3.0, 6.0) * scale
        weight = (1 - (residual / width).square()).clamp_min(0).square() / fitted.square()
        if int((weight > 0).sum()) < 3:
            break
        offset, gain = _least_squares(x, y, weight)
    return Line(offset, gain, _sure(x, y, weight, offset, gain))


def _median_line(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Offset and gain by the median of all slopes [Theil 1950; Sen 1968]."""
    first, second = torch.triu_indices(len(x), len(x), 1)
    run = x[second] - x[first]
    slopes = ((y[second] - y[first]) / run)[run > 1e-9]
    gain = float(slopes.median())
    return float((y - gain * x).median()), gain


def _least_squares(x: Tensor, y: Tensor, weight: Tensor) -> tuple[float, float]:
    total = weight.sum()
    mean_x, mean_y = (weight * x).sum() / total, (weight * y).sum() / total
    spread = (weight * (x - mean_x).square()).sum().clamp_min(1e-300)
    gain = float((weight * (x - mean_x) * (y - mean_y)).sum() / spread)
    return float(mean_y - gain * mean_x), gain


def _sure(x: Tensor, y: Tensor, weight: Tensor, offset: float, gain: float) -> bool:
    """Whether zero lies outside of the interval of the gain; scatter of the bins, of whatever cause, widens it."""
    counted = int((weight > 0).sum())
    if counted < 4:
        return False
    mean = (weight * x).sum() / weight.sum()
    spread = (weight * (x - mean).square()).sum()
    scatter = (weight * (y - offset - gain * x).square()).sum() / (counted - 2)
    error = math.sqrt(float(scatter / spread)) if float(spread) > 0 else math.inf
    return abs(gain) > float(stdtrit(counted - 2, (1 + LEVEL) / 2)) * error
