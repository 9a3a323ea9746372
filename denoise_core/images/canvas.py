"""Shapes with soft edges and textures, from which the slices of :mod:`denoise_core.images.phantom` are drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from denoise_core.seeding import generator

SIDE = 256
PIXEL = 512 * 0.67 / SIDE
"""Edge of a pixel in mm: the field of view of :mod:`denoise_core.noise.ct`."""

Array = NDArray[np.float64]
Window = tuple[slice, slice]


class Draw:
    """Uniform random numbers of one slice, the same on every computer."""

    def __init__(self, name: str, index: int) -> None:
        self._generator = generator(name, index)
        self._stock: list[float] = []

    def __call__(self, low: float, high: float) -> float:
        """A number from ``low`` to ``high``."""
        if not self._stock:  # in bulk: a single draw costs more than painting a thin vessel
            self._stock = torch.rand(1024, generator=self._generator, dtype=torch.float64).tolist()
        return low + (high - low) * self._stock.pop()

    def field(self, shape: tuple[int, int]) -> Array:
        """White noise of ``shape``, uniform with mean 0 and variance 1."""
        values: Array = torch.rand(shape, generator=self._generator, dtype=torch.float64).numpy()
        return (values - 0.5) * math.sqrt(12)

    def wobble(self, size: float, orders: Sequence[int] = (2, 3, 4, 5)) -> tuple[tuple[int, float, float], ...]:
        """Waves of an outline: (order, amplitude as a part of the radius, phase)."""
        return tuple((order, self(0, size), self(0, 2 * math.pi)) for order in orders)


@dataclass(frozen=True)
class Blob:
    """An ellipse with a wavy outline. Lengths in mm, x to the right and y down from the middle of the body."""

    x: float
    y: float
    rx: float
    ry: float
    turn: float = 0.0
    waves: tuple[tuple[int, float, float], ...] = ()

    def shrunk(self, x: float, y: float | None = None) -> Blob:
        """The same outline, ``x`` mm further in on the left and right, ``y`` (default: as much) above and below."""
        return replace(self, rx=self.rx - x, ry=self.ry - (x if y is None else y))

    def outline(self, angle: float, side: int) -> tuple[float, float]:
        """A point of the outline: angle 0 is to the left or right (``side`` -1 or 1), positive angles further down."""
        at = angle if side > 0 else math.pi - angle
        edge = 1 + sum(size * math.cos(order * at + phase) for order, size, phase in self.waves)
        return self.x + edge * self.rx * math.cos(at), self.y + edge * self.ry * math.sin(at)

    @property
    def thickness(self) -> float:
        """Half of the smallest width."""
        return min(self.rx, self.ry)

    @property
    def extent(self) -> tuple[float, float]:
        """The blob lies within this distance from its middle to either side, and up and down."""
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        largest = 1 + sum(size for _, size, _ in self.waves)
        x, y = math.hypot(self.rx * cos, self.ry * sin), math.hypot(self.rx * sin, self.ry * cos)
        return largest * x, largest * y

    def depth(self, x: Array, y: Array) -> Array:
        """About the distance in mm from the outline, positive inside."""
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        u, v = (x - self.x) * cos + (y - self.y) * sin, (y - self.y) * cos - (x - self.x) * sin
        u, v = u / self.rx, v / self.ry
        radius = np.sqrt(u * u + v * v)
        slope = np.sqrt((u / self.rx) ** 2 + (v / self.ry) ** 2) + 1e-9
        edge = np.ones_like(radius)
        if self.waves:
            angle = np.arctan2(v, u)
            for order, size, phase in self.waves:
                edge += size * np.cos(order * angle + phase)
        depth: Array = (edge - radius) * radius / slope
        return np.where(radius < 0.1, min(self.rx, self.ry), depth)  # the formula is 0 in the very middle


@dataclass(frozen=True)
class Rod:
    """A straight stroke from one point to another with round ends of radius ``r``, in mm."""

    x0: float
    y0: float
    x1: float
    y1: float
    r: float

    @property
    def thickness(self) -> float:
        """Half of the smallest width."""
        return self.r

    @property
    def x(self) -> float:
        """Middle of the stroke."""
        return (self.x0 + self.x1) / 2

    @property
    def y(self) -> float:
        """Middle of the stroke."""
        return (self.y0 + self.y1) / 2

    @property
    def extent(self) -> tuple[float, float]:
        """The stroke lies within this distance from its middle to either side, and up and down."""
        return abs(self.x1 - self.x0) / 2 + self.r, abs(self.y1 - self.y0) / 2 + self.r

    def depth(self, x: Array, y: Array) -> Array:
        """The distance in mm from the outline, positive inside."""
        dx, dy = self.x1 - self.x0, self.y1 - self.y0
        along = np.clip(((x - self.x0) * dx + (y - self.y0) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
        depth: Array = self.r - np.hypot(x - self.x0 - along * dx, y - self.y0 - along * dy)
        return depth


Shape = Blob | Rod


class Canvas:
    """One slice while it is drawn: HU and, for every pixel, the standard deviation of its texture in HU."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.hu = np.full((SIDE, SIDE), -1000.0)
        self.grain = np.zeros((SIDE, SIDE))
        turn, size = math.radians(draw(-5, 5)), draw(0.92, 1.08)
        self._cos, self._sin = math.cos(turn) / size, math.sin(turn) / size
        self._left, self._top, self._size = draw(-4, 4), draw(-8, 2), size
        centres = (np.arange(SIDE) - (SIDE - 1) / 2) * PIXEL
        across, down = (centres - self._left)[None, :], (centres - self._top)[:, None]
        self._x, self._y = across * self._cos + down * self._sin, down * self._cos - across * self._sin

    def paint(self, shape: Shape, hu: float, grain: float = 0.0, within: Array | None = None) -> None:
        """Covers what is there by ``shape``, as much of a pixel as the shape does; only ``within``, if given."""
        window, cover = self._cover(shape)
        if within is not None:
            cover = cover * within[window]
        self.hu[window] += cover * (hu - self.hu[window])
        self.grain[window] += cover * (grain - self.grain[window])

    def mask(self, shape: Shape) -> Array:
        """(SIDE, SIDE) in [0, 1]: how much of each pixel ``shape`` covers."""
        result = np.zeros((SIDE, SIDE))
        window, cover = self._cover(shape)
        result[window] = cover
        return result

    def above(self, y: float) -> Array:
        """(SIDE, SIDE): 1 above the level ``y`` in mm, as for the gas over a fluid."""
        return (self._y < y).astype(np.float64)

    def at(self, x: float, y: float) -> float:
        """HU of the pixel at (x, y)."""
        row, column = self._pixel(x, y)
        inside = 0 <= row < SIDE and 0 <= column < SIDE
        return float(self.hu[int(row), int(column)]) if inside else -1000.0

    def finished(self) -> Array:
        """Whole HU with texture, (SIDE, SIDE)."""
        texture = 0.75 * _smooth(self.draw.field((SIDE, SIDE)), 2.0) + 0.66 * _smooth(
            self.draw.field((SIDE, SIDE)), 6.0
        )
        return np.clip(np.rint(self.hu + self.grain * texture), -1000, 1500)

    def _pixel(self, x: float, y: float) -> tuple[float, float]:
        """Row and column of a point, as floats."""
        scale = self._size**2
        across = (x * self._cos - y * self._sin) * scale + self._left
        down = (x * self._sin + y * self._cos) * scale + self._top
        return down / PIXEL + SIDE / 2, across / PIXEL + SIDE / 2

    def _cover(self, shape: Shape) -> tuple[Window, Array]:
        row, column = self._pixel(shape.x, shape.y)
        x, y = shape.extent
        cos, sin = abs(self._cos), abs(self._sin)
        scale = self._size**2 / PIXEL
        across, down = (x * cos + y * sin) * scale + 1.5, (x * sin + y * cos) * scale + 1.5
        rows = slice(max(0, int(row - down)), max(0, int(row + down) + 1))
        columns = slice(max(0, int(column - across)), max(0, int(column + across) + 1))
        window = (rows, columns)
        cover = shape.depth(self._x[window], self._y[window])
        cover *= self._size / PIXEL
        cover += 0.5
        np.clip(cover, 0, min(1, 2 * shape.thickness * self._size / PIXEL), out=cover)
        return window, cover


def _smooth(white: Array, width: float) -> Array:
    """White noise blurred by a Gaussian of ``width`` mm, scaled to variance 1 (expected, not measured)."""
    down, across = np.fft.fftfreq(SIDE, PIXEL)[:, None], np.fft.rfftfreq(SIDE, PIXEL)[None, :]
    response = np.exp(-2 * (math.pi * width) ** 2 * (down**2 + across**2))
    gain = math.sqrt(PIXEL**2 / (4 * math.pi * width**2))
    result: Array = np.fft.irfft2(np.fft.rfft2(white) * response, white.shape) / gain
    return result
