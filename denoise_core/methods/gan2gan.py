"""GAN2GAN (Cha, Park, Kim, Baek, Moon: GAN2GAN: Generative Noise Learning for Blind Denoising, ICLR 2021).

Learns from single noisy images Z = x + n with zero-mean noise that does not depend on x and may be correlated. Smooth
patches of Z give samples of the noise; a Wasserstein GAN learns to simulate it (g1), to estimate x roughly (g2) and to
go back (g3), against critics of noise (f1) and of noisy images (f2). Then a denoiser is trained on pairs of simulated
noisy images of the estimate, again and again, each time from the estimates of the one before: G2G1, G2G2, ...
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import field_validator
from torch import Tensor, nn

from denoise_core.config import MethodConfig, Param, choice, integer, log
from denoise_core.diagnostics import (
    EXTRACTED,
    GENERATED,
    TRUE,
    Diagnostic,
    describe_noise,
    describe_patches,
    scalar,
)
from denoise_core.errors import UserError
from denoise_core.images.crops import CropSource
from denoise_core.images.smooth import SmoothNoiseSource
from denoise_core.images.smooth_rules import SmoothRule, VarianceRule, WaveletRule
from denoise_core.images.source import ImageSource
from denoise_core.inference import pad_to_multiple
from denoise_core.method import Assumptions, Citation, Context, Deviation, Group, Method, Phase, Recipe, Update
from denoise_core.methods.gan2gan_deviations import DEVIATIONS
from denoise_core.networks.dncnn import DnCNN
from denoise_core.networks.gan2gan import SIDES, NoiseGenerator, PatchCritic, SharedUNet, initialise
from denoise_core.networks.norms import wide
from denoise_core.schedule import steps
from denoise_core.seeding import generator

GAN, ITERATION = "gan", "g2g"
EPOCHS = 30
"""Of the official W-GAN training, the unit of its learning rate's schedule."""
SAMPLES = 256
"""Patches of noise that are looked at when a training has ended."""


