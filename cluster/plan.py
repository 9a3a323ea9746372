"""What a study needs, what the store already holds, what is left, and what it will cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from cluster.execution.board import Task
from cluster.results.schema import DONE, FAILED, PRUNED, TABLES
from cluster.results.store import Store
from cluster.study import Study
from denoise_core.config import explain
from denoise_core.errors import UserError, nearest
from denoise_core.method import Recipe, method_class
from denoise_core.noise.models import RECORDED
from denoise_core.specification import EVALUATION_FIELDS, DataSpec, Link, TrialSpec, specify

CELL, REFERENCE = "cell", "reference"
TRAINED = "trained"
ROW = tuple(name for name in TABLES["trials"].names if not name.endswith(("_json", "_at")))
"""What a plan keeps of a stored trial: the rest takes ten times as long to read, and says what the plan knows."""


@dataclass(frozen=True)
class PlannedTrial:
    """One training of a study. ``cell`` holds the axes' values (empty for a reference), ``label`` names it."""

    spec: TrialSpec
    role: str
    label: str
    cell: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """The trials of a study and what the store holds of them: rows by trial id, and the ids of evaluations and phases.

    Trials that differ in inference-time values only are one training with several evaluations.
    """

    trials: Sequence[PlannedTrial]
    stored: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    evaluated: frozenset[str] = frozenset()
    phases: frozenset[str] = frozenset()

    @cached_property
    def left(self) -> list[PlannedTrial]:
        """What is not done yet; failed trials are tried again."""
        return [one for one in self.trials if self.status(one) != DONE]

    @cached_property
    def trainings(self) -> dict[str, list[PlannedTrial]]:
        """The trials by their training, the id of which is the key."""
        return grouped(self.trials)

    @cached_property
    def trainings_left(self) -> dict[str, list[PlannedTrial]]:
        """Trainings with anything left to do, with what is left of each."""
        return grouped(self.left)

    def status(self, trial: PlannedTrial) -> str:
        """``done``, ``pruned``, ``failed``, ``trained`` (but not evaluated with its values) or ``missing``."""
        row = self.stored.get(trial.spec.trial_id)
        if row is None:
            return "missing"
        return (
            TRAINED if row["status"] == DONE and trial.spec.evaluation_id not in self.evaluated else str(row["status"])
        )

    def without_given_up(self) -> Plan:
        """Without the seeds that a search never trained, because an earlier seed was pruned or failed."""
        ended = {one.spec.group_id for one in self.trials if self.status(one) in (PRUNED, FAILED)}
        kept = [one for one in self.trials if self.status(one) != "missing" or one.spec.group_id not in ended]
        return replace(self, trials=kept)

    def read(self, store: Store) -> Plan:
        """The same plan against the store as it is now."""
        stored = store.trials((one.spec.trial_id for one in self.trials), ROW)
        known = [frozenset(store.names(table)) for table in ("measurements", "phases")]
        return replace(self, stored=stored, evaluated=known[0], phases=known[1])

    def to_train(self, trial: PlannedTrial) -> list[Link]:
        """The phases that are not stored, of a training that is not done."""
        if self.status(trial) in (DONE, TRAINED):
            return []
        kept = [number for number, link in enumerate(trial.spec.links, 1) if link.phase_id in self.phases]
        return list(trial.spec.links[max(kept, default=0) :])


def grouped(trials: Sequence[PlannedTrial]) -> dict[str, list[PlannedTrial]]:
    """Trials by their training."""
    groups: dict[str, list[PlannedTrial]] = {}
    for one in trials:
        groups.setdefault(one.spec.trial_id, []).append(one)
    return groups


@dataclass(frozen=True)
class DataInUse:
    """A DataSpec with the contents of its images: all that planning needs, small enough to send anywhere."""

    spec: DataSpec
    contents: tuple[tuple[str, str], ...]


