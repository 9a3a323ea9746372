"""What recording and storing leave in images: clipping, quantisation, the grid of JPEG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

GRID = 8
"""Edge of the blocks of JPEG, in pixels."""
GRID_FROM, STANDS_OUT = 0.02, 3.0
"""From which excess on, and by how many standard errors of what the other offsets show, a grid counts as that of JPEG.

Images that were never compressed reach 0.01 and 2.5, as the median over a set 0.01 and 1.6; ``cc15`` 0.05 and 7.5."""
LIMIT = 2.0
"""Steps above so many of their medians count as that much: they are edges of the scene."""
MOST_VALUES = 65536
"""More different values than this are taken as continuous."""
MOST_PIXELS = 2**17
"""About so many pixels of each image are looked at for the step between values."""
EXACT = 0.02
"""How far, as a part of the step, values may lie from its multiples: float32 is not exact."""


def data_ends(images: Sequence[Tensor]) -> tuple[float, float]:
    """The least and the largest value that occurs."""
    return min(float(image.min()) for image in images), max(float(image.max()) for image in images)


def clipped(images: Sequence[Tensor], ends: tuple[float, float]) -> tuple[float, float]:
    """The parts of all pixels that lie at either of ``ends``; a single such pixel is nothing."""
    total = sum(image.numel() for image in images)
    low = sum(int((image <= ends[0]).sum()) for image in images)
    high = sum(int((image >= ends[1]).sum()) for image in images)
    return (low / total if low > 1 else 0.0), (high / total if high > 1 else 0.0)


def smallest_step(images: Sequence[Tensor]) -> float:
    """The smallest step between values that occur, where all are multiples of it apart; else 0 (continuous)."""
    found = np.empty(0, np.float32)
    for image in images:
        some = image.flatten()[:: max(1, image.numel() // MOST_PIXELS)]
        found = np.unique(np.concatenate([found, some.numpy()]))
        if len(found) > MOST_VALUES:
            return 0.0
    values = torch.from_numpy(found).double()
    gaps = values.diff()
    if not len(gaps):
        return 0.0
    gaps = gaps[gaps > EXACT * float(gaps.median())]  # the same number, rounded in another way
    smallest = float(gaps.min())
    step = float(gaps[gaps < 1.5 * smallest].mean())
    multiples = gaps / step
    span = float(values[-1] - values[0]) / step
    exact = float((multiples - multiples.round()).abs().max()) <= max(EXACT, 1e-7 / step)
    return step if exact and span >= 1 and len(values) < 0.5 * sum(image.numel() for image in images) else 0.0


def jpeg_grid(images: Sequence[Tensor]) -> tuple[float, bool]:
    """(excess, whether it is that of JPEG): how much larger gradients are across a grid of 8 x 8 than within, minus 1.

    The offset of the grid is that of each image where it stands out most; images may be crops. The excess is the median
    over the images of the smaller one of both directions. JPEG is told where it also stands out from all other offsets,
    in both directions, in most images.
    """
    found = [(_grid(image), _grid(image.mT)) for image in images if min(image.shape[1:]) >= 4 * GRID]
    if not found:
        return 0.0, False
    excess = torch.tensor([min(across[0], down[0]) for across, down in found])
    outstanding = torch.tensor([min(across[1], down[1]) for across, down in found])
    ratio = float(excess.median())
    return ratio, ratio > GRID_FROM and float(outstanding.median()) > STANDS_OUT


def _grid(image: Tensor) -> tuple[float, float]:
    """(excess at the best offset, its distance from the others in standard errors) along the rows of (C, H, W).

    The steps between columns are compared with those one column to either side, which a scene changes alike.
    """
    steps = (image[:, :, 1:] - image[:, :, :-1]).abs()
    steps = steps.clamp_max(LIMIT * float(steps.median()) + 1e-6).mean((0, 1))
    contrast = steps[1:-1] - (steps[:-2] + steps[2:]) / 2
    length = len(contrast) // GRID * GRID
    columns = contrast[:length].view(-1, GRID) / steps.mean().clamp_min(1e-12)
    excess = columns.mean(0)
    best = int(excess.argmax())
    # those beside it are lowered by the grid itself
    others = columns[:, [(best + shift) % GRID for shift in range(2, GRID - 1)]]
    error = others.std().clamp_min(1e-9) / len(columns) ** 0.5
    return float(excess[best]), float((excess[best] - others.mean()) / error)
