"""ISCL (Lee, Jeong: ISCL: Interdependent Self-Cooperative Learning for Unpaired Image Denoising, IEEE TMI 2021).

Learns from noisy images x and clean images y of other scenes, whatever the noise. F: x -> y denoises, G: y -> x adds
noise, H extracts the noise of x, the critics DX and DY judge noisy and clean images. CycleGAN (F, G, DX, DY) and the
residual learning of H give each other labels: x - H(x) is a label for F(x), x - F(x) one for H(x).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import field_validator
from torch import Tensor, nn

from denoise_core.averaging import Lookahead, WeightAverage
from denoise_core.config import MethodConfig, Param, integer, log, uniform
from denoise_core.errors import UserError
from denoise_core.inference import pad_to_multiple
from denoise_core.method import Assumptions, Citation, Context, Deviation, Group, Method, Phase, Recipe, Update
from denoise_core.methods.iscl_deviations import DEVIATIONS
from denoise_core.networks.cyclegan import Critic, Extractor, Generator
from denoise_core.networks.norms import BatchInstanceNorm, Statistics, wide
from denoise_core.schedule import linear

TERMS = {
    "A": "CycleGAN: adversarial and cycle terms",
    "B": "H learns from pseudo-noise labels",
    "C": "bypass consistency",
    "D": "boosted critics",
    "E": "noise consistency",
}
"""The letters of the paper's Table I."""
DIHEDRAL = tuple((transpose, rows, columns) for transpose in (0, 1) for rows in (0, 1) for columns in (0, 1))
OFFICIAL = ((0, 0, 0), (1, 0, 0), (0, 0, 1), (1, 1, 1), (0, 0, 1), (1, 1, 1), (0, 1, 0), (1, 0, 0))
"""What the official code's loop over flips and rotations really gives: five of the eight, three of them twice."""


class ISCLConfig(MethodConfig):
    """Hyperparameters of ISCL. Sizes are those of the official code."""

    losses: str = Param("A+B+C+D+E", "terms of the losses by the letters of Table I, joined by +", paper="Table I")
    nested_weight: float = Param(
        30.0, "lambda, weight of cycle and bypass terms", paper="Eq. 1", search=log(1, 100), ge=0
    )
    adversarial_weight: float = Param(1.0, "weight of the adversarial terms of F and G", paper="Eq. 1", ge=0)
    margin: float = Param(0.0, "how far below 0 the critics push fakes; 1 is the usual hinge", paper="Eq. 8", ge=0)
    order: Literal["critics first", "generators first"] = Param("critics first", "order of the updates in a step")
    width: int = Param(32, "channels of the first layer of F and G", ge=1)
    blocks: int = Param(3, "residual blocks of F and G", ge=0)
    extractor_width: int = Param(32, "channels of H", ge=1)
    extractor_layers: int = Param(20, "convolutions of H", ge=2)
    critic_width: int = Param(32, "channels of the first layer of the critics", ge=1)
    critic_depth: int = Param(4, "convolutions of stride 2 in the critics", ge=1, le=6)
    lr: float = Param(1e-4, "RAdam's learning rate", paper="section IV-A", search=log(3e-5, 3e-3), gt=0, le=1)
    final_lr: float = Param(1e-3, "part of the learning rate that is left at the end", ge=0, le=1)
    batch_size: int = Param(64, "noisy crops and clean crops a step, over all workers", affects="data", ge=1)
    patch_size: int = Param(64, "side of a crop in pixels, a multiple of 4", affects="data", ge=16, multiple_of=4)
    augmentation: Literal["full", "official", "none"] = Param(
        "full", "all eight flips and rotations, the five of the official code, or none", affects="data"
    )
    lookahead: bool = Param(True, "Lookahead over the critics and H", paper="Algorithm 1")
    lookahead_every: int = Param(6, "steps between its synchronisations", search=integer(2, 12), ge=1)
    lookahead_alpha: float = Param(0.5, "its step towards the fast weights", search=uniform(0.1, 1.0), gt=0, le=1)
    swa_start: float = Param(0.6, "progress at which averaging of F and G begins", search=uniform(0.2, 0.9), ge=0, le=1)
    swa_every: int = Param(1, "steps between the averaged states", ge=1)
    swa: bool = Param(True, "denoise with the averaged weights of F", affects="inference", paper="Algorithm 1")
    gamma: float = Param(
        0.5, "share of F in the result, the rest is x - H(x)", affects="inference", paper="Eq. 13, Fig. 9", ge=0, le=1
    )  # fmt: skip
    statistics: Literal["running", "batch"] = Param(
        "running", "moments of the batch part of the normalisation at test time", affects="inference"
    )  # fmt: skip

    @field_validator("losses")
    @classmethod
    def _known_terms(cls, value: str) -> str:
        letters = value.split("+")
        if "A" not in letters or not set(letters) <= set(TERMS) or len(set(letters)) < len(letters):
            raise ValueError(f"give some of {', '.join(TERMS)} joined by +, with A among them, such as A+B+C")
        if "B" not in letters and len(letters) > 1:
            raise ValueError("C, D and E need the noise extractor of B, such as A+B+C")
        return "+".join(sorted(letters))

    @field_validator("batch_size")
    @classmethod
    def _more_than_one(cls, value: int) -> int:
        if value < 2:
            raise ValueError(
                "the critics end in a map of one pixel, which normalisation over one crop turns into a constant, so "
                "they could not learn: give at least 2"
            )
        return value


