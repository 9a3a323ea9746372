"""What the store knows of a search: which settings were suggested, how they ended, what can be started from."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
from optuna.trial import TrialState

from cluster.cli import Options
from cluster.execution.one_training import RUNGS, rung_steps
from cluster.execution.progress import VALIDATED, at_rungs, last_measured
from cluster.execution.suggestions import Outcome, SearchSettings, fits, means, settings_in
from cluster.plan import DataInUse, Plan, PlannedTrial, Planner
from cluster.results.schema import DONE, FAILED, PRUNED
from cluster.results.store import Store
from cluster.study import Axis, Study
from denoise_core.config import Search, choice
from denoise_core.errors import UserError, nearest
from denoise_core.method import method_class
from denoise_core.metrics.clean_free import criteria
from denoise_core.metrics.kinds import METRICS
from denoise_core.specification import EVALUATION_FIELDS, DataSpec

OF_OTHERS = ("trial_id", "group_id", "method", "status", "seed", "data_json", "config_json")
"""What is asked of every trial of the store."""


def search_settings(study: Study, planner: Planner, data: DataInUse, options: Options, store: Store) -> SearchSettings:
    """The space, the seeds and the identity of a search. Raises UserError."""
    if not any(role.startswith("validation ") for role, _ in data.contents):
        remedy = "add --set validation=12 (a number of training images)"
        if data.spec.validation:  # of recorded images without clean versions, of which none can be set aside
            remedy = "add --criterion auto, or pairs with --set validation_set=... (a folder with noisy and gt)"
        raise UserError(f"A search chooses settings on images set aside from training, and none are: {remedy}.")
    space = dict(_space(study, one) for one in (study.search or study.axes))
    for name in set(space) & {*method_class(study.method).Config.inference_names(), *EVALUATION_FIELDS}:
        raise UserError(
            f"{name} acts at inference only, so one training serves all its values and there is nothing to search: "
            f"leave --search out, and give other values with --set {name}=... if you like."
        )
    for name, values in options.settings.items():
        if name in space:  # --set narrows what is searched
            space[name] = choice(*values)
    # what would be trained, without what is searched: the same question has the same identity
    base = planner.trial({}, data, 0).spec
    config = {name: value for name, value in base.config.items() if name not in space}
    asked = [base.method, config, base.data.model_dump(mode="json"), base.contents, base.recipe.steps, options.seeds]
    spaces = {name: [one.kind, one.low, one.high, list(one.choices)] for name, one in space.items()}
    objectives = _objectives(study)
    more = [objectives] if objectives != ("psnr",) else []  # which leaves searches their names of before
    text = json.dumps([*asked, spaces, *more], sort_keys=True)
    search_id = hashlib.sha256(text.encode()).hexdigest()[:12]
    journal = str(store.local / "optuna" / f"{study.name}-{search_id}.journal") if store.local else None
    most = settings_in(space)
    trials = options.trials if most is None else min(options.trials, most)
    return SearchSettings(search_id, study.name, space, trials, options.seeds, len(RUNGS), journal, objectives)


def _objectives(study: Study) -> tuple[str, ...]:
    """What a search of the study chooses by. Raises UserError."""
    names = tuple(study.objectives)
    for name in names:
        if name not in METRICS:
            raise UserError(f"{study.name} has no metric '{name}' to choose by: {nearest(name, METRICS)}.")
    if len(set(names)) < len(names):
        raise UserError(f"The objectives {', '.join(names)} of {study.name} name a metric twice: leave one out.")
    if len(names) < 2 and names != ("psnr",) and not set(names) & set(criteria()):
        given = names[0] if names else "nothing"
        raise UserError(f"{study.name} chooses by {given} alone: a single objective is psnr, so name psnr as well.")
    return names


def suggested(store: Store, settings: SearchSettings) -> list[tuple[int, dict[str, Any]]]:
    """(number, parameters) of everything that this search has asked for, in order."""
    names = [name for name in store.names("suggestions") if name.startswith(f"{settings.search_id}-")]
    rows = store.read("suggestions", names).to_pylist()
    return sorted(((row["number"], json.loads(row["params_json"])) for row in rows), key=lambda one: one[0])


def known_outcomes(
    store: Store, settings: SearchSettings, planner: Planner, data: DataInUse, plan: Plan
) -> list[Outcome]:
    """The search's own suggestions as far as they went, and settings that other studies left in the store."""
    asked = [
        (number, params, [planner.trial(params, data, seed) for seed in settings.seeds])
        for number, params in suggested(store, settings)
    ]
    groups = {trials[0].spec.group_id for _, _, trials in asked}
    others = _others(store, settings, planner, data, groups)
    ids = [one.spec.trial_id for _, _, trials in asked for one in trials]
    measured = _Measured(store, settings, [*ids, *(row["trial_id"] for _, rows in others for row in rows)])
    again = _pruned_otherwise(store, settings, [one for one in ids if plan.stored.get(one, {}).get("status") == PRUNED])
    outcomes = [_own(measured, plan, again, number, params, trials) for number, params, trials in asked]
    return outcomes + [one for params, rows in others if (one := _finished(measured, params, rows)) is not None]


