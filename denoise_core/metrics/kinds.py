"""What the measured numbers are: their units, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricKind:
    """``title`` and ``unit`` as a report prints them; ``low`` and ``high`` bound what can be true (or misprinted)."""

    title: str
    unit: str
    higher_is_better: bool
    digits: int
    low: float
    high: float


METRICS: Mapping[str, MetricKind] = {
    "psnr": MetricKind("PSNR", "dB", True, 2, 0.0, 100.0),
    "ssim": MetricKind("SSIM", "", True, 4, 0.0, 1.0),
    # of generated noise
    "akld": MetricKind("AKLD", "", False, 3, 0.0, 4.0),
    "pgap": MetricKind("PGap", "dB", False, 2, -100.0, 100.0),
    # estimates without clean images (denoise_core.metrics.clean_free)
    "upsnr": MetricKind("uPSNR", "dB", True, 2, 0.0, 100.0),
    "pair_risk": MetricKind("PSNR by a second frame", "dB", True, 2, 0.0, 100.0),
    "sure": MetricKind("PSNR by SURE", "dB", True, 2, 0.0, 100.0),
    "thinning": MetricKind("PSNR by photon thinning", "dB", True, 2, 0.0, 100.0),
    "neighbour_risk": MetricKind("PSNR by neighbouring pixels", "dB", True, 2, 0.0, 100.0),
    "recorrupted": MetricKind("PSNR by recorrupted pairs", "dB", True, 2, 0.0, 100.0),
    "whiteness": MetricKind("whiteness of the residual", "dB", True, 2, -100.0, 100.0),
}
"""Every metric by the name under which it is stored."""
