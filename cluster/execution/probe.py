"""Where trainings are measured that differ in their numerics: in this process, or on a GPU of the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from cluster.execution.session import prepare_environment, session
from cluster.results.manifest import manifest
from cluster.speed import Timed, timed, timed_there
from denoise_core.errors import UserError
from denoise_core.specification import LoadedData, TrialSpec

Answer = tuple[list[Timed | None], str]
"""The times, and the name of the device."""


def here(data: Sequence[LoadedData], specs: Sequence[TrialSpec]) -> Answer:
    """On this machine's processor."""
    loaded = next(one for one in data if one.contents == specs[0].contents)
    return timed(specs, loaded, torch.device("cpu")), manifest()["processor"]


def on_gpu(address: str | None, root: Path | None, specs: Sequence[TrialSpec]) -> Answer:
    """On a GPU of the cluster that is to train. Raises UserError where there is none."""
    prepare_environment(address)
    with session(address):
        import ray

        if not ray.cluster_resources().get("GPU"):
            raise UserError(
                "Numerics can be measured for trainings on GPUs only where there is one, and the cluster has none: "
                "name them (--precision, --layout) instead of auto or --fast, or add nodes."
            )
        asked = ray.remote(num_cpus=1, num_gpus=1, max_retries=1)(timed_there)
        answer: Answer = ray.get(asked.remote(list(specs), str(root) if root else None))
        return answer
