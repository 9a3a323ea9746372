"""What a Ray Train worker does: one task after another. Every task is stored and can be resumed on its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray import train
from ray.train.torch import get_device

from cluster.execution.board import Task
from cluster.execution.launch import RunSettings
from cluster.execution.notice import when_told_to_end
from cluster.execution.one_training import Ended, Training, rung_steps
from cluster.execution.progress import at_rungs, last_measured
from cluster.results.files import StoreTrouble
from cluster.results.manifest import manifest
from cluster.results.schema import DONE, FAILED, PRUNED
from cluster.results.store import Store
from denoise_core.errors import UserError
from denoise_core.memory import exact_numerics, keep_freed_memory
from denoise_core.specification import DataSpec, LoadedData, TrialSpec, load_data
from denoise_core.trainer import Ranks


def work(config: dict[str, Any]) -> None:
    """One Ray Train worker: takes tasks from the board, together with the other ranks of its run."""
    settings: RunSettings = config["settings"]
    context = train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size())
    board, run = config["board"], config["run"]
    ray.get(board.join.remote(run, config["group"], ray.get_runtime_context().get_node_id()))
    when_told_to_end(lambda: board.leave.remote(run))
    keep_freed_memory()
    exact_numerics()
    manifest()  # now, before anyone edits the code that is running
    torch.set_num_threads(max(1, int(settings.cpus)))
    line = BoardLine(board, run, ranks)
    store = Store.existing(settings.store)
    do = settings.do or _one
    while (task := line.next()) is not None and do(task, settings, store, line, ranks):
        pass


def _one(task: Task, settings: RunSettings, store: Store, line: BoardLine, ranks: Ranks) -> bool:
    """Trains and stores one task; False when the study is being stopped."""
    training = Training(task, settings.study, settings.budget, store, ranks, get_device())
    with _log_file(store, task.spec.trial_id, ranks) as log:
        training.log_path = log
        try:
            if task.error:
                raise RuntimeError(task.error)
            stored = ranks.share(lambda: training.stored())
            if stored is not None and training.evaluate_stored(lambda: _data(task.spec, settings.data_root)):
                line.replay(store, task)
                return True
            ended = training.run(_data(task.spec, settings.data_root), line)
        except StoreTrouble as error:  # not the training's fault, and every other would meet it too
            logging.getLogger("denoise").error("%s", error)
            line.trouble(str(error))
            if ranks.world > 1:
                raise
            return False
        except ray.exceptions.RayError:  # the board is gone, and with it the study
            logging.getLogger("denoise").exception("the cluster is gone; the same command goes on")
            raise
        except Exception as error:
            logging.getLogger("denoise").exception("the training failed")
            message = str(error) if task.error else f"{type(error).__name__}: {error}"
            if ranks.world > 1 and not task.error:
                # the other ranks wait in a collective operation: only the end of the run frees them
                if not _lost_a_rank(error):
                    line.crashed(message)
                raise
            training.store_failure(message)
            line.finish(FAILED, broken=training.chain.broken(message))
            return True
        finally:
            training.release()
        if ended is Ended.STOPPED:
            line.stopped()
            return False
        if ended is Ended.WAITING:
            line.postpone()
            return True
        line.finish(DONE if ended is Ended.DONE else PRUNED, training.progress.measured)
        return True


def _lost_a_rank(error: Exception) -> bool:
    """Whether this rank only suffers from another one's end, which says nothing of the training itself."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "Connection", "NCCL"))


class BoardLine:
    """A worker's line to the board. Rank 0 talks, the other ranks hear what it heard."""

    def __init__(self, board: Any, run: str, ranks: Ranks):
        self._board, self._run, self._ranks = board, run, ranks

    def next(self) -> Task | None:
        """The next task, the same on every rank."""
        return self._ranks.share(lambda: self._call("next"))  # type: ignore[no-any-return]

    def report(self, step: int, rung: int | None = None, value: float | None = None) -> str:
        """Reports and answers ``go``, ``stop`` or ``prune``, the same on every rank.

        Without a board, as when the cluster's head or the driver is gone, it is ``stop``: the training saves.
        """

        def ask() -> str:
            try:
                return str(self._call("report", step, rung, value))
            except ray.exceptions.RayError as error:
                logging.getLogger("denoise").warning("the board is gone (%s): stopping", type(error).__name__)
                return "stop"

        return str(self._ranks.share(ask))

    def finish(
        self,
        status: str,
        measured: Mapping[str, float] = MappingProxyType({}),
        broken: tuple[str, str] | None = None,
    ) -> None:
        """The task ended; see Board.finish."""
        if self._ranks.rank == 0:
            self._call("finish", status, dict(measured), broken)

    def postpone(self) -> None:
        """The task needs what somebody else is training."""
        if self._ranks.rank == 0:
            self._call("postpone")

    def stopped(self) -> None:
        """The task was stopped."""
        if self._ranks.rank == 0:
            with suppress(ray.exceptions.RayError):
                self._call("stopped")

    def trouble(self, sentence: str) -> None:
        """Nothing can go on."""
        ray.get(self._board.trouble.remote(sentence))

    def note(self, sentence: str) -> None:
        """Something that a person should know."""
        ray.get(self._board.note.remote(sentence))

    def crashed(self, error: str) -> None:
        """The task raised on this rank."""
        self._call("crashed", error)

    def replay(self, store: Store, task: Task) -> None:
        """Tells the board what is stored of a training that was finished before."""
        if self._ranks.rank == 0:
            rungs = rung_steps(task.spec.steps)
            curves = store.read("curves", [task.spec.trial_id]).to_pylist()
            for step, value in at_rungs(curves, rungs, task.objectives):
                self._call("report", step, rungs[step], value)
            self._call("finish", DONE, last_measured(curves))

    def _call(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self._board, method).remote(self._run, *arguments))


@lru_cache(maxsize=4)
def _images(data: DataSpec, root: str | None) -> LoadedData:
    """The images of a specification, read once per worker process."""
    return load_data(data, Path(root) if root else None)


def _data(spec: TrialSpec, root: str | None) -> LoadedData:
    """The trial's images, and no others. Raises UserError."""
    data = _images(spec.data, root)
    if data.contents != spec.contents:
        raise UserError(
            f"The images on {os.uname().nodename} are not those that the study was planned with: give every node the "
            "same files, do not change them during a study, and start it again."
        )
    return data


@contextmanager
def _log_file(store: Store, trial_id: str, ranks: Ranks) -> Iterator[str]:
    """Sends the training's log to ``<store>/logs/<trial>.log`` (to a local folder where the store is remote)."""
    folder = (store.local or Path.home() / ".denoise-studies") / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{trial_id}{f'-rank{ranks.rank}' if ranks.rank else ''}.log"
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("denoise")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.info("process %d on %s", os.getpid(), os.uname().nodename)
    try:
        yield str(path)
    finally:
        logger.removeHandler(handler)
        handler.close()
