"""Denoising images of any size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from denoise_core.errors import UserError

MAX_PIXELS = 2**20
"""Default for the largest H*W that is denoised at once: a U-Net with 96 channels then needs 1 to 2 GB."""

HALO = 128
"""Default halo: a U-Net with five poolings sees that far."""
ALIGNED = 32
"""Default for what tile origins are multiples of: the pixels of a U-Net after five poolings."""


@torch.inference_mode()
def denoise_image(
    denoise: Callable[[Tensor], Tensor],
    noisy: Tensor,
    *,
    max_pixels: int = MAX_PIXELS,
    halo: int = HALO,
    multiple: int = ALIGNED,
) -> Tensor:
    """``denoise`` applied to ``noisy``, (C, H, W) or (N, C, H, W) with any H and W; the result has the same form.

    ``denoise`` maps (N, C, h, w) to the same size and does its own padding where it needs any. Up to
    ``max_pixels`` (H*W of one image) the image goes through whole. A larger one goes through in tiles: each sees
    ``halo`` more pixels (rounded up to ``multiple``) on every side that is not an image border, and only its core is
    kept. Tile origins are multiples of ``multiple``, so that the grids of pooling layers lie as in the whole image; a
    network whose receptive field fits in the halo gives the same result either way.

    Raises UserError if ``max_pixels`` leaves no room for the halo, ValueError for a wrong shape.
    """
    if noisy.ndim not in (3, 4):
        raise ValueError(f"expected (C, H, W) or (N, C, H, W), got {tuple(noisy.shape)}")
    batch = noisy if noisy.ndim == 4 else noisy[None]
    height, width = batch.shape[-2:]
    if height * width <= max_pixels:
        result = _checked(denoise, batch)
    else:
        result = torch.empty_like(batch)
        for tile in tiles(height, width, max_pixels=max_pixels, halo=halo, multiple=multiple):
            seen = _checked(denoise, batch[..., tile.seen[0], tile.seen[1]])
            result[..., tile.core[0], tile.core[1]] = seen[..., tile.inner[0], tile.inner[1]]
    return result if noisy.ndim == 4 else result[0]


@dataclass(frozen=True)
class Tile:
    """Rows and columns of one tile in the image: ``seen`` goes through the network, ``core`` is what is kept of it, and
    ``inner`` is where the core lies in what was seen."""

    seen: tuple[slice, slice]
    core: tuple[slice, slice]
    inner: tuple[slice, slice]


def tiles(
    height: int, width: int, *, max_pixels: int = MAX_PIXELS, halo: int = HALO, multiple: int = ALIGNED
) -> Iterator[Tile]:
    """The tiles of :func:`denoise_image`, row by row; a single one where the image has up to ``max_pixels``.

    Raises UserError if ``max_pixels`` leaves no room for the halo.
    """
    halo = math.ceil(halo / multiple) * multiple
    core = (math.isqrt(max_pixels) - 2 * halo) // multiple * multiple
    if height * width <= max_pixels:
        halo, core = 0, max(height, width)
    if core < multiple and height * width > max_pixels:
        raise UserError(
            f"max_pixels = {max_pixels} leaves no room for tiles with a halo of {halo}; "
            f"use at least {(2 * halo + multiple) ** 2} or a smaller halo."
        )
    for top, bottom in _spans(height, core):
        for left, right in _spans(width, core):
            y, x = max(0, top - halo), max(0, left - halo)
            yield Tile(
                seen=(slice(y, min(bottom + halo, height)), slice(x, min(right + halo, width))),
                core=(slice(top, bottom), slice(left, right)),
                inner=(slice(top - y, bottom - y), slice(left - x, right - x)),
            )


def _checked(denoise: Callable[[Tensor], Tensor], noisy: Tensor) -> Tensor:
    result = denoise(noisy)
    if result.shape != noisy.shape:
        raise ValueError(f"the network turned {tuple(noisy.shape)} into {tuple(result.shape)}; the sizes must agree")
    return result


def _spans(length: int, core: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, core):
        yield start, min(start + core, length)


def pad_to_multiple(images: Tensor, multiple: int = ALIGNED, *, square: bool = False) -> Tensor:
    """``images`` (..., H, W) padded at bottom and right until both sides are multiples of ``multiple``.

    ``square`` pads to a square of side ceil(max(H, W) / multiple) * multiple, the evaluation rule of
    Neighbor2Neighbor's code. Reflects like ``numpy.pad(mode="reflect")``, repeatedly where the pad is
    longer than the image. The caller crops the result to H x W.
    """
    height, width = images.shape[-2:]
    longest = (height + width + abs(height - width)) // 2  # the larger, in arithmetic, as below
    down, right = (_next_multiple(longest if square else side, multiple) for side in (height, width))
    rows = _reflected(height, down, images.device)
    columns = _reflected(width, right, images.device)
    return images.index_select(-2, rows).index_select(-1, columns)


def turned(images: Tensor, turns: int) -> Tensor:
    """``torch.rot90`` of the last two dimensions, by operations that the graphs of other programs have too."""
    turns %= 4
    if turns == 2:
        return images.flip((-2, -1))
    if turns == 0:
        return images.clone(memory_format=torch.contiguous_format)
    return images.flip(-1 if turns == 1 else -2).transpose(-2, -1)


def _next_multiple(side: int, multiple: int) -> int:
    return (side + multiple - 1) // multiple * multiple


def _reflected(length: int, target: int, device: torch.device) -> Tensor:
    """Source indices 0, 1, ..., length-1, length-2, ..., 1, 0, 1, ... for ``target`` places.

    In arithmetic alone, so that an exported graph does it for any length.
    """
    period = 2 * length - 2 + 1 // length  # 1 where there is one pixel
    place = torch.arange(target, device=device) % period
    return torch.minimum(place, period - place)
