"""The tables of a report as plain data: ours beside the paper's, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from cluster.report import cells, measures
from cluster.report.cells import Array, Cell, Grid, Setting
from cluster.report.results import StudyResults
from cluster.report.verdict import compare
from cluster.results.statistics import mean_interval

FEW = 2  # metrics that all have columns for the paper
MANY = 200  # of more cells than this a table shows the best, as it does of a search


@dataclass(frozen=True)
class Number:
    """One metric of one row. ``spread`` is half the 95 % interval over trainings, None for fewer than two seeds.

    ``best`` marks a cell that beats every other conclusively: of generated noise in this metric, of denoised images in
    the study's own.
    """

    ours: float | None = None
    spread: float | None = None
    paper: float | None = None
    best: bool = False

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.ours is None or self.paper is None else self.ours - self.paper


@dataclass(frozen=True)
class Row:
    """``best`` marks a cell that beats every other conclusively in the study's metric.

    ``role`` is ``noisy``, ``cell`` or ``reference``.
    """

    name: str
    role: str
    numbers: dict[str, Number] = field(default_factory=dict)
    best: bool = False


@dataclass(frozen=True)
class ComparisonTable:
    """One setting under one protocol; ``paper_dataset`` is the paper's test set, empty where it prints nothing."""

    setting: Setting
    protocol: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    seeds: int
    images: int
    paper_dataset: str = ""
    left_out: int = 0  # cells of a grid that are too many to show

    def compared(self, metric: str) -> bool:
        """Whether the metric has columns for the paper; of many metrics only those do that it prints."""
        printed = any(metric in row.numbers and row.numbers[metric].paper is not None for row in self.rows)
        return self.paper_dataset != "" and (printed or len(self.metrics) <= FEW)


@dataclass(frozen=True)
class Cost:
    """Mean seconds a training of one cell or reference takes, their sum, and the gain over the noisy input.

    ``gain`` is in the unit of the study's metric and positive where it is an improvement.
    """

    name: str
    trainings: int
    train_s: float
    eval_s: float
    total_s: float
    gain: float | None
    steps: float
    parameters: float

    @property
    def seconds_per_gain(self) -> float | None:
        """Seconds of training per unit of gain; None without a gain."""
        return self.train_s / self.gain if self.gain is not None and self.gain > 0 else None


def comparison_tables(results: StudyResults, protocol: str, *, top: int = 20) -> list[ComparisonTable]:
    """A table per setting that has values under ``protocol``; of a search or very many cells the ``top`` ones only."""
    names = [metric for (metric,) in results.measured.values("metric", protocol=protocol)]
    metrics = tuple(sorted(names, key=lambda name: (name != results.metric, *measures.order(name))))
    tables = []
    for setting in cells.settings(results):
        grids = {metric: cells.grid(results, setting, metric=metric, protocol=protocol) for metric in metrics}
        main = grids.get(results.metric)
        if main is None or not main.cells:
            continue
        searched, many = cells.is_search(results), len(main.cells) > MANY
        shown = main.ranked()[:top] if searched or many else list(main.cells)
        rows = [Row("noisy input", "noisy", {m: Number(grid.noisy) for m, grid in grids.items()})]
        best = _best(results, main)
        of_noise = [metric for metric in metrics if cells.of_noise(results, metric)]
        bests = dict.fromkeys(metrics, None if results.metric in of_noise else best)
        bests |= {metric: _best(results.of(metric), grids[metric]) for metric in of_noise}
        for cell in shown:
            numbers = {m: _cell(results, grid, cell, m) for m, grid in grids.items() if cell in grid.cells}
            numbers = {m: replace(number, best=bests[m] == cell) for m, number in numbers.items()}
            rows.append(Row(cells.cell_label(results, cell), "cell", numbers, best=cell == best))
        printed = [
            value
            for metric in dict.fromkeys((results.metric, *of_noise))
            for cell in shown
            if (value := cells.paper_value(results, setting, cell, metric))
        ]
        dataset = printed[0][1] if printed else ""
        rows += [_reference(results, grids, label, dataset or setting.dataset) for label in main.references]
        counts = (len(main.seeds), len(main.images))
        left_out = 0 if searched else len(main.cells) - len(shown)
        tables.append(ComparisonTable(setting, protocol, metrics, tuple(rows), *counts, dataset, left_out))
    return tables


