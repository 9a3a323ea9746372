"""The figures of a report as plain data; ``drawing`` turns them into Plotly. Study scripts name ``Curve`` or ``Bars``.

Our absolute level depends on data and budget, the paper's on its own: one axis for both would show nothing but that.
So a figure has two rows: our values with the references, and the change against the default, where both are comparable.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from cluster.report import cells, measures
from cluster.report.cells import Cell, Grid, Setting
from cluster.results.statistics import mean_interval, paired_difference

if TYPE_CHECKING:
    from cluster.report.results import StudyResults

Item = TypeVar("Item")
EVEN = 8  # up to so many values are spaced evenly: 0, 2, 8, 20 stay readable
IMAGE_BARS = 150
SEEDS = 20  # so many single seeds are drawn at most
LINES = 120  # learning curves of so many settings


@dataclass(frozen=True)
class Curve:
    """Values over a numeric axis ``x``, one panel per value of ``facet`` (``noise``), a figure for each metric.

    The verdict is about the first of ``metrics``, and about those of generated noise. A metric that was not measured
    is left out. The axis may hold ``"inf"`` beside its numbers.
    """

    x: str
    facet: str = "noise"
    metrics: tuple[str, ...] = ("psnr",)


@dataclass(frozen=True)
class Bars:
    """Values over a named choice ``x``, one panel per value of ``facet`` (``noise``), a figure for each metric.

    ``metrics`` are as in :class:`Curve`.
    """

    x: str
    facet: str = "noise"
    metrics: tuple[str, ...] = ("psnr",)


@dataclass(frozen=True)
class Series:
    """Points of one line. ``low`` and ``high`` are its interval, empty where there is none."""

    name: str
    x: tuple[Any, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Line:
    """One value of the axes other than ``x`` (``name`` is empty where there are none)."""

    name: str
    ours: Series  # absolute; the interval is over trainings, on exactly these images
    seeds: tuple[Series, ...]
    change: Series  # against the baseline; the interval is paired, over seeds and images
    paper: Series  # the paper's changes against the same baseline


@dataclass(frozen=True)
class Panel:
    """One noise. ``noisy`` is the mean of the noisy input, ``references`` those of the reference trainings."""

    title: str
    lines: tuple[Line, ...]
    references: tuple[tuple[str, float], ...]
    noisy: float | None


@dataclass(frozen=True)
class AxisFigure:
    """The main figure on one test set. ``paper_dataset`` is where the paper's points were measured."""

    dataset: str
    metric: str
    x: str
    categorical: bool  # evenly spaced labels, no true axis
    logarithmic: bool
    joined: bool  # neighbouring points may be joined by a line
    baseline: str
    panels: tuple[Panel, ...]
    paper_dataset: str


@dataclass(frozen=True)
class LearningFigure:
    """Mean validation values by step, per noise (``panels``): (title, the cells' lines, the references' lines).

    ``left_out`` are lines of a noise that are too many to draw.
    """

    panels: tuple[tuple[str, tuple[Series, ...], tuple[Series, ...]], ...]
    metric: str = "psnr"
    left_out: int = 0


@dataclass(frozen=True)
class ImageFigure:
    """The difference of the two best cells on each image, the worst first; ``low`` and ``high`` span the seeds."""

    setting: Setting
    first: str
    second: str
    images: tuple[str, ...]
    difference: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    metric: str = "psnr"


@dataclass(frozen=True)
class SearchFigure:
    """Every configuration that a search tried in one noise, in its order. NaN where nothing was measured.

    ``measured`` is ``validation`` or ``test``. Of an axis that holds ``"inf"`` beside numbers the values are texts.
    """

    title: str
    metric: str
    measured: str
    axes: dict[str, tuple[Any, ...]]
    values: tuple[float, ...]
    pruned: tuple[bool, ...]
    best_so_far: tuple[float, ...]


def axis_figures(results: StudyResults) -> list[AxisFigure]:
    """The main figure, one a test set and metric; none for a search or before anything has finished."""
    if cells.is_search(results) or results.plot.x not in results.axes:
        return []
    figures = []
    for metric in results.plot.metrics:
        measured = results.of(metric)
        by_dataset: dict[str, list[Grid]] = {}
        for setting in cells.settings(measured):
            grid = cells.grid(measured, setting)
            if grid.cells:
                by_dataset.setdefault(setting.dataset, []).append(grid)
        figures += [_axis_figure(measured, dataset, grids) for dataset, grids in by_dataset.items()]
    return figures


