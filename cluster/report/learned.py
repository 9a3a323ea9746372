"""What trainings learned of the noise, as plain data: lines, numbers and sentences over seeds, beside the truth.

Several cells may share what they learned: the iterations of one chain have one noise generator. What is equal for all
seeds is shown once, under a joined name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import numpy as np
import pandas as pd

from cluster.report import cells
from cluster.report.figures import Series
from cluster.report.results import StudyResults
from cluster.results.statistics import mean_interval
from denoise_core.diagnostics import EXTRACTED, FIGURES, TRUE, FigureText

MANY = 6  # of more labels than this the sentences name the ends only
NOISE = ("noise_std", "noise_lag1")
PATCHES = ("patch_sigma_mean", "patch_sigma_spread", "patch_count")

Points = tuple[tuple[float, ...], tuple[float, ...]]
Seeds = Mapping[int, Points]  # one line of one label, by seed
Column = tuple[str, str]  # figure and series
Content = TypeVar("Content")
EVERY = "all trainings"
"""The name of a line that is the same for all of them."""
NAMED = 3
"""Labels that a joined name lists."""


@dataclass(frozen=True)
class LearnedLine:
    """One line: its points are means over seeds, ``low`` and ``high`` span the seeds (empty for one seed)."""

    label: str
    series: str
    reference: bool
    points: Series


@dataclass(frozen=True)
class LearnedPanel:
    """One noise. ``truth`` is the line of the true noise, ``mark`` the true value on the x axis of a histogram."""

    title: str
    lines: tuple[LearnedLine, ...]
    truth: Series | None
    mark: float | None


@dataclass(frozen=True)
class LearnedFigure:
    """One figure of ``denoise_core.diagnostics.FIGURES``, a panel for each noise."""

    name: str
    text: FigureText
    panels: tuple[LearnedPanel, ...]


@dataclass(frozen=True)
class Quantity:
    """A mean over seeds; ``relative`` is its deviation from the truth, as a fraction.

    ``spread`` is half the 95 % interval over trainings, None for a single one and where all are equal.
    """

    value: float
    spread: float | None = None
    relative: float | None = None


@dataclass(frozen=True)
class LearnedRow:
    """Numbers of one cell, one reference or of the true noise (``role`` ``true``), None where there is none."""

    name: str
    role: str
    numbers: tuple[Quantity | None, ...]


@dataclass(frozen=True)
class LearnedTable:
    """The scalars of one noise; the true values are the last row."""

    title: str
    columns: tuple[Column, ...]
    heads: tuple[str, ...]
    rows: tuple[LearnedRow, ...]


@dataclass(frozen=True)
class Learned:
    """All that the section shows."""

    sentences: tuple[str, ...]
    figures: tuple[LearnedFigure, ...]
    tables: tuple[LearnedTable, ...]


@dataclass(frozen=True)
class _Label:
    """One cell or reference, or several that learned the same."""

    name: str
    reference: bool


@dataclass(frozen=True)
class _Noise:
    """Everything that was recorded with one noise: by figure and series, and there by label."""

    title: str
    learned: Mapping[Column, Mapping[_Label, Seeds]]
    true: Mapping[str, Series]  # by figure

    def true_value(self, figure: str) -> float | None:
        """The true value of a scalar."""
        return self.true[figure].y[0] if figure in self.true else None


def learned(results: StudyResults) -> Learned | None:
    """What was learned of each noise; None where nothing was recorded."""
    rows = results.diagnostics[results.diagnostics["figure"].isin(list(FIGURES))]
    rows = rows[np.isfinite(rows["y"].astype(float))]
    if rows.empty:
        return None
    references = set(results.trials.loc[results.trials["role"] == "reference", "trial_id"])
    noises = [
        _noise(str(noise), group, references) for noise, group in rows.groupby("noise", sort=False, observed=True)
    ]
    sentences = [
        _sentence([one.title] * (len(noises) > 1) + [label] * bool(label), text)
        for one in noises
        for label, text in (*_noise_sentences(one), *_patch_sentences(one))
    ]
    drawn = [_figure(name, noises) for name, text in FIGURES.items() if text.kind != "scalar"]
    tables = [_table(one) for one in noises]
    return Learned(
        tuple(sentences), tuple(one for one in drawn if one.panels), tuple(one for one in tables if one.columns)
    )


def _noise(noise: str, rows: pd.DataFrame, references: set[str]) -> _Noise:
    found: dict[Column, dict[_Label, dict[int, Points]]] = {}
    true: dict[str, list[Points]] = {}
    keys = ["figure", "series", "label", "seed"]
    means = rows.groupby([*keys, "trial_id", "x"], sort=False, observed=True)["y"].mean().reset_index()
    with_reference = set(means.loc[means["trial_id"].isin(references), "label"])
    for (figure, series, label, seed), line in means.groupby(keys, sort=False, observed=True):
        line = line.groupby("x")["y"].mean()
        points = (tuple(float(x) for x in line.index), tuple(float(y) for y in line))
        if series == TRUE:
            true.setdefault(str(figure), []).append(points)
        else:
            one = _Label(cells.reference_name(str(label)), label in with_reference)
            found.setdefault((str(figure), str(series)), {}).setdefault(one, {})[int(seed)] = points
    ordered = {
        column: dict(sorted(labels.items(), key=lambda item: item[0].reference)) for column, labels in found.items()
    }
    truths = {figure: _mean("true", points, figure) for figure, points in true.items()}
    return _Noise(cells.noise_name(noise), ordered, truths)


# ---- lines ----


def _figure(name: str, noises: Sequence[_Noise]) -> LearnedFigure:
    panels = [_panel(name, noise) for noise in noises]
    return LearnedFigure(name, FIGURES[name], tuple(panel for panel in panels if panel.lines or panel.truth))


def _panel(name: str, noise: _Noise) -> LearnedPanel:
    lines = []
    for (figure, series), labels in noise.learned.items():
        if figure != name:
            continue
        for label, seeds in _merged(labels, _key).items():
            points = _mean(label.name, list(seeds.values()), name)
            lines.append(LearnedLine(label.name, series, label.reference, points))
    mark = noise.true_value(f"{name}_mean") if FIGURES[name].kind == "histogram" else None
    return LearnedPanel(noise.title, tuple(lines), noise.true.get(name), mark)


def _mean(name: str, lines: Sequence[Points], figure: str) -> Series:
    """The mean over ``lines`` with their span; a histogram is scaled to a peak of 1 again."""
    histogram = FIGURES[figure].kind == "histogram"
    x, values = _aligned(lines, histogram)
    mean = np.nanmean(values, axis=0)
    peak = mean.max() if histogram and mean.max() > 0 else 1.0
    bounds = (np.nanmin(values, axis=0), np.nanmax(values, axis=0)) if len(lines) > 1 else ()
    return Series(name, x, *(tuple(float(v) for v in bound / peak) for bound in (mean, *bounds)))


def _aligned(lines: Sequence[Points], histogram: bool) -> tuple[tuple[float, ...], np.ndarray]:
    """The lines on the first one's x; others are interpolated. A histogram is 0 where it has no bins, a line NaN.

    Bins differ a little between seeds where the true noise that sets them was estimated from samples.
    """
    first = lines[0][0]
    if all(x == first for x, _ in lines):
        return first, np.array([y for _, y in lines])
    if not histogram:
        return first, np.array([np.interp(first, x, y, left=np.nan, right=np.nan) for x, y in lines])
    step = first[1] - first[0] if len(first) > 1 else 1.0
    ends = min(x[0] for x, _ in lines), max(x[-1] for x, _ in lines)
    grid = np.arange(round(ends[0] / step), round(ends[1] / step) + 1) * step
    return tuple(float(x) for x in grid), np.array([np.interp(grid, x, y, left=0, right=0) for x, y in lines])


# ---- what is equal is shown once ----


def _key(seeds: Seeds) -> Hashable:
    """Equal for lines that are equal for all seeds; rounded, since the last bits depend on the order of a sum."""
    return tuple(
        (seed, *(tuple(round(value, 9) for value in part) for part in points)) for seed, points in sorted(seeds.items())
    )


def _merged(labels: Mapping[_Label, Content], key: Callable[[Content], Hashable]) -> dict[_Label, Content]:
    """Labels with equal content become one, with a joined name; it is a reference only if all of them are."""
    groups: dict[Hashable, list[_Label]] = {}
    for label, content in labels.items():
        groups.setdefault(key(content), []).append(label)
    merged = [
        _Label(joined_name([one.name for one in group]), all(one.reference for one in group))
        for group in groups.values()
    ]
    if len(merged) == 1 and merged[0].name.endswith(" others"):
        merged = [_Label(EVERY, merged[0].reference)]
    short = _without_shared([one.name for one in merged if not one.reference])
    return {
        _Label(short.get(label.name, label.name), label.reference): labels[group[0]]
        for label, group in zip(merged, groups.values(), strict=True)
    }


def _without_shared(names: Sequence[str]) -> dict[str, str]:
    """Names without what they all say: ``rule = dwt`` where each of several rules has ``iterations = 0, 1, 2, 3``."""
    parts = [_parts(name) for name in names]
    left = [[part for part in one if not all(part in other for other in parts)] for one in parts]
    return {name: ", ".join(rest) for name, rest in zip(names, left, strict=True)} if all(left) else {}


def joined_name(names: Sequence[str]) -> str:
    """``rule = dwt, iterations = 0, 1, 2`` where the cells hold every combination of values, else the names."""
    parts = [dict(part.split(" = ", 1) for part in _parts(name) if " = " in part) for name in names]
    axes = list(parts[0])
    values = {axis: list(dict.fromkeys(part.get(axis, "") for part in parts)) for axis in axes}
    same_axes = all(list(part) == axes and len(part) == len(_parts(n)) for part, n in zip(parts, names, strict=True))
    if not axes or not same_axes or prod(len(value) for value in values.values()) != len(names):
        return "; ".join(names) if len(names) <= NAMED else f"{names[0]} and {len(names) - 1} others"
    fixed_first = sorted(axes, key=lambda axis: len(values[axis]) > 1)
    return ", ".join(f"{axis} = {', '.join(values[axis])}" for axis in fixed_first)


def _parts(name: str) -> list[str]:
    """``gamma = 2`` and ``betas = (0.5, 0.9)`` of a label: a comma inside a value is none between axes."""
    return re.split(r", (?=\w+ = )", name)


# ---- numbers ----


def _scalars(noise: _Noise, columns: Sequence[Column]) -> dict[_Label, dict[Column, Seeds]]:
    """The numbers of each label in these columns, equal labels merged."""
    by_label: dict[_Label, dict[Column, Seeds]] = {}
    for column in columns:
        for label, seeds in noise.learned.get(column, {}).items():
            by_label.setdefault(label, {})[column] = seeds
    ordered = dict(sorted(by_label.items(), key=lambda item: item[0].reference))
    return _merged(ordered, lambda row: tuple((column, _key(seeds)) for column, seeds in sorted(row.items())))


def _table(noise: _Noise) -> LearnedTable:
    columns = [
        (figure, series)
        for figure, text in FIGURES.items()
        if text.kind == "scalar"
        for series in dict.fromkeys(series for other, series in noise.learned if other == figure)
    ]
    several = {figure for figure, _ in columns if len([one for one in columns if one[0] == figure]) > 1}
    heads = [FIGURES[figure].title + (f", {series}" if figure in several else "") for figure, series in columns]
    rows = [
        LearnedRow(
            label.name,
            "reference" if label.reference else "cell",
            tuple(_quantity(column[0], numbers.get(column), noise) for column in columns),
        )
        for label, numbers in _scalars(noise, columns).items()
    ]
    truth = [noise.true_value(figure) for figure, _ in columns]
    if any(value is not None for value in truth):
        rows.append(LearnedRow("true", "true", tuple(None if v is None else Quantity(v) for v in truth)))
    return LearnedTable(noise.title, tuple(columns), tuple(heads), tuple(rows))


def _quantity(figure: str, seeds: Seeds | None, noise: _Noise) -> Quantity | None:
    if not seeds:
        return None
    values = np.array([[points[1][0]] for points in seeds.values()])
    value, true = float(values.mean()), noise.true_value(figure)
    spread = mean_interval(values).half_width if np.ptp(values) > 0 else None  # a count may be the same for all seeds
    return Quantity(value, spread, value / true - 1 if figure == "noise_std" and true else None)


# ---- sentences ----


def _sentence(of: Sequence[str], text: str) -> str:
    """``Gaussian σ = 25, rule = dwt: generated noise has ...``."""
    return f"{', '.join(of)}: {text}." if of else f"{text[0].upper()}{text[1:]}."


def _noise_sentences(noise: _Noise) -> list[tuple[str, str]]:
    """Label (empty where there is one only) and what is said of it."""
    sentences = []
    for series in dict.fromkeys(series for figure, series in noise.learned if figure == "noise_std"):
        rows = _scalars(noise, [(figure, series) for figure in NOISE])
        if len(rows) > MANY:
            sentences.append(_range(noise, ("noise_std", series), rows, f"the standard deviation of {series} noise"))
            continue
        for label, numbers in rows.items():
            std = _quantity("noise_std", numbers.get(("noise_std", series)), noise)
            lag1 = _quantity("noise_lag1", numbers.get(("noise_lag1", series)), noise)
            if std is None:
                continue
            text = f"{series} noise has a standard deviation of {std.value:.1f}{_against(noise, std)}"
            if lag1 is not None:
                true = noise.true_value("noise_lag1")
                text += f" and a lag-1 correlation of {signed(lag1.value)}"
                text += f" (true {signed(true)})" if true is not None else ""
            sentences.append((label.name if len(rows) > 1 else "", text))
    return sentences


def _patch_sentences(noise: _Noise) -> list[tuple[str, str]]:
    rows = _scalars(noise, [(figure, EXTRACTED) for figure in PATCHES])
    if len(rows) > MANY:
        what = "the mean standard deviation of the extracted patches"
        return [_range(noise, ("patch_sigma_mean", EXTRACTED), rows, what)]
    told = []
    for label, numbers in rows.items():
        mean, spread, count = (_quantity(figure, numbers.get((figure, EXTRACTED)), noise) for figure in PATCHES)
        text = f"mean {mean.value:.1f}" if mean is not None else "none found"
        text += f", spread {spread.value:.1f}" if mean is not None and spread is not None else ""
        text += f" over {count.value:,.0f} patches" if mean is not None and count is not None else ""
        told.append(f"{label.name}: {text}" if len(rows) > 1 else text)
    true = noise.true_value("patch_sigma_mean")
    told += [f"true {true:.1f}"] if told and true is not None else []
    return [("", f"standard deviation of the extracted patches: {'; '.join(told)}")] if told else []


def _range(noise: _Noise, column: Column, rows: Mapping[_Label, Mapping[Column, Seeds]], what: str) -> tuple[str, str]:
    """The ends of many rows."""
    found = {label: _quantity(column[0], row.get(column), noise) for label, row in rows.items()}
    values = sorted((number.value, label.name) for label, number in found.items() if number is not None)
    true = noise.true_value(column[0])
    ends = " to ".join(f"{value:.1f} ({name})" for value, name in (values[0], values[-1]))
    return "", f"over {len(values)} settings {what} is {ends}" + (f"; true {true:.1f}" if true is not None else "")


def _against(noise: _Noise, std: Quantity) -> str:
    true = noise.true_value("noise_std")
    if true is None or std.relative is None:
        return ""
    percent = round(100 * abs(std.relative))
    side = "above" if std.relative > 0 else "below"
    return f" ({percent} % {side} the true {true:.1f})" if percent else f" (the true one is {true:.1f})"


def signed(value: float, digits: int = 2) -> str:
    """A number with so many digits, never ``-0.00``."""
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text