def _best(results: StudyResults, grid: Grid) -> Cell | None:
    """The winner, if it beats each of the others by more than its interval."""
    comparisons = compare(results, grid) if grid.cells else []
    clear = bool(comparisons) and all(item.interval.conclusive for item in comparisons)
    return grid.ranked()[0] if clear else None


def _cell(results: StudyResults, grid: Grid, cell: Cell, metric: str) -> Number:
    printed = cells.paper_value(results, grid.setting, cell, metric)
    return _number(grid.cells[cell], printed[0] if printed else None)


def _reference(results: StudyResults, grids: dict[str, Grid], label: str, dataset: str) -> Row:
    trials = results.measured.trials
    methods = trials.loc[trials["label"] == label, "method"]
    method = str(methods.iloc[0]) if len(methods) else label
    numbers = {
        metric: _number(
            grid.references[label], cells.paper_reference(results, grid.setting.noise, dataset, method, metric)
        )
        for metric, grid in grids.items()
        if label in grid.references
    }
    return Row(cells.reference_name(label), "reference", numbers)


def _number(array: Array, paper: float | None) -> Number:
    spread = mean_interval(array.mean(axis=1, keepdims=True)).half_width if len(array) > 1 else None
    return Number(float(array.mean()), spread, paper)


def costs(results: StudyResults) -> list[Cost]:
    """What each cell's and reference's finished trainings took; the gain is the mean over all settings."""
    done = results.trials[results.trials["status"] == "done"]
    gains, found = _gains(results, done), []
    for label, evaluations in done.groupby("training_label", sort=False):
        group = evaluations.drop_duplicates("training_id")
        numbers = {name: _mean(group[name]) for name in ("train_s", "eval_s", "steps", "parameters")}
        # what another training did for it is counted there
        total = float((group["train_s"].fillna(0) - group["shared_s"].fillna(0) + group["eval_s"].fillna(0)).sum())
        name = cells.reference_name(str(label)) if (group["role"] == "reference").all() else str(label)
        best = max((gains[one] for one in evaluations["label"].unique() if one in gains), default=None)
        found.append(Cost(name, len(group), total_s=total, gain=best, **numbers))  # of several evaluations the best
    return found


def _gains(results: StudyResults, done: pd.DataFrame) -> dict[str, float]:
    """By how much each label's finished evaluations are better than the noisy input, where both were measured."""
    rows = results.measured.rows(metric=results.metric, protocol=results.canonical_protocol)
    keys = ["noise", "dataset", "image_id"]
    ours = rows[(rows["output"] != cells.NOISY) & rows["trial_id"].isin(set(done["trial_id"]))]
    denoised = set(ours.loc[ours["output"] == cells.DENOISED, "label"].unique())
    ours = ours[(ours["output"] == cells.DENOISED) | ~ours["label"].isin(denoised)]  # see cells.of_trainings
    means = ours.groupby(["label", *keys], observed=True)["value"].mean()
    noisy = rows[rows["output"] == cells.NOISY].groupby(keys, observed=True)["value"].mean()
    gains = (means - noisy.reindex(means.index.droplevel("label")).to_numpy()).dropna()
    by_label = gains.groupby(level="label", observed=True).mean()
    return {str(label): measures.sign(results.metric) * float(gain) for label, gain in by_label.items()}


def _mean(values: Sequence[float] | pd.Series) -> float:
    numbers = pd.to_numeric(pd.Series(values), errors="coerce").dropna()
    return float(numbers.mean()) if len(numbers) else float(np.nan)
