"""How a report writes the values of a metric, and which way is better: ``METRICS`` in the words of sentences and axes.

A metric that ``METRICS`` lacks has no unit, three digits, and more of it is better.
"""

from __future__ import annotations

import math

from denoise_core.metrics.kinds import METRICS, MetricKind


def kind(metric: str) -> MetricKind:
    """Title, unit, direction, digits and bounds."""
    return METRICS.get(metric) or MetricKind(metric.upper(), "", True, 3, -math.inf, math.inf)


def unit(metric: str) -> str:
    """What follows a number: a space and the unit, or nothing."""
    name = kind(metric).unit
    return f" {name}" if name else ""


def sign(metric: str) -> float:
    """A difference times this is positive where it is an improvement."""
    return 1.0 if kind(metric).higher_is_better else -1.0


def digits(metric: str) -> int:
    """Digits after the point."""
    return kind(metric).digits


def head(metric: str) -> str:
    """``PSNR (dB)``; of a metric where less is better that is said too, as no reader should have to guess."""
    known = kind(metric)
    text = known.title + (f" ({known.unit})" if known.unit else "")
    return text if known.higher_is_better else f"{text}, lower is better"


def order(metric: str) -> tuple[int, str]:
    """A key that sorts metrics as ``METRICS`` lists them, others by name behind."""
    known = list(METRICS)
    return (known.index(metric) if metric in METRICS else len(known), metric)