class GAN2GANConfig(MethodConfig):
    """Hyperparameters of GAN2GAN. Defaults are those of the paper's experiments on BSD."""

    # ---- smooth patches (section 4.1) ----
    rule: Literal["wavelet", "variance"] = Param(
        "wavelet", "which patches are smooth: Eq. 4 on wavelet sub-bands, or GCBD's Eq. 3", affects=GAN, paper="Fig. 5"
    )
    patch_lambda: float | Literal["auto"] = Param(
        0.03, "lambda of Eq. 4: how unequal the sub-bands may be; auto chooses it by the number of patches",
        affects=GAN, paper="S.M. Table 2, 3", search=log(0.01, 0.3),
    )  # fmt: skip
    window_size: int = Param(96, "side of the patches that are examined, in pixels", affects=GAN, ge=16, multiple_of=2)
    window_stride: int = Param(24, "distance of neighbouring patches", affects=GAN, ge=2, multiple_of=2)
    mean_tolerance: float = Param(0.1, "mu of Eq. 3", affects=GAN, paper="S.M. Table 1", gt=0)
    variance_tolerance: float = Param(0.25, "gamma of Eq. 3", affects=GAN, paper="S.M. Table 1", gt=0)
    max_patches: int = Param(20_000, "most patches that are kept, 0 for all", affects=GAN, ge=0)
    # ---- W-GAN (section 4.2) ----
    noise_weight: float = Param(5.0, "alpha, weight of L_n for the generators", affects=GAN, paper="Eq. 8", ge=0)
    noisy_weight: float = Param(1.0, "beta, weight of L_Z for the generators", affects=GAN, paper="Eq. 8", ge=0)
    cycle_weight: float = Param(10.0, "gamma, weight of L_cyc", affects=GAN, paper="Eq. 8", ge=0)
    variant: Literal["full", "no L_Z", "no L_cyc", "no sigmoid"] = Param(
        "full", "what is left out", affects=GAN, paper="Fig. 6a"
    )
    critic_steps: int = Param(5, "n_critic", affects=GAN, paper="Algorithm 1", search=integer(1, 8), ge=1)
    clip: float = Param(0.02, "bound of the critics' parameters", affects=GAN, search=log(5e-3, 0.1), gt=0)
    generator_lr: float = Param(4e-4, "Adam's rate", affects=GAN, search=log(1e-4, 3e-3), gt=0, le=1)
    critic_lr: float = Param(5e-5, "RMSprop's rate", affects=GAN, search=log(1e-5, 1e-3), gt=0, le=1)
    batch_size: int = Param(64, "patches a step of the W-GAN, over all workers", affects=GAN, ge=2)
    patch_size: int = Param(64, "side of all crops and of g1's noise in pixels", affects="data")
    latent: int = Param(128, "dimensions of r", affects=GAN, ge=1)
    generator_width: int = Param(64, "channels of g1's first layer", affects=GAN, ge=4)
    critic_width: int = Param(128, "channels of the critics' first layer", affects=GAN, ge=1)
    rough_depth: int = Param(15, "convolutions of g2", affects=GAN, ge=2)
    cycle_depth: int = Param(17, "convolutions of g3", affects=GAN, ge=2)
    rough_width: int = Param(64, "channels of g2 and g3", affects=GAN, ge=1)
    network: Literal["dncnn", "unet"] = Param("dncnn", "unet is the paper's for CT", affects=GAN)
    # ---- iterations (section 4.3) ----
    iterations: int = Param(3, "how many denoisers follow g2", affects="length", paper="Tables 2, 3", ge=0, le=20)
    initial: Literal["g2", "noisy"] = Param(
        "g2", "first estimate of the clean image: that of g2, or Z itself", affects="denoiser", paper="Fig. 6b, c"
    )  # fmt: skip
    pair: Literal["two", "estimate"] = Param(
        "two", "the target: a second noisy image of the estimate, or the estimate", affects="denoiser",
        paper="S.M. Table 11",
    )  # fmt: skip
    estimate: Literal["previous", "first"] = Param(
        "previous", "whose estimates later iterations train on; first: equal steps without new estimates (a control)",
        affects="refined",
    )  # fmt: skip
    denoiser_lr: float = Param(1e-3, "Adam's rate", affects="denoiser", search=log(1e-4, 3e-3), gt=0, le=1)
    denoiser_batch_size: int = Param(4, "crops a step of the denoiser", affects="denoiser", ge=1)
    denoiser_depth: int = Param(17, "convolutions of the denoiser", affects="denoiser", ge=2)
    denoiser_width: int = Param(64, "channels of the denoiser", affects="denoiser", ge=1)
    denoiser_steps: float = Param(
        27.33, "steps of one denoiser for each step of the W-GAN", affects="denoiser", search=choice(1.0, 2.0, 4.0),
        gt=0,
    )  # fmt: skip

    supervised_iterations: int = Param(
        1, "of the references with clean targets: so many iterations' steps, for a comparison at equal steps",
        affects="length", ge=1,
    )  # fmt: skip

    @field_validator("patch_lambda", mode="before")
    @classmethod
    def _positive(cls, value: Any) -> float | str:
        if value == "auto":
            return "auto"
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 < number < math.inf:
            raise ValueError("give a number above 0, such as 0.03, or auto")
        return number

    @field_validator("patch_size")
    @classmethod
    def _doublings_of_four(cls, value: int) -> int:
        if value not in SIDES[1:]:
            raise ValueError(f"g1 makes noise of 4, 8, 16, ... pixels a side: use one of {SIDES[1:]}")
        return value


SMALL: Mapping[str, Any] = {
    "patch_size": 32, "window_size": 64, "window_stride": 12, "batch_size": 16, "critic_width": 32,
    "generator_width": 64, "rough_depth": 7, "cycle_depth": 7, "rough_width": 32, "denoiser_depth": 7,
    "denoiser_width": 32, "denoiser_batch_size": 8, "denoiser_steps": 1.25, "generator_lr": 8e-4, "critic_lr": 1e-4,
    "supervised_iterations": 3,
}  # fmt: skip
"""Networks of about a fifteenth of the size, on patches of half the side, the W-GAN at twice the paper's rates."""


