"""Images that are computed, not loaded: many alike pictures for studies that must run without a download.

``em_generated`` is 32 procedural pictures in the manner of brain tissue (neuropil) in transmission electron
microscopy: cell profiles of many sizes behind dark membranes, gray cytoplasm, vesicles, granules, mitochondria with
cristae. Every picture is a scene of its own, drawn from its own seed, so none shares a structure with another. They are
clean: smooth at the scale of a pixel, without grain. Grey levels and power spectrum are roughly those of the smooth
half of the ISBI 2012 slices (``em_isbi2012[0:15]``), at about their scale of 4 nm a pixel.

It is a drawing, not a measurement: what is learned on it says whether a method works, not how well it would do on
tissue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.images.drawn import drawn
from denoise_core.images.image_set import ImageSet
from denoise_core.seeding import seed_from

Floats = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)
Rng = np.random.RandomState
"""The legacy generator, because NumPy promises never to change its streams."""

GENERATED: dict[str, int] = {"em_generated": 32}
"""Number of images by name of the set."""

EDGE = 256
"""Height and width of every image in pixels."""

MARGIN = 8
"""Pixels drawn around an image and cut off, so that no filter sees a border."""

SIDE = EDGE + 2 * MARGIN

CYTOPLASM, MEMBRANE = 151.0, 43.0
"""Mean grey levels."""

EXPOSURE = 11.0
"""Standard deviation of the grey level from image to image."""

FOCUS = 0.55
"""Sigma of the microscope's own blur in pixels."""


def load_generated(name: str, channels: int | None = None) -> ImageSet:
    """The set ``name`` of :data:`GENERATED`: (1, 256, 256) float32, multiples of 1/255 in [0, 1].

    Drawn once (about two seconds), kept in the cache and shared: do not write into its tensors. Raises UserError for
    other than 1 channel.
    """
    if channels not in (None, 1):
        raise UserError(
            f"the image set {name!r} is gray and has no version with {channels} channels; "
            "use --channels 1 or a colour set."
        )
    return _generated(name)


@cache
def _generated(name: str) -> ImageSet:
    ids = tuple(f"scene_{index:02d}" for index in range(GENERATED[name]))
    return ImageSet(name, ids, drawn(name, lambda: map(partial(_scene, name), ids), (__file__,)))


def _scene(name: str, image_id: str) -> Tensor:
    # Levels of 8 bits hide the last digits of floating point, in which machines differ.
    levels = draw_scene(Rng(seed_from(name, image_id) % 2**32))
    return torch.from_numpy(levels.astype(np.float32) / 255)[None]


