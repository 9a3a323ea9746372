"""DANet (Yue, Zhao, Zhang, Meng: Dual Adversarial Network: Toward Real-world Noise Removal and Noise Generation, ECCV
2020).

Learns from pairs of a noisy and a clean image. A denoiser R makes pairs (R(y), y), a generator G pairs (x, G(x, z)),
and one critic tells both from the real pairs (x, y). DANet+ is a denoiser that is trained anew on real and generated
pairs. Plain L1 training of the same network on the same pairs comes first: it is the baseline of every claim, and with
a denoiser that is trained alike on generated pairs it gives the metric PGap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_core.clipping import ShrinkingClip
from denoise_core.config import MethodConfig
from denoise_core.diagnostics import Diagnostic, describe_pairs
from denoise_core.errors import UserError
from denoise_core.images.augment import dihedral, mostly_upright
from denoise_core.images.source import ImageSource
from denoise_core.inference import pad_to_multiple, turned
from denoise_core.method import Assumptions, Citation, Context, Denoise, Deviation, Group, Method, Phase, Recipe, Update
from denoise_core.methods.danet_config import GAME, PLUS, SMALL, DANetConfig, Weight
from denoise_core.methods.danet_deviations import DEVIATIONS
from denoise_core.networks.danet import PairCritic, ResidualUNet
from denoise_core.networks.norms import wide
from denoise_core.schedule import Schedule, constant, one_cycle, steps
from denoise_core.seeding import generator

PLAIN, SYNTHETIC = "plain", "synthetic"
STAGES = (PLAIN, GAME, SYNTHETIC, PLUS)
EPOCHS = 70
"""Of the official training, the unit of its schedules."""
BLUR = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""GF of Eq. 6: OpenCV's fixed table for 5 taps and no given sigma, which the official code takes."""
PATCH = 128
"""The published side of a crop."""
SAMPLES = 256
"""Crops whose noise is looked at when a training has ended."""


