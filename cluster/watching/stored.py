"""What an existing store holds, read without changing it and without loading PyTorch."""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Hashable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.fs as pafs

from cluster.execution.progress import VALIDATED
from cluster.results.files import first_line
from cluster.results.schema import TABLES
from cluster.results.store import MARKER, Store
from denoise_core.errors import UserError

SHORT = 8
"""Digits of an id that are shown; any beginning that is no other's is understood."""
CANDIDATES = 8
"""How many ids a message names."""
VALIDATION = f"{VALIDATED}psnr"
"""The curve of validation PSNR."""
DATA_SHOWN = ("noise", "train", "clean", "test", "noise_realisation", "channels", "window", "transductive")
"""Fields of the data that tell trainings apart."""
LOOK_S = 10.0
"""Seconds between two looks whether a store has changed."""


def add_store(parser: argparse.ArgumentParser) -> None:
    """The flag that names the store."""
    parser.add_argument(
        "--store", default="results", metavar="PATH", help="results store: a folder or s3://..., gs://... (%(default)s)"
    )


def existing_store(location: str) -> Store:
    """The store at ``location``. Raises UserError, and makes none, where there is no store of this program."""
    missing = UserError(
        f"There is no results store at {location}: pass --store with the folder or address that a study was given "
        "(its default is results, in the folder that the study was started in)."
    )
    if "://" not in location and not (Path(location).expanduser() / MARKER).is_file():
        raise missing  # opening it would make the folder
    store = Store(location, patience_s=LOOK_S)
    try:
        store.version()
    except FileNotFoundError:
        raise missing from None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UserError(
            f"The store {location} cannot be read ({first_line(error)}): pass --store with another, or see that it can "
            "be reached."
        ) from None
    return store


def read_trials(store: Store) -> pd.DataFrame:
    """The rows of all trainings, the last that finished at the end."""
    found = store.read("trials", store.names("trials")).select(TABLES["trials"].names).to_pandas()
    texts = ["group_id", "study", "method", "budget", "error", "log_path", "device", "manifest_id"]
    found[texts] = found[texts].fillna("")
    for name in ("config_json", "data_json"):
        found[name] = found[name].fillna("{}")
    return found.sort_values(["finished_at", "trial_id"], kind="stable", ignore_index=True)


