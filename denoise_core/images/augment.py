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
    drawn = context.randint(2, (len(images[0]), 3)).bool()[:, :, None, None, None]
    result = []
    for image in images:
        image = torch.where(drawn[:, 0], image.flip(-1), image)
        image = torch.where(drawn[:, 1], image.flip(-2), image)
        result.append(torch.where(drawn[:, 2], image.transpose(-1, -2), image))
    return result
