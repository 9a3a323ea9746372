"""How the images of a set are to be taken, which follows its name: ``my/camera@white=4095``, ``my/image@parts=512``.

``white`` is the value of the files that counts as 1, for 12 bits in files of 16 or floats of another range. ``parts``
cuts every image into squares with sides of so many pixels, so that a single large image can be learned from and judged
on; what is left over at the right and at the bottom is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from denoise_core.errors import UserError, nearest
from denoise_core.images.image_set import ImageSet, LazyImages

NAMES = ("white", "parts")
LEAST_SIDE = 32
"""Smaller parts are too small for any network."""
SUFFIX = re.compile(r"(?P<name>.*[^/])@(?P<view>\w+=[^/@\[\]]*)")


@dataclass(frozen=True)
class View:
    """The value that counts as 1, and the side of the parts in pixels; None where nothing is said."""

    white: float | None = None
    parts: int | None = None

    def __str__(self) -> str:
        """What is written after the set's name; nothing where nothing is said."""
        said = [] if self.white is None else [f"white={self.white:.15g}"]
        said += [] if self.parts is None else [f"parts={self.parts}"]
        return f"@{','.join(said)}" if said else ""


def split_view(text: str) -> tuple[str, View]:
    """(name or path, view) of a text without selection. Raises UserError for a view that is malformed."""
    match = SUFFIX.fullmatch(text)
    if match is None:
        return text, View()
    given: dict[str, str] = {}
    for part in match["view"].split(","):
        name, equals, value = part.partition("=")
        if not equals or name not in NAMES or name in given:
            raise UserError(
                f"@{match['view']} after {match['name']} is malformed at {part!r}: {nearest(name, NAMES)}; write it "
                "like @white=4095 (the value that counts as 1), @parts=512 (squares of this side) or "
                "@white=4095,parts=512."
            )
        given[name] = value
    return match["name"], View(_white(given.get("white")), _side(given.get("parts")))


def _white(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        white = float(text)
    except ValueError:
        white = math.nan
    if not 0 < white < math.inf:
        raise UserError(f"white={text} is not allowed: give the value that counts as 1, as 4095 for 12 bits.")
    return white


def _side(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,9}", text) or int(text) < LEAST_SIDE:
        raise UserError(f"parts={text} is not allowed: give a whole number of pixels of at least {LEAST_SIDE}.")
    return int(text)


def cut(images: ImageSet, side: int) -> ImageSet:
    """Squares (C, side, side) of every image, row by row, called ``name@top,left``; those of its noisy versions alike.

    Raises UserError for an image that is smaller, and for images that stay on disk.
    """
    if isinstance(images.pixels, LazyImages):
        raise UserError(f"{images.name} stays on disk and is cut already: leave @parts={side} out.")
    for name, (_, height, width) in zip(images.ids, images.shapes, strict=True):
        if min(height, width) < side:
            raise UserError(
                f"the image {name} of {images.name} has {height} x {width} pixels, so it has no parts of {side} x "
                f"{side}: give a smaller number after @parts=, or leave the image out."
            )
    places = [list(_places(shape, side)) for shape in images.shapes]
    ids = [f"{name}@{top},{left}" for name, some in zip(images.ids, places, strict=True) for top, left in some]

    def parts(whole: Sequence[Tensor]) -> tuple[Tensor, ...]:
        found = zip(whole, places, strict=True)
        return tuple(_part(image, place, side) for image, some in found for place in some)

    noisy = None if images.noisy is None else parts(images.noisy)
    frames = None
    if images.frames is not None:
        frames = tuple(
            tuple(_part(frame, place, side) for frame in others)
            for others, some in zip(images.frames, places, strict=True)
            for place in some
        )
    return ImageSet(images.name, tuple(ids), parts(images.pixels), noisy, frames)


def side_for(shapes: Sequence[Sequence[int]], count: int) -> int | None:
    """The largest side that cuts images of these shapes (C, H, W) into ``count`` parts or more, or None."""
    for side in range(min(min(shape[1:]) for shape in shapes), LEAST_SIDE - 1, -1):
        if sum((shape[1] // side) * (shape[2] // side) for shape in shapes) >= count:
            return side
    return None


def _places(shape: Sequence[int], side: int) -> Iterator[tuple[int, int]]:
    """(top, left) of every part."""
    _, height, width = shape
    for top in range(0, height - side + 1, side):
        for left in range(0, width - side + 1, side):
            yield top, left


def _part(image: Tensor, place: tuple[int, int], side: int) -> Tensor:
    """A copy, so that it can be read as fast as any image."""
    top, left = place
    return image[:, top : top + side, left : left + side].contiguous()
