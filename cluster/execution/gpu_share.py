"""How many trainings share a GPU: as many as their memory allows and together still train more than fewer would."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import torch

from cluster.speed import FIRST_STEPS, advance, clock, jump
from denoise_core.errors import UserError
from denoise_core.evaluation import denoise
from denoise_core.memory import exact_numerics
from denoise_core.method import create
from denoise_core.specification import LoadedData, TrialSpec, load_data
from denoise_core.trainer import Trainer

CONTEXT = 600 * 2**20
"""Bytes that CUDA takes in each process before any tensor."""
MARGIN = 1.15
"""Over what was measured: other batches, fragments."""
MOST = 16
"""Trainings that share a GPU at most."""
SETTINGS = 12
"""Settings that are measured at most."""
STEPS = 3
LEAST_GAIN = 1.1
"""More trainings share a GPU only where they do so many times as much together."""
PHASE_S = 2.0
"""So long each phase is timed beside others, after all have begun."""
START_S = 300.0
"""How long processes wait for one another."""


@dataclass(frozen=True)
class Measured:
    """Memory in bytes: the most that any setting reserved, and what the GPU has. ``together``: how many trainings a
    second that many processes do at once, for that setting."""

    peak: int
    total: int
    device: str
    together: Mapping[int, float] = field(default_factory=dict)

    @property
    def fit(self) -> int:
        """How many trainings the memory allows."""
        return max(1, min(MOST, int(self.total // (self.peak * MARGIN + CONTEXT))))


def gpus_per_training(specs: Sequence[TrialSpec], data_root: Path | None) -> tuple[float, str]:
    """The share of a GPU for each training and a sentence about it, measured on a GPU of the cluster. Raises UserError.

    A share is a whole number of trainings to a GPU.
    """
    import ray

    if not ray.cluster_resources().get("GPU"):
        raise UserError("--gpus-per-trial auto needs a GPU and the cluster has none: leave it out, or add nodes.")
    first = {spec.group_id: spec for spec in reversed(specs)}  # seeds take the same memory
    asked = ray.remote(num_cpus=1, num_gpus=1, max_retries=1)(measure)
    return share(ray.get(asked.remote(list(first.values())[:SETTINGS], str(data_root) if data_root else None)))


def share(measured: Measured) -> tuple[float, str]:
    """See :func:`gpus_per_training`."""
    count = worthwhile(measured.together) if measured.together else measured.fit
    # Ray counts in ten-thousandths: rounded down, so that all of them fit
    part = 1.0 if count == 1 else math.floor(10_000 / count) / 10_000
    each = "one training a GPU" if count == 1 else f"{count} trainings share a GPU"
    memory = (
        f"the largest setting took {measured.peak / 2**30:.1f} GiB of {measured.total / 2**30:.0f} GiB "
        f"({measured.device})"
    )
    if len(measured.together) < 2:
        return part, f"{each}: {memory}."
    alone = measured.together[1]
    gains = ", ".join(f"{number}: {rate / alone:.2f}" for number, rate in sorted(measured.together.items()))
    return part, f"{each}: so many do so much together ({gains}); memory allows {measured.fit}, {memory}."


def worthwhile(together: Mapping[int, float]) -> int:
    """The count from which more trainings at once do hardly more."""
    counts = sorted(together)
    best = counts[0]
    for count in counts[1:]:
        if together[count] < LEAST_GAIN * together[best]:
            break
        best = count
    return best


def measure(specs: Sequence[TrialSpec], root: str | None) -> Measured:
    """Runs on a GPU: a few steps of every phase and one test image of each setting, then the largest beside itself."""
    device = torch.device("cuda")
    exact_numerics()
    largest, peak = specs[0], 0
    for spec in specs:
        torch.cuda.reset_peak_memory_stats()
        try_out(spec, load_data(spec.data, Path(root) if root else None), device)
        taken = torch.cuda.max_memory_reserved()
        largest, peak = (spec, taken) if taken > peak else (largest, peak)
        torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    found = Measured(peak, total, torch.cuda.get_device_name(device))
    return replace(found, together=beside_itself(largest, root, "cuda", found.fit))


def try_out(
    spec: TrialSpec, data: LoadedData, device: torch.device, stepped: Callable[[str], None] = lambda phase: None
) -> None:
    """A few steps in every phase of a training, and its largest test image; ``stepped`` hears of each step.

    A setting that does not fit at all is left to its training to report.
    """
    data = replace(data, spec=spec.data)
    method = create(spec.method, spec.config, spec.data.channels, spec.seed)
    try:
        trainer = Trainer(method, data.source(spec.seed, device), spec.recipe, spec.seed, device)
        for stretch in trainer.stretches:
            jump(trainer, stretch)
            for count, _ in enumerate(trainer.run(), 1):
                stepped(stretch.phase.name)
                if count >= STEPS or trainer.step >= stretch.last:
                    break
        images = [image for one in data.test for image in one.pixels]
        denoise(method, max(images, key=lambda image: image.numel()), device)
    except torch.cuda.OutOfMemoryError as error:
        logging.getLogger("denoise").warning("%s: %s", spec.config, str(error).splitlines()[0])


# ---- beside one another ----


def beside_itself(spec: TrialSpec, root: str | None, device: str, most: int) -> dict[int, float]:
    """Trainings a second of 1, 2, 4, ... processes at once, up to ``most``; no further than they gain by it."""
    found: dict[int, float] = {}
    for count in _counts(most):
        found[count] = together(spec, root, device, count)
        if not found[count] or worthwhile(found) != count:
            break
    return found


def _counts(most: int) -> Iterator[int]:
    count = 1
    while count < most:
        yield count
        count *= 2
    yield most


def together(spec: TrialSpec, root: str | None, device: str, count: int) -> float:
    """Trainings a second of ``count`` processes that train at once on one device; 0 where they fail."""
    context = get_context("spawn")
    barrier = context.Barrier(count)
    try:
        with ProcessPoolExecutor(count, context, _given, (barrier,)) as pool:
            asked = [pool.submit(_seconds, spec, root, device) for _ in range(count)]
            return sum(1 / one.result() for one in asked)
    except (BrokenExecutor, BrokenBarrierError, RuntimeError, MemoryError, OSError) as error:
        logging.getLogger("denoise").warning("%d trainings at once failed: %s", count, error)
        return 0.0


_barrier: Any = None


def _given(barrier: Any) -> None:
    """What this process shares with the others, which is passed on only when it starts."""
    global _barrier
    _barrier = barrier


def _seconds(spec: TrialSpec, root: str | None, device: str) -> float:
    """Of a whole training, by a piece of each phase beside the other processes."""
    where, total = torch.device(device), 0.0
    exact_numerics()
    torch.set_num_threads(1)
    try:
        data = replace(load_data(spec.data, Path(root) if root else None), spec=spec.data)
        method = create(spec.method, spec.config, spec.data.channels, spec.seed)
        trainer = Trainer(method, data.source(spec.seed, where), spec.recipe, spec.seed, where)
        wall = clock(where) if device == "cuda" else time.perf_counter
        for stretch in trainer.stretches:
            jump(trainer, stretch)
            advance(trainer, stretch, FIRST_STEPS)
            _barrier.wait(START_S)
            began, steps = wall(), 0
            while (spent := wall() - began) < PHASE_S or not steps:
                advance(trainer, stretch, STEPS)
                steps += STEPS
            total += spent / steps * (stretch.last - stretch.first)
        return total
    except BaseException:
        _barrier.abort()  # nobody waits for this process
        raise
