"""One training from its specification to its rows in the store, resumable at any moment. Knows nothing of Ray."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Protocol

import torch
import torch.distributed as dist

from cluster.execution.board import Task
from cluster.execution.chain import Chain
from cluster.execution.checkpoints import CheckpointFolder
from cluster.execution.progress import VALIDATED, Progress, at_rungs, judged
from cluster.results.manifest import write_manifest
from cluster.results.schema import DONE, FAILED, PRUNED
from cluster.results.store import Evaluated, Store
from cluster.watching.events import FOLDER as EVENTS
from cluster.watching.events import Events, events_folder
from denoise_core.diagnostics import Diagnostic, rows
from denoise_core.errors import TrainingDiverged
from denoise_core.evaluation import Evaluation, evaluate, validation
from denoise_core.memory import peak_memory_mb
from denoise_core.method import Method, Recipe, create, method_class
from denoise_core.metrics.kinds import METRICS
from denoise_core.specification import LoadedData, TrialSpec, evaluation_id, params_json
from denoise_core.trainer import Ranks, Trainer, load_kept, place

RUNGS = (0.25, 0.5, 0.75, 1.0)
"""Where in a training the validation images are measured, and a search may prune (all but the first)."""
VALIDATED_A_STEP = 128
"""Pixels that are measured at a rung for each step of the recipe. More of large images would take a good part of a
short training's time; the settings of a study have the same steps, so all are measured on the same pixels."""
CHECKPOINT_S = 20.0
"""Seconds between checkpoints: what a killed machine loses at most."""
REPORT_S = 1.0
CURVE_POINTS = 100
SHARED_EVERY = 10
"""Steps between the ranks' agreements on stopping, where several train together."""

log = logging.getLogger("denoise")


def rung_steps(steps: int) -> dict[int, int]:
    """The rungs of a training of so many steps: step -> number of the rung."""
    return {max(1, round(part * steps)): rung for rung, part in enumerate(RUNGS)}


def validated_pixels(recipe: Recipe) -> int:
    """How many pixels of the validation images a training measures at a rung, at most."""
    return VALIDATED_A_STEP * recipe.steps


class ObjectiveMissing(RuntimeError):
    """A search chooses by what the training does not measure. It is recorded as failed with this message."""


class Ended(Enum):
    """How a training ended."""

    DONE, PRUNED, STOPPED, WAITING = "done", "pruned", "stopped", "waiting"


class Line(Protocol):
    """What a training tells and hears; see BoardLine."""

    def report(self, step: int, rung: int | None = None, value: float | None = None) -> str:
        """Answers ``go``, ``stop`` or ``prune``."""

    def note(self, sentence: str) -> None:
        """Tells a person something."""


