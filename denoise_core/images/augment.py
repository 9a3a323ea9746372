"""Random symmetries of crops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from denoise_core.method import Context


def dihedral(images: Sequence[Tensor], context: Context) -> list[Tensor]:
    """Square crops (N, C, S, S) flipped left to right, upside down and transposed, each with probability one half.

    All tensors get the same symmetries.
    """
    return _moved(images, context.randint(2, (len(images[0]), 3)).bool())


def mostly_upright(images: Sequence[Tensor], context: Context) -> list[Tensor]:
    """As :func:`dihedral`, but one half stay as they are and each of the other seven symmetries has 1/14 (DANet)."""
    number = (context.randint(14, (len(images[0]), 1)) - 6).clamp_min(0)
    return _moved(images, (number >> torch.arange(3, device=number.device)) % 2 == 1)


def _moved(images: Sequence[Tensor], steps: Tensor) -> list[Tensor]:
    """``steps`` (N, 3): whether to flip left to right, upside down, and to transpose."""
    drawn, result = steps[:, :, None, None, None], []
    for image in images:
        image = torch.where(drawn[:, 0], image.flip(-1), image)
        image = torch.where(drawn[:, 1], image.flip(-2), image)
        result.append(torch.where(drawn[:, 2], image.transpose(-1, -2), image))
    return result
