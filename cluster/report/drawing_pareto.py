"""The Plotly drawing of two metrics against one another. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cluster.report import cells, measures
from cluster.report.drawing import styled
from cluster.report.pareto import ParetoFigure, ParetoPanel, Point, Value
from cluster.report.style import INK, OURS, PAPER, PAPERS, SEED, SOFT, fade

FEW = 10  # up to so many settings all have their name beside them, of more only those on the front


def draw_pareto(figure: ParetoFigure) -> Any:
    """A panel for each noise and test set; where the paper prints both metrics, its points to the right of each."""
    beside = any(panel.paper for panel in figure.panels)
    rows, columns = (len(figure.panels), 2) if beside else (1, len(figure.panels))
    titles = [title for panel in figure.panels for title in _titles(panel, beside)]
    canvas = make_subplots(
        rows=rows, cols=columns, horizontal_spacing=min(0.1, 0.3 / columns), vertical_spacing=0.24 / rows,
        subplot_titles=titles,
    )  # fmt: skip
    seen: set[str] = set()
    for index, panel in enumerate(figure.panels):
        row, column = (index + 1, 1) if beside else (1, index + 1)
        _add(canvas, _ours(figure, panel), _labels(figure, panel.points), seen, row, column)
        if panel.paper:
            _add(canvas, _papers(figure, panel), _labels(figure, panel.paper), seen, row, 2)
    prefix = "validation " if figure.validation else ""
    x, y = (f"{prefix}{measures.head(metric)}" for metric in figure.metrics)
    canvas.update_xaxes(title_text=x)
    canvas.update_yaxes(title_text=y, col=1)
    return styled(canvas, height=100 + 330 * rows, top=84)


def _add(
    canvas: Any, traces: Sequence[Any], labels: Sequence[dict[str, Any]], seen: set[str], row: int, column: int
) -> None:
    for trace in traces:
        trace.showlegend = trace.name not in seen
        seen.add(trace.name)
        canvas.add_trace(trace, row=row, col=column)
    for label in labels:
        canvas.add_annotation(**label, row=row, col=column)


def _titles(panel: ParetoPanel, beside: bool) -> tuple[str, ...]:
    if not beside:
        return (panel.title,)
    return panel.title, f"the paper, {cells.dataset_name(panel.paper_dataset)}" if panel.paper else ""


def _ours(figure: ParetoFigure, panel: ParetoPanel) -> list[Any]:
    """The front as a line through its points, the other settings, and what was stopped early."""
    kinds = {
        "on the front": (panel.front, {"color": OURS, "size": 11, "line": {"color": PAPER, "width": 1.5}}),
        "other settings": (
            [point for point in panel.points if point.finished and not point.front],
            {"color": SEED, "size": 9, "line": {"color": PAPER, "width": 1}},
        ),
        "stopped early": (
            [point for point in panel.points if not point.finished],
            {"color": PAPERS, "size": 8, "symbol": "x-thin", "line": {"color": PAPERS, "width": 1.8}},
        ),
    }
    return [
        _points(figure, points, name, marker, "lines+markers" if name == "on the front" else "markers")
        for name, (points, marker) in reversed(kinds.items())
        if points
    ]


def _papers(figure: ParetoFigure, panel: ParetoPanel) -> list[Any]:
    marker = {"symbol": "diamond-open", "size": 11, "color": PAPERS, "line": {"width": 2}}
    return [_points(figure, panel.paper, "paper", marker, "markers")]


def _points(figure: ParetoFigure, points: Sequence[Point], name: str, marker: dict[str, Any], mode: str) -> Any:
    digits = [measures.digits(metric) for metric in figure.metrics]
    tint = fade(str(marker["color"]), 0.7)
    return go.Scatter(
        x=[point.x.mean for point in points], y=[point.y.mean for point in points], name=name, legendgroup=name,
        mode=mode, marker=marker, line={"color": fade(OURS, 0.5), "width": 1.6},
        error_x=_whiskers([point.x for point in points], tint), error_y=_whiskers([point.y for point in points], tint),
        customdata=[point.name for point in points],
        hovertemplate=f"%{{customdata}}<br>%{{x:.{digits[0]}f}}, %{{y:.{digits[1]}f}}<extra></extra>",
    )  # fmt: skip


def _whiskers(values: Sequence[Value], tint: str) -> dict[str, Any] | None:
    if any(value.interval is None for value in values):
        return None
    ends = [(value.interval or (value.mean, value.mean), value.mean) for value in values]
    return {
        "array": [high - mean for (_, high), mean in ends], "arrayminus": [mean - low for (low, _), mean in ends],
        "symmetric": False, "color": tint, "thickness": 1.2, "width": 4,
    }  # fmt: skip


def _labels(figure: ParetoFigure, points: Sequence[Point]) -> list[dict[str, Any]]:
    """Names beside the points, towards the middle of the panel, so that its border cuts none, and off the front."""
    places = [point.x.mean for point in points]
    middle = (min(places) + max(places)) / 2
    falling = measures.sign(figure.metrics[0]) == measures.sign(figure.metrics[1])
    labels = []
    for point in points:
        if point.front or len(points) <= FEW:
            left = point.x.mean <= middle
            above = left == falling
            labels.append({
                "x": point.x.mean, "y": point.y.mean, "text": point.short, "showarrow": False,
                "xanchor": "left" if left else "right", "xshift": 5 if left else -5,
                "yanchor": "bottom" if above else "top", "yshift": 3 if above else -3,
                "font": {"size": 12, "color": INK if point.front else SOFT},
            })  # fmt: skip
    return labels
