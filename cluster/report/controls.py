"""Cells that tell what a gain is due to: a control takes the same training steps without what the study is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.report import cells, measures
from cluster.report.cells import Cell, Grid
from cluster.results.statistics import Interval, bonferroni, paired_difference

if TYPE_CHECKING:
    from cluster.report.results import StudyResults

LEVEL = 0.95


@dataclass(frozen=True)
class Control:
    """Cells with ``axis = value`` are the controls of those that have the axis's default and are alike otherwise.

    ``base`` are the values, beside the default of ``axis``, of the cell that both began as. ``what`` names in a few
    words what the controls do without.
    """

    axis: str
    value: Any
    base: Mapping[str, Any]
    what: str


@dataclass(frozen=True)
class Controlled:
    """The gain of ``cell`` over ``base``, how much of it its control has too, and the rest; simultaneous intervals."""

    cell: Cell
    control: Cell
    base: Cell
    whole: Interval
    by_steps: Interval
    rest: Interval


def controlled(results: StudyResults, grid: Grid) -> list[Controlled]:
    """Every cell with a control, in the study's order."""
    control = results.control
    if control is None or control.axis not in results.axes:
        return []
    at = results.axes.index(control.axis)
    usual = results.default[control.axis]
    base = next((cell for cell in grid.cells if _is_base(results, cell, usual)), None)
    pairs = [
        ((*cell[:at], usual, *cell[at + 1 :]), cell)
        for cell in grid.cells
        if cell[at] == control.value and (*cell[:at], usual, *cell[at + 1 :]) in grid.cells
    ]
    if base is None:
        return []
    level = bonferroni(LEVEL, 3 * len(pairs))
    return [
        Controlled(
            cell,
            other,
            base,
            paired_difference(grid.cells[cell], grid.cells[base], level=level),
            paired_difference(grid.cells[other], grid.cells[base], level=level),
            paired_difference(grid.cells[cell], grid.cells[other], level=level),
        )
        for cell, other in pairs
    ]


def sentences(results: StudyResults, grid: Grid) -> list[str]:
    """A sentence for each cell with a control."""
    control, unit, digits = results.control, measures.unit(results.metric), measures.digits(results.metric)
    found = []
    for one in controlled(results, grid):
        assert control is not None
        names = [cells.cell_label(results, cell) for cell in (one.cell, one.base)]
        text = (
            f"Of the {one.whole.mean:+.{digits}f}{unit} {_span(one.whole, digits)} of {names[0]} over {names[1]}, "
            f"{one.by_steps.mean:+.{digits}f} {_span(one.by_steps, digits)} "
            f"come with the same training steps {control.what}"
        )
        rest = f"{one.rest.mean:+.{digits}f} {_span(one.rest, digits)}"
        if one.rest.conclusive:
            found.append(f"{text}; the rest, {rest}, is what the iteration itself adds.")
        else:
            found.append(f"{text}; the rest, {rest}, cannot be told from zero: it may all be training time.")
    return found


def _is_base(results: StudyResults, cell: Cell, usual: Any) -> bool:
    assert results.control is not None
    wanted = {**results.control.base, results.control.axis: usual}
    return all(value == wanted.get(axis, value) for axis, value in zip(results.axes, cell, strict=True))


def _span(interval: Interval, digits: int) -> str:
    return f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
