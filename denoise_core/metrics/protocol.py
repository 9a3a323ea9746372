"""How quality is measured: papers differ in range, clipping, rounding and SSIM window, so each choice has a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SSIM:
    """Structural similarity (Wang et al. 2004), over the valid region, mean over pixels and channels.

    ``size``: window edge in pixels, odd. ``sigma``: of the Gaussian window in pixels, unused by the uniform one.
    ``sample_covariance``: divide by n - 1. ``data_range``: the L of the constants (0.01 L)^2 and (0.03 L)^2, or
    ``"prediction"`` for maximum minus minimum of the prediction, a habit of some code.
    """

    window: Literal["gaussian", "uniform"]
    size: int
    sigma: float
    sample_covariance: bool
    data_range: float | Literal["prediction"]


@dataclass(frozen=True)
class MetricProtocol:
    """What happens to a prediction before PSNR and SSIM, and their constants.

    ``round_to_8_bit`` turns prediction and clean image into floor(255 v + 0.5), clipped to 0..255; ``peak`` and the
    data range of ``ssim`` then count in these units. ``clip_prediction`` clips to [0, 1] before that.
    """

    name: str
    peak: float
    clip_prediction: bool
    round_to_8_bit: bool
    ssim: SSIM
    description: str


PROTOCOLS: dict[str, MetricProtocol] = {
    "canonical": MetricProtocol(
        name="canonical",
        peak=1.0,
        clip_prediction=False,
        round_to_8_bit=False,
        ssim=SSIM("gaussian", 11, 1.5, sample_covariance=False, data_range=1.0),
        description="Floats as given, not clipped, not rounded, peak 1; SSIM with a Gaussian window 11x11, sigma 1.5.",
    ),
    # Evaluation code of Huang et al., Neighbor2Neighbor, CVPR 2021.
    "neighbor2neighbor": MetricProtocol(
        name="neighbor2neighbor",
        peak=255.0,
        clip_prediction=True,
        round_to_8_bit=True,
        ssim=SSIM("gaussian", 11, 1.5, sample_covariance=False, data_range=255.0),
        description="Both images clipped, rounded to 8 bits, peak 255; SSIM with a Gaussian window 11x11, sigma 1.5.",
    ),
    # Evaluation code of Lee & Jeong, ISCL, IEEE TMI 2021 (there in units of 0..255).
    "iscl": MetricProtocol(
        name="iscl",
        peak=1.0,
        clip_prediction=True,
        round_to_8_bit=False,
        ssim=SSIM("uniform", 7, 0.0, sample_covariance=True, data_range=1.0),
        description="Prediction clipped, not rounded, peak 1; SSIM with a uniform window 7x7 and sample covariance.",
    ),
    # Evaluation code of Cha et al., GAN2GAN, ICLR 2021.
    "gan2gan": MetricProtocol(
        name="gan2gan",
        peak=1.0,
        clip_prediction=True,
        round_to_8_bit=False,
        ssim=SSIM("uniform", 7, 0.0, sample_covariance=True, data_range="prediction"),
        description="Prediction clipped, not rounded, peak 1; SSIM with a uniform window 7x7, sample covariance and "
        "the range of the prediction.",
    ),
    # Evaluation code of Wu et al., D-BSN, ECCV 2020 (its SSIM there in units of 0..255).
    "dbsn": MetricProtocol(
        name="dbsn",
        peak=1.0,
        clip_prediction=True,
        round_to_8_bit=False,
        ssim=SSIM("gaussian", 11, 1.5, sample_covariance=False, data_range=1.0),
        description="Prediction clipped, not rounded, peak 1; SSIM with a Gaussian window 11x11, sigma 1.5.",
    ),
    # Evaluation code of Yue et al., DANet, ECCV 2020.
    "danet": MetricProtocol(
        name="danet",
        peak=255.0,
        clip_prediction=True,
        round_to_8_bit=True,
        ssim=SSIM("gaussian", 11, 1.5, sample_covariance=False, data_range=255.0),
        description="Both images clipped, rounded to 8 bits, peak 255; SSIM with a Gaussian window 11x11, sigma 1.5; "
        "PGap from these PSNR values.",
    ),
}
