"""Pieces of sentences: counts, lists and intervals."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.report.cells import Grid
from cluster.results.statistics import Interval


def sizes(interval: Interval) -> str:
    """``3 seeds × 20 images`` of an interval."""
    return f"{plural(interval.seeds, 'seed')} × {plural(interval.images, 'image')}"


def counts(grid: Grid) -> str:
    """``3 seeds × 20 images`` of a grid."""
    return f"{plural(len(grid.seeds), 'seed')} × {plural(len(grid.images), 'image')}"


def span(interval: Interval, digits: int = 2) -> str:
    """``[0.17, 0.31]``, with as many digits from ``digits`` on as it takes to see on which side of zero it lies."""
    for count in range(digits, digits + 3):
        low, high = f"{interval.low:.{count}f}", f"{interval.high:.{count}f}"
        if float(low) != 0 and float(high) != 0:
            break
    return f"[{low}, {high}]"


def plural(count: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def capital(sentence: str) -> str:
    """With a capital letter first."""
    return sentence[0].upper() + sentence[1:]


def join(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
