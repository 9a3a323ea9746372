"""A run: a Ray Tune trial that starts Ray Train workers, which pull tasks from the board until there are none.

So short trainings do not each pay for Ray's start-up. The module does not import PyTorch: the process of a run and its
controller do without it, and importing it takes seconds.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.train import BackendConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from cluster.execution.survey import draining

WAIT_S = 1.0
"""Seconds between two looks of a run that has to wait."""


@dataclass(frozen=True)
class RunSettings:
    """What every worker of a study needs to know. Sent with the run, so it holds no secrets and no images."""

    study: str
    budget: str
    store: str
    data_root: str | None
    workers: int
    cpus: float
    gpus: float
    scratch: str
    do: Callable[..., bool] | None = None
    """What a worker does with a task instead of training it, for benchmarks; see ``_one`` of the workers."""


def run_on_cluster(config: dict[str, Any], settings: RunSettings, board: Any) -> None:
    """One Tune trial: trains until the board has nothing more for this run."""
    run, context = tune.get_context().get_trial_id(), ray.get_runtime_context()
    scratch = f"{settings.scratch}/{run}"
    while (pending := _pending(board, run)) != "nothing":
        if pending == "wait":  # another training prepares what this one needs: no worker is held meanwhile
            time.sleep(WAIT_S)
            continue
        if context.get_node_id() in draining():
            raise RuntimeError("the node of this run leaves the cluster: Tune starts it again on another")
        # a new name each time: Ray would restore an old run of the same name
        name = f"{run}-{time.time_ns()}"
        try:
            _group(name, run, settings, board, scratch).fit()
        except TrainingFailedError as error:  # it holds what the workers raised, or how they died
            ray.get(board.broke.remote(run, _cause(error)))
    shutil.rmtree(scratch, ignore_errors=True)
    tune.report({"run": run})


def _pending(board: Any, run: str) -> str:
    """What the board has for this run. Without a board there is no study: its driver says why."""
    try:
        return str(ray.get(board.pending.remote(run)))
    except ray.exceptions.ActorDiedError:
        return "nothing"


class _Workers(DataParallelTrainer):  # type: ignore[misc]  # Ray has no types
    """Without Ray's data sets, which would take a process of its own that every run waits for."""

    def _create_default_callbacks(self) -> list[Any]:
        return [one for one in super()._create_default_callbacks() if type(one).__name__ != "DatasetsCallback"]


def _group(name: str, run: str, settings: RunSettings, board: Any, scratch: str) -> _Workers:
    """The workers of a run. Its retries are the board's to decide, so Train itself retries nothing."""
    resources = {"CPU": settings.cpus, **({"GPU": settings.gpus} if settings.gpus else {})}
    return _Workers(
        _work,
        train_loop_config={"run": run, "group": name, "settings": settings, "board": board},
        backend_config=_backend(settings),
        scaling_config=ScalingConfig(
            num_workers=settings.workers, use_gpu=settings.gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(name=name, storage_path=scratch),
    )


def _backend(settings: RunSettings) -> BackendConfig:
    """How the workers talk to each other; one alone does not."""
    if settings.workers == 1:
        return BackendConfig()
    from ray.train.torch import TorchConfig

    return TorchConfig(backend="gloo" if settings.gpus < 1 else None)  # NCCL refuses two ranks on one GPU


def _work(config: dict[str, Any]) -> None:
    from cluster.execution.training import work  # here, in the worker: it imports what a training needs

    work(config)


def _cause(error: BaseException) -> str:
    """The last line of the innermost error: what a worker raised, or how it died."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:300]