class DANet(Method):
    """See the module."""

    name = "danet"
    version = 1
    title = "DANet"
    citation = Citation(
        "Yue, Zhao, Zhang, Meng: Dual Adversarial Network: Toward Real-world Noise Removal and "
        "Noise Generation, ECCV 2020",
        "https://arxiv.org/abs/2007.05946",
    )
    lineage = "danet"
    Config: ClassVar[type[MethodConfig]] = DANetConfig
    config: DANetConfig
    protocol = "danet"
    assumes = Assumptions(False, False, False, fields=("noisy", "clean"))
    deviations: ClassVar[tuple[Deviation, ...]] = DEVIATIONS
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "smoke": Recipe(
            6, {**SMALL, "width": 2, "generator_width": 2, "critic_width": 2, "patch_size": 16, "batch_size": 2,
                "plus_batch_size": 3, "akld_draws": 1},
        ),
        "laptop": Recipe(1140, SMALL),
        "gpu": Recipe(6000, {"lr": 3e-4, "generator_lr": 3e-4, "critic_lr": 6e-4}),
        "paper": Recipe(70 * 15_000),
    }  # fmt: skip
    stage: Tensor

    def __init__(self, config: DANetConfig, channels: int):
        super().__init__(config, channels)
        # all denoisers begin alike, so that they differ by what they were trained on; the plain one comes first, since
        # its weights must not depend on what comes after it
        self.plain = ResidualUNet(channels, channels, config.width, config.depth, config.init)
        self.denoiser = deepcopy(self.plain) if config.networks != "generator" else None
        self.synthetic = deepcopy(self.plain) if config.pgap else None
        self.retrained = deepcopy(self.plain) if config.plus else None
        self.generator: ResidualUNet | None = None
        if config.networks != "denoiser":
            # from nothing added the generator would hardly find its way to noise that depends on z
            init = "default" if config.init == "identity" else config.init
            self.generator = ResidualUNet(channels + 1, channels, config.generator_width, config.depth, init)
        self.critic = PairCritic(channels, config.critic_width, config.patch_size)
        self.clip = ShrinkingClip(config.plus_clip)
        # index into STAGES, kept with the weights
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))

    # ---- phases ----

    def phases(self) -> tuple[Phase, ...]:
        """Plain L1 training, the game, then as asked the denoiser of PGap and that of DANet+."""
        config = self.config
        found = [self._plain_phase()]
        share, kept = found[0].share, list(found[0].keeps)
        adam = partial(torch.optim.Adam, betas=(config.momentum, 0.9), fused=True)
        rates = constant if config.game_schedule == "constant" else STAIRS
        groups = {"critic": Group((self.critic,), partial(adam, lr=config.critic_lr), rates)}
        if self.denoiser is not None:
            groups["denoiser"] = self._denoiser(self.denoiser)
            kept.append(self.denoiser)
        if self.generator is not None:
            groups["generator"] = Group((self.generator,), partial(adam, lr=config.generator_lr), rates)
            kept.append(self.generator)
        found.append(self._phase(GAME, groups, kept, 1.0))
        if self.synthetic is not None:
            kept.append(self.synthetic)
            found.append(self._phase(SYNTHETIC, {"denoiser": self._denoiser(self.synthetic)}, kept, share))
        if self.retrained is not None:
            kept.append(self.retrained)
            found.append(self._phase(PLUS, {"denoiser": self._plus_denoiser(self.retrained)}, kept, config.plus_steps))
        return tuple(found)

    def _plain_phase(self) -> Phase:
        share = 1 / self.config.critic_steps  # every denoiser gets as many updates
        return self._phase(PLAIN, {"denoiser": self._denoiser(self.plain)}, [self.plain], share)

    def _phase(self, name: str, groups: Mapping[str, Group], kept: Sequence[nn.Module], share: float) -> Phase:
        config = self.config
        batch = config.plus_batch_size if name == PLUS else config.batch_size
        depends = {GAME: (GAME,), PLUS: (PLUS,)}.get(name, ())
        return Phase(
            name, groups, self.assumes.fields, config.patch_size, batch, share, depends=depends, keeps=tuple(kept),
            uses=(self.clip,) if name == PLUS else (),
        )  # fmt: skip

    def _denoiser(self, network: nn.Module) -> Group:
        adam = partial(torch.optim.Adam, lr=self.config.lr, fused=True)
        return Group((network,), adam, self._schedule(STAIRS))

    def _plus_denoiser(self, network: nn.Module) -> Group:
        adam = partial(torch.optim.Adam, lr=self.config.plus_lr, fused=True)
        return Group((network,), adam, self._schedule(PLUS_STAIRS), clip=self.clip)

    def _schedule(self, stairs: Schedule) -> Schedule:
        return one_cycle() if self.config.lr_schedule == "one_cycle" else stairs

    def enter(self, phase: str) -> None:
        """The stage says which denoiser is the best trained one."""
        self.stage.fill_(STAGES.index(phase))

    # ---- training ----

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """See the phases."""
        move = {"official": mostly_upright, "uniform": dihedral}.get(self.config.augmentation)
        noisy, clean = batch["noisy"], batch["clean"]
        if move is not None:
            noisy, clean = move([noisy, clean], context)
        if phase == GAME:
            return self._game(clean, noisy, context)
        if phase == PLUS:
            return self._plus(clean, noisy, context)
        return self._alone(phase, clean, noisy, context)

    def _game(self, clean: Tensor, noisy: Tensor, context: Context) -> Iterator[Update]:
        """Algorithm 1: the critic on every batch; denoiser and generator on every n_critic-th, after it."""
        due = (context.step + 1) % self.config.critic_steps == 0
        denoised = generated = None
        with torch.set_grad_enabled(due):  # the denoiser rests while the critic learns: one pass serves both
            if self.denoiser is not None:
                denoised = _removed(self.denoiser, noisy)
        if self.generator is not None:
            with torch.no_grad():
                generated = _added(self.generator, clean, self._latent(clean, context))
        yield self._critic_update(clean, noisy, denoised, generated, context)
        if due and denoised is not None:
            yield self._denoiser_update(clean, noisy, denoised)
        if due and self.generator is not None:
            yield self._generator_update(clean, noisy, _added(self.generator, clean, self._latent(clean, context)))

    def _critic_update(
        self, clean: Tensor, noisy: Tensor, denoised: Tensor | None, generated: Tensor | None, context: Context
    ) -> Update:
        """Eq. 5 and the gradient penalty of each kind of fake; all scores in one pass, all penalties in another."""
        real, fakes, weights = torch.cat([clean, noisy], dim=1), [], []
        if denoised is not None:
            fakes.append(torch.cat([denoised.detach(), noisy], dim=1))
            weights.append(self._weight("denoiser"))
        if generated is not None:
            fakes.append(torch.cat([clean, generated], dim=1))
            weights.append(self._weight("generator"))
        mix = [context.rand((len(real), 1, 1, 1)) for _ in fakes]
        distance, penalty = critic_terms(self.critic, real, fakes, weights, mix)
        return Update("critic", distance + self.config.penalty * penalty, {"distance": -distance, "penalty": penalty})

    def _denoiser_update(self, clean: Tensor, noisy: Tensor, denoised: Tensor) -> Update:
        """tau1 |R(y) - x| - alpha D(R(y), y)."""
        error = absolute(denoised, clean)
        loss = combined(self.config.tau1, error, lambda: self._score(denoised, noisy, "denoiser"))
        return Update("denoiser", loss, {"error": error})

    def _generator_update(self, clean: Tensor, noisy: Tensor, generated: Tensor) -> Update:
        """tau2 |GF(G(x, z) - x) - GF(y - x)| - (1 - alpha) D(x, G(x, z))."""
        error = absolute(blurred(wide(generated) - clean), blurred(noisy - clean))
        loss = combined(self.config.tau2, error, lambda: self._score(clean, generated, "generator"))
        return Update("generator", loss, {"blurred_error": error})

    def _alone(self, phase: str, clean: Tensor, noisy: Tensor, context: Context) -> Iterator[Update]:
        """|R(y) - x| on real pairs, or on pairs that the generator makes at every step."""
        network = self.plain
        if phase == SYNTHETIC:
            assert self.synthetic is not None
            network, noisy = self.synthetic, self._fake(clean, context)
        loss = absolute(_removed(network, noisy), clean)
        yield Update("denoiser", loss, {"loss": loss})

    def _plus(self, clean: Tensor, noisy: Tensor, context: Context) -> Iterator[Update]:
        """The sum of |R(y) - x| over an image, mean over the batch; the batch's last part has generated noise."""
        assert self.retrained is not None
        self.clip.every = max(1, round(context.steps / EPOCHS))
        place = torch.arange(len(clean), device=clean.device) + context.rank * len(clean)
        real = -(-self.config.plus_batch_size // (1 + self.config.fake_ratio))
        fake = (place >= real)[:, None, None, None]
        noisy = torch.where(fake, self._fake(clean, context), noisy)
        loss = (wide(_removed(self.retrained, noisy)) - clean).abs().sum() / len(clean)
        yield Update("denoiser", loss, {"loss": loss})

    def _fake(self, clean: Tensor, context: Context) -> Tensor:
        assert self.generator is not None
        with torch.no_grad():
            return wide(_added(self.generator, clean, self._latent(clean, context))).clamp(0, 1)

    def _weight(self, of: str) -> float:
        """alpha or 1 - alpha; one that plays alone has all the weight."""
        if self.config.networks != "both":
            return 1.0
        return self.config.alpha if of == "denoiser" else 1 - self.config.alpha

    def _score(self, clean: Tensor, noisy: Tensor, of: str) -> Tensor:
        """The critic's mean score as denoiser or generator is to see it.

        A critic whose gradient has norm 1 tells images of half the side half as far apart, while the L1 losses are
        means over pixels: tau1 and tau2 keep their meaning at other patch sizes than the published one.
        """
        size = PATCH / self.config.patch_size
        return size * self._weight(of) * wide(self.critic(torch.cat([clean, noisy], dim=1))).mean()

    @staticmethod
    def _latent(clean: Tensor, context: Context) -> Tensor:
        return context.randn((len(clean), 1, *clean.shape[-2:]))

    # ---- inference ----

    def denoise(self, noisy: Tensor) -> Tensor:
        """y - U(y) of the chosen denoiser, clipped to [0, 1]; pads to a multiple of 2 ** (depth - 1)."""
        denoise = partial(_denoised, self._chosen())
        return averaged(denoise, noisy) if self.config.ensemble else denoise(noisy)

    @property
    def reach(self) -> int:
        """The network's."""
        return self._chosen().reach

    def _chosen(self) -> ResidualUNet:
        reached, named = STAGES[int(self.stage)], {
            "plain": self.plain, "dual": self.denoiser, "synthetic": self.synthetic, "plus": self.retrained,
        }  # fmt: skip
        if (network := named.get(self.config.estimate)) is not None:
            return network
        if reached == PLUS and self.retrained is not None:
            return self.retrained
        if reached != PLAIN and self.denoiser is not None:
            return self.denoiser
        return self.synthetic if reached == SYNTHETIC and self.synthetic is not None else self.plain

    @property
    def draws(self) -> int:
        """None before the game, and none for the plain denoiser, which has no generator."""
        made = self.generator is not None and int(self.stage) > 0 and self.config.estimate != "plain"
        return self.config.akld_draws if made else 0

    def generate(self, clean: Tensor, random: torch.Generator) -> Tensor:
        """x + U(x, z), not clipped; pads as :meth:`denoise` does. Raises UserError where there is no generator."""
        if self.generator is None:
            raise UserError(f"{self.name} with networks = denoiser has no generator: give networks = both.")
        height, width = clean.shape[-2:]
        padded = pad_to_multiple(clean, self.generator.multiple)
        latent = torch.randn((len(padded), 1, *padded.shape[-2:]), generator=random).to(padded)
        return _added(self.generator, padded, latent)[..., :height, :width]

    def twins(self) -> tuple[Denoise, Denoise] | None:
        """The denoisers of PGap, once both are trained."""
        if self.synthetic is None or STAGES[int(self.stage)] not in (SYNTHETIC, PLUS) or not self.draws:
            return None
        return partial(_denoised, self.plain), partial(_denoised, self.synthetic)

    def diagnose(self, source: ImageSource) -> Sequence[Diagnostic]:
        """Generated and true noise of the same crops: density, correlation, standard deviation by intensity."""
        if self.generator is None:
            return []
        crops = source.batch(size=SAMPLES, patch=self.config.patch_size, seed=0, step=0, fields=("noisy", "clean"))
        random = generator("diagnose")
        self.eval()
        with torch.inference_mode():
            pieces = [self.generate(piece, random).clamp(0, 1) for piece in torch.split(crops["clean"], 16)]
        return describe_pairs(crops["clean"], crops["noisy"], torch.cat(pieces).float())


STAIRS = steps([epoch / EPOCHS for epoch in (20, 30, 40, 50, 60, 65)], 0.5)
PLUS_STAIRS = steps([epoch / EPOCHS for epoch in (20, 30, 40, 50, 55, 60, 65)], 0.5)
"""The official halvings of the rates; a further one falls on the end."""


def critic_terms(
    critic: PairCritic, real: Tensor, fakes: Sequence[Tensor], weights: Sequence[float], mix: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Eq. 5 as the critic minimises it, and the penalty without its weight; both weighted over the kinds of fakes.

    ``real`` and each of ``fakes`` are (N, 2 C, S, S); ``mix`` holds (N, 1, 1, 1) in [0, 1] for each kind, the share of
    the real pair in the point where the gradient is looked at.
    """
    scores = wide(critic(torch.cat([real, *fakes]))).chunk(1 + len(fakes))
    means = [one.mean() for one in scores]
    distance = sum(
        (weight * (fake - means[0]) for weight, fake in zip(weights, means[1:], strict=True)),
        torch.zeros_like(means[0]),
    )
    with torch.autocast(real.device.type, enabled=False):
        points = [share * wide(real) + (1 - share) * wide(fake) for share, fake in zip(mix, fakes, strict=True)]
        gradient = critic.input_gradient(torch.cat(points))
        norms = (gradient.square().sum(dim=(1, 2, 3)) + 1e-12).sqrt().chunk(len(fakes))
    penalties = [weight * (norm - 1).square().mean() for weight, norm in zip(weights, norms, strict=True)]
    return distance, torch.stack(penalties).sum()


def combined(tau: Weight, error: Tensor, score: Callable[[], Tensor]) -> Tensor:
    """tau error - score; the error alone where tau is infinite, the score alone where it is 0."""
    if tau == "inf":
        return error
    return -score() if tau == 0 else float(tau) * error - score()


def absolute(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference over all elements."""
    return (wide(first) - wide(second)).abs().mean()


def blurred(noise: Tensor) -> Tensor:
    """GF of Eq. 6: each channel of (N, C, H, W) filtered with :data:`BLUR` along both axes, borders reflected."""
    count, channels, height, width = noise.shape
    images = F.pad(noise.reshape(-1, 1, height, width), (2, 2, 2, 2), mode="reflect")
    taps = torch.tensor(BLUR, dtype=noise.dtype, device=noise.device)
    images = F.conv2d(F.conv2d(images, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
    return images.reshape(count, channels, height, width)


def averaged(denoise: Denoise, noisy: Tensor) -> Tensor:
    """The mean over the eight flips and rotations of (N, C, H, W), each turned back."""
    results: list[Tensor] = []
    for turns in range(4):
        for flipped in (False, True):
            one = turned(noisy, turns)
            one = denoise(one.flip(-1) if flipped else one)
            results.append(turned(one.flip(-1) if flipped else one, -turns))
    return torch.stack(results).mean(dim=0)


def _denoised(network: ResidualUNet, noisy: Tensor) -> Tensor:
    height, width = noisy.shape[-2:]
    padded = pad_to_multiple(noisy, network.multiple)
    return _removed(network, padded)[..., :height, :width].clamp(0, 1)


def _removed(network: nn.Module, noisy: Tensor) -> Tensor:
    return noisy - wide(network(noisy))


def _added(network: nn.Module, clean: Tensor, latent: Tensor) -> Tensor:
    return clean + wide(network(torch.cat([clean, latent], dim=1)))