SMALL: Mapping[str, Any] = {
    "width": 8, "blocks": 2, "extractor_width": 16, "extractor_layers": 8, "critic_width": 16, "critic_depth": 3,
    "patch_size": 32, "batch_size": 8, "lr": 1e-3,
}  # fmt: skip
"""Networks of a twentieth of the size, on smaller patches at a higher rate: about a tenth of a second a step."""


class ISCL(Method):
    """See the module."""

    name = "iscl"
    citation = Citation(
        "Lee, Jeong: ISCL: Interdependent Self-Cooperative Learning for Unpaired Image Denoising, IEEE TMI 2021",
        "https://arxiv.org/abs/2102.09858",
    )
    version = 1
    title = "ISCL"
    Config: ClassVar[type[MethodConfig]] = ISCLConfig
    config: ISCLConfig
    protocol = "iscl"
    whole_images = True
    assumes = Assumptions(False, False, False, fields=("noisy", "clean_unpaired"))
    deviations: ClassVar[tuple[Deviation, ...]] = DEVIATIONS
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "smoke": Recipe(
            4, {**SMALL, "width": 2, "blocks": 1, "extractor_width": 4, "extractor_layers": 3, "critic_width": 2},
            channels_last=False,
        ),
        "laptop": Recipe(400, SMALL, channels_last=False),
        "gpu": Recipe(8000, channels_last=False),
        "paper": Recipe(8000, channels_last=False),
    }  # fmt: skip

    def __init__(self, config: ISCLConfig, channels: int):
        super().__init__(config, channels)
        if config.patch_size < 4 * 2**config.critic_depth:
            raise UserError(
                f"{self.name}: a patch of {config.patch_size} pixels is too small for critics of depth "
                f"{config.critic_depth}: give patch_size of at least {4 * 2**config.critic_depth}, or critic_depth "
                "less."
            )
        self.terms = frozenset(config.losses.split("+"))
        self.denoiser = Generator(channels, config.width, config.blocks)
        self.degrader = Generator(channels, config.width, config.blocks)
        self.noisy_critic = Critic(channels, config.critic_width, config.critic_depth)
        self.clean_critic = Critic(channels, config.critic_width, config.critic_depth)
        self.average = WeightAverage(self.denoiser)
        self.degrader_average = WeightAverage(self.degrader)
        self.extractor: Extractor | None = None
        if "B" in self.terms:
            self.extractor = Extractor(channels, config.extractor_width, config.extractor_layers)
        slow = partial(Lookahead, every=config.lookahead_every, alpha=config.lookahead_alpha)
        self.critics_lookahead = slow(self._critics) if config.lookahead else None
        self.extractor_lookahead = slow((self.extractor,)) if config.lookahead and self.extractor else None

    @property
    def _critics(self) -> tuple[nn.Module, ...]:
        return (self.noisy_critic, self.clean_critic)

    def phases(self) -> tuple[Phase, ...]:
        """One phase; an optimizer each for the critics, for F and G, and for H."""
        config = self.config
        radam = partial(torch.optim.RAdam, lr=config.lr, betas=(0.9, 0.999), eps=1e-7)
        decay = linear(config.final_lr)
        groups = {
            "critics": Group(self._critics, radam, decay, after=self._after_critics),
            "generators": Group((self.denoiser, self.degrader), radam, decay, after=self._after_generators),
        }
        if self.extractor is not None:
            groups["extractor"] = Group((self.extractor,), radam, decay, after=self._after_extractor)
        return (Phase("train", groups, self.assumes.fields, config.patch_size, config.batch_size),)

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """Critics, then F and G, then H. Each network is evaluated once on each input as long as its weights stay."""
        self._step, self._steps = context.step, context.steps
        noisy = self._augmented(2 * batch["noisy"] - 1, context)
        clean = self._augmented(2 * batch["clean_unpaired"] - 1, context)
        denoised, degraded = self.denoiser(noisy, "track"), self.degrader(clean)
        noise = self.extractor(noisy, "track") if self.extractor is not None else None
        if self.config.order == "critics first":
            yield self._critics_update(noisy, clean, denoised, degraded, noise)
        yield self._generators_update(noisy, clean, denoised, degraded, noise)
        with torch.no_grad():  # F and G have new weights
            denoised, degraded = self.denoiser(noisy), self.degrader(clean)
        if self.config.order == "generators first":
            yield self._critics_update(noisy, clean, denoised, degraded, noise)
        if noise is not None:
            yield self._extractor_update(noisy, clean, denoised, degraded, noise)

    def denoise(self, noisy: Tensor) -> Tensor:
        """Eq. 13: gamma F(x) + (1 - gamma)(x - H(x)), clipped. Pads to a multiple of 4; F alone where there is no H."""
        height, width = noisy.shape[-2:]
        padded = pad_to_multiple(2 * noisy - 1, 4)
        statistics: Statistics = self.config.statistics
        gamma = self.config.gamma if self.extractor is not None else 1.0
        result = torch.zeros_like(padded)
        if gamma > 0:
            average = self.average.apply_to if self.config.swa else _as_it_is
            result = result + gamma * average(self.denoiser, padded, statistics)
        if gamma < 1 and self.extractor is not None:
            result = result + (1 - gamma) * (padded - self.extractor(padded, statistics))
        return ((result[..., :height, :width] + 1) / 2).clamp(0, 1)

    # ---- losses ----

    def _critics_update(
        self, noisy: Tensor, clean: Tensor, denoised: Tensor, degraded: Tensor, noise: Tensor | None
    ) -> Update:
        """Eq. 7 to 9 in the code's form: relu(1 - D(real)) + relu(margin + D(fake))."""
        fake_noisy, fake_clean = [degraded.detach()], [denoised.detach()]
        if "D" in self.terms and noise is not None:
            fake_noisy.append(clean + noise.detach())
            fake_clean.append(noisy - noise.detach())
        loss = hinge(self.noisy_critic, noisy, fake_noisy, self.config.margin)
        loss = loss + hinge(self.clean_critic, clean, fake_clean, self.config.margin)
        return Update("critics", loss, {"critics": loss})

    def _generators_update(
        self, noisy: Tensor, clean: Tensor, denoised: Tensor, degraded: Tensor, noise: Tensor | None
    ) -> Update:
        """Eq. 1 to 6; the critics and H are constants, their gradients are not computed."""
        adversarial = -wide(self.noisy_critic(degraded)).mean() - wide(self.clean_critic(denoised)).mean()
        cycle = absolute(noisy, self.degrader(denoised)) + absolute(clean, self.denoiser(degraded))
        nested = cycle
        if "C" in self.terms and noise is not None:
            fixed = noise.detach()
            nested = nested + absolute(denoised, noisy - fixed) + absolute(clean, self.denoiser(clean + fixed))
        loss = self.config.adversarial_weight * adversarial + self.config.nested_weight * nested
        return Update("generators", loss, {"adversarial": adversarial, "cycle": cycle, "nested": nested})

    def _extractor_update(
        self, noisy: Tensor, clean: Tensor, denoised: Tensor, degraded: Tensor, noise: Tensor
    ) -> Update:
        """Eq. 10 to 12; F and G are constants."""
        assert self.extractor is not None
        loss = absolute(noise, noisy - denoised)
        if "E" in self.terms:
            loss = loss + absolute(degraded - clean, self.extractor(degraded))
        return Update("extractor", loss, {"extractor": loss})

    # ---- after each optimizer step ----

    def _after_critics(self) -> None:
        _clip(*self._critics)
        if self.critics_lookahead is not None:
            self.critics_lookahead.after_step(self._critics, self._step + 1)

    def _after_generators(self) -> None:
        _clip(self.denoiser, self.degrader)
        since = self._step - math.ceil(self.config.swa_start * self._steps - 1e-9)
        if since >= 0 and since % self.config.swa_every == 0:
            number = since // self.config.swa_every + 1
            self.average.add(self.denoiser, number)
            self.degrader_average.add(self.degrader, number)

    def _after_extractor(self) -> None:
        assert self.extractor is not None
        _clip(self.extractor)
        if self.extractor_lookahead is not None:
            self.extractor_lookahead.after_step((self.extractor,), self._step + 1)

    def _augmented(self, images: Tensor, context: Context) -> Tensor:
        """Each crop in one of the eight orientations, drawn anew."""
        if self.config.augmentation == "none":
            return images
        table = DIHEDRAL if self.config.augmentation == "full" else OFFICIAL
        drawn = context.randint(len(table), (len(images),))
        chosen = torch.tensor(table, device=images.device, dtype=torch.bool)[drawn][:, :, None, None, None]
        images = torch.where(chosen[:, 0], images.transpose(-1, -2), images)
        images = torch.where(chosen[:, 1], images.flip(-2), images)
        return torch.where(chosen[:, 2], images.flip(-1), images)


class CycleGANConfig(ISCLConfig):
    """ISCL's without the extractor."""

    losses: str = Param("A", "terms of the losses by the letters of Table I, joined by +", paper="Table I")


class CycleGAN(ISCL):
    """Row (A) of Table I: F, G and their critics alone (Zhu et al. 2017, with ISCL's networks and optimisation)."""

    name = "cyclegan"
    title = "CycleGAN"
    Config = CycleGANConfig


def hinge(critic: nn.Module, real: Tensor, fakes: list[Tensor], margin: float) -> Tensor:
    """mean relu(1 - D(real)) + the sum over the fakes of mean relu(margin + D(fake))."""
    loss = (1 - wide(critic(real))).relu().mean()
    for fake in fakes:
        loss = loss + (margin + wide(critic(fake))).relu().mean()
    return loss


def absolute(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference over all elements."""
    return (wide(first) - wide(second)).abs().mean()


def _clip(*networks: nn.Module) -> None:
    for network in networks:
        for module in network.modules():
            if isinstance(module, BatchInstanceNorm):
                module.clip()


def _as_it_is(network: nn.Module, *arguments: Any) -> Any:
    return network(*arguments)
