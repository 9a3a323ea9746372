"""Laine, Karras, Lehtinen, Aila: High-Quality Self-Supervised Deep Image Denoising (NeurIPS 2019), on Gaussian noise.

A U-Net that sees each pixel's surroundings in four half planes gives mu and its covariance, and Bayes' rule fuses mu
with the pixel. D-BSN and Neighbor2Neighbor compare with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from denoise_core.config import MethodConfig, Param
from denoise_core.method import Assumptions, Citation, Deviation, Recipe
from denoise_core.methods.dbsn import DBSN
from denoise_core.methods.dbsn_config import MEAN, SMALL, DBSNConfig
from denoise_core.networks.blindspot import RotatedBlindSpot


class Laine19Config(DBSNConfig):
    """D-BSN's hyperparameters of the first stage; there is no second."""

    features: int = Param(48, "channels of the U-Net's encoder", affects=MEAN, ge=1)
    depth: int = Param(5, "its poolings", affects=MEAN, ge=1, le=5)
    distil: Literal[False] = Param(False, "there is no second stage", affects="length")
    estimate: Literal["best", "bayes", "mu"] = Param(
        "best", "which estimate; best: the Bayes estimate", affects="inference", paper="Table 1"
    )


class HalfPlanes(nn.Module):
    """The rotated U-Net with D-BSN's two outputs: mu (N, C, H, W) and ``width`` features."""

    def __init__(self, channels: int, width: int, features: int, depth: int):
        super().__init__()
        self.channels = channels
        self.network = RotatedBlindSpot(channels, channels + width, features, depth=depth)
        self.reach: int = self.network.reach

    def forward(self, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        result = self.network(noisy)
        return result[:, : self.channels], result[:, self.channels :]


class Laine19(DBSN):
    """See the module."""

    name = "laine19"
    version = 2
    title = "Laine19 (blind-spot U-Net, posterior mean)"
    citation = Citation(
        "Laine, Karras, Lehtinen, Aila: High-Quality Self-Supervised Deep Image Denoising, NeurIPS 2019",
        "https://arxiv.org/abs/1901.10277",
    )
    lineage = ""  # its phases are nobody else's
    Config: ClassVar[type[MethodConfig]] = Laine19Config
    config: Laine19Config
    assumes = Assumptions(zero_mean=True, pixel_independent=True, signal_independent=False, fields=("noisy",))
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "smoke": Recipe(3, {**SMALL, "width": 6, "features": 4, "depth": 2, "level_width": 4, "patch_size": 32,
                            "lr": 1e-3, "joint_lr": 1e-3, "joint_steps": 1.0,
                            "image_steps": 2}),
        "laptop": Recipe(300, {**SMALL, "features": 16, "depth": 3}),
        "gpu": Recipe(10_000, {"width": 48, "lr": 1e-3, "joint_lr": 3e-4, "lr_schedule": "one_cycle"}),
        "paper": Recipe(600_000),
    }  # fmt: skip
    deviations: ClassVar[tuple[Deviation, ...]] = (
        Deviation(
            "Training",
            "the likelihood alone, from the start, 0.5 million crops",
            "TensorFlow, with a loss term of -0.1 sigma that favours noise where its level is not known",
            "D-BSN's phases, likelihood, noise network, rates and steps with Laine's network: the comparison is of the "
            "networks; the trace term plays the part of -0.1 sigma",
        ),
        Deviation(
            "Numbers in the tables",
            "D-BSN prints those of Laine's own paper",
            "not part of D-BSN's code",
            "trained here on the images and noise of the method that it stands beside",
        ),
    )

    def _mean_network(self) -> nn.Module:
        config = self.config
        return HalfPlanes(self.channels, config.width, config.features, config.depth)
