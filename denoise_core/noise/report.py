"""The noise of a set of images, measured from noisy images alone and told in words.

Every number is in units of [0, 1]. In single images the scene is in the way: what is measured of them is exact only for
white noise and flat places. Differences of repeated frames have no scene.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median as median_of
from typing import TypeVar

import torch
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.noise.autocorrelation import Spatial, spatial
from denoise_core.noise.estimate import LEAST_DEVIATION, Correlation, noise_correlation
from denoise_core.noise.levels import (
    Line,
    exact_variance_by_intensity,
    fit_line,
    measured_tiles,
    variance_by_intensity,
    variance_of_frames,
)
from denoise_core.noise.repeats import ZeroMean, zero_mean
from denoise_core.noise.traces import clipped, data_ends, jpeg_grid, smallest_step
from denoise_core.noise.wording import sentences

LEAST_SIDE = 16
"""Edge of the smallest image that is measured, in pixels."""
MOST_IMAGES, PART, PARTS = 200, 512, 4
"""Images that are looked at, evenly chosen, and of those larger than four parts of 512 pixels a side, so many parts."""
CHANGES, UNEVEN = 1.25, 1.5
"""Noise whose variance differs by less than this factor over the intensities counts as the same: on a sure line, and
between the thirds of the curve, where it follows no line (photographs after a tone curve)."""

Kind = TypeVar("Kind")
__all__ = ["Correlation", "NoiseReport", "ZeroMean", "noise_report"]


@dataclass(frozen=True)
class NoiseReport:
    """What the noise of some images measures; intensities in [0, 1].

    ``sigma`` is the standard deviation of the noise at the median intensity. Its variance is ``offset`` + ``gain`` *
    intensity, a robust fit to ``curve``, the (intensity, standard deviation) of bins; ``slope_sure``: the interval of
    the gain excludes zero. ``autocorrelation`` is a square of lags with 1 in its middle. ``channel_correlation`` is the
    mean over the pairs of channels, None for gray images. ``clipped_low`` and ``clipped_high`` are the parts of the
    pixels at the least and the largest value that occurs, which are ``ends``. ``step`` is the smallest step between
    values, 0 where they are continuous. ``jpeg_grid`` is by how much gradients are larger across a grid of 8 x 8 than
    within. ``zero_mean`` is known where repeated frames exist. ``spread`` are the 10th and 90th percentile of the
    images' own ``sigma``; ``median`` is the median intensity. ``least`` is below ``sigma`` where single images cannot
    tell correlated noise from the scene: as low may the deviation be.
    """

    images: int
    channels: int
    sizes: tuple[tuple[int, int], ...]
    sigma: float
    offset: float
    gain: float
    slope_sure: bool
    curve: tuple[tuple[float, float], ...]
    correlation: Correlation
    autocorrelation: tuple[tuple[float, ...], ...]
    channel_correlation: float | None
    clipped_low: float
    clipped_high: float
    step: float
    jpeg_grid: float
    jpeg: bool
    zero_mean: ZeroMean | None
    spread: tuple[float, float] = (0.0, 0.0)
    least: float = 0.0
    ends: tuple[float, float] = (0.0, 1.0)
    median: float = 0.5

    @property
    def exact(self) -> bool:
        """Whether level and correlation come from differences of aligned frames, not from single images."""
        return self.zero_mean is not None and self.zero_mean.aligned

    @property
    def pixel_independent(self) -> bool:
        """Whether neighbouring pixels' noise measures uncorrelated."""
        return not self.correlation.correlated

    @property
    def signal_independent(self) -> bool:
        """Whether the variance does not change with the intensity, on a line or otherwise, by more than can be told."""
        return not self.on_line and self.uneven < UNEVEN

    @property
    def on_line(self) -> bool:
        """Whether the variance grows or falls with the intensity, surely and by a quarter."""
        return self.slope_sure and self.variance_ratio >= CHANGES

    @property
    def thirds(self) -> tuple[float, ...]:
        """Median standard deviation of the dark, middle and bright third of the curve; empty for less than six bins."""
        count = len(self.curve)
        parts = [self.curve[count * k // 3 : count * (k + 1) // 3] for k in range(3)] if count >= 6 else []
        return tuple(median_of(deviation for _, deviation in part) for part in parts)

    @property
    def uneven(self) -> float:
        """The largest over the smallest variance of the thirds, 1 where there are none."""
        return (max(self.thirds) / max(min(self.thirds), 1e-12)) ** 2 if self.thirds else 1.0

    @property
    def variance_ratio(self) -> float:
        """The largest variance on the fitted line over the smallest, between the intensities of the curve."""
        line = Line(self.offset, self.gain, self.slope_sure)
        ends = [line.variance(self.curve[place][0]) for place in (0, -1)]
        return max(ends) / max(min(ends), 1e-3 * max(ends), 1e-12)

    def sentences(self) -> list[str]:
        """What it says in words, each sentence with its number."""
        return sentences(self)


def noise_report(
    images: Sequence[Tensor], repeats: Sequence[Sequence[Tensor]] = (), *, names: Sequence[str] = ()
) -> NoiseReport:
    """Measures noisy images (C, H, W) float32 in [0, 1] of any size; the same images give the same report.

    ``repeats`` are, for each of some scenes, frames of it with noise of their own: with them, level, variance against
    intensity and correlation come from differences of frames, unless these are not aligned. At most 200 images and
    scenes are looked at, evenly chosen, and of large images 16 parts of 512 x 512. Errors call images by ``names``,
    else by their number.

    Raises UserError for no images, another number of channels in some, NaN or infinite pixels, constant images, and
    images below 16 x 16; of repeats, for scenes of one frame and frames of different shape.
    """
    scenes = [list(scene) for scene in repeats]
    _check(images, scenes, names)
    shown = [image.detach().float().cpu() for image in _evenly(images)]
    ends = data_ends(shown)
    parts = [part for image in shown for part in _parts(image)]
    looked_at = [_parts_of_scene(scene) for scene in _evenly(scenes)]
    together = [group for scene in looked_at for group in scene]
    step = smallest_step(shown)
    single = _of_images(parts, ends, step)
    means = zero_mean(_evenly(scenes), single.sigma) if scenes else None
    measured = single
    if means is not None and means.aligned:
        measured = _of_frames(together, ends, step)
        means = zero_mean(_evenly(scenes), measured.sigma)
    ratio, jpeg = jpeg_grid(shown)
    low, high = clipped(shown, ends)
    line = measured.line
    return NoiseReport(
        images=len(images), channels=images[0].shape[0],
        sizes=tuple(sorted({(image.shape[1], image.shape[2]) for image in images})),
        sigma=measured.sigma, offset=line.offset, gain=line.gain, slope_sure=line.sure,
        curve=tuple((x, math.sqrt(max(0.0, y))) for x, y in measured.curve),
        correlation=measured.correlation, autocorrelation=measured.spatial.lags,
        channel_correlation=measured.spatial.channels, clipped_low=low, clipped_high=high,
        step=step, jpeg_grid=ratio, jpeg=jpeg, zero_mean=means,
        spread=single.spread, least=measured.least * measured.sigma, ends=ends, median=measured.median,
    )  # fmt: skip


@dataclass(frozen=True)
class _Measured:
    """What differs between single images and frames; ``curve`` has variances."""

    curve: list[tuple[float, float]]
    line: Line
    median: float
    correlation: Correlation
    spatial: Spatial
    spread: tuple[float, float]
    least: float = 1.0

    @property
    def sigma(self) -> float:
        return math.sqrt(self.line.variance(self.median))


def _of_images(images: Sequence[Tensor], ends: tuple[float, float], step: float) -> _Measured:
    """From the flattest tiles. Where noise is correlated, what the high-pass takes of it is added again.

    On recorded noise with a known truth (``fmd``, ``cc15``, ``sidd_sample``) that gives 0.94, 0.77 and 0.9 of it.
    """
    tiles = [measured_tiles(image, ends) for image in images]
    levels = torch.tensor([one.level for one in tiles])
    scale = _scale(step, math.sqrt(float(levels.median())))
    correlation, lags = _correlations([image * scale for image in images], (scale * ends[0], scale * ends[1]), scale)
    curve = variance_by_intensity(tiles, correlated=correlation.correlated)
    own = (levels * torch.tensor([one.missed if correlation.correlated else 1.0 for one in tiles])).sqrt()
    least = float(torch.tensor([math.sqrt(one.least_missed / one.missed) for one in tiles]).median())
    middle = float(torch.cat([one.mean for one in tiles]).median())
    return _Measured(
        curve,
        fit_line(curve),
        middle,
        correlation,
        lags,
        (float(own.quantile(0.1)), float(own.quantile(0.9))),
        least if correlation.correlated else 1.0,
    )


def _of_frames(scenes: Sequence[Sequence[Tensor]], ends: tuple[float, float], step: float) -> _Measured:
    """From the variance of each pixel over the frames, and differences of frames that follow each other."""
    table = torch.cat([variance_of_frames(scene, ends) for scene in scenes])
    curve = exact_variance_by_intensity(table)
    scale = _scale(step, math.sqrt(float(table[:, 1].mean())))
    differences = [scale * (b - a) / math.sqrt(2) for scene in scenes for a, b in itertools.pairwise(scene)]
    correlation, lags = _correlations(differences, None, scale)
    return _Measured(curve, fit_line(curve), float(table[:, 0].median()), correlation, lags, (0.0, 0.0))


def _scale(step: float, sigma: float) -> float:
    """What images are multiplied by before their correlation is measured.

    What deviates by less than 1/255 counts as rounding there, which is right for 8 bits. Finer data is stretched, so
    that this is its own step, or a quarter of the noise where that is more or values are continuous.
    """
    rounding = min(LEAST_DEVIATION, max(step, sigma / 4))
    return LEAST_DEVIATION / rounding if rounding > 0 else 1.0


def _correlations(
    images: Sequence[Tensor], ends: tuple[float, float] | None, scale: float
) -> tuple[Correlation, Spatial]:
    """Of stretched images, or without ``ends`` of noise alone; the deviation is that before stretching."""
    found = noise_correlation(images)
    return replace(found, deviation=found.deviation / scale), spatial(images, ends, scene=ends is not None)


def _check(images: Sequence[Tensor], scenes: Sequence[Sequence[Tensor]], names: Sequence[str]) -> None:
    if not images:
        raise UserError("there are no images whose noise could be measured; give at least one.")
    called = [f"the image {name}" for name in names] or [f"image {number}" for number in range(1, len(images) + 1)]
    everything = list(zip(called, images, strict=True))
    for number, scene in enumerate(scenes, 1):
        if len(scene) < 2:
            raise UserError(
                f"scene {number} has {len(scene)} frame{'s' * (len(scene) != 1)}, but repeats need two or more of each "
                "scene; leave it out, or give its images without --repeats."
            )
        if len({frame.shape for frame in scene}) > 1:
            raise UserError(f"the frames of scene {number} differ in size; repeats must show the same thing.")
        everything += [(f"frame {place} of scene {number}", frame) for place, frame in enumerate(scene, 1)]
    channels = images[0].shape[0]
    for name, image in everything:
        if image.ndim != 3 or min(image.shape[1:]) < LEAST_SIDE:
            raise UserError(
                f"{name} has the shape {tuple(image.shape)}; noise is measured of (channels, height, width) with at "
                f"least {LEAST_SIDE} x {LEAST_SIDE} pixels."
            )
        if image.shape[0] != channels:
            raise UserError(f"{name} has {image.shape[0]} channels and the first image {channels}; use one number.")
        if not bool(torch.isfinite(image).all()):
            raise UserError(f"{name} holds NaN or infinite pixels; replace them by finite values in [0, 1].")
        if float(image.max()) == float(image.min()):
            raise UserError(f"{name} is constant ({float(image.min()):g} everywhere); remove it, it shows no noise.")


def _evenly(things: Sequence[Kind]) -> Sequence[Kind]:
    return things[:: math.ceil(len(things) / MOST_IMAGES) or 1]


def _parts(image: Tensor) -> list[Tensor]:
    """The image, or of a large one evenly placed parts, at multiples of 8 pixels."""
    if image.shape[1] * image.shape[2] <= (PART * PARTS) ** 2:
        return [image.detach().float().cpu()]
    rows, columns = ([(edge - PART) * k // (PARTS - 1) // 8 * 8 for k in range(PARTS)] for edge in image.shape[1:])
    places = dict.fromkeys((max(0, top), max(0, left)) for top in rows for left in columns)
    return [image[:, top : top + PART, left : left + PART].detach().float().cpu() for top, left in places]


def _parts_of_scene(scene: Sequence[Tensor]) -> list[list[Tensor]]:
    """The frames of each part."""
    return [list(frames) for frames in zip(*(_parts(frame) for frame in scene), strict=True)]
