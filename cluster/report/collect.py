"""Gathers a study's rows from the store into the plain input of a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pandas as pd

from cluster.execution.progress import VALIDATED
from cluster.plan import CELL, Plan, PlannedTrial, training_label
from cluster.report.figures import Bars, Curve, evenly
from cluster.report.results import COLUMNS, StudyResults
from cluster.report.rows import Places, spread, stored
from cluster.results.schema import DONE, TABLES
from cluster.results.store import Store
from cluster.study import Study
from denoise_core.method import Deviation, method_class
from denoise_core.specification import DataSpec, evaluation_id, specify

TRANSDUCTIVE = (
    "Transductive: the test images were trained on (without their clean versions), so these values are not comparable "
    "with held-out ones."
)
MEASURED = ("dataset", "image_id", "repeat", "output", "metric", "protocol", "value")
SHOWN = 64
"""Settings of a noise whose pictures are read."""
FROM_ROW = ("error", "log_path", "train_s", "shared_s", "eval_s", "wall_s", "steps", "parameters", "device")


def collect(
    study: Study, plan: Plan, store: Store, budget: str, command: str, searched: bool | None = None
) -> StudyResults:
    """Everything that the store holds of ``plan``'s trials; ``searched`` says whether a search suggested them."""
    axes = tuple(dict.fromkeys(name for one in plan.trials if one.role == CELL for name in one.cell))
    done = list(dict.fromkeys(one.spec.evaluation_id for one in plan.trials if plan.status(one) == DONE))
    every = list(dict.fromkeys(one.spec.trial_id for one in plan.trials if one.spec.trial_id in plan.stored))
    trials = pd.DataFrame([_row(one, plan, axes) for one in plan.trials])
    keys = ["role", "method", "label", "seed", "noise", *axes]
    cells = [one for one in plan.trials if one.role == CELL]
    kind = method_class(study.method)
    plot = study.plot or _default_plot(axes)
    measurements = _of_evaluations(store, done, trials, keys)
    return StudyResults(
        name=study.name,
        question=study.question,
        budget=budget,
        axes=axes,
        plot=plot,
        metric=_first_measured(plot, measurements),
        searched=searched,
        trials=trials,
        measurements=measurements,
        paper=study.paper,
        paper_protocol=kind.protocol,
        like_for_like=_differences(study, _longest(cells, plan)) if cells else (),
        caveats=(TRANSDUCTIVE,) if any(one.spec.data.transductive for one in plan.trials) else (),
        deviations=_deviations(study),
        curves=_of_trainings(store, "curves", every, trials, only=("name", VALIDATED)),
        diagnostics=_of_trainings(store, "diagnostics", every, trials),
        previews=_joined(store.read("previews", _first_seed(plan)).to_pandas(), trials, ["label", "seed", "noise"]),
        manifests=_manifests(store, plan),
        command=command,
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        default=_defaults(kind.Config().model_dump(), axes),
        control=study.control,
        pareto=(study.objectives[0], study.objectives[1]) if len(study.objectives) > 1 else None,
    )


def _row(trial: PlannedTrial, plan: Plan, axes: Sequence[str]) -> dict[str, Any]:
    spec, known = trial.spec, plan.stored.get(trial.spec.trial_id, {})
    return {
        "trial_id": spec.evaluation_id,
        "training_id": spec.trial_id,
        "training_label": training_label(trial) if trial.role == CELL else trial.label,
        "role": trial.role,
        "method": spec.method,
        "label": trial.label,
        "seed": spec.seed,
        "noise": spec.data.test_noise or spec.data.noise,
        "training_noise": spec.data.noise,
        "status": plan.status(trial),
        **{name: known.get(name) for name in FROM_ROW},
        **{axis: trial.cell.get(axis) for axis in axes},
    }


