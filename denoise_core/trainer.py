"""The only training loop: runs every method's phases, whatever their number of networks, optimizers and updates."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from denoise_core.checkpoint import Checkpoint
from denoise_core.errors import TrainingDiverged, UserError
from denoise_core.images.crops import NO_CLEAN
from denoise_core.images.source import ImageSource
from denoise_core.method import Context, Group, Method, Phase, Recipe, Update

REMEDIES = {
    "clean_unpaired": "pass --clean with clean images of other scenes, a folder or a set such as em_generated[0:12]",
    "clean": NO_CLEAN,
    "noisy2": (
        "give simulated noise, for recorded images have one noisy version each, or a method that learns from single "
        "noisy images (--references none leaves out others)"
    ),
}
"""What to do where the data lacks a field."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; (0, 1) is a training on its own."""

    rank: int = 0
    world: int = 1

    def share(self, ask: Callable[[], Any]) -> Any:
        """What rank 0 is told by ``ask``, on every rank, so that none of them goes another way."""
        heard = [ask() if self.rank == 0 else None]
        if self.world > 1:
            dist.broadcast_object_list(heard, src=0)
        return heard[0]


def place(method: Method, recipe: Recipe, device: torch.device) -> None:
    """Moves a method to a device in the recipe's memory layout, which decides the last bits of its results."""
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    # mypy knows no overload of .to for a memory format
    method.to(device=device, memory_format=layout)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Stretch:
    """A phase with the steps that it covers: first <= step < last."""

    phase: Phase
    first: int
    last: int