class Training:
    """Runs one task: restore, train with rungs and checkpoints, evaluate, store."""

    def __init__(self, task: Task, study: str, budget: str, store: Store, ranks: Ranks, device: torch.device):
        self.task, self.spec, self.study, self.budget = task, task.spec, study, budget
        self.store, self.ranks, self.device = store, ranks, device
        self.chain = Chain(self.spec, study, store, ranks)
        self.log_path = ""
        self.progress = Progress()
        self._started, self._began = datetime.now(UTC), time.perf_counter()
        self._parameters = 0
        self._last_phase = ""
        self._trainer: Trainer | None = None
        self._events: Events | None = None

    def run(self, data: LoadedData, line: Line) -> Ended:
        """Trains and stores. Raises whatever goes wrong."""
        spec = self.spec
        log.info("%s, seed %d, %s, %s", spec.method, spec.seed, dict(spec.config), spec.data)
        method = create(spec.method, spec.config, spec.data.channels, spec.seed)
        # validation must not depend on which evaluations this training happens to be asked for
        method.reconfigure(usual_params(spec))
        self._parameters = sum(parameter.numel() for parameter in method.parameters())
        self._last_phase = method.phases()[-1].name
        trainer = Trainer(method, data.source(spec.seed, self.device), spec.recipe, spec.seed, self.device, self.ranks)
        self._trainer = trainer
        if not self._advance(trainer):
            return Ended.WAITING
        self._restore(trainer)
        ended = self._train(trainer, data, line)
        if ended is Ended.STOPPED:
            self._save(trainer, line)
        if ended in (Ended.STOPPED, Ended.WAITING):
            return ended
        evaluations: list[Evaluation] = []
        diagnostics: Sequence[Diagnostic] = ()
        if ended is Ended.DONE:
            self._check_objectives(trainer)
            started = time.perf_counter()
            evaluations = [self._evaluate(method, data, params) for params in self.task.evaluations]
            diagnostics = method.diagnose(trainer.source) if self.ranks.rank == 0 else ()
            self.progress.eval_s += time.perf_counter() - started
        if self.ranks.rank == 0:
            self._store(DONE if ended is Ended.DONE else PRUNED, evaluations=evaluations, diagnostics=diagnostics)
            self.chain.folder.remove()
        spent = self.progress
        log.info("%s after %.1f s of training and %.1f s of evaluation", ended.value, spent.train_s, spent.eval_s)
        return ended

    def stored(self) -> dict[str, Any] | None:
        """The trial's row where it is done already, by this study or another."""
        row = self.store.trials([self.spec.trial_id]).get(self.spec.trial_id)
        return row if row is not None and row["status"] == DONE else None

    def evaluate_stored(self, data: Callable[[], LoadedData]) -> bool:
        """Makes the evaluations that a stored trial still lacks, from its weights. False where these are lost."""
        present = set(self.ranks.share(lambda: self.store.names("measurements")))
        missing = [one for one in self.task.evaluations if self._evaluation_id(one) not in present]
        if not missing:
            return True
        folder = CheckpointFolder(self.store, self.spec.links[-1].phase_id)
        weights = self.ranks.share(folder.kept_weights)
        if weights is None:
            return False
        method = create(self.spec.method, self.spec.config, self.spec.data.channels, self.spec.seed)
        self._last_phase = method.phases()[-1].name
        try:
            load_kept(method, method.phases()[-1], weights)
        except ValueError as error:  # of an older version of the code
            log.warning(
                "the stored weights do not fit the method (%s): it is trained again", str(error).splitlines()[0]
            )
            return False
        place(method, self.spec.recipe, self.device)
        for params in missing:
            evaluation = self._evaluate(method, data(), params)
            if self.ranks.rank == 0:
                self.store.write_evaluation(*self._rows(params, evaluation))
        return True

    def store_failure(self, error: str) -> None:
        """Records the task as failed, unless it is done."""
        if self.ranks.rank == 0 and self.stored() is None:
            self._store(FAILED, error=error)

    def release(self) -> None:
        """Frees memory, and what others wait for, before the next training of the same process."""
        self.chain.release()
        self._trainer = None
        if self._events is not None:
            self._events.close()
            self._events = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    # ---- private ----

    def _advance(self, trainer: Trainer) -> bool:
        """Takes up the phases that are stored; False where the next one is in another training's work."""
        records = self.chain.advance(trainer)
        self.progress.take_up(records or (), self.spec.trial_id)
        return records is not None

    def _train(self, trainer: Trainer, data: LoadedData, line: Line) -> Ended:
        rungs = rung_steps(trainer.steps)
        ends = {stretch.last for stretch in trainer.stretches} if self.chain.shares else {trainer.steps}
        order = self._replay(line, rungs, 0)
        every = max(1, trainer.steps // CURVE_POINTS)
        saved = told = lap = time.perf_counter()
        for step in trainer.run() if order == "go" else ():
            if step % every == 0 or step == trainer.steps:
                self._point(step, trainer.logs())
            order, now = "go", time.perf_counter()
            if step in rungs or step in ends:
                self.progress.spend(now - lap)
                order = self._rung(trainer, data, line, step, rungs.get(step))
                lap = told = time.perf_counter()
            elif self._time_to_tell(step, now - told):
                if self.ranks.share(lambda: self.chain.lost):
                    return Ended.WAITING  # it is trained once: by whoever took it over
                order, told = line.report(step), now
            if step in ends:
                self._keep(trainer)
                if not trainer.finished:
                    points = len(self.progress.curves)
                    if not self._advance(trainer):
                        return Ended.WAITING
                    self._restore(trainer)
                    if len(self.progress.curves) > points and order == "go":
                        order = self._replay(line, rungs, points)
                lap = time.perf_counter()
            if order != "go" and not trainer.finished:
                self.progress.spend(time.perf_counter() - lap)
                break
            if time.perf_counter() - saved > CHECKPOINT_S and not trainer.finished:
                self.progress.spend(time.perf_counter() - lap)
                self._save(trainer, line)
                saved = lap = time.perf_counter()
        if trainer.finished:
            return Ended.DONE
        return Ended.STOPPED if order == "stop" else Ended.PRUNED

    def _keep(self, trainer: Trainer) -> None:
        """Stores the phase that has just ended."""
        trainer.logs()  # a last look for NaN
        trainer.synchronise_buffers()
        self.chain.keep(trainer, self.progress.of_phase())

    def _replay(self, line: Line, rungs: Mapping[int, int], first: int) -> str:
        """Tells the rungs that were measured before this run of the training: a new board has not heard of them."""
        order = "go"
        for step, value in at_rungs(self.progress.curves[first:], rungs, self.task.objectives):
            if order == "go":
                order = line.report(step, rungs[step], value)
        return order

    def _time_to_tell(self, step: int, silent_s: float) -> bool:
        if self.ranks.world > 1:  # all ranks must agree on when to talk, so it cannot be the clock
            return step % SHARED_EVERY == 0
        return silent_s > REPORT_S

    def _rung(self, trainer: Trainer, data: LoadedData, line: Line, step: int, rung: int | None) -> str:
        """Measures the validation images; without a ``rung`` (a phase's end) nothing is told that may prune."""
        if data.validation is None:
            return line.report(step)
        started = time.perf_counter()
        trainer.synchronise_buffers()
        pixels = validated_pixels(self.spec.recipe)
        values = validation(trainer.method, data, self.device, pixels, last=step == trainer.steps)
        value = judged(values, self.task.objectives)
        if value != value:
            raise TrainingDiverged(
                f"what is measured on validation images became NaN at step {step} of {trainer.steps}"
            )
        self.progress.eval_s += time.perf_counter() - started
        self._point(step, {f"{VALIDATED}{name}": one for name, one in values.items()})
        return line.report(step) if rung is None or value is None else line.report(step, rung, value)

    def _check_objectives(self, trainer: Trainer) -> None:
        """Raises where a search could not compare this training by all its objectives.

        At the end, as only the last values count, and when no phase that others may need is in work any more.
        """
        measured = self.progress.measured
        for name in self.task.objectives:
            what = f"the validation {METRICS[name].title}"
            if name not in measured:
                if name == "akld" and not trainer.method.draws:
                    reason = "the method generates no noise with these settings; leave them out with --set"
                else:
                    reason = "the method does not measure it on validation images"
                raise ObjectiveMissing(f"{what} is missing: {reason}")
            value = measured[name]
            if not math.isfinite(value):
                became = "NaN" if math.isnan(value) else "infinite"
                raise TrainingDiverged(f"{what} became {became} at step {trainer.steps} of {trainer.steps}")

    def _evaluate(self, method: Method, data: LoadedData, params: Mapping[str, Any]) -> Evaluation:
        mine = evaluate(method, data, self.device, self.ranks, params)
        if self.ranks.world == 1:
            return mine
        parts: list[Any] = [None] * self.ranks.world
        dist.all_gather_object(parts, mine)
        return Evaluation(
            [row for one in parts for row in one.measurements], [row for one in parts for row in one.previews]
        )

    def _point(self, step: int, values: Mapping[str, float]) -> None:
        phase = self._phase(step)
        if self._events is None and self.store.local is not None and self.ranks.rank == 0:
            label = f"{self.task.label}, seed {self.spec.seed}"
            folder = events_folder(self.store.local / EVENTS, self.study, label, self.spec.trial_id)
            self._events = Events(folder, step)
        if self._events is not None:
            self._events.add(step, values)
        self.progress.point(phase, step, values)

    def _phase(self, step: int) -> str:
        assert self._trainer is not None
        return next(one.phase.name for one in self._trainer.stretches if step <= one.last)

    def _save(self, trainer: Trainer, line: Line) -> None:
        """Saves a checkpoint. Without one a training can go on, so a full disk is only told."""
        if self.ranks.rank != 0 or self.chain.lost:
            return
        try:
            self.chain.folder.save(trainer.checkpoint(), self.progress.so_far())
        except OSError as error:
            log.warning("no checkpoint at step %d: %s", trainer.step, error)
            line.note(f"A checkpoint could not be written; the training goes on without it. {error}")

    def _restore(self, trainer: Trainer) -> None:
        found = None if self.chain.complete else self.ranks.share(self.chain.folder.load)
        if found is None:
            return
        try:
            trainer.restore(found)
        except ValueError as error:  # of an older version of the code
            log.warning("the checkpoint does not fit (%s): the phase begins anew", error)
            return
        self.progress.resume(found.state["run"])
        log.info("goes on at step %d of %d", trainer.step, trainer.steps)

    def _store(
        self,
        status: str,
        error: str = "",
        evaluations: Sequence[Evaluation] = (),
        diagnostics: Sequence[Diagnostic] = (),
    ) -> None:
        curves = [{"trial_id": self.spec.trial_id, **row} for row in self.progress.curves]
        pairs = zip(self.task.evaluations, evaluations, strict=False)  # none unless the trial is done
        evaluated = dict(self._rows(params, one) for params, one in pairs)
        self.store.write_trial(self._row(status, error), curves, evaluated, rows(self.spec.trial_id, diagnostics))

    def _evaluation_id(self, params: Mapping[str, Any]) -> str:
        return evaluation_id(self.spec.trial_id, params)

    def _rows(self, params: Mapping[str, Any], evaluation: Evaluation) -> tuple[str, Evaluated]:
        """The id and the rows of an evaluation."""
        name = {"trial_id": self.spec.trial_id, "params_json": params_json(params)}
        measured = [{**name, "phase": self._last_phase, **asdict(row)} for row in evaluation.measurements]
        return self._evaluation_id(params), (measured, [{**name, **asdict(row)} for row in evaluation.previews])

    def _row(self, status: str, error: str) -> dict[str, Any]:
        spec = self.spec
        return {
            "trial_id": spec.trial_id,
            "group_id": spec.group_id,
            "study": self.study,
            "method": spec.method,
            "method_version": method_class(spec.method).version,
            "config_json": json.dumps(dict(spec.config), sort_keys=True),
            "data_json": spec.data.model_dump_json(),
            "recipe_json": json.dumps({**asdict(spec.recipe), "config": dict(spec.recipe.config)}),
            "seed": spec.seed,
            "budget": self.budget,
            "status": status,
            "error": error,
            "log_path": self.log_path,
            "objective": judged(self.progress.measured),
            "steps": self._trainer.step if self._trainer else 0,
            "total_steps": spec.steps,
            "parameters": self._parameters,
            "workers": self.ranks.world,
            "device": _device_name(self.device),
            "train_s": self.progress.train_s,
            "shared_s": self.progress.shared_s,
            "eval_s": self.progress.eval_s,
            "wall_s": time.perf_counter() - self._began,
            "peak_memory_mb": peak_memory_mb(),
            "attempts": self.task.attempt,
            "started_at": self._started,
            "finished_at": datetime.now(UTC),
            "manifest_id": write_manifest(self.store),
        }


def usual_params(spec: TrialSpec) -> dict[str, Any]:
    """The method's inference-time values of this budget, whatever the trial asks for."""
    kind = method_class(spec.method).Config
    usual = kind.build(
        {name: one for name, one in spec.recipe.config.items() if name in kind.model_fields}, spec.method
    )
    return {name: getattr(usual, name) for name in kind.inference_names()}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
