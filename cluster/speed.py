"""How long trainings would take that differ in their recipes only: a few real steps of each, in turn on one device."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from denoise_core.memory import exact_numerics, keep_freed_memory
from denoise_core.method import create
from denoise_core.specification import LoadedData, TrialSpec, load_data
from denoise_core.trainer import Stretch, Trainer

ROUNDS = 5
ROUND_S, MOST_STEPS = 0.1, 64
"""So long, or for so many steps, each recipe is measured in each round of each phase; one step at least."""
LIMIT_S = 2.0
"""After so long for each recipe a phase has no further round."""
FIRST_STEPS = 3
"""Steps of each phase that are not measured: what they compute is compared, and compiling happens in them."""
TOLERANCE, SMALL = 0.1, 0.01
"""Losses of the first steps differ by rounding only; those below SMALL may differ by TOLERANCE times SMALL."""


@dataclass(frozen=True)
class Timed:
    """``seconds`` of all steps of a training; ``first_s``, by the clock, of each phase's first steps, in which networks
    are compiled; ``losses`` after these, by phase and name."""

    seconds: float
    first_s: float
    losses: Mapping[str, float]

    def agrees(self, other: Timed) -> bool:
        """Whether the first steps computed the same up to rounding."""
        return self.losses.keys() == other.losses.keys() and all(
            abs(value - other.losses[name]) <= TOLERANCE * max(abs(value), abs(other.losses[name]), SMALL)
            for name, value in self.losses.items()
        )


def timed(specs: Sequence[TrialSpec], data: LoadedData, device: torch.device) -> list[Timed | None]:
    """One for each of ``specs``, which differ in their recipes only; None where it cannot be trained here.

    On a CPU one thread is measured, by its own time (:func:`clock`), as trainings have one thread each. Raises
    UserError for what cannot be trained anywhere.
    """
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _as_in_trainings(device):
            running = [_Running(spec, replace(data, spec=spec.data), device) for spec in specs]
            for phase in range(max((len(one.stretches) for one in running), default=0)):
                _measure(running, phase)
            return [one.timed for one in running]
    finally:
        torch.set_num_threads(threads)


def timed_there(specs: Sequence[TrialSpec], root: str | None) -> tuple[list[Timed | None], str]:
    """The same on a worker's GPU, with its name."""
    data = load_data(specs[0].data, Path(root) if root else None)
    return timed(specs, data, torch.device("cuda")), torch.cuda.get_device_name()


def clock(device: torch.device) -> Callable[[], float]:
    """Seconds: of this thread on a CPU, which other programs disturb less; by the wall, all work done, on a GPU."""
    if device.type != "cuda":
        return time.thread_time

    def wall() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return wall


def jump(trainer: Trainer, stretch: Stretch) -> None:
    """Goes a fifth of the way into a phase without training, so that weights that ramp up from zero are there."""
    trainer.step = min(stretch.last - 1, stretch.first + (stretch.last - stretch.first) // 5)


def advance(trainer: Trainer, stretch: Stretch, steps: int) -> None:
    """Takes steps of this phase, some of them again where it ends."""
    for _ in range(steps):
        if trainer.step >= stretch.last:
            jump(trainer, stretch)
        next(trainer.run())


@contextmanager
def _as_in_trainings(device: torch.device) -> Iterator[None]:
    """The libraries' settings of a training process, for a while."""
    if device.type != "cuda":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32)
    exact_numerics()
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def _measure(running: Sequence[_Running], phase: int) -> None:
    for one in running:
        one.enter(phase)
    began = time.perf_counter()
    for number in range(ROUNDS):
        for one in running if number % 2 == 0 else reversed(running):
            one.step(phase)
        if time.perf_counter() - began > LIMIT_S * len(running):
            break


class _Running:
    """A training whose steps are measured."""

    def __init__(self, spec: TrialSpec, data: LoadedData, device: torch.device):
        self.clock = clock(device)
        self.per_step: dict[int, list[float]] = {}
        self.repeat = 1
        self.first_s, self.losses = 0.0, dict[str, float]()
        self.trainer: Trainer | None = None
        with self._leave_out():
            method = create(spec.method, spec.config, spec.data.channels, spec.seed)
            self.trainer = Trainer(method, data.source(spec.seed, device), spec.recipe, spec.seed, device)

    @property
    def stretches(self) -> Sequence[Stretch]:
        return self.trainer.stretches if self.trainer is not None else ()

    def enter(self, phase: int) -> None:
        """The first steps of a phase."""
        with self._leave_out():
            if self.trainer is not None:
                jump(self.trainer, self.stretches[phase])
                self.first_s += self._seconds(phase, FIRST_STEPS, time.perf_counter)
                name = self.stretches[phase].phase.name
                self.losses |= {f"{name} {loss}": value for loss, value in self.trainer.logs().items()}
                once = self._seconds(phase, 1, self.clock)
                self.repeat = max(1, min(MOST_STEPS, math.ceil(ROUND_S / max(once, 1e-6))))

    def step(self, phase: int) -> None:
        """Some steps more, timed."""
        with self._leave_out():
            if self.trainer is not None:
                self.per_step.setdefault(phase, []).append(self._seconds(phase, self.repeat, self.clock) / self.repeat)

    @property
    def timed(self) -> Timed | None:
        if self.trainer is None:
            return None
        costs = [
            median(self.per_step[phase]) * (one.last - one.first) for phase, one in enumerate(self.trainer.stretches)
        ]
        return Timed(sum(costs), self.first_s, self.losses)

    def _seconds(self, phase: int, steps: int, now: Callable[[], float]) -> float:
        """Of some steps of this phase."""
        assert self.trainer is not None
        began = now()
        advance(self.trainer, self.stretches[phase], steps)
        self.clock()  # waits for the device
        return now() - began

    @contextmanager
    def _leave_out(self) -> Iterator[None]:
        """Goes on without this training where it fails: too little memory, no compiler, values that are not finite."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:  # TrainingDiverged is one
            logging.getLogger("denoise").info("not measured: %s", error)
            self.trainer = None
