"""Intervals for means over seeds and images, and for paired differences of such means.

Two things vary between measurements: the training (its seed) and the image. A difference between two settings is
trusted only as far as both were sampled, so both are resampled: a *crossed* bootstrap, which draws seeds and images
independently and so keeps the pairing intact [Owen 2007]. A few seeds are the rule, and a plain bootstrap of three
values is far too sure of itself; the seeds' and images' effects are therefore stretched to the width of Student's t
before resampling (the expanded percentile interval of Hesterberg 2015). With many images the stretch vanishes and the
interval of a single training is the usual percentile bootstrap over images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, t

Array = npt.NDArray[np.floating[Any]]
MOST = 1000  # no one trains more seeds than this, or measures so many more images


@dataclass(frozen=True)
class Interval:
    """A mean and its two-sided interval, in the unit of the values. ``seeds`` and ``images`` are their counts."""

    mean: float
    low: float
    high: float
    level: float
    seeds: int
    images: int

    @property
    def conclusive(self) -> bool:
        """Whether zero lies outside: only then may anyone say that a difference has a sign."""
        return self.low > 0 or self.high < 0

    @property
    def seeds_resampled(self) -> bool:
        """False for one seed: the interval then knows nothing of the luck of training."""
        return self.seeds > 1

    @property
    def half_width(self) -> float:
        """Half the distance between the ends."""
        return (self.high - self.low) / 2


def paired_difference(a: Array, b: Array, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """The mean of ``a - b`` over seeds and images, both of shape (seeds, images) in the same order.

    Raises:
        ValueError: The shapes differ, or see ``mean_interval``.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"paired values need one shape, not {np.shape(a)} and {np.shape(b)}")
    return mean_interval(np.asarray(a) - np.asarray(b), level=level, resamples=resamples, seed=seed)


def mean_interval(a: Array, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """The mean of ``a``, shape (seeds, images), with a crossed bootstrap interval. The same input, the same answer.

    A direction with a single entry is not resampled: pass per-seed means, shape (seeds, 1), for an interval over
    trainings on exactly these images.

    Raises:
        ValueError: ``a`` is not a non-empty finite matrix, or ``level`` is not inside (0, 1).
    """
    values = np.asarray(a, dtype=np.float64)
    if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"expected finite values of shape (seeds, images), got shape {values.shape}")
    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, not {level}")
    means = _resampled_means(values, level, resamples, seed)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high), level, *values.shape)


def bonferroni(level: float, comparisons: int) -> float:
    """The level of each of ``comparisons`` intervals that makes all of them hold together at ``level``."""
    return 1 - (1 - level) / max(1, comparisons)


def needed(difference: Array, *, level: float = 0.95) -> tuple[int, int] | None:
    """About how many (seeds, images) make an interval for a mean of this size exclude zero.

    ``difference`` has shape (seeds, images). Images are added only where no number of seeds would do (always for one
    seed: it says nothing about the others). None when more than 1000 of either would be needed: take it for zero.
    """
    seeds, images = difference.shape
    effect = float(difference.mean()) ** 2
    over_seeds = float(difference.mean(axis=1).var(ddof=1)) if seeds > 1 else 0.0
    over_images = float(difference.mean(axis=0).var(ddof=1)) if images > 1 else 0.0
    z = float(norm.ppf((1 + level) / 2)) ** 2
    half = effect if seeds == 1 else effect / 2  # where both must grow, each may cost half of the margin
    more_images = images
    if z * over_images / images >= effect:
        more_images = math.ceil(z * over_images / half) if half > 0 else MOST * images
    if more_images > MOST:
        return None
    left = effect - z * over_images / more_images
    for more_seeds in range(seeds, MOST):
        if over_seeds == 0 or float(t.ppf((1 + level) / 2, more_seeds - 1)) ** 2 * over_seeds / more_seeds < left:
            return more_seeds, more_images
    return None


def _resampled_means(values: Array, level: float, resamples: int, seed: int) -> Array:
    """Means of ``resamples`` tables, each with its own draw of the rows and of the columns."""
    grand = values.mean()
    rows = values.mean(axis=1, keepdims=True) - grand
    columns = values.mean(axis=0, keepdims=True) - grand
    # `values` plus what the two stretches add to the effects; the unexplained rest is left as it is
    stretched = values + (_stretch(len(values), level) - 1) * rows + (_stretch(values.shape[1], level) - 1) * columns
    row_weights, column_weights = _both_weights(*values.shape, resamples, seed)
    means: Array = ((row_weights @ stretched) * column_weights).sum(axis=1)
    return means


@lru_cache(maxsize=8)
def _both_weights(rows: int, columns: int, resamples: int, seed: int) -> tuple[Array, Array]:
    """The weights of rows and of columns, kept: a report asks hundreds of times for tables of one shape."""
    generator = np.random.default_rng(seed)
    return _weights(rows, resamples, generator), _weights(columns, resamples, generator)


def _weights(count: int, resamples: int, generator: np.random.Generator) -> Array:
    """How often each of ``count`` entries is drawn, as shares: shape (resamples, count)."""
    drawn: Array = generator.multinomial(count, np.full(count, 1 / count), size=resamples) / count
    return drawn


def _stretch(count: int, level: float) -> float:
    """From the width of a bootstrap of ``count`` values to that of Student's t: 2.7 for 3 values, 1.0 for many."""
    if count < 2:
        return 1.0
    upper = (1 + level) / 2
    return float(math.sqrt(count / (count - 1)) * t.ppf(upper, count - 1) / norm.ppf(upper))
