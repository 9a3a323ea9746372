"""Schedules as functions of progress in [0, 1], so that a smaller budget never bends them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Schedule = Callable[[float], float]
"""Progress in [0, 1] -> a factor that multiplies the base value."""


def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


def linear(end: float) -> Schedule:
    """From 1 down to ``end`` in a straight line."""
    return lambda progress: 1.0 + (end - 1.0) * progress


def steps(milestones: Sequence[float], factor: float) -> Schedule:
    """Multiplies by ``factor`` once progress has reached each milestone (PyTorch's MultiStepLR, in progress)."""
    return lambda progress: factor ** sum(progress >= milestone for milestone in milestones)


def one_cycle(warm_up: float = 0.3, start: float = 0.04, end: float = 4e-6) -> Schedule:
    """Cosine up from ``start`` to 1 over ``warm_up``, cosine down to ``end`` (Smith 2018, PyTorch's OneCycleLR)."""

    def factor(progress: float) -> float:
        if progress < warm_up:
            return 1.0 + (start - 1.0) * (1.0 + math.cos(math.pi * progress / warm_up)) / 2.0
        return end + (1.0 - end) * (1.0 + math.cos(math.pi * (progress - warm_up) / (1.0 - warm_up))) / 2.0

    return factor


def staircase(progress: float, stairs: int = 100) -> float:
    """1/stairs, 2/stairs, ... 1: constant inside each of ``stairs`` equal parts, as a ramp by epoch is."""
    return min(math.floor(progress * stairs + 1e-9) + 1, stairs) / stairs