class Trainer:
    """Trains ``method`` on ``source``, each phase for its share of ``recipe.steps``, ``steps`` in all.

    Every draw of step k comes from (seed, k), so a training that is resumed from a checkpoint at any step equals the
    uninterrupted one bit for bit. With several ranks, each backpropagates its part of the global batch and the group's
    gradients are averaged, so the result is that of one process up to the order of additions.
    """

    def __init__(
        self,
        method: Method,
        source: ImageSource,
        recipe: Recipe,
        seed: int,
        device: torch.device | str = "cpu",
        ranks: Ranks | None = None,
    ):
        self.method, self.recipe, self.seed = method, recipe, seed
        self.device = torch.device(device)
        self.ranks = ranks or Ranks()
        self.step = 0
        self._logs: dict[str, Tensor] = {}
        place(method, recipe, self.device)
        self.check(method, source, self.ranks.world)
        self.source = method.prepare(source)
        self.stretches = stretches(method.phases(), recipe.steps)
        self.steps = self.stretches[-1].last
        self._current: Stretch | None = None
        self._enter(self._stretch_at(0), fresh=True)

    @staticmethod
    def check(method: Method, source: ImageSource, world: int = 1) -> list[str]:
        """Whether ``method`` can be trained on ``source`` by ``world`` processes: warnings. Raises UserError."""
        warnings: list[str] = []
        source = method.prepare(source)
        for phase in method.phases():
            lacking = sorted(set(phase.needs) - set(source.fields))
            if lacking:
                remedies = [REMEDIES.get(field, "choose another method or other data") for field in lacking]
                raise UserError(
                    f"{method.name} needs the image fields {', '.join(lacking)}, but the data has only "
                    f"{', '.join(sorted(source.fields))}: {'; '.join(dict.fromkeys(remedies))}."
                )
            warnings += source.check(phase.patch)
            if phase.batch % world:
                raise UserError(
                    f"A batch of {phase.batch} cannot be divided among {world} workers: "
                    f"change the batch size of the phase {phase.name} with --set, or --workers-per-trial."
                )
        return list(dict.fromkeys(warnings))

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.steps

    def run(self) -> Iterator[int]:
        """Trains, yielding the number of steps done after each step; stop iterating to stop training."""
        while not self.finished:
            stretch = self._stretch_at(self.step)
            if stretch is not self._current:
                self._enter(stretch, fresh=True)
            self._train_step(stretch)
            self.step += 1
            yield self.step

    def logs(self) -> dict[str, float]:
        """The last step's scalars, averaged over the ranks. Raises TrainingDiverged when one is not finite."""
        names = sorted(self._logs)
        if not names:
            return {}
        values = torch.stack([self._logs[name].detach().float() for name in names])
        if self.ranks.world > 1:
            dist.all_reduce(values)
            values /= self.ranks.world
        logs = dict(zip(names, values.tolist(), strict=True))
        for name, value in logs.items():
            if not math.isfinite(value):
                raise TrainingDiverged(f"{name} became {value} at step {self.step} of {self.steps}")
        return logs

    def checkpoint(self) -> Checkpoint:
        """The training as it is after the last step."""
        optimizers = {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}
        assert self._current is not None
        state: dict[str, Any] = {"phase": self._current.phase.name, "optimizers": optimizers}
        # what later phases will train is left out: a training with other networks there may go on from here
        names = state_names(self.method, self._current.phase, ended=False)
        weights = {name: value for name, value in self.method.state_dict().items() if name in names}
        return Checkpoint(self.step, weights, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes on from ``checkpoint``, made by a training that is alike up to here. Raises ValueError for another."""
        stretch = next((one for one in self.stretches if one.phase.name == checkpoint.state["phase"]), None)
        if stretch is None or set(checkpoint.state["optimizers"]) != set(stretch.phase.groups):
            raise ValueError("its phases or optimizers are others")
        here = self._current
        self._enter(stretch, fresh=False)
        try:  # the weights last: they are checked as a whole, so nothing is half-loaded
            for name, state in checkpoint.state["optimizers"].items():
                self._optimizers[name].load_state_dict(state)
            load_named(self.method, state_names(self.method, stretch.phase, ended=False), checkpoint.weights)
        except ValueError:
            self._enter(here or stretch, fresh=False)
            raise
        self.step = checkpoint.step

    def kept(self, phase: str) -> dict[str, Tensor]:
        """What a phase that has just ended leaves to those after it, by name of the method's state."""
        names = state_names(self.method, self._phase(phase), ended=True)
        return {name: value for name, value in self.method.state_dict().items() if name in names}

    def start_after(self, phase: str, kept: Mapping[str, Tensor]) -> None:
        """Goes on where another training of the same beginning ended ``phase``. Raises ValueError for other state."""
        load_kept(self.method, self._phase(phase), kept)
        self.step = next(one.last for one in self.stretches if one.phase.name == phase)
        if not self.finished:
            self._enter(self._stretch_at(self.step), fresh=True)

    def _phase(self, name: str) -> Phase:
        return next(one.phase for one in self.stretches if one.phase.name == name)

    def synchronise_buffers(self) -> None:
        """Averages buffers such as batch-norm statistics over the ranks; call before evaluating."""
        if self.ranks.world > 1:
            for buffer in self.method.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= self.ranks.world

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of the recipe, for the forward passes only."""
        if self.recipe.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def _stretch_at(self, step: int) -> Stretch:
        return next(one for one in self.stretches if step < one.last)

    def _enter(self, stretch: Stretch, fresh: bool) -> None:
        if fresh:
            self.method.enter(stretch.phase.name)
            self._logs = {}
        self._current = stretch
        self.method.train()
        groups = stretch.phase.groups
        self._parameters = {name: group.parameters() for name, group in groups.items()}
        self._optimizers = {name: group.optimizer(self._parameters[name]) for name, group in groups.items()}
        self._base_lr = {
            name: [float(one["lr"]) for one in optimizer.param_groups] for name, optimizer in self._optimizers.items()
        }
        if self.recipe.compile:
            for group in groups.values():
                for network in group.networks:
                    network.compile()

    def _train_step(self, stretch: Stretch) -> None:
        phase, ranks = stretch.phase, self.ranks
        local = self.step - stretch.first
        context = Context(
            self.seed, phase.name, local, stretch.last - stretch.first, self.device, ranks.rank, ranks.world
        )
        # every rank draws the global batch and keeps its part: cheap beside the network, and exact
        whole = self.source.batch(
            size=phase.batch, patch=phase.patch, seed=self.seed, step=self.step, fields=phase.needs
        )
        batch = {name: self._mine(value) for name, value in whole.items()}
        updates = self.method.updates(phase.name, batch, context)
        while True:
            with self.autocast():
                update = next(updates, None)
            if update is None:
                break
            self._apply(phase.groups[update.group], update, context.progress)

    def _mine(self, whole: Tensor) -> Tensor:
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        part = whole.chunk(self.ranks.world)[self.ranks.rank]
        return part.to(self.device).contiguous(memory_format=layout)

    def _apply(self, group: Group, update: Update, progress: float) -> None:
        parameters, optimizer = self._parameters[update.group], self._optimizers[update.group]
        if update.valid is not None and not optimizer.defaults.get("fused"):
            raise ValueError(f"{self.method.name}: updates of {update.group} may be invalid: give it a fused optimizer")
        self._logs.update(update.logs)
        for parameter in parameters:
            parameter.grad = None
        # `inputs` keeps gradients out of every other network
        torch.autograd.backward(update.loss, inputs=parameters)
        if self.ranks.world > 1:
            self._average_gradients(parameters)
        if group.clip is not None:
            group.clip(parameters)
        factor = group.schedule(progress)
        for settings, base in zip(optimizer.param_groups, self._base_lr[update.group], strict=True):
            settings["lr"] = base * factor
        # the kernels of fused optimizers step nothing where it is 1: the host need not wait for the device's answer
        optimizer.found_inf = None if update.valid is None else self._refused(update.valid)  # type: ignore[attr-defined]
        optimizer.step()
        if group.after is not None:
            group.after()

    def _refused(self, valid: Tensor) -> Tensor:
        """1 where any rank finds the update invalid, else 0; on the device."""
        refused = 1 - valid.detach().to(torch.float32)
        if self.ranks.world > 1:
            dist.all_reduce(refused, dist.ReduceOp.MAX)
        return refused

    def _average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.ranks.world
        pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view(gradient.shape))


def stretches(phases: tuple[Phase, ...], steps: int) -> tuple[Stretch, ...]:
    """The phases one after the other, each of ``share`` times ``steps`` and at least one step."""
    first, found = 0, []
    for phase in phases:
        last = first + max(1, round(steps * phase.share))
        found.append(Stretch(phase, first, last))
        first = last
    return tuple(found)


def state_names(method: Method, phase: Phase, *, ended: bool) -> set[str]:
    """The names of the state that matters after ``phase`` has ended, or while it goes on."""
    state = set(method.state_dict())
    if not phase.keeps:
        return state
    networks = list(phase.keeps)
    if not ended:
        networks += [*phase.uses, *(network for group in phase.groups.values() for network in group.networks)]
    kept = [name for name, module in method.named_modules() if any(module is one for one in networks)]
    prefixes = tuple(f"{name}." for name in kept)
    # the method's own buffers, such as a phase's number, have no dot
    return {name for name in state if name.startswith(prefixes) or "." not in name}


def load_kept(method: Method, phase: Phase, kept: Mapping[str, Tensor]) -> None:
    """Gives ``method`` the state that :meth:`Trainer.kept` made. Raises ValueError for other state."""
    load_named(method, state_names(method, phase, ended=True), kept)


def load_named(method: Method, names: set[str], weights: Mapping[str, Tensor]) -> None:
    """Loads ``weights``, which must be the state ``names`` of ``method``; else raises ValueError and loads nothing."""
    state = method.state_dict()
    if set(weights) != names:
        odd = sorted(set(weights) ^ names)
        raise ValueError(f"{len(odd)} names differ, such as {odd[0]}")
    for name, value in weights.items():
        if value.shape != state[name].shape:
            raise ValueError(f"{name} has the shape {tuple(value.shape)} instead of {tuple(state[name].shape)}")
    method.load_state_dict(dict(weights), strict=False)