def _axis_figure(results: StudyResults, dataset: str, grids: Sequence[Grid]) -> AxisFigure:
    at = results.axes.index(results.plot.x)
    values = {cell[at] for grid in grids for cell in grid.cells}
    infinite = _infinite(values)
    numeric = infinite or all(cells.is_number(value) for value in values)
    even = not numeric or infinite or len(values) <= EVEN
    positive = [float(value) for value in values] if not even else []
    baseline = _baseline(results, grids[0])
    papers = {found[1] for grid in grids for cell in grid.cells if (found := _paper(results, grid, cell))}
    return AxisFigure(
        dataset=dataset,
        metric=results.metric,
        x=results.plot.x,
        categorical=even,
        logarithmic=not even and min(positive) > 0 and max(positive) / min(positive) > 30,
        joined=numeric and isinstance(results.plot, Curve),
        baseline=cells.cell_label(results, baseline),
        panels=tuple(_panel(results, grid, at, even) for grid in grids),
        paper_dataset=papers.pop() if papers else "",
    )


def _panel(results: StudyResults, grid: Grid, at: int, even: bool) -> Panel:
    groups: dict[Cell, list[Cell]] = {}
    for cell in grid.cells:  # cells that differ in x only are one line
        groups.setdefault(cell[:at] + cell[at + 1 :], []).append(cell)
    others = [axis for axis in results.axes if axis != results.plot.x]
    lines = []
    for rest, members in groups.items():
        name = ", ".join(f"{axis} = {cells.value_text(v)}" for axis, v in zip(others, rest, strict=True))
        lines.append(_line(results, grid, name, members, at, even))
    references = tuple((cells.reference_name(label), float(a.mean())) for label, a in grid.references.items())
    return Panel(cells.noise_name(grid.setting.noise), tuple(lines), references, grid.noisy)


def _line(results: StudyResults, grid: Grid, name: str, members: Sequence[Cell], at: int, even: bool) -> Line:
    x = tuple(cells.tick(cell[at]) if even else float(cell[at]) for cell in members)
    arrays = [grid.cells[cell] for cell in members]
    baseline = _baseline(results, grid)
    trainings = [mean_interval(array.mean(axis=1, keepdims=True)) for array in arrays]
    changes = [paired_difference(array, grid.cells[baseline]) for array in arrays]
    many = len(grid.seeds) > 1
    means = tuple(float(array.mean()) for array in arrays)
    lows, highs = tuple(i.low for i in trainings), tuple(i.high for i in trainings)
    seeds = tuple(
        Series(f"seed {seed}", x, tuple(float(array[row].mean()) for array in arrays))
        for row, seed in enumerate(grid.seeds[:SEEDS])
    )
    zero, printed = _paper(results, grid, baseline), [_paper(results, grid, cell) for cell in members]
    points = [(u, v[0] - zero[0]) for u, v in zip(x, printed, strict=True) if v and zero and v[1] == zero[1]]
    points = points if len(points) > 1 else []  # the baseline alone says nothing of a change
    return Line(
        name,
        Series("ours", x, means, lows if many else (), highs if many else ()),
        seeds if many else (),
        Series("ours", x, *_columns([(i.mean, i.low, i.high) for i in changes])),
        Series("paper", tuple(u for u, _ in points), tuple(v for _, v in points)),
    )


def _infinite(values: Collection[Any]) -> bool:
    """Whether ``"inf"`` stands among numbers."""
    rest = [value for value in values if value != cells.INFINITE]
    return 0 < len(rest) < len(values) and all(cells.is_number(value) for value in rest)


def learning_figures(results: StudyResults) -> list[LearningFigure]:
    """One for PSNR, the study's metric and each further one of generated noise, as far as they were validated."""
    metrics = dict.fromkeys(("psnr", results.metric, *cells.further_metrics(results)))
    found = [learning_figure(results, metric=metric) for metric in metrics]
    return [figure for figure in found if figure is not None]


def learning_figure(results: StudyResults, *, metric: str = "psnr") -> LearningFigure | None:
    """Mean over seeds of a validation curve at each step, a line per label; None when nothing was recorded."""
    rows = results.curves[results.curves["name"] == f"validation_{metric}"]
    if rows.empty:
        return None
    reference = set(results.trials.loc[results.trials["role"] == "reference", "trial_id"])
    panels, left_out = [], 0
    for noise, group in rows.groupby("noise", sort=False, observed=True):
        lines: tuple[list[Series], list[Series]] = ([], [])
        for label, member in group.groupby("label", sort=False, observed=True):
            steps = member.groupby("step")["value"].agg(["mean", "min", "max"])
            is_reference = bool(member["trial_id"].isin(reference).any())
            text = cells.reference_name(str(label)) if is_reference else str(label)
            band = tuple(tuple(float(v) for v in steps[c]) for c in ("mean", "min", "max"))
            lines[is_reference].append(Series(text, tuple(int(step) for step in steps.index), *band))
        drawn = evenly(lines[0], LINES)
        left_out = max(left_out, len(lines[0]) - len(drawn))
        panels.append((cells.noise_name(str(noise)), tuple(drawn), tuple(lines[1])))
    return LearningFigure(tuple(panels), metric, left_out)


