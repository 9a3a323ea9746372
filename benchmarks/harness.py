"""Ours beside a named reference: both in turn on the same machine, medians with their spread.

A module of ``benchmarks/cases`` has a function ``comparisons(device)`` that yields :class:`Comparison`, or
``curves()`` that yields :class:`Curve`; there is no list to edit. On a CPU the clock is that of the processor, which
other programs disturb less, and PyTorch has one thread.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import peak

Call = Callable[[], object]
MEASURED_S = 0.3
"""One measurement repeats a call until it takes about so long."""


@dataclass(frozen=True)
class Comparison:
    """``make`` gives (a call of the reference, a call of ours); it is called only when it is measured.

    ``flops``: whether ours is bound by convolutions, whose share of the machine's peak in ``precision`` is then told.
    """

    name: str
    reference: str
    make: Callable[[], tuple[Call, Call]]
    flops: bool = False
    precision: str = "fp32"
    goal: float | None = None
    """How many times as fast ours is to be."""


@dataclass(frozen=True)
class Curve:
    """What something costs as its work grows; ``measure`` gives (seconds, peak MiB) for a size, in a process of its
    own. Time should grow at most in proportion to ``sizes``."""

    name: str
    unit: str
    sizes: Sequence[int]
    measure: Callable[[int], tuple[float, float]]


@dataclass(frozen=True)
class Result:
    """One line of the table. Times in ms; ``ratio`` says how many times as fast ours is, with its quartiles."""

    group: str
    name: str
    reference: str = ""
    size: int | None = None
    reference_ms: float | None = None
    ours_ms: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    goal: float | None = None
    rounds: int = 0
    share_of_peak: float | None = None
    memory_mb: float | None = None


def compare(group: str, one: Comparison, rounds: int, device: str) -> Result:
    """Measures both in turn, the order changing from round to round."""
    theirs, ours = one.make()
    for call in (theirs, ours):  # the first call of a shape compiles and allocates
        call()
    repeats = [max(1, math.ceil(MEASURED_S / max(spent(call, 1, device), 1e-6))) for call in (theirs, ours)]
    pairs = []
    for number in range(rounds):
        found = [0.0, 0.0]
        for at in (0, 1) if number % 2 == 0 else (1, 0):
            found[at] = spent((theirs, ours)[at], repeats[at], device)
        pairs.append(found)
    slow, fast = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = [other / mine for other, mine in pairs]
    low, ratio, high = quartiles(ratios)
    share = flops(ours) / fast / peak(one.precision, device) if one.flops else None
    return Result(
        group, one.name, one.reference, reference_ms=slow * 1e3, ours_ms=fast * 1e3, ratio=ratio, low=low, high=high,
        goal=one.goal, rounds=rounds, share_of_peak=share,
    )  # fmt: skip


def spent(call: Call, repeats: int, device: str) -> float:
    """Seconds a call: of the processor, or of the clock on a GPU."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    began = clock()
    for _ in range(repeats):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (clock() - began) / repeats


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile; the extremes of less than four values."""
    if len(values) < 4:
        return min(values), statistics.median(values), max(values)
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def flops(call: Call) -> int:
    """Floating point operations of convolutions and matrix products in a call."""
    counter = FlopCounterMode(display=False)
    with counter:
        call()
    return int(counter.get_total_flops())


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The slope of the line through the logarithms: 1 is growth in proportion."""
    xs, ys = [math.log(one) for one in sizes], [math.log(one) for one in values]
    return statistics.linear_regression(xs, ys).slope


def trace(curve: Curve, group: str) -> Iterator[Result]:
    """A result for each size."""
    for size in curve.sizes:
        seconds, memory = curve.measure(size)
        yield Result(group, curve.name, curve.unit, size, ours_ms=seconds * 1e3, memory_mb=memory)


def groups() -> list[str]:
    """The modules of cases."""
    import benchmarks.cases

    return sorted(one.name for one in pkgutil.iter_modules(benchmarks.cases.__path__))


def comparisons(group: str, device: str) -> list[Comparison]:
    """What a group compares; nothing where it has curves only."""
    module = importlib.import_module(f"benchmarks.cases.{group}")
    return list(module.comparisons(device)) if hasattr(module, "comparisons") else []


def curves(group: str) -> list[Curve]:
    """What a group measures against growing work."""
    module = importlib.import_module(f"benchmarks.cases.{group}")
    return list(module.curves()) if hasattr(module, "curves") else []
