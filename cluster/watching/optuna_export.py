"""A store as Optuna sees it, for optuna-dashboard: every study, grids as well as searches.

One Optuna study for each study and budget, in which every training (setting and seed) is a trial: its parameters are
what tells it from the others, its value the validation PSNR. Searches that are running, or ran last, are there as their
journals have them, where a trial is a suggestion with all its seeds. All in memory: nothing is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from cluster.results.schema import DONE, FAILED, PRUNED
from cluster.results.store import Store
from cluster.watching.stored import VALIDATION, differing, listing

STATES = {DONE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}
LOG_FROM = 100.0
"""From which ratio of the largest to the smallest value on an axis is logarithmic."""
METRIC = "validation PSNR in dB"
MAXIMISE = (StudyDirection.MAXIMIZE,)

Points = dict[int, float]


class Exporter:
    """Exports a store again and again. Studies and trials keep their numbers, as the page in the browser counts on."""

    def __init__(self, store: Store):
        self.store = store
        self._studies: dict[str, int] = {}
        self._trials: dict[str, int] = {}
        self._curves: dict[str, tuple[Any, Points]] = {}

    def export(self, trials: pd.DataFrame) -> optuna.storages.BaseStorage:
        """A storage in memory with all of ``trials`` and the journals of searches."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._read_curves(trials)
        make: dict[str, Callable[[optuna.storages.BaseStorage, str], None]] = {}
        for (study, budget), rows in trials.groupby(["study", "budget"], sort=False):
            make[f"{study}, {budget}"] = partial(self._add, rows=rows)
        for path in journals(self.store):
            make[f"{path.stem} (search)"] = partial(_add_journal, path=path)
        for name in make:
            self._studies.setdefault(name, len(self._studies))
        storage = optuna.storages.InMemoryStorage()
        for name in self._studies:
            if name in make:
                make[name](storage, name)
            else:  # gone: its number stays taken
                storage.delete_study(storage.create_new_study(MAXIMISE, name))
        return storage

    def _add(self, storage: optuna.storages.BaseStorage, name: str, rows: pd.DataFrame) -> None:
        study = storage.create_new_study(MAXIMISE, name)
        storage.set_study_system_attr(study, "study:metric_names", [METRIC])
        settings = _plain_settings(rows)
        space = distributions(settings)
        pairs = list(zip(rows.to_dict("records"), settings, strict=True))
        for row, _ in pairs:
            self._trials.setdefault(row["trial_id"], len(self._trials))
        unmeasured = 0
        for row, params in sorted(pairs, key=lambda one: self._trials[one[0]["trial_id"]]):
            trial = _trial(row, params, space, self._curves.get(row["trial_id"], (None, {}))[1])
            if trial is None:
                unmeasured += 1
            else:
                storage.create_new_trial(study, trial)
        if unmeasured:
            storage.set_study_user_attr(study, "trainings without validation images, not shown", unmeasured)

    def _read_curves(self, trials: pd.DataFrame) -> None:
        """The curves of what was not there before: a store of thousands of trainings changes by a few at a time."""
        ended = dict(zip(trials["trial_id"], trials["finished_at"], strict=True))
        new = [one for one, moment in ended.items() if self._curves.get(one, (None, {}))[0] != moment]
        if not new:
            return
        points = self.store.read("curves", new).to_pandas()
        points = points[(points["name"] == VALIDATION) & np.isfinite(points["value"])]
        found: dict[str, Points] = {}
        for name, step, value in zip(points["trial_id"], points["step"], points["value"], strict=True):
            found.setdefault(name, {})[int(step)] = float(value)
        self._curves |= {one: (ended[one], found.get(one, {})) for one in new}


def journals(store: Store) -> list[Path]:
    """The journals of searches, which are on a local disk only."""
    if store.local is None:
        return []
    names = [name for name, _, _ in listing(store, "optuna") if name.endswith(".journal")]
    return [store.local / "optuna" / name for name in names]


def distributions(settings: Sequence[Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    """The range of every parameter: numbers between their ends, anything else as choices."""
    values: dict[str, list[Any]] = {}
    for one in settings:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return {name: _distribution(several) for name, several in values.items()}


def _distribution(values: Sequence[Any]) -> BaseDistribution:
    low_high = None
    if all(isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in values):
        low_high = min(values), max(values)
    if low_high is None:
        return CategoricalDistribution(sorted(set(values), key=str))
    low, high = low_high
    wide = low > 0 and high / low >= LOG_FROM
    if all(isinstance(one, int) for one in values):
        return IntDistribution(int(low), int(high), log=wide)
    return FloatDistribution(low, high, log=wide)


def _plain_settings(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """What tells each training from the others, its method included, in kinds of values that Optuna knows."""
    several = rows["method"].nunique() > 1
    found = []
    for method, values in zip(rows["method"], differing(rows), strict=True):
        named = {"method": method, **values} if several else values
        found.append({name: _plain(value) for name, value in named.items()})
    return found


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):  # a number of NumPy
        value = value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def _trial(
    row: Mapping[str, Any], params: Mapping[str, Any], space: Mapping[str, BaseDistribution], points: Points
) -> FrozenTrial | None:
    """None for a training that is done and has no validation images, so that Optuna has no value for it."""
    state = STATES[row["status"]]
    value = row["objective"]
    finite = value is not None and math.isfinite(value)
    if state == TrialState.COMPLETE and not finite:
        return None
    noted = {
        "seed": int(row["seed"]),
        "trial id": row["trial_id"],
        "error": row["error"],
        "log path": row["log_path"],
        "train seconds": row["train_s"],
    }
    trial = create_trial(
        state=state,
        value=float(value) if finite and state != TrialState.FAIL else None,
        params=dict(params),
        distributions={name: space[name] for name in params},
        intermediate_values=points,
        user_attrs={name: one for name, one in noted.items() if one is not None and one != "" and one == one},
    )
    # Optuna's times are local and know no zone
    trial.datetime_start, trial.datetime_complete = (
        row[name].to_pydatetime().astimezone().replace(tzinfo=None) for name in ("started_at", "finished_at")
    )
    return trial


def _add_journal(storage: optuna.storages.BaseStorage, name: str, path: Path) -> None:
    """Copies what a journal holds at this moment; one that cannot be read is left out."""
    try:
        journal = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
        studies = journal.get_all_studies()
        trials = journal.get_all_trials(studies[0]._study_id, deepcopy=False) if studies else []
    except Exception:  # whatever half a file makes its reader raise
        studies, trials = [], []
    study = storage.create_new_study(studies[0].directions if studies else MAXIMISE, name)
    if not studies:
        storage.delete_study(study)
        return
    for key, value in studies[0].system_attrs.items():
        storage.set_study_system_attr(study, key, value)
    for one in trials:
        storage.create_new_trial(study, one)