def evenly(several: Sequence[Item], most: int) -> list[Item]:
    """At most so many of them, evenly, the first and the last included."""
    count = min(len(several), most)
    return [several[round(place * (len(several) - 1) / max(1, count - 1))] for place in range(count)]


def image_figures(results: StudyResults) -> list[ImageFigure]:
    """Best minus second best cell on each image, one figure a setting; of many images the two ends."""
    figures = []
    sign = measures.sign(results.metric)
    for setting in cells.settings(results):
        grid = cells.grid(results, setting)
        if len(grid.cells) < 2 or len(grid.images) < 2:
            continue
        first, second = grid.ranked()[:2]
        difference = grid.cells[first] - grid.cells[second]
        order = np.argsort(sign * difference.mean(axis=0))
        if len(order) > IMAGE_BARS:
            order = np.concatenate([order[: IMAGE_BARS // 2], order[-IMAGE_BARS // 2 :]])
        labels = (cells.cell_label(results, first), cells.cell_label(results, second))
        bounds = (difference.mean(axis=0), difference.min(axis=0), difference.max(axis=0))
        mean, low, high = (tuple(float(v) for v in bound[order]) for bound in bounds)
        images = tuple(grid.images[i] for i in order)
        figures.append(ImageFigure(setting, *labels, images, mean, low, high, results.metric))
    return figures


def search_figures(results: StudyResults) -> list[SearchFigure]:
    """Every tried configuration, per noise, for a search; nothing for a grid. Further metrics of noise follow.

    The value is what the search itself saw, the last validation value (a pruned training has no other); without
    such curves it is the mean over the test images.
    """
    if not cells.is_search(results):
        return []
    figures = []
    for metric in (results.metric, *cells.further_metrics(results)):
        figures += _search_figures(results.of(metric))
    return figures


def _search_figures(results: StudyResults) -> list[SearchFigure]:
    trials = results.trials[results.trials["role"] == "cell"]
    last = last_validation(results, results.metric)
    complete = bool(trials.loc[trials["status"] == "done", "trial_id"].isin(last.index).all()) and len(last) > 0
    measured, where = (last, "validation") if complete else (_tested(results), "test")
    return [_search_figure(results, str(noise), group, measured, where) for noise, group in trials.groupby("noise")]


def _search_figure(
    results: StudyResults, noise: str, trials: pd.DataFrame, measured: pd.Series, where: str
) -> SearchFigure:
    values, pruned = [], []
    tried = suggestions(results, trials)
    for rows in tried.values():
        values.append(float(measured.reindex(rows["trial_id"]).mean()))
        pruned.append(bool((rows["status"] != "done").any()))
    better = max if measures.kind(results.metric).higher_is_better else min
    best, so_far = math.nan, []
    for value, stopped in zip(values, pruned, strict=True):
        if not stopped and not math.isnan(value):
            best = value if math.isnan(best) else better(best, value)
        so_far.append(best)
    axes = {axis: _ticks([cell[at] for cell in tried]) for at, axis in enumerate(results.axes)}
    shown = (axes, tuple(values), tuple(pruned), tuple(so_far))
    return SearchFigure(cells.noise_name(noise), results.metric, where, *shown)


def _ticks(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(cells.tick(value) for value in values) if _infinite(values) else tuple(values)


def suggestions(results: StudyResults, trials: pd.DataFrame) -> dict[Cell, pd.DataFrame]:
    """The trials of each suggestion, one a seed, in the order in which they were suggested."""
    places: dict[Cell, list[int]] = {}
    for place, row in enumerate(trials[list(results.axes)].itertuples(index=False)):
        places.setdefault(cells.cell_of(row), []).append(place)
    return {cell: trials.iloc[some] for cell, some in places.items()}


def last_validation(results: StudyResults, metric: str) -> pd.Series:
    """The last validation value of each trial that has any."""
    rows = results.curves[results.curves["name"] == f"validation_{metric}"].sort_values("step")
    return _by_trial(rows).last()


def _tested(results: StudyResults) -> pd.Series:
    rows = results.measured.rows(metric=results.metric, protocol=results.canonical_protocol)
    return _by_trial(cells.of_trainings(rows)).mean()


def _by_trial(rows: pd.DataFrame) -> Any:
    """The values of each trial, under plain ids even where the rows' are categories."""
    return rows["value"].groupby(rows["trial_id"].astype(object))


def _baseline(results: StudyResults, grid: Grid) -> Cell:
    """The paper's cell; where the study lacks it, the first."""
    default = cells.default_cell(results)
    return default if default is not None and default in grid.cells else next(iter(grid.cells))


def _paper(results: StudyResults, grid: Grid, cell: Cell) -> tuple[float, str] | None:
    return cells.paper_value(results, grid.setting, cell)


def _columns(rows: Sequence[tuple[float, float, float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(zip(*rows, strict=True))
