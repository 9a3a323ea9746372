"""D-BSN's hyperparameters, and what the small budgets change of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationInfo, field_validator

from denoise_core.config import MethodConfig, Param, choice, log, uniform
from denoise_core.images.distillation import BAYER_GROUPS

MEAN, VARIANCE, JOINT, WARM, STUDENT = "mu", "variance", "joint", "warm", "student"
"""The phases; three of them are also what a parameter affects."""


class DBSNConfig(MethodConfig):
    """Hyperparameters of D-BSN. Defaults are those of the official code for gray images, but for the noise's start."""

    # ---- stage 1: networks ----
    width: int = Param(96, "channels of the blind-spot network", affects=MEAN, search=choice(16, 24, 32, 48), ge=1)
    blocks: int = Param(8, "multi-dilation blocks of each branch; the paper says 7", affects=MEAN, ge=1)
    wide_branch: Literal["5x5", "3x3"] = Param(
        "5x5", "a block's widest sub-branch: one 5x5 convolution (code) or two of 3x3 (paper)", affects=MEAN,
        paper="Fig. 3c",
    )  # fmt: skip
    masking: Literal["mask", "trimmed"] = Param(
        "mask", "the first convolution: masked, or rescaled by its taps inside the image as well", affects=MEAN
    )
    level_width: int = Param(16, "channels of the networks of variances", affects=VARIANCE, paper="section 3.2", ge=1)
    noise_form: Literal["homoscedastic", "heteroscedastic", "multivariate"] = Param(
        "homoscedastic", "one noise level, one by intensity, or one covariance of three channels", affects=VARIANCE,
        paper="section 3.2",
    )  # fmt: skip
    noise_start: Literal["residual", "official"] = Param(
        "residual", "noise level at the start: of y - mu in the median tile, or the code's 4.9 / 255", affects=VARIANCE
    )
    # ---- stage 1: training ----
    likelihood: Literal["ordinary", "constrained"] = Param(
        "ordinary", "Eq. 6, which the code trains with, or the paper's Eq. 8", affects=VARIANCE, paper="Eq. 6, 8"
    )
    trace_weight: float = Param(
        0.0, "weight of tr(Sn^-1 Sm) beside Eq. 6: prefers noise where the residuals leave the choice",
        affects=VARIANCE, search=uniform(0, 1), ge=0,
    )  # fmt: skip
    mean_steps: float = Param(1.0, "share of the steps for mu alone, by squared error", affects=MEAN, gt=0)
    variance_steps: float = Param(
        0.0, "share of the steps for the variances with mu fixed (the code's for colour)", affects=VARIANCE, ge=0
    )
    joint_steps: float = Param(1.0, "share of the steps for all networks, by the likelihood", affects=VARIANCE, ge=0)
    lr: float = Param(3e-4, "Adam's rate for mu", affects=MEAN, paper="section 4.1", search=log(1e-4, 3e-3), gt=0, le=1)
    joint_lr: float = Param(3e-4, "Adam's rate of the likelihood", affects=VARIANCE, search=log(1e-5, 3e-3), gt=0, le=1)
    variance_lr: float = Param(
        3e-4, "Adam's rate for the variances alone", affects=VARIANCE, search=log(1e-4, 1e-2), gt=0, le=1
    )
    lr_schedule: Literal["step", "one_cycle"] = Param(
        "step", "the code's stairs, or one cycle, in every phase", affects="training"
    )
    batch_size: int = Param(8, "crops a step of stage 1, over all workers", affects="training", ge=1)
    patch_size: int = Param(96, "side of stage 1's crops in pixels", affects="training", ge=16)
    pixel_shuffle: int = Param(
        1, "down-sampling of photographs with correlated noise, 4 in the paper", affects="training",
        paper="section 3.4", ge=1, le=8,
    )  # fmt: skip
    bayer_groups: bool = Param(
        False, "first-stage networks of their own for each of the four Bayer phases", affects="training",
        paper="section 3.4",
    )  # fmt: skip
    guided_radius: int = Param(1, "radius of the guided filter after pixel-shuffle", affects=STUDENT, ge=0, le=16)
    guided_eps: float = Param(0.01, "penalty of the guided filter", affects=STUDENT, paper="section 3.4", gt=0)
    # ---- stage 2 ----
    distil: bool = Param(True, "whether stage 2 follows", affects="length")
    distillation_lambda: float = Param(
        0.1, "weight of noisy images with the first stage's results", affects=STUDENT, paper="Eq. 4",
        search=log(1e-3, 10), ge=0,
    )  # fmt: skip
    noisy_share: float = Param(0.125, "part of a batch that is noisy images; the rest is clean ones", affects=STUDENT,
                               search=uniform(0.05, 0.5), gt=0, lt=1)  # fmt: skip
    disturbance: float = Param(0.1, "simulated levels vary by so much, up and down", affects=STUDENT, ge=0, lt=1)
    labels: Literal["crop", "whole"] = Param(
        "crop",
        "the first stage's results: of each crop as it comes, or once of the whole given images",
        affects=STUDENT,
    )
    student_widths: tuple[int, int, int] = Param((160, 256, 256), "channels of the MWCNN", affects=STUDENT)
    student_depth: int = Param(4, "convolutions of each of its stages", affects=STUDENT, ge=1)
    student_lr: float = Param(1e-4, "Adam's rate", affects=STUDENT, search=log(1e-5, 5e-3), gt=0, le=1)
    student_batch_size: int = Param(32, "crops a step, over all workers", affects=STUDENT, ge=2)
    student_patch_size: int = Param(
        160, "side of stage 2's crops, a multiple of 8", affects=STUDENT, ge=8, multiple_of=8
    )
    student_steps: float = Param(1.0, "share of the steps for the student", affects=STUDENT, gt=0)
    warm_steps: float = Param(
        0.0, "share of the steps of a start on clean-noisy pairs, as the code's (no longer unpaired)", affects=STUDENT,
        ge=0,
    )  # fmt: skip
    # ---- inference ----
    estimate: Literal["best", "student", "bayes", "mu"] = Param(
        "best", "which estimate; best: that of the last stage", affects="inference", paper="Table 1"
    )
    fusion_gamma: float = Param(1.0, "factor of the noise's covariance in Bayes' rule", affects="inference", gt=0, le=4)
    noise_network: Literal["shared", "image"] = Param(
        "shared", "one network of the noise level, or one that goes on learning on each image", affects="inference",
        paper="section 3.2",
    )  # fmt: skip
    image_steps: int = Param(50, "steps of such a network on its image", affects="inference", ge=1)

    @field_validator("joint_steps")
    @classmethod
    def _some_likelihood(cls, value: float, info: ValidationInfo) -> float:
        if value == 0 and info.data.get("variance_steps") == 0:
            raise ValueError("the variances must be trained in one phase at least: give joint_steps above 0")
        return value

    @field_validator("bayer_groups")
    @classmethod
    def _of_sub_images(cls, value: bool, info: ValidationInfo) -> bool:
        if value and (factor := info.data.get("pixel_shuffle", 2)) % 2:
            raise ValueError(f"sub-images have a Bayer phase where pixel_shuffle is even, such as 4, not {factor}")
        if value and info.data.get("batch_size", BAYER_GROUPS) % BAYER_GROUPS:
            raise ValueError("a batch holds as many crops of each Bayer phase: give batch_size = 4, 8, 12, ...")
        return value

    @field_validator("estimate")
    @classmethod
    def _trained(cls, value: str, info: ValidationInfo) -> str:
        if value == "student" and not info.data.get("distil", True):
            raise ValueError("there is no student without stage 2: give estimate = bayes or mu, or distil = true")
        return value


SMALL: Mapping[str, Any] = {
    "width": 24, "blocks": 2, "level_width": 16, "lr": 3e-3, "joint_lr": 3e-3, "joint_steps": 1.5,
    "lr_schedule": "one_cycle", "patch_size": 64, "batch_size": 4, "student_widths": (24, 40, 56), "student_depth": 3,
    "student_lr": 5e-3, "student_steps": 3.25, "student_batch_size": 8, "student_patch_size": 64,
}  # fmt: skip
"""Networks of about a fiftieth of the size at ten times the rate."""