class GAN2GAN(Method):
    """See the module."""

    name = "gan2gan"
    citation = Citation(
        "Cha, Park, Kim, Baek, Moon: GAN2GAN: Generative Noise Learning for Blind Denoising with "
        "Single Noisy Images, ICLR 2021",
        "https://arxiv.org/abs/1905.10488",
    )
    version = 1
    title = "GAN2GAN"
    lineage = "gan2gan"
    Config: ClassVar[type[MethodConfig]] = GAN2GANConfig
    config: GAN2GANConfig
    protocol = "gan2gan"
    assumes = Assumptions(
        zero_mean=True, pixel_independent=False, signal_independent=True, fields=("noisy", "smooth"), given=True
    )
    deviations: ClassVar[tuple[Deviation, ...]] = DEVIATIONS
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "smoke": Recipe(
            3, {**SMALL, "critic_width": 4, "rough_width": 4, "rough_depth": 3, "cycle_depth": 3, "denoiser_width": 4,
                "denoiser_depth": 3, "batch_size": 4, "denoiser_batch_size": 2, "patch_lambda": "auto",
                "generator_lr": 4e-4, "critic_lr": 5e-5, "supervised_iterations": 1},
        ),
        "laptop": Recipe(400, SMALL),
        "gpu": Recipe(4000, {"denoiser_batch_size": 64, "denoiser_steps": 2.0}),
        "paper": Recipe(9375),
    }  # fmt: skip
    stage: Tensor

    def __init__(self, config: GAN2GANConfig, channels: int):
        super().__init__(config, channels)
        # those of the first phase first: their weights must not depend on what comes after them
        self.generator = NoiseGenerator(channels, config.generator_width, config.patch_size, config.latent)
        sigmoid = config.variant != "no sigmoid"
        self.rough = self._network(config.rough_depth, config.rough_width, sigmoid=sigmoid)
        self.cycle = self._network(config.cycle_depth, config.rough_width)
        self.noise_critic = PatchCritic(channels, config.critic_width)
        self.noisy_critic = PatchCritic(channels, config.critic_width)
        initialise(self.generator, self.rough, self.cycle, self.noise_critic, self.noisy_critic)
        self._repeat_moments()
        self.denoiser = self._network(config.denoiser_depth, config.denoiser_width)
        self.previous = self._network(config.denoiser_depth, config.denoiser_width).requires_grad_(False)
        # 0: the W-GAN, 1: G2G1, 2: G2G2, ...; kept with the weights
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))

    # ---- phases ----

    def phases(self) -> tuple[Phase, ...]:
        """The W-GAN, then one phase an iteration; each is a prefix of the next."""
        later = range(1, self.config.iterations + 1)
        return (self._gan_phase(), *(self._denoiser_phase(f"{ITERATION}{number}", number) for number in later))

    def prepare(self, source: ImageSource) -> ImageSource:
        """Adds the noise of smooth patches. Raises UserError where the noisy images are not given once and for all."""
        config = self.config
        if getattr(source, "window", ""):
            raise UserError(
                f"{self.name} learns additive noise from the images as they are, which a Hounsfield window would clip: "
                "leave --set window out."
            )
        rule: SmoothRule = WaveletRule(config.window_size, config.window_stride)
        if config.rule == "variance":
            rule = VarianceRule(
                size=max(VarianceRule.size, config.patch_size),
                mean_tolerance=config.mean_tolerance,
                variance_tolerance=config.variance_tolerance,
            )
        return SmoothNoiseSource(
            cast(CropSource, source), rule, config.patch_lambda,
            smallest=config.batch_size, limit=config.max_patches, seed=cast(CropSource, source).seed,
        )  # fmt: skip

    def enter(self, phase: str) -> None:
        """A later iteration begins with the weights of the one before, which makes its estimates."""
        number = 0 if phase == GAN else int(phase.removeprefix(ITERATION))
        self.stage.fill_(number)
        if number > 1:
            self.previous.load_state_dict(self.denoiser.state_dict())

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """The W-GAN's step (Algorithm 1) or the denoiser's (section 4.3)."""
        return self._gan_updates(batch, context) if phase == GAN else self._pair_updates(phase, batch, context)

    def diagnose(self, source: ImageSource) -> Sequence[Diagnostic]:
        """The simulated noise beside the true one and beside that of the smooth patches, and these patches' spread."""
        smooth, patch = cast(SmoothNoiseSource, source), self.config.patch_size
        true = smooth.batch(size=SAMPLES, patch=patch, seed=0, step=0, fields=("noisy", "clean"))
        noise = true["noisy"] - true["clean"]
        scale = float(noise.std())
        if scale == 0:
            return []
        latent = torch.randn((SAMPLES, self.config.latent), generator=generator("diagnose")).to(noise.device)
        return [
            *describe_noise(TRUE, noise, scale),
            *describe_noise(GENERATED, self.simulate(latent), scale),
            *describe_noise(EXTRACTED, smooth.samples(SAMPLES, patch, seed=0), scale),
            *describe_patches(smooth.deviations(), scale),
            scalar("patch_lambda", EXTRACTED, smooth.patches.threshold),
        ]

    def denoise(self, noisy: Tensor) -> Tensor:
        """The last phase's estimate, clipped to [0, 1]: g2's or the denoiser's."""
        network = self._answering
        if self.config.network == "dncnn":
            return network(noisy).clamp(0, 1)  # type: ignore[no-any-return]
        height, width = noisy.shape[-2:]
        padded = pad_to_multiple(noisy, SharedUNet.multiple)
        return network(padded)[..., :height, :width].clamp(0, 1)  # type: ignore[no-any-return]

    @property
    def reach(self) -> int:
        """The network's."""
        return self._answering.reach

    @property
    def _answering(self) -> DnCNN | SharedUNet:
        return self.rough if int(self.stage) == 0 else self.denoiser

    def simulate(self, latent: Tensor) -> Tensor:
        """Noise of the learned distribution for (N, latent) standard normal numbers: (N, C, patch, patch)."""
        self.generator.eval()
        with torch.no_grad():
            return wide(self.generator(latent))

    # ---- W-GAN ----

    def _gan_phase(self) -> Phase:
        config = self.config
        adam = partial(torch.optim.Adam, lr=config.generator_lr, betas=(0.5, 0.999), fused=True)
        rmsprop = partial(torch.optim.RMSprop, lr=config.critic_lr)
        generators: Sequence[nn.Module] = (self.generator, self.rough, self.cycle)
        if config.variant == "no L_cyc":
            generators = (self.generator, self.rough)
        groups = {
            "noise_critic": Group((self.noise_critic,), rmsprop, after=partial(self._clip, self.noise_critic)),
            "noisy_critic": Group((self.noisy_critic,), rmsprop, after=partial(self._clip, self.noisy_critic)),
            "generators": Group(tuple(generators), adam, decay),
        }
        return Phase(
            GAN, groups, ("noisy", "smooth"), config.patch_size, config.batch_size,
            depends=(GAN,), keeps=(self.generator, self.rough),
        )  # fmt: skip

    def _gan_updates(self, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """n_critic steps of each critic, then one of the generators, all on the same batch and the same r.

        The generators rest while the critics learn, so their fakes are made once and serve every step.
        """
        config = self.config
        noisy, noise = flipped((batch["noisy"], batch["smooth"]), context)
        generated = wide(self.generator(context.randn((len(noisy), config.latent))))
        rough = wide(self.rough(noisy))
        fake = rough + generated
        with_noisy_critic = config.variant != "no L_Z"
        for _ in range(config.critic_steps):
            loss = wide(self.noise_critic(generated.detach())).mean() - wide(self.noise_critic(noise)).mean()
            yield Update("noise_critic", loss, {"noise_critic": loss})
        for _ in range(config.critic_steps if with_noisy_critic else 0):
            loss = wide(self.noisy_critic(fake.detach())).mean() - wide(self.noisy_critic(noisy)).mean()
            yield Update("noisy_critic", loss, {"noisy_critic": loss})
        loss = -config.noise_weight * wide(self.noise_critic(generated)).mean()
        if with_noisy_critic:
            loss = loss - config.noisy_weight * wide(self.noisy_critic(fake)).mean()
        logs = {"generated_std": generated.detach().std(), "smooth_std": noise.std()}
        if config.variant != "no L_cyc":
            cycle = (noisy - wide(self.cycle(rough))).abs().mean()
            loss, logs["cycle"] = loss + config.cycle_weight * cycle, cycle
        yield Update("generators", loss, {**logs, "generators": loss})

    @torch.no_grad()
    def _clip(self, critic: nn.Module) -> None:
        """All parameters, those of the batch normalisation too."""
        parameters: list[Tensor] = list(critic.parameters())
        torch._foreach_clamp_min_(parameters, -self.config.clip)
        torch._foreach_clamp_max_(parameters, self.config.clip)

    def _repeat_moments(self) -> None:
        """Running moments as after the official code's passes, which makes each fake anew for every critic step."""
        first = self.config.critic_steps
        second = 0 if self.config.variant == "no L_Z" else first
        repeats = {self.generator: first + second + 1, self.rough: second + 1}
        for network, times in repeats.items():
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 1 - (1 - 0.1) ** times

    # ---- iterations ----

    def _denoiser_phase(self, name: str, number: int) -> Phase:
        config = self.config
        adam = partial(torch.optim.Adam, lr=config.denoiser_lr, fused=True)
        group = Group((self.denoiser,), adam, steps((0.4, 0.8), 0.5))
        return Phase(
            name, {"denoiser": group}, ("noisy",), config.patch_size, config.denoiser_batch_size,
            share=config.denoiser_steps, depends=("denoiser", *(("refined",) if number > 1 else ())),
            keeps=(self.generator, self.rough, self.denoiser), uses=(self.previous,) if number > 1 else (),
        )  # fmt: skip

    def _pair_updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """Eq. 9 and 10: mean((D(z1) - z2)^2) with z_k = estimate of x + g1(r_k)."""
        (noisy,) = flipped((batch["noisy"],), context)
        estimate = self._estimate(phase, noisy)
        first = estimate + self.simulate(context.randn((len(noisy), self.config.latent)))
        second = estimate
        if self.config.pair == "two":
            second = estimate + self.simulate(context.randn((len(noisy), self.config.latent)))
        loss = (wide(self.denoiser(first)) - second).square().mean()
        yield Update("denoiser", loss, {"loss": loss})

    def _estimate(self, phase: str, noisy: Tensor) -> Tensor:
        if phase != f"{ITERATION}1" and self.config.estimate == "previous":
            network = self.previous
        elif self.config.initial == "noisy":
            return noisy
        else:
            network = self.rough
        network.eval()
        with torch.no_grad():
            return wide(network(noisy))

    def _network(self, depth: int, width: int, *, sigmoid: bool = False) -> DnCNN | SharedUNet:
        if self.config.network == "unet":
            return SharedUNet(self.channels, sigmoid=sigmoid)
        return DnCNN(self.channels, depth, width, sigmoid=sigmoid)


def decay(progress: float) -> float:
    """The code's linear decay from epoch 10 of 30, which is stepped with the old epoch and so one epoch late."""
    return 1.0 - max(0, math.floor(EPOCHS * progress + 1e-9) - 11) / 20


def flipped(images: Sequence[Tensor], context: Context) -> list[Tensor]:
    """Each crop of each tensor (N, C, H, W) flipped left to right and upside down with probability one half."""
    drawn = context.randint(2, (len(images[0]), 2)).bool()[:, :, None, None, None]
    result = []
    for image in images:
        image = torch.where(drawn[:, 0], image.flip(-1), image)
        result.append(torch.where(drawn[:, 1], image.flip(-2), image))
    return result
