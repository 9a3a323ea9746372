"""A training step of every method and phase against the published order of evaluation, with the same networks.

The published steps stand in tests/core, where the tests show that both end in the same weights. Theirs have PyTorch's
default memory layout and Adam; ours run in the trainer, with its draws. The papers' networks get small batches, since
a processor's time is in proportion to the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.harness import Call, Comparison
from denoise_core.images.source import ImageSource
from denoise_core.method import Context, Method, Phase, Recipe, create, method_class
from denoise_core.methods.gan2gan import GAN2GAN
from denoise_core.methods.iscl import ISCL
from denoise_core.seeding import generator
from denoise_core.trainer import Trainer
from tests.core import gan2gan_reference, iscl_reference
from tests.core.published_steps import published

FP32_GOAL, BF16_GOAL = 1.5, 2.5
STEPS = 10**6
PLAIN: Mapping[str, Mapping[str, Any]] = {
    "danet": {"augmentation": "none"},
    "dbsn": {"noise_start": "official"},
    "gan2gan": {"iterations": 1, "patch_lambda": 0.1},
}
"""What the published steps do not have."""
SMALL_BATCH: Mapping[str, Mapping[str, Any]] = {
    "neighbor2neighbor": {"batch_size": 1},
    "gan2gan": {"batch_size": 4, "denoiser_batch_size": 4},
    "dbsn": {"batch_size": 1, "student_batch_size": 8, "student_patch_size": 48},
    "danet": {"batch_size": 2},
    "iscl": {"batch_size": 4},
}
"""Of the papers' networks on a processor."""
# the port's critics have the paper's depth, for patches of 64
NARROW_ISCL: Mapping[str, Any] = {
    "width": 8, "blocks": 2, "extractor_width": 16, "extractor_layers": 8, "critic_width": 8, "critic_depth": 4,
    "patch_size": 64, "batch_size": 4,
}  # fmt: skip
TIMED: Mapping[str, Mapping[str, bool]] = {
    "neighbor2neighbor": {"train": True},
    "gan2gan": {"gan": True, "g2g1": True},
    "dbsn": {"mu": True, "joint": True, "student": True},
    "danet": {"plain": True, "game": False},
    "iscl": {"train": False},
}
"""The phases, and whether convolutions bound them: a share of the peak is then told."""


