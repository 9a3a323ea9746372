"""List the studies of a store, or the trainings of one.

Without STUDY: a line a study. With STUDY: a line a training, the last that finished at the end. A training that several
studies need is listed under the one that trained it.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import pandas as pd

from cluster.console import Console, duration
from cluster.results.schema import DONE, FAILED, PRUNED
from cluster.watching.aligned import say_table
from cluster.watching.stored import SHORT, add_store, existing_store, labels, local_time, read_trials
from denoise_core.errors import UserError, nearest

STATUSES = (DONE, PRUNED, FAILED)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument("study", nargs="?", metavar="STUDY", help="the study whose trainings are listed")
    add_store(parser)
    parser.add_argument("--status", choices=STATUSES, help="trainings that ended like this only")
    parser.add_argument("--limit", type=int, metavar="N", help="the last N lines only")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def run(flags: argparse.Namespace, console: Console) -> int:
    """Lists; the exit status is 0. Raises UserError."""
    if flags.limit is not None and flags.limit < 1:
        raise UserError(f"--limit {flags.limit} is not allowed: give a whole number of at least 1.")
    trials = read_trials(existing_store(flags.store))
    if flags.study and flags.study not in set(trials["study"]):
        known = nearest(flags.study, trials["study"].unique()) if len(trials) else "it holds no trainings yet"
        raise UserError(f"The store {flags.store} has no study '{flags.study}': {known}.")
    if flags.study:
        trials = trials[trials["study"] == flags.study]
        trials = trials.assign(label=labels(trials))  # before the filter, so that a training keeps its name
    if flags.status:
        trials = trials[trials["status"] == flags.status]
    listed = _trainings(trials) if flags.study else _studies(trials)
    listed = listed[-flags.limit :] if flags.limit else listed
    if flags.json:
        console.out.out(json.dumps(listed, indent=1, default=_plain), highlight=False)
    elif not listed:
        what = f"{flags.status} trainings" if flags.status else "trainings yet"
        console.say(f"The store {flags.store} holds no {what}.")
    elif flags.study:
        _say_trainings(listed, console)
    else:
        _say_studies(listed, console)
    return 0


def _studies(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """A study's counts and times, the last that finished anything at the end."""
    found: list[dict[str, Any]] = []
    for study, rows in trials.groupby("study", sort=False):
        counts = rows["status"].value_counts()
        found.append(
            {
                "study": study,
                "methods": sorted(rows["method"].unique()),
                "budgets": sorted(rows["budget"].unique()),
                **{status: int(counts.get(status, 0)) for status in STATUSES},
                "seeds": int(rows["seed"].nunique()),
                # what another training did of it is counted there
                "train_hours": float((rows["train_s"].fillna(0) - rows["shared_s"].fillna(0)).sum() / 3600),
                "finished_at": rows["finished_at"].max(),
            }
        )
    return sorted(found, key=lambda one: (one["finished_at"], one["study"]))


def _trainings(trials: pd.DataFrame) -> list[dict[str, Any]]:
    names = ["trial_id", "label", "method", "seed", "status", "objective", "train_s", "finished_at", "budget", "error"]
    rows: list[dict[str, Any]] = trials[names].astype(object).where(trials[names].notna(), None).to_dict("records")
    return rows


def _say_studies(listed: list[dict[str, Any]], console: Console) -> None:
    head = ("study", "methods", "budgets", *STATUSES, "seeds", "train hours", "last finished")
    rows = [
        (
            one["study"], ", ".join(one["methods"]), ", ".join(one["budgets"]), *(str(one[name]) for name in STATUSES),
            str(one["seeds"]), f"{one['train_hours']:.2f}", local_time(one["finished_at"]),
        )
        for one in listed
    ]  # fmt: skip
    say_table(console, head, rows, right="done, pruned, failed, seeds, train hours")


def _say_trainings(listed: list[dict[str, Any]], console: Console) -> None:
    budgets = len({one["budget"] for one in listed}) > 1
    head = (
        "id",
        "training",
        "seed",
        *(["budget"] if budgets else []),
        "status",
        "validation",
        "train time",
        "finished",
    )
    rows = [
        (
            one["trial_id"][:SHORT], one["label"], str(one["seed"]), *([one["budget"]] if budgets else []),
            one["status"], "" if one["objective"] is None else f"{one['objective']:.2f} dB",
            "" if one["train_s"] is None else duration(one["train_s"]), local_time(one["finished_at"]),
        )
        for one in listed
    ]  # fmt: skip
    say_table(console, head, rows, right="seed, validation, train time")


def _plain(value: Any) -> Any:
    """Times as ISO 8601, numbers of NumPy as numbers."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value.item()
