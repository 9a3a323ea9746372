"""Two metrics that pull against one another: which settings no other one beats in both, as plain data.

``drawing_pareto`` turns it into Plotly. A setting is on the front when no other is at least as good in both metrics and
better in one, by the means: the intervals say how far that can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd

from cluster.report import cells, figures, measures
from cluster.report.cells import Array, Cell, Setting
from cluster.report.results import StudyResults
from cluster.report.wording import join
from cluster.results.statistics import mean_interval

LISTED = 4  # pairs that a sentence lists
NAMED = 8  # settings on a front that a sentence lists


@dataclass(frozen=True)
class Value:
    """A mean over seeds and images with its 95 % interval over trainings, None for fewer than two seeds."""

    mean: float
    interval: tuple[float, float] | None = None

    def overlaps(self, other: Value) -> bool:
        """Whether the intervals have a value in common; False where one has none."""
        if self.interval is None or other.interval is None:
            return False
        return self.interval[0] <= other.interval[1] and other.interval[0] <= self.interval[1]


@dataclass(frozen=True)
class Point:
    """One setting; ``short`` is its name on the figure. ``finished`` is False for what a search stopped early."""

    name: str
    short: str
    x: Value
    y: Value
    front: bool = False
    finished: bool = True

    def overlaps(self, other: Point) -> bool:
        """Whether the intervals overlap in both metrics: then the two cannot be told apart."""
        return self.x.overlaps(other.x) and self.y.overlaps(other.y)


@dataclass(frozen=True)
class ParetoPanel:
    """One noise on one test set; ``paper`` are the points that the paper prints, on ``paper_dataset``."""

    title: str
    points: tuple[Point, ...]
    paper: tuple[Point, ...]
    paper_dataset: str
    sentence: str

    @property
    def front(self) -> tuple[Point, ...]:
        """Its points by x."""
        return tuple(sorted((point for point in self.points if point.front), key=lambda point: point.x.mean))


@dataclass(frozen=True)
class ParetoFigure:
    """``metrics`` are x and y; ``validation`` says that the values are those which a search saw."""

    metrics: tuple[str, str]
    validation: bool
    axes: tuple[str, ...]  # in the order of the short names
    panels: tuple[ParetoPanel, ...]


def pareto(results: StudyResults) -> ParetoFigure | None:
    """The figure of a study that declares two metrics; None where nothing was measured in both."""
    if results.pareto is None:
        return None
    tried = _tried(results, results.pareto) if cells.is_search(results) else []
    panels = tried or _measured(results, results.pareto)
    return ParetoFigure(results.pareto, bool(tried), results.axes, tuple(panels)) if panels else None


def dominates(a: Point, b: Point, metrics: tuple[str, str]) -> bool:
    """Whether ``a`` is at least as good as ``b`` in both metrics and better in one."""
    gains = [
        measures.sign(metric) * (ours.mean - theirs.mean)
        for metric, ours, theirs in zip(metrics, (a.x, a.y), (b.x, b.y), strict=True)
    ]
    return min(gains) >= 0 and max(gains) > 0


def _measured(results: StudyResults, metrics: tuple[str, str]) -> list[ParetoPanel]:
    """A panel for each noise and test set of a grid, from the values of the test images."""
    panels = []
    for setting in cells.settings(results):
        grids = [cells.grid(results.of(metric), setting) for metric in metrics]
        common = [cell for cell in grids[0].cells if cell in grids[1].cells]
        found = {cell: [_value(grid.cells[cell].mean(axis=1)) for grid in grids] for cell in common}
        if found:
            points = _with_front([_point(results, cell, *values) for cell, values in found.items()], metrics)
            panels.append(_panel(str(setting), points, metrics, *_papers(results, setting, metrics, common)))
    return panels


def _tried(results: StudyResults, metrics: tuple[str, str]) -> list[ParetoPanel]:
    """A panel for each noise of a search, from the last values of the validation that each suggestion reached."""
    trials = results.trials[results.trials["role"] == "cell"]
    last = [figures.last_validation(results, metric) for metric in metrics]
    panels = []
    for noise, group in trials.groupby("noise", sort=False):
        points = []
        for cell, rows in figures.suggestions(results, group).items():
            values = [_of_seeds(measured, rows) for measured in last]
            if all(len(seeds) for seeds in values):
                one = _point(results, cell, *(_value(seeds) for seeds in values))
                points.append(replace(one, finished=bool((rows["status"] == "done").all())))
        if points:
            panels.append(_panel(cells.noise_name(str(noise)), _with_front(points, metrics), metrics))
    return panels


def _of_seeds(measured: pd.Series, rows: pd.DataFrame) -> Array:
    """One number a seed; those that diverged are no numbers."""
    values: Array = measured.reindex(rows["trial_id"]).to_numpy(dtype=np.float64)
    finite: Array = values[np.isfinite(values)]
    return finite


def _value(by_seed: Array) -> Value:
    mean = float(by_seed.mean())
    if len(by_seed) < 2:
        return Value(mean)
    interval = mean_interval(by_seed[:, None])
    return Value(mean, (interval.low, interval.high))


def _point(results: StudyResults, cell: Cell, x: Value, y: Value) -> Point:
    short = "/".join(cells.tick(value) for value in cell)
    return Point(cells.cell_label(results, cell), f"{results.axes[0]} = {short}" if len(cell) == 1 else short, x, y)


def _with_front(points: Sequence[Point], metrics: tuple[str, str]) -> tuple[Point, ...]:
    """Marks the finished points that no other finished one dominates."""
    able = [point for point in points if point.finished]
    return tuple(
        replace(point, front=point.finished and not any(dominates(other, point, metrics) for other in able))
        for point in points
    )


def _papers(
    results: StudyResults, setting: Setting, metrics: tuple[str, str], common: Sequence[Cell]
) -> tuple[tuple[Point, ...], str]:
    """What the paper prints of the same cells in both metrics, on one test set."""
    points: list[Point] = []
    where = ""
    for cell in common:
        printed = [cells.paper_value(results, setting, cell, metric) for metric in metrics]
        known = [value for value in printed if value is not None]
        if len(known) == 2 and len({dataset for _, dataset in known}) == 1 and where in ("", known[0][1]):
            where = known[0][1]
            points.append(_point(results, cell, *(Value(value) for value, _ in known)))
    return _with_front(points, metrics), where


def _panel(
    title: str,
    points: tuple[Point, ...],
    metrics: tuple[str, str],
    paper: tuple[Point, ...] = (),
    paper_dataset: str = "",
) -> ParetoPanel:
    panel = ParetoPanel(title, points, paper, paper_dataset, "")
    return replace(panel, sentence=" ".join((_told(panel, metrics), *_cautions(panel, metrics))))


def _told(panel: ParetoPanel, metrics: tuple[str, str]) -> str:
    """Which settings are on the front."""
    front = panel.front
    titles = " and ".join(measures.kind(metric).title for metric in metrics)
    able = sum(point.finished for point in panel.points)
    if not front:
        return "No setting has finished, so there is no front yet."
    if able == 1:
        return f"Only {front[0].name} has finished; there is nothing to compare it with yet."
    names = join([point.name for point in front]) if len(front) <= NAMED else f"{len(front)} of {able} settings"
    if len(front) == 1:
        return f"By the means, {names} is at least as good as every other setting in both {titles}."
    if len(front) == able:
        return f"By the means, every setting is on the front of {titles}: none beats another in both."
    return (
        f"By the means, the front of {titles} is {names}; for every other setting, one of these is at least as good in "
        "both."
    )


def _cautions(panel: ParetoPanel, metrics: tuple[str, str]) -> list[str]:
    """How far the front can be trusted."""
    able, front = [point for point in panel.points if point.finished], panel.front
    if len(able) < 2:
        return []
    if any(point.x.interval is None or point.y.interval is None for point in able):
        return ["With one seed there is no interval: another seed may change which settings are on it."]
    pairs = [f"{a.name} and {b.name}" for a, b in combinations(front, 2) if a.overlaps(b)]
    beaten = [point for point in able if not point.front]
    close = [p.name for p in beaten if all(p.overlaps(one) for one in front if dominates(one, p, metrics))]
    found = []
    if pairs:
        further = [f"{len(pairs) - LISTED} further pairs"] if len(pairs) > LISTED else []
        listed = "; ".join((*pairs[:LISTED], *further))
        found.append(f"On the front these cannot be told apart, as their intervals overlap in both metrics: {listed}.")
    if close:
        names = join(close) if len(close) <= LISTED else f"{len(close)} settings"
        found.append(f"Off the front by less than the intervals: {names}.")
    return found
