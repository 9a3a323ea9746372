"""The upper bounds of GAN2GAN's Tables 2 and 3 and Fig. 5: its learned noise on clean images that users lack.

The W-GAN is GAN2GAN's and is shared with it; then one denoiser learns clean images from the same with fresh noise of
g1. What is left to the noise-free line is what the noise model misses; what GAN2GAN is below it, its estimates cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from torch import Tensor

from denoise_core.config import Param
from denoise_core.method import Assumptions, Context, Deviation, Phase, Update
from denoise_core.methods.gan2gan import GAN, GAN2GAN, GAN2GANConfig, flipped
from denoise_core.methods.gan2gan_deviations import DEVIATIONS
from denoise_core.networks.norms import wide

SUPERVISED = "n2c"


class LearnedNoiseToClean(GAN2GAN):
    """N2C (Eq. 4): g1 of the W-GAN makes the noise, clean images are the targets."""

    name = "n2c_eq4"
    title = "N2C (noise learned by Eq. 4)"
    assumes = Assumptions(
        zero_mean=True, pixel_independent=False, signal_independent=True, fields=("noisy", "smooth", "clean"),
        given=True,
    )  # fmt: skip
    deviations: ClassVar[tuple[Deviation, ...]] = (
        *DEVIATIONS,
        Deviation(
            "Training of N2C",
            "a 17-layer DnCNN on BSD400 with noise of g1; rate, batch and length are not stated",
            "not released",
            "rate, schedule, batch, steps of one GAN2GAN iteration (in laptop of three, where more steps still help), "
            "from scratch, fresh noise for every crop",
        ),
    )

    def phases(self) -> tuple[Phase, ...]:
        """GAN2GAN's W-GAN, then the denoiser, for as many steps as ``supervised_iterations`` iterations have."""
        share = self.config.denoiser_steps * self.config.supervised_iterations
        return (self._gan_phase(), replace(self._denoiser_phase(SUPERVISED, 1), needs=("clean",), share=share))

    def enter(self, phase: str) -> None:
        """Notes which network gives the estimate: g2 (0) or the denoiser (1)."""
        self.stage.fill_(0 if phase == GAN else 1)

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """The W-GAN's step, or mean((D(x + g1(r)) - x)^2) for clean crops x."""
        return self._gan_updates(batch, context) if phase == GAN else self._supervised_updates(batch, context)

    def _supervised_updates(self, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        (clean,) = flipped((batch["clean"],), context)
        noise = self.simulate(context.randn((len(clean), self.config.latent)))
        loss = (wide(self.denoiser(clean + noise)) - clean).square().mean()
        yield Update("denoiser", loss, {"loss": loss})


class GCBDConfig(GAN2GANConfig):
    """GAN2GAN's hyperparameters with the other rule for smooth patches."""

    rule: Literal["wavelet", "variance"] = Param(
        "variance", "which patches are smooth: Eq. 4 on wavelet sub-bands, or GCBD's Eq. 3", affects=GAN, paper="Fig. 5"
    )


class GCBDNoiseToClean(LearnedNoiseToClean):
    """N2C (GCBD Eq. 3): the same with the smooth patches of Chen et al. (2018)."""

    name = "n2c_gcbd"
    title = "N2C (noise learned by GCBD's Eq. 3)"
    Config = GCBDConfig
    config: GCBDConfig
    deviations = (
        *LearnedNoiseToClean.deviations,
        Deviation(
            "GCBD",
            "a re-implementation of Chen et al. (2018), whose code and data are not public; its W-GAN is not described",
            "not released",
            "GAN2GAN's own networks and losses with the rule of Eq. 3: only the smooth patches differ",
        ),
    )
