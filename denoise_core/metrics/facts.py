"""What is known of the noise of some scenes, from noisy frames alone; criteria without clean images rest on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_core.noise.levels import (
    Line,
    exact_variance_by_intensity,
    fit_line,
    measured_tiles,
    variance_by_intensity,
    variance_of_frames,
)
from denoise_core.noise.report import NoiseReport, noise_report

UNLIKE, MOST = 0.25, 0.7
"""Images have noise of their own where not even 70 % of them lie within so much (a quarter, in logarithms) of the line
of all of them: pictures of one camera measure within 0.18, of several exposures 0.4 and more."""
BLOCK = 32
"""Side of the blocks over whose means frames are compared."""
LEAST_LEVEL = 0.5 / 255
"""Standard deviation below which a noise level is not told apart from rounding."""
OWN_TILES = 400
"""Tiles of 16 x 16 pixels that a line of one image needs."""


@dataclass(frozen=True)
class Scene:
    """Noisy frames (C, H, W) of one scene with independent noise; the first is what is denoised."""

    image_id: str
    frames: tuple[Tensor, ...]


@dataclass(frozen=True)
class Facts:
    """What is known of the noise of some scenes: measured, from noisy frames alone."""

    scenes: Sequence[Scene] = field(repr=False)
    known_sigma: float | None = None
    """Standard deviation of white Gaussian noise that is known, in [0, 1]."""

    @cached_property
    def report(self) -> NoiseReport:
        """The noise as it measures. Raises UserError for what cannot be measured."""
        repeats = [scene.frames for scene in self.scenes] if self.frames > 1 else ()
        return noise_report([scene.frames[0] for scene in self.scenes], repeats)

    @cached_property
    def frames(self) -> int:
        """How many frames every scene has at least."""
        return min(len(scene.frames) for scene in self.scenes)

    @cached_property
    def drift(self) -> float:
        """Standard deviation of the difference of two frames' means over blocks, as a part of that of their pixels."""
        blocks, pixels = 0.0, 0.0
        for scene in self.scenes:
            difference = (scene.frames[0] - scene.frames[1])[None]
            side = min(BLOCK, *difference.shape[-2:])
            blocks += float(F.avg_pool2d(difference, side).square().mean())
            pixels += float(difference.square().mean())
        return math.sqrt(blocks / pixels) if pixels > 0 else 0.0

    def variance(self, scene: Scene) -> Tensor:
        """The noise's variance at each pixel of a scene's first frame, from the measured line or the known level."""
        values = scene.frames[0]
        if self.known_sigma is not None:
            return torch.full_like(values, self.known_sigma**2)
        return _on(self._own[scene.image_id] if self.differs else self._line, values)

    @cached_property
    def differs(self) -> bool:
        """Whether the images have noise of their own, so that the line of all of them is wrong for most."""
        apart = []
        for scene in self.scenes:
            own, shared = (_on(line, scene.frames[0]).mean() for line in (self._own[scene.image_id], self._line))
            apart.append(abs(math.log(float(own) / float(shared))))
        return float(np.quantile(apart, MOST)) > UNLIKE

    @property
    def _line(self) -> Line:
        return Line(self.report.offset, self.report.gain, self.report.slope_sure)

    @cached_property
    def _own(self) -> Mapping[str, Line]:
        """The line of each scene alone."""
        return {scene.image_id: self._line_of(scene) for scene in self.scenes}

    def _line_of(self, scene: Scene) -> Line:
        """Of frames exactly; of a large image from its own tiles; of a small one the shared line at its own level."""
        ends, correlated = self.report.ends, self.report.correlation.correlated
        if self.frames > 1:
            return fit_line(exact_variance_by_intensity(variance_of_frames(scene.frames, ends)))
        tiles = measured_tiles(scene.frames[0], ends)
        if len(tiles.mean) >= OWN_TILES:
            return fit_line(variance_by_intensity([tiles], correlated=correlated))
        shared = float(_on(self._line, tiles.mean[tiles.flat]).median())
        level = tiles.level * (tiles.missed if correlated else 1.0) / shared
        return replace(self._line, offset=level * self._line.offset, gain=level * self._line.gain)


def _on(line: Line, values: Tensor) -> Tensor:
    """The variance at noisy ``values``, at least that of the weakest noise."""
    return (line.offset + line.gain * values).clamp_min(LEAST_LEVEL**2)