def draw_scene(rng: Rng) -> NDArray[np.uint8]:
    """One picture, (256, 256) grey levels."""
    cells = _place_cells(rng)
    tissue = _grow(cells, rng)
    image = tissue.cytoplasm.copy()
    _add_vesicles(image, tissue, cells, rng)
    _add_granules(image, tissue, cells, rng)
    _add_mitochondria(image, tissue, cells, rng)
    _add_membranes(image, tissue, rng)
    _add_densities(image, tissue, rng)
    image += _texture(rng) * (0.45 + 0.55 * image / CYTOPLASM)
    from scipy.ndimage import gaussian_filter  # here, and not in every worker: it is slow to import

    focused: Floats = gaussian_filter(image, FOCUS)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    focused += EXPOSURE * max(-2.0, min(2.0, float(rng.standard_normal())))
    return np.clip(np.rint(focused), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Cells:
    """Cell profiles as discs, n of them, that are later stretched and squeezed against each other."""

    centre: Floats
    """(n, 2) row and column in pixels; cells lie outside the picture, too."""
    radius: Floats
    """(n,) pixels."""
    metric: Floats
    """(n, 2, 2) of determinant 1: maps offsets from the centre so that the outline becomes an ellipse."""
    dark: NDArray[np.bool_]
    """(n,) profiles of glia: darker, full of granules."""
    vesicles: Floats
    """(n,) vesicles per pixel."""


@dataclass(frozen=True)
class Tissue:
    """What every pixel belongs to, as (SIDE, SIDE) arrays."""

    label: NDArray[np.intp]
    depth: Floats
    """Distance from the nearest membrane in pixels."""
    cytoplasm: Floats
    warp: Floats
    """(2, SIDE, SIDE): where each pixel lies in the undistorted tissue."""


def _place_cells(rng: Rng) -> Cells:
    """Discs put down one after another where there is room, large ones first, in and around the picture."""
    reach = 48
    centre, radius = np.empty((0, 2)), np.empty(0)
    for low, high, tries in ((40, 70, 6), (20, 38, 40), (11, 19, 160), (6, 10, 260)):
        sizes = -np.sort(-rng.uniform(low, high, tries))
        places = rng.uniform(-reach, SIDE + reach, (tries, 2))
        for size, place in zip(sizes, places, strict=True):
            gap = np.hypot(*(centre - place).T) - radius
            if not len(gap) or gap.min() > 0.8 * size:
                centre, radius = np.vstack([centre, place]), np.append(radius, size)
    n = len(radius)
    angle = rng.uniform(0, math.pi) + rng.normal(0, 0.6, n)
    stretch = np.exp(np.abs(rng.normal(0, 0.32, n)))
    along = np.stack([np.cos(angle), np.sin(angle)], -1)
    identity, line = np.eye(2), along[:, :, None] * along[:, None, :]
    metric = line / stretch[:, None, None] + (identity - line) * stretch[:, None, None]
    dark = (rng.uniform(size=n) < 0.11) & (radius < 32)
    vesicles = np.where(rng.uniform(size=n) < 0.6, rng.uniform(0.002, 0.012, n), 0.001)
    return Cells(centre, radius, metric, dark, vesicles)


def _grow(cells: Cells, rng: Rng) -> Tissue:
    """Lets the discs grow at equal speed until they meet: an additively weighted Voronoi diagram, distorted."""
    grid = np.indices((SIDE, SIDE), dtype=np.float64)
    warp = grid + np.stack([_field(rng, {18.0: 5.0, 6.0: 0.9}) for _ in range(2)])
    nearest, second = np.full((SIDE, SIDE), np.inf), np.full((SIDE, SIDE), np.inf)
    label = np.zeros((SIDE, SIDE), dtype=np.intp)
    for index, (centre, radius, metric) in enumerate(zip(cells.centre, cells.radius, cells.metric, strict=True)):
        down, right = warp[0] - centre[0], warp[1] - centre[1]
        a, b, c = (metric @ metric)[[0, 0, 1], [0, 1, 1]]
        distance = np.sqrt(a * down * down + 2 * b * down * right + c * right * right) - radius
        np.minimum(second, np.maximum(nearest, distance), out=second)
        label[distance < nearest] = index
        np.minimum(nearest, distance, out=nearest)
    between = second - nearest
    depth = between / np.maximum(np.hypot(*np.gradient(between)), 0.8)
    level = CYTOPLASM + rng.normal(0, 9, len(cells.radius)) - 50 * cells.dark
    return Tissue(label, depth, level[label] + _field(rng, {24.0: 4.0, 8.0: 10.0}), warp)


def _add_membranes(image: Floats, tissue: Tissue, rng: Rng) -> None:
    """Dark lines between the cells: thin where a membrane is cut across, wide and pale where it is cut obliquely."""
    width = 2.6 * np.exp(np.clip(_field(rng, {14.0: 0.45, 3.0: 0.15}), -0.4, 1.3))
    shade = np.exp(-((tissue.depth / width) ** 2)) * (2.6 / width) ** 0.35
    image += np.minimum(shade, 1) * (MEMBRANE - image)


def _add_vesicles(image: Floats, tissue: Tissue, cells: Cells, rng: Rng) -> None:
    """Small rings inside the cells, a few of them larger (endosomes, cut tubules)."""
    count = int(0.012 * SIDE * SIDE)
    place = rng.uniform(0, SIDE, (count, 2))
    radius = rng.uniform(2.4, 4.4, count) + (rng.uniform(size=count) < 0.06) * rng.uniform(2, 5, count)
    height = -rng.uniform(20, 65, count)
    lumen = rng.uniform(-0.4, 0.4, count)
    kept = rng.uniform(size=count) * 0.012 < _at(place, cells.vesicles[tissue.label])
    kept &= _at(place, tissue.depth) > radius + 3

    def ring(distance: Floats) -> Floats:
        outside = distance - radius[kept, None, None]
        values: Floats = np.exp(-((outside / 1.1) ** 2)) + lumen[kept, None, None] / (1 + np.exp(2 * outside + 2))
        return values

    _stamp(image, place[kept], height[kept], ring, reach=12)


def _add_granules(image: Floats, tissue: Tissue, cells: Cells, rng: Rng) -> None:
    """Dark dots: ribosomes and glycogen, dense in glia, and few elsewhere."""
    count = int(0.04 * SIDE * SIDE)
    place = rng.uniform(0, SIDE, (count, 2))
    width, height = rng.uniform(1.0, 1.7, count), -rng.uniform(15, 60, count)
    kept = rng.uniform(size=count) < np.where(_at(place, cells.dark[tissue.label]), 0.9, 0.1)
    kept &= _at(place, tissue.depth) > 2

    _stamp(image, place[kept], height[kept], _blob(width[kept]), reach=4)


def _add_mitochondria(image: Floats, tissue: Tissue, cells: Cells, rng: Rng) -> None:
    """Dark ovals with an outline and stripes (cristae), in some of the cells that have room for one."""
    waves = _field(rng, {9.0: 2.5, 3.5: 0.8})
    for index, (centre, radius) in enumerate(zip(cells.centre, cells.radius, strict=True)):
        size, turn, chance = rng.uniform(0.45, 0.7) * min(radius, 42), rng.uniform(0, math.pi), rng.uniform()
        offset = rng.uniform(-0.25, 0.25, 2) * radius
        if radius < 15 or cells.dark[index] or chance > 0.35:
            continue
        box = tuple(slice(max(0, int(c - 3 * size - 12)), max(0, int(c + 3 * size + 12))) for c in centre + offset)
        down, right = (tissue.warp[axis][box] - (centre + offset)[axis] for axis in (0, 1))
        along, across = down * math.cos(turn) + right * math.sin(turn), right * math.cos(turn) - down * math.sin(turn)
        outside = np.hypot(along / 1.15, across * 1.15) - size
        stripes = np.sin(2 * math.pi * along / 6.5 + waves[box])
        matrix = 82 + 34 * stripes * np.clip(-outside / 4, 0, 1) - 45 * np.exp(-((outside / 1.6) ** 2))
        cover = (tissue.label[box] == index) * np.clip(tissue.depth[box] / 3 - 1, 0, 1) / (1 + np.exp(2 * outside - 2))
        image[box] += cover * (matrix - image[box])


def _add_densities(image: Floats, tissue: Tissue, rng: Rng) -> None:
    """Dark smears at some membranes: synapses, and membranes that lie flat in the section."""
    place = rng.uniform(0, SIDE, (80, 2))
    place = place[_at(place, tissue.depth) < 2.5][: rng.randint(3, 9)]
    size = rng.uniform(4, 15, len(place))

    _stamp(image, place, -rng.uniform(30, 85, len(place)), _blob(size), reach=30)


def _texture(rng: Rng) -> Floats:
    """What makes cytoplasm look granular: stained proteins and filaments of a few pixels."""
    return _field(rng, {0.8: 16.0, 1.2: 16.0, 3.0: 5.0})


def _at(place: Floats, array: NDArray[Scalar]) -> NDArray[Scalar]:
    """The values of ``array`` (SIDE, SIDE) in the pixels that hold the places (n, 2)."""
    row, column = place.astype(np.intp).T
    values: NDArray[Scalar] = array[row, column]
    return values


def _blob(size: Floats) -> Callable[[Floats], Floats]:
    """The profile of Gaussian spots of the sizes (n,), in pixels, for :func:`_stamp`."""

    def profile(distance: Floats) -> Floats:
        values: Floats = np.exp(-((distance / size[:, None, None]) ** 2))
        return values

    return profile


def _stamp(image: Floats, place: Floats, height: Floats, profile: Callable[[Floats], Floats], *, reach: int) -> None:
    """Adds ``height`` times ``profile`` of the distance in pixels at every place, up to ``reach`` pixels away."""
    offsets = np.arange(-reach, reach + 1)
    row = place[:, 0].astype(np.intp)[:, None, None] + offsets[:, None]
    column = place[:, 1].astype(np.intp)[:, None, None] + offsets[None, :]
    distance = np.hypot(row - place[:, 0, None, None], column - place[:, 1, None, None])
    inside = (row >= 0) & (row < SIDE) & (column >= 0) & (column < SIDE)
    values = (height[:, None, None] * profile(distance))[inside]
    image += np.bincount((row * SIDE + column)[inside], values, minlength=SIDE * SIDE).reshape(SIDE, SIDE)


def _field(rng: Rng, deviations: Mapping[float, float]) -> Floats:
    """A Gaussian random field (SIDE, SIDE): a sum of parts, {sigma of smoothing in pixels: standard deviation}."""
    side = SIDE + 64  # the filter is periodic: what lies beyond the picture keeps its edges apart
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    power = np.zeros_like(frequency)
    for sigma, deviation in deviations.items():
        # The integral of the squared Gaussian filter over all frequencies is 1 / (4 pi sigma^2).
        power += 4 * math.pi * (sigma * deviation) ** 2 * np.exp(-((2 * math.pi * sigma * frequency) ** 2))
    white = np.fft.rfft2(rng.standard_normal((side, side)))
    return np.fft.irfft2(white * np.sqrt(power), s=(side, side))[:SIDE, :SIDE]
