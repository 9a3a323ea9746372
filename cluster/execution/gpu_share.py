"""How many trainings share a GPU, by the memory that a few real steps of each setting take on one of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from denoise_core.errors import UserError
from denoise_core.evaluation import denoise
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


@dataclass(frozen=True)
class Measured:
    """Memory in bytes: the most that any setting reserved, and what the GPU has."""

    peak: int
    total: int
    device: str


def gpus_per_training(specs: Sequence[TrialSpec], data_root: Path | None) -> tuple[float, str]:
    """The share of a GPU for each training and a sentence about it, measured on a GPU of the cluster. Raises UserError.

    A share is a whole number of trainings to a GPU. Speed is not measured: trainings that fit may slow each other.
    """
    import ray

    if not ray.cluster_resources().get("GPU"):
        raise UserError("--gpus-per-trial auto needs a GPU and the cluster has none: leave it out, or add nodes.")
    first = {spec.group_id: spec for spec in reversed(specs)}  # seeds take the same memory
    asked = ray.remote(num_cpus=1, num_gpus=1, max_retries=1)(measure)
    return share(ray.get(asked.remote(list(first.values())[:SETTINGS], str(data_root) if data_root else None)))


def share(measured: Measured) -> tuple[float, str]:
    """See :func:`gpus_per_training`."""
    need = measured.peak * MARGIN + CONTEXT
    count = max(1, min(MOST, int(measured.total // need)))
    # Ray counts in ten-thousandths: rounded down, so that all of them fit
    part = 1.0 if count == 1 else math.floor(10_000 / count) / 10_000
    each = "one training a GPU" if count == 1 else f"{count} trainings share a GPU"
    return part, (
        f"{each}: the largest setting took {measured.peak / 2**30:.1f} GiB of {measured.total / 2**30:.0f} GiB "
        f"({measured.device})."
    )


def measure(specs: Sequence[TrialSpec], root: str | None) -> Measured:
    """Runs on a GPU: a few steps of every phase and one test image of each setting."""
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats()
    for spec in specs:
        data = load_data(spec.data, Path(root) if root else None)
        try_out(spec, data, device)
        torch.cuda.empty_cache()
    return Measured(
        torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(device).total_memory,
        torch.cuda.get_device_name(device),
    )  # fmt: skip


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
            # some way in, so that weights that ramp up from zero are there
            trainer.step = min(stretch.last - 1, stretch.first + (stretch.last - stretch.first) // 5)
            for count, _ in enumerate(trainer.run(), 1):
                stepped(stretch.phase.name)
                if count >= STEPS or trainer.step >= stretch.last:
                    break
        images = [image for one in data.test for image in one.pixels]
        denoise(method, max(images, key=lambda image: image.numel()), device)
    except torch.cuda.OutOfMemoryError as error:
        logging.getLogger("denoise").warning("%s: %s", spec.config, str(error).splitlines()[0])
