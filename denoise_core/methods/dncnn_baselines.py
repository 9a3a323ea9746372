"""The blind baselines of GAN2GAN's Tables 2 and 3: DnCNN for white Gaussian noise of any level, whatever the data's is.

Zhang et al. (2017) train it towards clean images (DnCNN-B), Lehtinen et al. (2018) towards a second noisy copy (N2N).
Neither sees the noise of the data: where that is not white and Gaussian, they are mismatched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from denoise_core.config import MethodConfig, Param, choice, log
from denoise_core.method import Assumptions, Citation, Context, Deviation, Group, Method, Phase, Recipe, Update
from denoise_core.methods.gan2gan import GAN2GAN, flipped
from denoise_core.networks.dncnn import DnCNN
from denoise_core.networks.norms import wide
from denoise_core.schedule import steps

HIGHEST = 55.0
"""Highest standard deviation that is trained for, in units of 0..255."""


class DenoiserConfig(MethodConfig):
    """What GAN2GAN's denoisers are made and trained with, by the same names, so that a study's budget reaches it."""

    patch_size: int = Param(64, "side of all crops in pixels", affects="data", ge=1)
    denoiser_lr: float = Param(1e-3, "Adam's rate", affects="denoiser", search=log(1e-4, 3e-3), gt=0, le=1)
    denoiser_batch_size: int = Param(4, "crops a step of the denoiser", affects="denoiser", ge=1)
    denoiser_depth: int = Param(17, "convolutions of the denoiser", affects="denoiser", ge=2)
    denoiser_width: int = Param(64, "channels of the denoiser", affects="denoiser", ge=1)
    denoiser_steps: float = Param(
        27.33, "steps of one denoiser for each step of GAN2GAN's W-GAN", affects="denoiser",
        search=choice(1.0, 2.0, 4.0), gt=0,
    )  # fmt: skip


class BlindConfig(DenoiserConfig):
    """The same with the deeper network of the blind baselines."""

    supervised_iterations: int = Param(1, "so many GAN2GAN iterations' steps", affects="denoiser", ge=1)

    denoiser_depth: int = Param(20, "convolutions of the denoiser", affects="denoiser", paper="section 5.1", ge=2)


def recipes_for(config: type[MethodConfig]) -> dict[str, Recipe]:
    """GAN2GAN's recipes as far as ``config`` knows the names: a denoiser gets the steps of one iteration."""
    return {
        budget: replace(one, config={name: value for name, value in one.config.items() if name in config.model_fields})
        for budget, one in GAN2GAN.recipes.items()
    }


class DenoiserMethod(Method):
    """A method of one DnCNN, which is trained as GAN2GAN's denoisers are."""

    version = 1
    protocol = "gan2gan"
    Config: ClassVar[type[MethodConfig]] = DenoiserConfig
    config: DenoiserConfig
    recipes: ClassVar[Mapping[str, Recipe]] = recipes_for(DenoiserConfig)

    def __init__(self, config: DenoiserConfig, channels: int):
        super().__init__(config, channels)
        self.denoiser = DnCNN(channels, config.denoiser_depth, config.denoiser_width)

    @property
    def reach(self) -> int:
        """The network's."""
        return self.denoiser.reach

    def denoise(self, noisy: Tensor) -> Tensor:
        """The denoiser's estimate, clipped to [0, 1]."""
        return self.denoiser(noisy).clamp(0, 1)  # type: ignore[no-any-return]

    def _phase(self, name: str, needs: tuple[str, ...]) -> Phase:
        config = self.config
        adam = partial(torch.optim.Adam, lr=config.denoiser_lr, fused=True)
        group = Group((self.denoiser,), adam, steps((0.4, 0.8), 0.5))
        return Phase(
            name, {"denoiser": group}, needs, config.patch_size, config.denoiser_batch_size,
            share=config.denoiser_steps, depends=("denoiser",), keeps=(self.denoiser,),
        )  # fmt: skip


class BlindDnCNN(DenoiserMethod):
    """DnCNN-B: clean crops with white Gaussian noise of a level drawn for each crop; the clean crop is the target."""

    name = "dncnn_b"
    title = "DnCNN-B (σ in [0, 55])"
    citation = Citation(
        "Zhang, Zuo, Chen, Meng, Zhang: Beyond a Gaussian Denoiser: Residual Learning of Deep CNN "
        "for Image Denoising, TIP 2017",
        "https://arxiv.org/abs/1608.03981",
    )
    Config = BlindConfig
    config: BlindConfig
    recipes = recipes_for(BlindConfig)
    assumes = Assumptions(zero_mean=True, pixel_independent=True, signal_independent=True, fields=("clean",))
    deviations = (
        Deviation(
            "Training of DnCNN-B and N2N",
            "public code on the training data of GAN2GAN, 20 layers, σ in [0, 55]; rate and length are not stated",
            "not released",
            "rate, schedule, batch, crops, flips and steps of one GAN2GAN iteration; in laptop the steps of three, "
            "and 7 layers",
        ),
        Deviation(
            "Noise level",
            "composite Gaussian noise with σ in [0, 55]; the draw is not stated",
            "not released",
            "σ uniform in [0, 55], drawn anew for each crop and step; N2N's two copies of a crop share their level",
        ),
    )

    def phases(self) -> tuple[Phase, ...]:
        """One phase, one group."""
        share = self.config.denoiser_steps * self.config.supervised_iterations
        return (replace(self._phase("train", self.assumes.fields), share=share),)

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """mean((D(x + n) - target)^2) with n ~ N(0, sigma^2), sigma ~ U(0, 55) / 255 for each crop x."""
        (clean,) = flipped((batch["clean"],), context)
        level = context.rand((len(clean), 1, 1, 1)) * (HIGHEST / 255)
        noisy = clean + level * context.randn(clean.shape)
        loss = (wide(self.denoiser(noisy)) - self._target(clean, level, context)).square().mean()
        yield Update("denoiser", loss, {"loss": loss})

    def _target(self, clean: Tensor, level: Tensor, context: Context) -> Tensor:
        """(N, C, H, W) to be learned, for crops of this shape and levels (N, 1, 1, 1) in units of [0, 1]."""
        return clean


class BlindNoiseToNoise(BlindDnCNN):
    """N2N: the target is the crop with another noise of the same level."""

    name = "n2n_blind"
    title = "N2N (σ in [0, 55])"

    def _target(self, clean: Tensor, level: Tensor, context: Context) -> Tensor:
        return clean + level * context.randn(clean.shape)