@dataclass(frozen=True)
class OneBatch:
    """The same batch at every step, so that only the step itself is timed."""

    device: str
    channels: int = 1
    fields: frozenset[str] = frozenset(("noisy", "clean", "clean_unpaired", "smooth"))
    batches: dict[Any, dict[str, Tensor]] | None = None

    def check(self, patch: int) -> list[str]:
        return []

    def batch(self, *, size: int, patch: int, fields: tuple[str, ...], **_: Any) -> dict[str, Tensor]:
        assert self.batches is not None
        key = (size, patch, fields)
        if key not in self.batches:
            shape = (size, self.channels, patch, patch)
            self.batches[key] = {name: self._images(name, shape) for name in fields}
        return self.batches[key]

    def _images(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name == "smooth":
            return (0.1 * torch.randn(shape, generator=generator(name))).to(self.device)
        return torch.rand(shape, generator=generator(name)).to(self.device)


def comparisons(device: str) -> Iterator[Comparison]:
    for method, phases in TIMED.items():
        small = {**method_class(method).recipes["laptop"].config, **PLAIN.get(method, {})}
        if method == "iscl":
            small |= NARROW_ISCL
        sizes = {"laptop": small, "paper": PLAIN.get(method, {})}
        if device == "cpu":
            sizes["paper"] = {**sizes["paper"], **SMALL_BATCH[method]}
        for size, config in sizes.items():
            for phase, bound in phases.items():
                for precision, goal in (("fp32", FP32_GOAL), ("bf16", BF16_GOAL if bound else None)):
                    yield Comparison(
                        f"{method} {phase}, {size}'s networks, {precision}",
                        "published step, fp32",
                        partial(pair, method, phase, config, precision, device),
                        flops=bound,
                        precision=precision,
                        goal=goal,
                    )


def pair(name: str, phase: str, config: Mapping[str, Any], precision: str, device: str) -> tuple[Call, Call]:
    """(a step as published, a step of the trainer)."""
    twin = deepcopy(unprepared(name, config)).to(device)
    source = OneBatch(device, batches={})
    ours = trained(name, phase, config, device, source, precision=precision)
    stretch = next(one for one in twin.phases() if one.name == phase)
    twin.enter(phase)
    return reference(twin.train(), stretch, source, device), ours


def trained(
    name: str, phase: str, config: Mapping[str, Any], device: str, source: OneBatch | None = None, **recipe: Any
) -> Call:
    """A step of the trainer in this phase."""
    images = cast(ImageSource, source or OneBatch(device, batches={}))
    trainer = Trainer(unprepared(name, config), images, Recipe(STEPS, **recipe), 0, device)
    for stretch in trainer.stretches:
        if stretch.phase.name == phase:
            break
        trainer.start_after(stretch.phase.name, trainer.kept(stretch.phase.name))
    running = trainer.run()
    return lambda: next(running)


def unprepared(name: str, config: Mapping[str, Any]) -> Method:
    """A method whose source is as it should be already."""
    method = create(name, config, 1, 0)
    kind = type(method)
    method.__class__ = type(kind.__name__, (kind,), {"prepare": lambda self, source: source})
    return method


def reference(method: Method, phase: Phase, source: OneBatch, device: str) -> Call:
    batch = source.batch(size=phase.batch, patch=phase.patch, fields=phase.needs)
    if isinstance(method, GAN2GAN):
        return gan2gan(method, phase.name, batch)
    if isinstance(method, ISCL):
        return iscl(method, batch, device)
    step = published(method, phase.name)
    assert step is not None
    numbers = iter(range(STEPS))
    where = torch.device(device)
    return lambda: step(batch, Context(0, phase.name, next(numbers), STEPS, where, 0, 1))


def gan2gan(method: GAN2GAN, phase: str, batch: Mapping[str, Tensor]) -> Call:
    for module in method.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    noisy, c = batch["noisy"], method.config
    latent = torch.randn((len(noisy), c.latent), device=noisy.device)
    if phase == "gan":
        step = gan2gan_reference.GanStep(
            method.generator, method.rough, method.cycle, method.noise_critic, method.noisy_critic,
            critic_steps=c.critic_steps,
        )  # fmt: skip
        return lambda: step(noisy, batch["smooth"], latent)
    denoise = gan2gan_reference.DenoiserStep(method.denoiser, method.generator, method.rough)
    return lambda: denoise(noisy, latent, latent.flip(0))


def iscl(method: ISCL, batch: Mapping[str, Tensor], device: str) -> Call:
    port, c = iscl_reference, method.config
    made: list[tuple[nn.Module, Callable[[], nn.Module]]] = [
        (method.denoiser, lambda: port.Generator(1, c.width, c.blocks)),
        (method.degrader, lambda: port.Generator(1, c.width, c.blocks)),
        (method.extractor, lambda: port.Extractor(1, c.extractor_width, c.extractor_layers)),
        (method.noisy_critic, lambda: port.Critic(1, c.critic_width)),
        (method.clean_critic, lambda: port.Critic(1, c.critic_width)),
    ]
    step = port.ReferenceStep(*(copied(ours, make()).to(device) for ours, make in made), lr=c.lr)
    noisy, clean = 2 * batch["noisy"] - 1, 2 * batch["clean_unpaired"] - 1
    return lambda: step(noisy, clean)


def copied(source: nn.Module, target: nn.Module) -> nn.Module:
    with torch.no_grad():
        for ours, theirs in zip(source.parameters(), target.parameters(), strict=True):
            theirs.copy_(ours)
    return target