class _Measured:
    """What trainings measured on validation images, read together: one by one they would take as long as all."""

    def __init__(self, store: Store, settings: SearchSettings, ids: Sequence[str]):
        self.settings = settings
        self._steps = {one: row["total_steps"] for one, row in store.trials(ids, ["total_steps"]).items()}
        self._curves: dict[str, list[dict[str, Any]]] = defaultdict(list)
        rows = store.read("curves", ids, ["trial_id", "step", "name", "value"])
        for row in rows.filter(pc.starts_with(rows["name"], VALIDATED)).to_pylist():
            self._curves[row["trial_id"]].append(row)

    def values(self, ids: Sequence[str]) -> list[tuple[float, ...] | None]:
        """The objectives' last values of each training; None where not all are numbers."""
        return [self.settings.values(last_measured(self._curves[one])) for one in ids]

    def rungs(self, ids: Sequence[str]) -> dict[int, float]:
        """What the trainings of one suggestion measured, by number of the rung over all of them."""
        found = {}
        for index, one in enumerate(ids):
            places = rung_steps(self._steps[one]) if one in self._steps else {}
            for step, value in at_rungs(self._curves[one], places, self.settings.objectives):
                found[index * self.settings.rungs + places[step]] = value
        return found


def _pruned_otherwise(store: Store, settings: SearchSettings, ids: Sequence[str]) -> set[str]:
    """Which of these trainings were pruned by a search for something else: this one trains them to their end."""
    rows = store.trials(ids, ["data_json"])
    by = {one: tuple(json.loads(row["data_json"]).get("criteria") or ("psnr",)) for one, row in rows.items()}
    return {one for one in ids if by.get(one) != settings.objectives}


def _own(
    measured: _Measured,
    plan: Plan,
    again: Container[str],
    number: int,
    params: Mapping[str, Any],
    trials: Sequence[PlannedTrial],
) -> Outcome:
    ids = [one.spec.trial_id for one in trials]
    statuses = [plan.stored.get(one, {}).get("status") if one not in again else None for one in ids]
    rungs = {} if measured.settings.several else measured.rungs(ids)
    if PRUNED in statuses:
        return Outcome(number, params, TrialState.PRUNED, rungs=rungs)
    values = measured.values([one for one, status in zip(ids, statuses, strict=True) if status == DONE])
    if FAILED in statuses or None in values:
        return Outcome(number, params, TrialState.FAIL)
    if all(plan.status(one) == DONE for one in trials):  # a lost evaluation is made again
        return Outcome(number, params, TrialState.COMPLETE, means([one for one in values if one]), rungs)
    return Outcome(number, params, TrialState.WAITING)


def _others(
    store: Store, settings: SearchSettings, planner: Planner, data: DataInUse, own: set[str]
) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Finished settings of other studies that this search could have suggested itself, with their trials by seed."""
    base = planner.trial({}, data, 0).spec
    by_group: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in store.read("trials", store.names("trials"), OF_OTHERS).to_pylist():
        if row["method"] == base.method and row["status"] == DONE and row["seed"] in settings.seeds:
            by_group[row["group_id"]].append(row)
    found = []
    for group, rows in sorted(by_group.items()):
        values = {**json.loads(rows[0]["data_json"]), **json.loads(rows[0]["config_json"])}
        params = {name: values.get(name) for name in settings.space}
        if group in own or len(rows) < len(settings.seeds) or not fits(params, settings.space):
            continue
        if planner.trial(params, data, 0).spec.group_id == group:  # nothing but the searched parameters differs
            found.append((params, sorted(rows, key=lambda row: int(row["seed"]))))
    return found


def _finished(measured: _Measured, params: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Outcome | None:
    """A setting of another study as a starting point; None where an objective was not measured."""
    ids = [row["trial_id"] for row in rows]
    seeds = measured.values(ids)
    if None in seeds:
        return None
    rungs = {} if measured.settings.several else measured.rungs(ids)
    return Outcome(None, params, TrialState.COMPLETE, means([one for one in seeds if one]), rungs)


def _space(study: Study, one: str | Axis) -> tuple[str, Search]:
    if isinstance(one, Axis):
        if len(one.names) > 1:
            raise UserError(
                f"The joint axis {', '.join(one.names)} cannot be searched: name its parameters in `search`."
            )
        return one.names[0], one.space or choice(*(value[0] for value in one.values))
    axis = next((axis for axis in study.axes if axis.names == (one,)), None)
    if one in DataSpec.model_fields:
        return one, choice(*(value[0] for value in axis.values)) if axis else choice("fresh", "frozen")
    declared = method_class(study.method).Config.search_space(one)
    if declared is None and axis is not None:
        declared = axis.space or choice(*(value[0] for value in axis.values))
    if declared is None:
        raise UserError(f"{study.method}.{one} declares no search space: give the study an axis for it with a space.")
    return one, declared
