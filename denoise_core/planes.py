"""Arrays of any axes as planes (C, H, W): which axis is which, and reading and writing parts of a plane."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from denoise_core.errors import UserError

Array = NDArray[Any]
Part = tuple[slice, slice]
"""Rows and columns."""
COLOURS = ("S", "C")
"""Letters of the channel axis; where both are there, S (samples of a pixel) is the channels and C counts pages."""
UNKNOWN = "Q"
"""What tifffile calls an axis that the file does not name."""


class Pixels(Protocol):
    """An array in memory or in a file: a part of it is read or written by indexing with whole numbers and slices."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> Any:
        """NumPy's number type."""

    def __getitem__(self, key: Any, /) -> Any: ...

    def __setitem__(self, key: Any, value: Any, /) -> None: ...


@dataclass(frozen=True)
class Planes:
    """The planes of an array: ``axes`` has one letter an axis, Y and X among them, at most one of them ``channel``."""

    shape: tuple[int, ...]
    axes: str
    channel: str
    """The letter of the channel axis; empty where there is none."""

    @property
    def height(self) -> int:
        """Rows of a plane."""
        return self.shape[self.axes.index("Y")]

    @property
    def width(self) -> int:
        """Columns of a plane."""
        return self.shape[self.axes.index("X")]

    @property
    def channels(self) -> int:
        """Channels of a plane."""
        return self.shape[self.axes.index(self.channel)] if self.channel else 1

    def __len__(self) -> int:
        return int(np.prod([self.shape[at] for at in self._page_axes], dtype=np.int64))

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """The places of the planes along all other axes, in the order in which they lie in the array."""
        return itertools.product(*(range(self.shape[at]) for at in self._page_axes))

    def read(self, pixels: Pixels, page: tuple[int, ...], part: Part) -> Array:
        """A part of a plane, (C, h, w)."""
        found = np.asarray(pixels[self._key(page, part)])
        return found.transpose(self._order) if self.channel else found[None]

    def write(self, pixels: Pixels, page: tuple[int, ...], part: Part, values: Array) -> None:
        """Sets a part of a plane, (C, h, w)."""
        pixels[self._key(page, part)] = values.transpose(np.argsort(self._order)) if self.channel else values[0]

    @property
    def _page_axes(self) -> list[int]:
        return [at for at, letter in enumerate(self.axes) if letter not in ("Y", "X", self.channel)]

    @property
    def _order(self) -> tuple[int, ...]:
        """Where channels, rows and columns are among the three that remain of a plane."""
        kept = [letter for letter in self.axes if letter in ("Y", "X", self.channel)]
        return tuple(kept.index(letter) for letter in (self.channel, "Y", "X"))

    def _key(self, page: tuple[int, ...], part: Part) -> tuple[Any, ...]:
        places: dict[str, Any] = {"Y": part[0], "X": part[1], self.channel: slice(None)}
        rest = iter(page)
        return tuple(places[letter] if letter in places else next(rest) for letter in self.axes)


def planes(shape: Sequence[int], axes: str | None, channels: int, name: str = "The array") -> Planes:
    """The planes of an array of this shape for a model of 1 or 3 ``channels``; ``name`` begins a message.

    ``axes`` has a letter an axis: Y and X (rows, columns), C or S (channels), others (T, Z, ...) for pages, each of
    which is denoised by itself. Without it two axes are Y and X, and three are understood where only one reading fits
    the model. Raises UserError where axes are unclear or do not fit.
    """
    shape = tuple(shape)
    letters = _guessed(shape, channels) if axes is None else axes.upper().replace(" ", "").replace(",", "")
    if letters is None or any(one == UNKNOWN and size > 1 for one, size in zip(letters, shape, strict=False)):
        raise UserError(f"{name} has the shape {shape}, and which axis is which is unclear: {_options(len(shape))}.")
    if len(letters) != len(shape) or len(set(letters)) != len(letters) or not {"Y", "X"} <= set(letters):
        raise UserError(
            f"{name} has the shape {shape}, which the axes {letters} do not describe: {_options(len(shape))}."
        )
    if 0 in shape:
        raise UserError(f"{name} holds no pixels (its shape is {shape}): give an image that has some.")
    channel = next((one for one in COLOURS if one in letters), "")
    found = Planes(shape, letters, channel)
    if found.channels != channels:
        raise UserError(f"{name} has {found.channels} channel(s), the model takes {channels}: {_remedy(found)}.")
    return found


def _guessed(shape: tuple[int, ...], channels: int) -> str | None:
    if len(shape) == 2:
        return "YX"
    if len(shape) != 3:
        return None
    first, last = shape[0] == channels, shape[-1] == channels
    return None if first == last else "CYX" if first else "YXC"


def _options(count: int) -> str:
    options = {
        2: "YX",
        3: "TYX or ZYX (pages), YXC or CYX (channels)",
        4: "TZYX (pages), TYXC or TCYX (pages with channels)",
        5: "TZYXC or TZCYX",
    }
    some = options.get(count, "TZCYX")
    return f"name them with --axes (in Python axes=), a letter an axis, such as {some}"


def _remedy(found: Planes) -> str:
    if found.channels == 1:
        return "give colour images, or use a model that was trained with channels = 1"
    pages = found.axes.replace(found.channel, next(one for one in "TZIPV" if one not in found.axes))
    return (
        f"use a model that was trained with channels = {found.channels}, make the images gray, or denoise every "
        f"channel by itself with --axes {pages} (in Python axes=)"
    )
