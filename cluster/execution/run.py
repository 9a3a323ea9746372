"""Runs what a plan has left: board, Ray Tune, terminal. Comes back when all is stored, or when it was interrupted."""

from __future__ import annotations

import math
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.console import Console
from cluster.execution.board import Task
from cluster.execution.heart import while_alive
from cluster.execution.hosted import HostedBoard, Work
from cluster.execution.launch import RunSettings, run_on_cluster
from cluster.execution.one_training import Training
from cluster.execution.placement import Cluster, Resources, lanes, waiting
from cluster.execution.search import StudySearch
from cluster.results.store import Store
from denoise_core.errors import UserError
from denoise_core.trainer import Ranks

START_UP_S = 12.0
"""What a Ray Train run costs before and after its work (benchmarks/study_time.py)."""
HEAD_LOST = 1
"""Exit status where the cluster is gone."""
DRIVER_RETRIES = 20
"""How often Tune starts a run again whose driver died with its node; of workers the board judges."""
SHARE = 50.0
"""A run carries so many trainings that its work is at least this many times START_UP_S: about ten minutes. Starting one
also takes time from the runs beside it."""


def execute(
    work: Work,
    store: Store,
    data_root: Path | None,
    resources: Resources,
    max_concurrent: int | None,
    seconds: float,
    console: Console,
    may_grow: bool = False,
    do: Callable[..., bool] | None = None,
) -> bool:
    """Trains everything in ``work``; ``seconds`` estimates one training. False when it was interrupted."""
    fit, note = lanes(resources, max_concurrent, Cluster.now(), may_grow)
    concurrent = min(fit, max(1, work.count))
    if note and concurrent > 1:
        console.say(note)
    per_run, runs = _packing(work.count, concurrent, seconds)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    hosted = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy=here)(HostedBoard)
    board = hosted.remote(work, store.location, per_run)
    # Ray's own files of the run: of no use afterwards, so every node has its own, and no shared folder is needed
    scratch = tempfile.mkdtemp(prefix="denoise-studies-")
    settings = RunSettings(
        work.study, work.budget, store.location, str(data_root) if data_root else None,
        resources.workers, resources.cpus_per_worker, resources.gpus_per_worker, scratch, do,
    )  # fmt: skip
    try:
        head = ray.get_runtime_context().gcs_address
        with (
            while_alive(head, partial(_end, scratch, console)),
            _interruptible() as interrupted,
            console.watching(board, interrupted, concurrent, lambda: waiting(resources, Cluster.now())),
        ):
            results = _tuner(settings, board, work, runs, concurrent).fit()
        trouble, reason = ray.get(board.ended.remote())
        if trouble:
            raise UserError(trouble)
        if not interrupted.is_set():
            _record_lost(ray.get(board.unfinished.remote()), reason, results, work, store)
        return not interrupted.is_set()
    except ray.exceptions.RayError as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        raise UserError(f"Ray could not go on ({reason}): what is stored is safe, run it again.") from None
    finally:
        ray.kill(board)
        shutil.rmtree(scratch, ignore_errors=True)


def _end(scratch: str, console: Console) -> None:
    """Ends this process, whose main thread waits for a cluster that is no more."""
    console.complain(
        "The head of the Ray cluster does not answer any more. What is stored is safe; trainings that were under way "
        "go on from their last checkpoint: start the cluster again and give the same command."
    )
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(HEAD_LOST)


def _packing(count: int, concurrent: int, seconds: float) -> tuple[int, int]:
    """(trainings a run may take, number of runs)."""
    per_run = max(1, math.ceil(SHARE * START_UP_S / max(seconds, 1e-3)))
    runs = math.ceil(count / per_run)
    # with no more runs than lanes, every run goes on until nothing is left, so that no lane falls idle early
    return (count, concurrent) if runs <= concurrent else (per_run, runs)


def _keep_credentials() -> None:
    """Keeps Tune from sending this process's AWS keys to its trials, which Ray writes into logs and shows to everyone.

    Every node has credentials of its own. The set is no part of Tune's interface; that it is empty of keys is tested.
    """
    from ray.tune.execution import class_cache

    passed_on: set[str] = getattr(class_cache, "ENV_VARS_TO_PROPAGATE", set())
    passed_on -= {name for name in passed_on if name.startswith("AWS_")}


def _tuner(settings: RunSettings, board: Any, work: Work, runs: int, concurrent: int) -> tune.Tuner:
    _keep_credentials()
    trainable = tune.with_parameters(run_on_cluster, settings=settings, board=board)
    searching = work.search is not None
    return tune.Tuner(
        # memory instead of a CPU: a driver that holds a CPU deadlocks small clusters
        tune.with_resources(trainable, {"memory": 2**20}),
        param_space={} if searching else {"run": tune.grid_search(list(range(runs)))},
        tune_config=tune.TuneConfig(
            search_alg=StudySearch(board) if searching else None,
            num_samples=work.count if searching else 1,
            max_concurrent_trials=concurrent,
            trial_dirname_creator=partial(_trial_name),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=settings.scratch,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=DRIVER_RETRIES),
        ),
    )


def _trial_name(trial: Any) -> str:
    return f"run-{trial.trial_id}"


def _record_lost(lost: Sequence[Task], reason: str, results: Any, work: Work, store: Store) -> None:
    """Records as failed what no run could finish, with the reason of its workers or else of Ray."""
    reasons = [reason, *(str(error).strip().splitlines()[-1] for error in results.errors)]
    reason = next((one for one in reasons if one), "Ray ended the run without an error")
    for task in lost:
        training = Training(task, work.study, work.budget, store, Ranks(), torch.device("cpu"))
        training.store_failure(f"its run could not go on: {reason}")


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Sets the event at the first Ctrl-C; a second one ends the process at once."""
    interrupted = threading.Event()

    def handle(number: int, frame: Any) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
