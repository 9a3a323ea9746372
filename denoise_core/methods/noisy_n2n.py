"""Noisy N2N (Cha et al., GAN2GAN, ICLR 2021, section 3 and Fig. 1): iterations with the noise known, not learned.

The experiment behind GAN2GAN. Of the clean image there is only a noisy estimate X' = X + N0; a denoiser learns from
pairs X' + N1, X' + N2 with noise as the data has it, and what it makes of the observed image Z = X + N is the estimate
of the next. By Theorem 1, in the Gaussian case, it is nearer to X than X' was if X' was bad enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from denoise_core.config import MethodConfig, Param, uniform
from denoise_core.images.crops import CropSource
from denoise_core.images.source import ImageSource
from denoise_core.method import Assumptions, Citation, Context, Deviation, Phase, Recipe, Update
from denoise_core.methods.dncnn_baselines import DenoiserConfig, DenoiserMethod, recipes_for
from denoise_core.methods.gan2gan import flipped
from denoise_core.networks.dncnn import DnCNN
from denoise_core.networks.norms import wide
from denoise_core.seeding import generator

ITERATION = "n2n"
ESTIMATE = "estimate"
"""The field of the first estimates X'."""


class NoisyN2NConfig(DenoiserConfig):
    """Hyperparameters of Noisy N2N."""

    initial_sigma: float = Param(
        25.0, "sigma_0, standard deviation of the first estimates about the clean images, in units of 0..255; 0 is N2N",
        affects="denoiser", paper="Fig. 1", search=uniform(0, 50), ge=0, allow_inf_nan=False,
    )  # fmt: skip
    iterations: int = Param(3, "how many denoisers follow one another", affects="length", paper="Fig. 1", ge=1, le=20)


class NoisyN2N(DenoiserMethod):
    """See the module. ``initial_sigma`` = 0 with one iteration is N2N, the upper bound of Fig. 1."""

    name = "noisy_n2n"
    title = "Noisy N2N"
    citation = Citation(
        "Cha, Park, Kim, Baek, Moon: GAN2GAN: Generative Noise Learning for Blind Denoising with "
        "Single Noisy Images, ICLR 2021",
        "https://arxiv.org/abs/1905.10488",
    )
    lineage = "noisy_n2n"
    Config: ClassVar[type[MethodConfig]] = NoisyN2NConfig
    config: NoisyN2NConfig
    recipes: ClassVar[Mapping[str, Recipe]] = recipes_for(NoisyN2NConfig)
    assumes = Assumptions(
        zero_mean=True, pixel_independent=False, signal_independent=True,
        fields=("clean", "noisy", "noise", "noise2"), given=True,
    )  # fmt: skip
    deviations = (
        Deviation(
            "Training",
            "network, rate and length are not stated for Fig. 1",
            "not released",
            "network, rate, schedule, batch and steps of a GAN2GAN iteration, later iterations from the weights before",
        ),
        Deviation(
            "First estimates",
            "clean images with Gaussian noise of deviation σ_0; drawn once or anew is not stated",
            "not released",
            "one draw for each training image, as an estimate would be; all σ_0 share it up to the factor",
        ),
        Deviation(
            "Noise of the pairs",
            "i.i.d. copies N1, N2 of the data's noise",
            "not released",
            "drawn anew for each crop and step, as GAN2GAN does with its learned noise",
        ),
    )

    def __init__(self, config: NoisyN2NConfig, channels: int):
        super().__init__(config, channels)
        self.previous = DnCNN(channels, config.denoiser_depth, config.denoiser_width).requires_grad_(False)

    def phases(self) -> tuple[Phase, ...]:
        """One an iteration; each is a prefix of the next."""
        later = range(2, self.config.iterations + 1)
        first = self._phase(f"{ITERATION}1", (ESTIMATE, "noise", "noise2"))
        refined = [self._phase(f"{ITERATION}{number}", ("noisy", "noise", "noise2")) for number in later]
        return (first, *(replace(phase, uses=(self.previous,)) for phase in refined))

    def prepare(self, source: ImageSource) -> ImageSource:
        """Adds the first estimates: each whole clean image with one draw of N(0, sigma_0^2), neither clipped.

        Raises UserError where the noisy images are not given once and for all.
        """
        given = cast(CropSource, source)
        given.whole("noisy")  # refuses noise that is drawn anew
        sigma, estimates = self.config.initial_sigma / 255, []
        for image_id, clean in zip(given.ids, given.whole("clean"), strict=True):
            draw = generator(given.seed, ESTIMATE, image_id, device=clean.device)
            noise = torch.randn(clean.shape, generator=draw, device=clean.device, dtype=clean.dtype)
            estimates.append(noise.mul_(sigma).add_(clean))
        return given.with_images(ESTIMATE, estimates)

    def enter(self, phase: str) -> None:
        """A later iteration begins with the weights of the one before, which makes its estimates."""
        if phase != f"{ITERATION}1":
            self.previous.load_state_dict(self.denoiser.state_dict())

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """Eq. 2: mean((D(X' + N1) - (X' + N2))^2), where later iterations put their estimate of X for X'."""
        image = batch[ESTIMATE if phase == f"{ITERATION}1" else "noisy"]
        image, first, second = flipped((image, batch["noise"], batch["noise2"]), context)
        if phase != f"{ITERATION}1":
            self.previous.eval()
            with torch.no_grad():
                image = wide(self.previous(image))
        loss = (wide(self.denoiser(image + first)) - (image + second)).square().mean()
        yield Update("denoiser", loss, {"loss": loss})