def differing(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """Of each training what tells it from the others: configuration within its method, data among all.

    Steps and budget are named only where settings would look alike without.
    """
    kinds, unique = pd.factorize(pd.MultiIndex.from_frame(trials[["method", "config_json", "data_json"]]))
    parsed = [(method, json.loads(config), json.loads(data)) for method, config, data in unique]
    values: dict[Hashable, set[str]] = {}
    for method, config, data in parsed:
        for name, value in config.items():
            values.setdefault((method, name), set()).add(repr(value))
        for name in DATA_SHOWN:
            values.setdefault(name, set()).add(repr(data.get(name)))
    several = {name for name, different in values.items() if len(different) > 1}
    named = [
        {name: value for name, value in config.items() if (method, name) in several}
        | {name: data.get(name) for name in DATA_SHOWN if name in several}
        for method, config, data in parsed
    ]
    found = [dict(named[kind]) for kind in kinds]
    looks = [f"{method} {one}" for method, one in zip(trials["method"], found, strict=True)]
    for column, name in (("budget", "budget"), ("total_steps", "steps")):
        alike = trials[column].groupby(looks).transform("nunique")
        for one, count, value in zip(found, alike, trials[column], strict=True):
            if count > 1:
                one[name] = value
    return found


def labels(trials: pd.DataFrame) -> list[str]:
    """Names for trainings from what tells them apart: ``neighbor2neighbor: gamma = 2``, without the seed."""
    several = trials["method"].nunique() > 1
    found = []
    for method, values in zip(trials["method"], differing(trials), strict=True):
        shown = label(values)
        found.append(f"{method}: {shown}" if several and shown else shown or str(method))
    return found


def label(values: Mapping[str, Any]) -> str:
    """``gamma = 2, noise = gauss25``."""
    return ", ".join(f"{name} = {shown(value)}" for name, value in values.items())


def shown(value: Any) -> str:
    """A value as a person writes it: 2 for 2.0, names without brackets."""
    if isinstance(value, float):
        return f"{value:g}"
    return " + ".join(map(shown, value)) if isinstance(value, list | tuple) else str(value)


def in_order(evaluations: Iterable[str]) -> tuple[list[str], list[str]]:
    """Inference-time values, as JSON, sorted by those that are not the same in all of them; and the names of these."""
    parsed = {text: json.loads(text) for text in evaluations}
    known = dict.fromkeys(name for one in parsed.values() for name in one)
    names = [name for name in known if len({repr(one.get(name)) for one in parsed.values()}) > 1]

    def place(text: str) -> list[tuple[bool, Any]]:
        values = [parsed[text].get(name) for name in names]
        return [(True, one) if isinstance(one, int | float) else (False, str(one)) for one in values]

    return sorted(parsed, key=place), names


def find_trial(trials: pd.DataFrame, given: str) -> str:
    """The id of the one training whose id begins with ``given``. Raises UserError with the candidates."""
    found = trials[trials["trial_id"].str.startswith(given.partition("-")[0])]
    if len(found) == 1 and given:
        return str(found["trial_id"].iloc[0])
    raise unclear(trials, found, given)


def unclear(trials: pd.DataFrame, found: pd.DataFrame, given: str) -> UserError:
    """Says why ``given`` names none or several of ``trials``, of which ``found`` are those that it could mean."""
    if trials.empty:
        return UserError(f"There is no training '{given}': the store holds none yet, run a study first.")
    if found.empty:
        return UserError(
            f"No training's id begins with '{given}': give the beginning of one that `denoise-studies ls STUDY` shows; "
            f"the last ones are {candidates(trials, trials.tail(CANDIDATES))}."
        )
    return UserError(
        f"'{given}' begins the ids of {len(found)} trainings: give more digits of one of {candidates(trials, found)}."
    )


def candidates(trials: pd.DataFrame, some: pd.DataFrame) -> str:
    """Some of the trainings with what each is in its study, for a message."""
    length = _telling(some["trial_id"])
    some, more = some.head(CANDIDATES), len(some) - CANDIDATES
    named = study_labels(trials, some)
    pairs = zip(some["trial_id"], some["seed"], strict=True)
    listed = ", ".join(f"{one[:length]} ({named[one]}, seed {seed})" for one, seed in pairs)
    return listed + (f" and {more} more" if more > 0 else "")


def study_labels(trials: pd.DataFrame, some: pd.DataFrame) -> dict[str, str]:
    """The names of some of the trainings by their ids, each as its own study tells it from the others."""
    named: dict[str, str] = {}
    for study in some["study"].unique():
        rows = trials[trials["study"] == study]
        named |= dict(zip(rows["trial_id"], labels(rows), strict=True))
    return named


def local_time(moment: Any) -> str:
    """``2026-11-27 12:24`` in the time of this machine; empty where there is none."""
    if not isinstance(moment, datetime) or pd.isna(moment):
        return ""
    return datetime.fromtimestamp(moment.timestamp()).strftime("%Y-%m-%d %H:%M")


class Watched:
    """The trainings of a store that changes: read again only where it did, which is looked at every ``LOOK_S``."""

    def __init__(self, store: Store):
        self.store = store
        self._lock = threading.Lock()
        self._looked = 0.0
        self._seen: tuple[Any, ...] | None = None
        self._version = 0
        self._trials = pd.DataFrame()

    def trials(self) -> tuple[int, pd.DataFrame]:
        """The trainings, and a number that grows whenever they or the searches' journals changed."""
        with self._lock:
            if self._seen is None or time.monotonic() - self._looked >= LOOK_S:
                folders = ("trials", "trials/packed", "optuna")
                seen = tuple(one for folder in folders for one in listing(self.store, folder))
                if seen != self._seen:
                    self._trials = read_trials(self.store)
                    self._seen, self._version = seen, self._version + 1
                self._looked = time.monotonic()
            return self._version, self._trials


def listing(store: Store, folder: str) -> list[tuple[str, int, int]]:
    """Name, time of change (ns) and size of the files in a folder of the store, sorted; hidden ones left out."""
    selector = pafs.FileSelector(store.files.path(folder), allow_not_found=True)
    found = store.files.filesystem.get_file_info(selector)
    files = [one for one in found if one.type == pafs.FileType.File and not one.base_name.startswith(".")]
    return sorted((one.base_name, one.mtime_ns or 0, one.size or 0) for one in files)


def measurement_names(store: Store, trials: set[str]) -> list[str]:
    """The names of the evaluations of these trainings: ``<trial>-<values>``."""
    return [one for one in store.names("measurements") if one.partition("-")[0] in trials]


def _telling(ids: Iterable[str]) -> int:
    """How many digits tell ids apart."""
    several = set(ids)
    longest = max(map(len, several), default=SHORT)
    return next((n for n in range(SHORT, longest) if len({one[:n] for one in several}) == len(several)), longest)
