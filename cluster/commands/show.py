"""Show all that a store knows of one training: settings, times, phases, what was measured, where it ran.

ID is the beginning of the training's id as ``denoise-studies ls STUDY`` shows it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from cluster.console import Console, duration
from cluster.results.store import Store
from cluster.watching.aligned import say_table
from cluster.watching.stored import (
    SHORT,
    add_store,
    existing_store,
    find_trial,
    in_order,
    label,
    local_time,
    measurement_names,
    read_trials,
    shown,
    study_labels,
)
from denoise_core.metrics.kinds import METRICS

EVALUATION_FIELDS = ("test_noise", "criteria")
"""As in denoise_core.specification, which would load PyTorch."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument("id", metavar="ID", help="the beginning of a training's id")
    add_store(parser)


def run(flags: argparse.Namespace, console: Console) -> int:
    """Shows; the exit status is 0. Raises UserError."""
    store = existing_store(flags.store)
    trials = read_trials(store)
    name = find_trial(trials, flags.id)
    row = trials[trials["trial_id"] == name].iloc[0].to_dict()
    row["label"] = study_labels(trials, trials[trials["trial_id"] == name])[name]
    _say_facts(row, store, console)
    _say_phases(row, store, console)
    _say_measurements(name, store, console)
    return 0


def _say_facts(row: Mapping[str, Any], store: Store, console: Console) -> None:
    console.say(f"{row['label']}, seed {row['seed']}, of {row['study']} ({row['budget']})", style="bold")
    objective = "" if pd.isna(row["objective"]) else f", validation {row['objective']:.2f} dB"
    facts = {
        "method": row["method"],
        "training": row["trial_id"],
        "setting": f"{row['group_id']} (the same for all seeds)",
        "status": f"{row['status']}{objective}",
        "error": row["error"],
        "steps": f"{_count(row['steps'])} of {_count(row['total_steps'])}",
        "times": _times(row),
        "attempts": _count(row["attempts"]),
        "device": f"{row['device']}, {_count(row['workers'])} worker(s), {_count(row['parameters'])} parameters",
        "memory": "" if pd.isna(row["peak_memory_mb"]) else f"{row['peak_memory_mb']:.0f} MB at most",
        "log": row["log_path"],
        "configuration": _values(row["config_json"]),
        "data": _values(row["data_json"]),
        "recipe": _values(row["recipe_json"] or "{}", without=("config",)),
        "produced by": _manifest(str(row["manifest_id"]), store),
    }
    for name, value in facts.items():
        if value:
            console.out.out(f"{name:<14}{value}", highlight=False)


def _times(row: Mapping[str, Any]) -> str:
    shared = f", {duration(row['shared_s'])} of it by another training" if row["shared_s"] else ""
    times = {name: 0.0 if pd.isna(row[name]) else row[name] for name in ("train_s", "eval_s", "wall_s")}
    return (
        f"{duration(times['train_s'])} of training{shared}, {duration(times['eval_s'])} of evaluation, "
        f"{duration(times['wall_s'])} in all, {local_time(row['started_at'])} to {local_time(row['finished_at'])}"
    )


def _say_phases(row: Mapping[str, Any], store: Store, console: Console) -> None:
    """The phases by the curves, which go on from one to the next; who trained each by the phases' own rows."""
    curves = store.read("curves", [row["trial_id"]]).to_pandas()
    if curves.empty:
        return
    kept = store.read("phases", store.names("phases")).to_pandas()
    kept = kept[(kept["method"] == row["method"]) & (kept["seed"] == row["seed"])]
    lines = []
    for phase, points in curves.groupby("phase", sort=False):
        mine = {(step, name, value) for step, name, value in points[["step", "name", "value"]].values.tolist()}
        same = [one for one in kept[kept["phase"] == phase].to_dict("records") if _points(one) & mine]
        origin = "trained here, for this training alone"
        if same:
            own = any(one["trial_id"] == row["trial_id"] for one in same)
            origin = "trained here, others may share it" if own else f"taken from {same[0]['trial_id'][:SHORT]}"
        lines.append((str(phase), f"{int(points['step'].min()):,} to {int(points['step'].max()):,}", origin))
    console.say("")
    say_table(console, ("phase", "steps with a value", "origin"), lines)


def _points(record: Mapping[str, Any]) -> set[tuple[int, str, float]]:
    return {(one["step"], one["name"], one["value"]) for one in json.loads(record["curves_json"])}


def _say_measurements(name: str, store: Store, console: Console) -> None:
    """Means over all images and repeats: a line for each evaluation, below that of the noisy input."""
    rows = store.read("measurements", measurement_names(store, {name})).to_pandas()
    console.say("")
    if rows.empty:
        console.say("Nothing was measured on test images.")
        return
    rows["params_json"] = rows["params_json"].fillna("{}")
    texts, names = in_order(rows["params_json"].unique())
    rows["params_json"] = pd.Categorical(rows["params_json"], texts)
    rows["output"] = pd.Categorical(rows["output"], ["noisy", "denoised", "generated"])
    kinds = list(rows[["metric", "protocol"]].drop_duplicates().itertuples(index=False, name=None))
    index = ["dataset", "output", "params_json"]
    means = rows.pivot_table(index=index, columns=["metric", "protocol"], values="value", observed=True)
    counts = rows.groupby("dataset")["image_id"].nunique()
    lines = []
    for (dataset, output, params), values in means.iterrows():
        # of what is chosen at inference the noisy input has its noise alone
        named = [one for one in names if output != "noisy" or one in EVALUATION_FIELDS]
        chosen = label({one: json.loads(params).get(one) for one in named})
        what = f"{output}: {chosen}" if chosen else str(output)
        lines.append((f"{dataset} ({counts[dataset]})", what, *(_value(values.get(kind), kind[0]) for kind in kinds)))
    lines = list(dict.fromkeys(lines))
    head = [f"{METRICS[metric].title if metric in METRICS else metric} ({protocol})" for metric, protocol in kinds]
    say_table(console, ("test images", "", *head), lines, right=", ".join(head))


def _value(value: float | None, metric: str) -> str:
    if value is None or pd.isna(value):
        return ""
    kind = METRICS.get(metric)
    return f"{value:.{kind.digits}f} {kind.unit}".rstrip() if kind else f"{value:.4f}"


def _manifest(name: str, store: Store) -> str:
    """Code, the packages that matter most, and the machine."""
    found = store.read("manifests", [name]).to_pylist()
    if not found:
        return ""
    one = json.loads(found[0]["manifest_json"])
    code, packages = one.get("code", {}), one.get("packages", {})
    revision = code.get("git", code.get("files_sha256", ""))[:10]
    changed = " with changes" if code.get("diff_sha256") else ""
    names = ", ".join(f"{name} {packages[name]}" for name in ("torch", "ray") if name in packages)
    machine = ", ".join(one.get("gpus") or [one.get("processor", "")])
    return f"revision {revision}{changed}, Python {one.get('python', '')}, {names}, on {machine}"


def _values(text: str, without: tuple[str, ...] = ()) -> str:
    """``gamma=2 lr=0.003``; what says nothing is left out."""
    values = {name: value for name, value in json.loads(text).items() if name not in without}
    return " ".join(f"{name}={shown(value)}" for name, value in values.items() if value not in ("", None))


def _count(value: Any) -> str:
    return "?" if pd.isna(value) else f"{int(value):,}"
