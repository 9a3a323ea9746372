"""Two settings of a store side by side: their trainings, one evaluation of each, the same images in the same noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cluster.results.schema import DONE
from cluster.results.store import Store
from cluster.watching.stored import SHORT, in_order, label, measurement_names, shown, unclear
from denoise_core.errors import UserError, nearest

IMAGE = ["dataset", "image_id", "repeat"]
TESTED = ("window", "channels", "repeats")
"""Fields of the data that change what is measured, beside images and noise."""
NOISY = "noisy"


@dataclass(frozen=True)
class What:
    """What is compared: ``values`` are inference-time values that choose among the evaluations of a training."""

    metric: str
    protocol: str
    output: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Side:
    """All seeds of a setting, or one training of it, with the rows of one evaluation each."""

    name: str
    trials: pd.DataFrame
    rows: pd.DataFrame
    params: Mapping[str, Any]
    chosen: Sequence[str]
    """The names of ``params`` in which its evaluations differ."""

    @property
    def data(self) -> dict[str, Any]:
        """Data of the setting."""
        return dict(json.loads(self.trials["data_json"].iloc[0]))

    @property
    def noise(self) -> str:
        """The noise of the test images."""
        return str(self.params.get("test_noise") or self.data.get("noise", ""))

    def table(self, what: What, output: str) -> pd.DataFrame:
        """Values of an output: a row a seed, a column an image. Raises UserError where nothing was measured."""
        rows = self.rows[self.rows["output"] == output]
        rows = rows[(rows["metric"] == what.metric) & (rows["protocol"] == what.protocol)]
        if rows.empty:
            there = {name: ", ".join(sorted(self.rows[name].unique())) for name in ("metric", "protocol", "output")}
            raise UserError(
                f"{self.name} has no {what.metric} of its {output} images by the protocol {what.protocol}: choose "
                f"--metric among {there['metric']}, --protocol among {there['protocol']} and --output among "
                f"{there['output']}."
            )
        found: pd.DataFrame = rows.set_index(["seed", *IMAGE])["value"].unstack(IMAGE).sort_index(axis=1)
        return found


def side(store: Store, trials: pd.DataFrame, given: str, values: Mapping[str, str], one_seed: bool) -> Side:
    """What ``given`` names: the beginning of a trial's, a setting's or an evaluation's id. Raises UserError."""
    beginning, _, evaluation = given.partition("-")
    found = trials[trials["trial_id"].str.startswith(beginning)]
    if found.empty:
        found = trials[trials["group_id"].str.startswith(beginning)]
    if found["group_id"].nunique() != 1 or (one_seed and len(found) > 1):
        raise unclear(trials, found, given)
    group = found if one_seed else trials[trials["group_id"] == found["group_id"].iloc[0]]
    done = group[group["status"] == DONE]
    if done.empty:
        ended = ", ".join(f"seed {seed} {status}" for seed, status in zip(group["seed"], group["status"], strict=True))
        raise UserError(f"{given} has no finished training to compare ({ended}): run its study again first.")
    rows = store.read("measurements", measurement_names(store, set(done["trial_id"]))).to_pandas()
    rows["params_json"] = rows["params_json"].fillna("{}")
    if evaluation:
        rows = rows[rows["params_json"].isin(_of_evaluation(store, done, evaluation))]
    texts, several = in_order(rows["params_json"].unique())
    text = _chosen(given, texts, several, values)
    rows = rows[rows["params_json"] == text].merge(done[["trial_id", "seed"]], on="trial_id")
    return Side(given, done, rows, json.loads(text), several)


def check_alike(a: Side, b: Side, what: What) -> None:
    """Raises UserError where the two were not measured on the same images in the same noise, and says what differs."""
    remedy = "compare trainings that were tested alike, or evaluate one of them with the other's test images and noise"
    if a.noise != b.noise:
        raise UserError(f"The test noise differs, {a.name}: {a.noise}, {b.name}: {b.noise}: {remedy}.")
    for name in TESTED:
        values = [shown(one.data.get(name)) or "none" for one in (a, b)]
        if values[0] != values[1]:
            raise UserError(f"The data differ in {name}, {a.name}: {values[0]}, {b.name}: {values[1]}: {remedy}.")
    columns = [set(one.table(what, what.output).columns) for one in (a, b)]
    if columns[0] != columns[1]:
        sets = [sorted({column[0] for column in one}) for one in columns]
        if sets[0] != sets[1]:
            parts = [f"{one.name}: {', '.join(names)}" for one, names in zip((a, b), sets, strict=True)]
            raise UserError(f"The test images differ, {'; '.join(parts)}: {remedy}.")
        only = sorted(columns[0] ^ columns[1])
        raise UserError(
            f"The test images differ: {len(columns[0] & columns[1])} are shared, {only[0][1]} of {only[0][0]} and "
            f"{len(only) - 1} more were measured of one of the two only: {remedy}."
        )
    noisy = [one.table(what, NOISY) for one in (a, b) if NOISY in set(one.rows["output"])]
    # names may agree where pixels do not: the same noisy input has the same quality
    if len(noisy) == 2 and not np.allclose(noisy[0].iloc[0], noisy[1][noisy[0].columns].iloc[0], rtol=1e-4, atol=1e-6):
        raise UserError(
            f"The noisy inputs of {a.name} and {b.name} differ though their names agree, so the test images were not "
            f"the same: {remedy}."
        )


def _of_evaluation(store: Store, done: pd.DataFrame, beginning: str) -> set[str]:
    """The inference-time values of the evaluations ``<trial>-<beginning>...``; seeds share them."""
    names = measurement_names(store, set(done["trial_id"]))
    some = [one for one in names if one.partition("-")[2].startswith(beginning)]
    return set(store.read("measurements", some).to_pandas()["params_json"].fillna("{}"))


def _chosen(given: str, texts: Sequence[str], several: Sequence[str], values: Mapping[str, str]) -> str:
    """The one set of inference-time values that is meant. Raises UserError with the choices."""
    evaluations = [json.loads(one) for one in texts]
    if not evaluations:
        raise UserError(f"{given} has no such evaluation: leave out what follows the -, or give another.")
    fits = [one for one in evaluations if all(_same(one[name], value) for name, value in values.items() if name in one)]
    if len(fits) == 1:
        return texts[evaluations.index(fits[0])]
    named = several or list(values)
    choices = "; ".join(
        " ".join(f"--set {name}={shown(one.get(name))}" for name in named) for one in fits or evaluations
    )
    if not fits:
        raise UserError(f"{given} was not evaluated with {label(values)}: choose one of {choices}.")
    raise UserError(f"{given} has {len(fits)} evaluations of the same training: choose one of {choices}.")


def _same(value: Any, text: str) -> bool:
    try:
        return float(value) == float(text)
    except (TypeError, ValueError):
        return str(value).lower() == text.lower()


def parsed(settings: Sequence[str]) -> dict[str, str]:
    """``["gamma=0.5"]`` as names and values. Raises UserError."""
    found = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise UserError(f"--set {text} is not understood: it looks like --set gamma=0.5.")
        found[name.strip()] = value.strip()
    return found


def check_known(values: Mapping[str, str], sides: Sequence[Side]) -> None:
    """Raises UserError for a value that neither side knows as one that is chosen at inference."""
    known = {name for one in sides for name in one.params}
    for name in values:
        if name not in known:
            raise UserError(f"--set {name} chooses nothing, as it is not chosen at inference: {nearest(name, known)}.")


def short(one: Side) -> str:
    """The beginning of the setting's id."""
    return str(one.trials["group_id"].iloc[0])[:SHORT]