class Planner:
    """Makes the trials of a study from its axes, the command line's settings and the images."""

    def __init__(self, study: Study, recipe: Recipe, settings: Mapping[str, Any], data: Sequence[DataInUse]):
        self.study, self.recipe, self.data = study, recipe, data
        self.settings = settings
        self._grids: dict[tuple[int, ...], list[PlannedTrial]] = {}
        self._references = {name: method_class(name) for name in (*study.references, *study.baselines)}
        known = {**method_class(study.method).Config.model_fields, **DataSpec.model_fields}
        usual = (study.base, *study.by_noise.values())
        given = [*settings, *(name for values in usual for name in values)]
        for name in (*(one for axis in study.axes for one in axis.names), *given):
            if name not in known:
                raise UserError(f"{study.method} has no parameter '{name}': {nearest(name, known)}.")

    def grid(self, seeds: Sequence[int]) -> list[PlannedTrial]:
        """Every cell and reference with every seed; the same list where it was made before."""
        if tuple(seeds) not in self._grids:
            planned = []
            for data in self.data:
                first = [self.trial(cell, data, seeds[0]) for cell in self.study.cells()]
                first += [self._reference(reference, data, seeds[0]) for reference in self._references]
                planned += [_with_seed(one, seed) for one in first for seed in seeds]
            # 2 and 2.0 are one setting
            self._grids[tuple(seeds)] = list({one.spec.evaluation_id: one for one in planned}.values())
        return self._grids[tuple(seeds)]

    def trial(self, cell: Mapping[str, Any], data: DataInUse, seed: int) -> PlannedTrial:
        """One cell with one seed."""
        fields = {name: value for name, value in cell.items() if name in DataSpec.model_fields}
        chosen = {name: value for name, value in cell.items() if name not in fields}
        values = {**self._settings(data), **chosen}
        spec = specify(self.study.method, values, with_fields(data.spec, fields), data.contents, self.recipe, seed)
        # the configuration's own form of a value (2.0 for 2) is what reports and tables compare
        shown = {name: spec.config.get(name, value) for name, value in cell.items()}
        return PlannedTrial(spec, CELL, ", ".join(f"{name} = {show(value)}" for name, value in shown.items()), shown)

    def _settings(self, data: DataInUse) -> dict[str, Any]:
        return {**self.study.settings_for(data.spec.noise), **self.settings}

    def _reference(self, name: str, data: DataInUse, seed: int) -> PlannedTrial:
        method = self._references[name]
        known = method.Config.model_fields
        recipe = replace(self.recipe, config={key: one for key, one in self.recipe.config.items() if key in known})
        values = {key: value for key, value in self._settings(data).items() if key in known}
        spec = specify(name, values, data.spec, data.contents, recipe, seed)
        return PlannedTrial(spec, REFERENCE, method.title, {})


def _with_seed(trial: PlannedTrial, seed: int) -> PlannedTrial:
    """The same setting: its values were checked once."""
    return trial if trial.spec.seed == seed else replace(trial, spec=trial.spec.with_seed(seed))


def with_fields(spec: DataSpec, fields: Mapping[str, Any]) -> DataSpec:
    """The same images under a data field that an axis varies. Raises UserError."""
    if not fields:
        return spec
    unsuitable = set(fields) - {"noise_realisation", *EVALUATION_FIELDS}
    if unsuitable:
        raise UserError(
            f"An axis cannot vary {unsuitable.pop()}: of the data only noise_realisation and "
            f"{', '.join(EVALUATION_FIELDS)} can be an axis; use --train, --test and --noise for the others."
        )
    return change(spec, fields)


def change(spec: DataSpec, fields: Mapping[str, Any]) -> DataSpec:
    """``spec`` with other values; with recorded noise frozen, unless told otherwise. Raises UserError."""
    if fields.get("noise") == RECORDED:
        fields = {"noise_realisation": "frozen", **fields}
    try:
        return DataSpec.model_validate({**spec.model_dump(), **fields})
    except ValidationError as error:
        raise UserError(explain(error, DataSpec, "The data")) from None


def task_of(trials: Sequence[PlannedTrial]) -> Task:
    """What the board hands out: one training with the evaluations of all ``trials``, which share it."""
    first = trials[0]
    label = training_label(first) if len(trials) > 1 else first.label
    label += f", {len(trials)} evaluations" if len(trials) > 1 else ""
    evaluations = tuple(one.spec.params for one in trials)
    return Task(first.spec, f"{label}, {first.spec.data.noise}", evaluations, reference=first.role == REFERENCE)


def training_label(trial: PlannedTrial) -> str:
    """What names a training, whatever is chosen at inference."""
    values = [f"{name} = {show(value)}" for name, value in trial.cell.items() if name not in trial.spec.params]
    return ", ".join(values) or method_class(trial.spec.method).title


def show(value: Any) -> str:
    """A value as a person writes it: 2 for 2.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)