def _joined(rows: pd.DataFrame, trials: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Rows of evaluations with what was planned of them; a report names an evaluation where the store names a trial."""
    ids = [
        evaluation_id(one, json.loads(params))
        for one, params in zip(rows["trial_id"], rows["params_json"], strict=True)
    ]
    return rows.assign(trial_id=ids).merge(trials[["trial_id", *keys]], on="trial_id", how="left")


def _of_evaluations(store: Store, ids: Sequence[str], trials: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """What was measured, with what was planned of it."""
    rows = stored(store, "measurements", ids, MEASURED)
    planned, places = _planned(rows, trials, "trial_id")
    joined = {name: rows[name].array for name in rows.columns} | {key: spread(planned[key], places) for key in keys}
    return pd.DataFrame(joined, copy=False)


def _of_trainings(
    store: Store, table: str, ids: Sequence[str], trials: pd.DataFrame, only: tuple[str, str] | None = None
) -> pd.DataFrame:
    """Rows of trainings, each under the id of its first evaluation and without what was chosen at inference."""
    own = [name for name in COLUMNS[table] if name in TABLES[table].names and name != "trial_id"]
    rows = stored(store, table, ids, own, only)
    planned, places = _planned(rows, trials, "training_id")
    # validation sees the noise of the training
    of = {"trial_id": "trial_id", "label": "training_label", "seed": "seed", "noise": "training_noise"}
    joined = {name: rows[name].array for name in rows.columns}
    joined |= {name: spread(planned[column], places) for name, column in of.items()}
    return pd.DataFrame({name: joined[name] for name in COLUMNS[table]}, copy=False)


def _planned(rows: pd.DataFrame, trials: pd.DataFrame, key: str) -> tuple[pd.DataFrame, Places]:
    """What was planned of each of the ids that ``rows`` have, and for each row where it is there."""
    ids = rows["trial_id"].astype("category").cat
    return trials.drop_duplicates(key).set_index(key).reindex(ids.categories), ids.codes.to_numpy()


def _first_seed(plan: Plan) -> list[str]:
    """One trial of each setting is enough to look at; of very many settings, some evenly among them."""
    first: dict[Any, PlannedTrial] = {}
    for trial in sorted(plan.trials, key=lambda one: one.spec.seed):
        if plan.status(trial) == DONE:
            first.setdefault((trial.role, trial.label, trial.spec.data, trial.spec.contents), trial)
    by_role: dict[tuple[str, str], list[str]] = {}
    for trial in first.values():
        noise = trial.spec.data.test_noise or trial.spec.data.noise
        by_role.setdefault((trial.role, noise), []).append(trial.spec.evaluation_id)
    return [one for names in by_role.values() for one in evenly(names, SHOWN)]


def _longest(cells: Sequence[PlannedTrial], plan: Plan) -> PlannedTrial:
    """The first of the trainings with the most steps. To know these of one that is not stored, it has to be built."""
    known = {
        one.label: plan.stored[one.spec.trial_id]["total_steps"] for one in cells if one.spec.trial_id in plan.stored
    }
    first: dict[str, PlannedTrial] = {}
    for one in cells:
        first.setdefault(one.label, one)
    return max(first.values(), key=lambda one: known.get(one.label) or one.spec.steps)


def _manifests(store: Store, plan: Plan) -> list[Mapping[str, Any]]:
    ids = sorted({str(row["manifest_id"]) for row in plan.stored.values()})
    return [json.loads(row["manifest_json"]) for row in store.read("manifests", ids).to_pylist()]


def _deviations(study: Study) -> tuple[Deviation, ...]:
    kinds = [method_class(name) for name in (study.method, *study.references, *study.baselines)]
    # two references may share a deviation
    return tuple(dict.fromkeys(one for kind in kinds for one in kind.deviations))


def _defaults(config: Mapping[str, Any], axes: Sequence[str]) -> dict[str, Any]:
    data = {name: field.default for name, field in DataSpec.model_fields.items()}
    return {axis: config.get(axis, data.get(axis)) for axis in axes}


def _default_plot(axes: Sequence[str]) -> Curve | Bars:
    return Curve(x=axes[0])


def _first_measured(plot: Curve | Bars, measurements: pd.DataFrame) -> str:
    """The metric of the verdict: the first that the plot names and that there are values of."""
    measured = set(measurements["metric"].unique())
    return next((metric for metric in plot.metrics if metric in measured), plot.metrics[0])


def _differences(study: Study, trial: PlannedTrial) -> tuple[str, ...]:
    """How this run differs from what the paper did; empty where the paper's recipe and images were used."""
    if study.paper is None:
        return ()
    kind, spec = method_class(study.method), trial.spec
    published = kind.recipes["paper"]
    sentences = []
    sentences += study.data.differs(spec.data)
    published_noise = study.data.specs("paper", None)[0].noise_realisation
    if spec.data.noise_realisation != published_noise and "noise_realisation" not in trial.cell:
        kinds = {"frozen": "one frozen copy of each image", "fresh": "new noise at every step"}
        sentences.append(f"Noise: {kinds[spec.data.noise_realisation]}; the paper's code: {kinds[published_noise]}.")
    values = {**study.base, **{name: value for name, value in trial.cell.items() if name in kind.Config.model_fields}}
    theirs = specify(study.method, values, spec.data, spec.contents, published, spec.seed).steps
    if spec.steps != theirs:
        sentences.append(f"Training: {spec.steps:,} steps against {theirs:,} in the paper's code.")
    defaults = kind.Config.build(published.config, study.method).model_dump()
    swept = {*trial.cell, *(name for axis in study.axes for name in axis.names)}
    changed = [
        f"{name} {spec.config[name]} ({value})"
        for name, value in defaults.items()
        if spec.config[name] != value and name not in swept
    ]
    if changed:
        sentences.append(f"Settings that differ from those of the paper's budget (in brackets): {', '.join(changed)}.")
    if spec.recipe.precision != published.precision:
        sentences.append(f"Precision: {spec.recipe.precision}.")
    return tuple(sentences)
