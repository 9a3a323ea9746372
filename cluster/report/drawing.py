"""Plotly drawings of the plain figures. Nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cluster.report import measures
from cluster.report.cells import INFINITE, is_number, tick
from cluster.report.figures import AxisFigure, ImageFigure, LearningFigure, Line, Panel, SearchFigure, Series
from cluster.report.learned import LearnedFigure, LearnedLine, LearnedPanel
from cluster.report.style import BAD, FAINT, FONT, GOOD, INK, OURS, PAPER, PAPERS, RULE, SEED, SOFT, colours, fade

DASHES = ("dash", "dot", "dashdot", "longdash")
SOLID = ("solid", "dashdot", "dot")  # series of one cell
FEW = 10  # up to so many lines have a colour and a name; of more the crowd is shown, not who is who


def to_html(figure: Any, name: str) -> str:
    """A ``<div>`` with its own script; the page brings plotly.js. ``name`` is its id and the name of a saved SVG."""
    config = {
        "displaylogo": False, "responsive": True, "modeBarButtons": [["toImage", "resetScale2d"]],
        "toImageButtonOptions": {"format": "svg", "filename": name},
    }  # fmt: skip
    bare = {"full_html": False, "include_plotlyjs": False, "include_mathjax": False}
    text: str = figure.to_html(**bare, div_id=name, config=config)
    return text


def draw_axis(figure: AxisFigure) -> Any:
    """Two rows: our values above, the change against the baseline with the paper's points below."""
    count = len(figure.panels)
    canvas = make_subplots(
        rows=2, cols=count, shared_xaxes=True, vertical_spacing=0.09, horizontal_spacing=min(0.07, 0.25 / count),
        subplot_titles=[_title(panel, figure.metric) for panel in figure.panels],
    )  # fmt: skip
    order = _categories([x for panel in figure.panels for line in panel.lines for x in line.ours.x])
    for column, panel in enumerate(figure.panels, 1):
        tints = [OURS] if len(panel.lines) == 1 else list(colours(len(panel.lines), ordered=False))
        for index, (name, value) in enumerate(panel.references):
            _level(canvas, name, value, order, index, column)
        for line, tint in zip(panel.lines, tints, strict=True):
            _add_line(canvas, figure, line, tint, column)
    canvas.update_yaxes(title_text=measures.head(figure.metric), row=1, col=1)
    canvas.update_yaxes(title_text=f"change against<br>{figure.baseline}{_unit(figure.metric)}", row=2, col=1)
    canvas.update_yaxes(zeroline=True, zerolinecolor=FAINT, zerolinewidth=1.2, row=2)
    canvas.update_yaxes(range=_change_range(figure), row=2)  # one scale for all noises: changes are comparable
    for column in range(2, count + 1):
        canvas.update_yaxes(showticklabels=False, row=2, col=column)
    canvas.update_xaxes(title_text=figure.x, row=2)
    if figure.categorical:
        canvas.update_xaxes(type="category", categoryorder="array", categoryarray=order)
        canvas.update_xaxes(range=[-0.35, len(order) - 0.65])
    elif figure.logarithmic:
        canvas.update_xaxes(type="log")
    return styled(canvas, height=636)


def _categories(values: Sequence[Any]) -> list[Any]:
    """Each once, in the order in which they come, infinity last."""
    return sorted(dict.fromkeys(values), key=lambda value: value == tick(INFINITE))


def _unit(metric: str) -> str:
    unit = measures.kind(metric).unit
    return f" ({unit})" if unit else ""


def _change_range(figure: AxisFigure) -> list[float]:
    lines = [line for panel in figure.panels for line in panel.lines]
    values = [v for line in lines for v in (*line.change.low, *line.change.high, *line.paper.y)]
    margin = 0.08 * (max(values) - min(values)) or 0.1
    return [min(values) - margin, max(values) + margin]


def _title(panel: Panel, metric: str) -> str:
    """With the noisy input's value, which would squeeze the axis."""
    if panel.noisy is None:
        return panel.title
    value = f"{panel.noisy:.{min(measures.digits(metric), 3)}f}{measures.unit(metric)}"
    return f"{panel.title}<br><span style='font-size:12px;color:{SOFT}'>noisy input {value}</span>"


def _add_line(canvas: Any, figure: AxisFigure, line: Line, tint: str, column: int) -> None:
    first, prefix = column == 1, f"{line.name}: " if line.name else ""
    shape = "lines+markers" if figure.joined else "markers"
    for index, seed in enumerate(line.seeds):
        faint = SEED if tint == OURS else fade(tint, 0.4)
        canvas.add_trace(
            go.Scatter(
                x=seed.x, y=seed.y, mode=shape, name=f"{prefix}single seeds", legendgroup=f"{prefix}seed", legendrank=2,
                showlegend=first and index == 0, line={"color": faint, "width": 1}, marker={"size": 5, "color": faint},
                hovertemplate=f"{seed.name}: %{{y:.3f}}<extra></extra>",
            ), row=1, col=column,
        )  # fmt: skip
    for row, series in ((1, line.ours), (2, line.change)):
        if figure.joined and series.low:
            canvas.add_trace(_band(series, tint), row=row, col=column)
        canvas.add_trace(_means(series, f"{prefix}this study", tint, shape, row == 1 and first), row=row, col=column)
        if not figure.joined and series.low:
            canvas.data[-1].error_y = _whiskers(series, tint)
    if line.paper.x:
        where = f" ({figure.paper_dataset})" if figure.paper_dataset != figure.dataset else ""
        canvas.add_trace(
            go.Scatter(
                x=line.paper.x, y=line.paper.y, mode="markers", name=f"paper{where}", legendgroup="paper", legendrank=3,
                showlegend=first, marker={"symbol": "diamond-open", "size": 11, "color": PAPERS, "line": {"width": 2}},
                hovertemplate="paper: %{y:+.3f}<extra></extra>",
            ), row=2, col=column,
        )  # fmt: skip


def _means(series: Series, name: str, tint: str, shape: str, legend: bool) -> Any:
    return go.Scatter(
        x=series.x, y=series.y, mode=shape, name=name, legendgroup=name, showlegend=legend, legendrank=1,
        line={"color": tint, "width": 2.4}, marker={"size": 9, "color": tint, "line": {"color": PAPER, "width": 1.5}},
        customdata=list(zip(series.low, series.high, strict=True)) or None,
        hovertemplate="%{x}: %{y:.3f}" + (" [%{customdata[0]:.3f}, %{customdata[1]:.3f}]" if series.low else "")
        + "<extra></extra>",
    )  # fmt: skip


def _band(series: Series, tint: str) -> Any:
    return go.Scatter(
        x=[*series.x, *reversed(series.x)], y=[*series.high, *reversed(series.low)], fill="toself", mode="lines",
        line={"width": 0}, fillcolor=fade(tint, 0.14), hoverinfo="skip", showlegend=False,
    )  # fmt: skip


def _whiskers(series: Series, tint: str) -> dict[str, Any]:
    above = [high - y for high, y in zip(series.high, series.y, strict=True)]
    below = [y - low for low, y in zip(series.low, series.y, strict=True)]
    return {"array": above, "arrayminus": below, "symmetric": False, "color": tint, "thickness": 1.6, "width": 7}


def _level(canvas: Any, name: str, value: float, x: Sequence[Any], index: int, column: int) -> None:
    canvas.add_trace(
        go.Scatter(
            x=list(x), y=[value] * len(x), mode="lines", name=name, legendgroup=name, legendrank=4,
            showlegend=column == 1,
            line={"color": SOFT, "width": 1.4, "dash": DASHES[index % len(DASHES)]},
            hovertemplate=f"{name}: {value:.3f}<extra></extra>",
        ), row=1, col=column,
    )  # fmt: skip


def draw_learning(figure: LearningFigure) -> Any:
    """Validation value by step: lines with the spread of the seeds, references dashed."""
    canvas = make_subplots(
        rows=1, cols=len(figure.panels), horizontal_spacing=0.06, subplot_titles=[panel[0] for panel in figure.panels]
    )
    names = list(dict.fromkeys(line.name for _, lines, _ in figure.panels for line in lines))
    few = len(names) <= FEW
    tints = dict(zip(names, colours(len(names), ordered=True), strict=True))
    seen: set[str] = set()
    for column, (_, lines, references) in enumerate(figure.panels, 1):
        for line in lines:
            tint = tints[line.name] if few else SEED
            if few:
                canvas.add_trace(_band(line, tint), row=1, col=column)
            named = few and line.name not in seen
            canvas.add_trace(_curve(line, figure.metric, tint, "solid", named), row=1, col=column)
            seen.add(line.name)
        for index, line in enumerate(references):
            dash = DASHES[index % len(DASHES)]
            canvas.add_trace(_curve(line, figure.metric, SOFT, dash, line.name not in seen), row=1, col=column)
            seen.add(line.name)
    canvas.update_xaxes(title_text="step", rangemode="tozero")
    canvas.update_yaxes(title_text=f"validation {measures.head(figure.metric)}", col=1)
    return styled(canvas, height=380, top=76)


def _curve(line: Series, metric: str, tint: str, dash: str, legend: bool) -> Any:
    return go.Scatter(
        x=line.x, y=line.y, mode="lines", name=line.name, legendgroup=line.name, showlegend=legend,
        line={"color": tint, "width": 2, "dash": dash},
        hovertemplate=f"{line.name}: %{{y:.{measures.digits(metric)}f}}{measures.unit(metric)}<extra></extra>",
    )  # fmt: skip


def draw_learned(figure: LearnedFigure) -> Any:
    """A panel for each noise: a colour for each cell, references grey, what is true dark and dashed."""
    titles = [panel.title for panel in figure.panels]
    canvas = make_subplots(rows=1, cols=len(titles), horizontal_spacing=0.06, subplot_titles=titles)
    looks = _looks([line for panel in figure.panels for line in panel.lines])
    seen: set[str] = set()
    for column, panel in enumerate(figure.panels, 1):
        for line in panel.lines:
            name, tint, dash, named = looks[line.label, line.series]
            if named and line.points.low and figure.text.kind == "lines":
                canvas.add_trace(_band(line.points, tint), row=1, col=column)
            canvas.add_trace(_learned_line(figure, line, name, tint, dash), row=1, col=column)
            canvas.data[-1].showlegend = named and name not in seen
            seen.add(name)
        for truth in _truth(panel):
            truth.showlegend = "true" not in seen
            canvas.add_trace(truth, row=1, col=column)
            seen.add("true")
    canvas.update_xaxes(title_text=figure.text.x_label)
    canvas.update_yaxes(title_text=figure.text.y_label, col=1)
    if figure.text.kind == "histogram":
        canvas.update_yaxes(rangemode="tozero")
    return styled(canvas, height=360, top=76)


def _looks(lines: Sequence[LearnedLine]) -> dict[tuple[str, str], tuple[str, str, str, bool]]:
    """Name, colour, dash and whether it is named, by label and series; the series is told where there are several."""
    labels = list(dict.fromkeys(line.label for line in lines if not line.reference))
    references = list(dict.fromkeys(line.label for line in lines if line.reference))
    kinds = list(dict.fromkeys(line.series for line in lines))
    few = len(labels) <= FEW
    tints = dict(zip(labels, colours(len(labels), ordered=len(labels) > 8), strict=True))  # there are eight hues
    looks = {}
    for line in lines:
        name = f"{line.label}, {line.series}" if len(kinds) > 1 else line.label
        if line.reference:
            look = (name, SOFT, DASHES[1 + references.index(line.label) % 3], True)
        else:
            look = (name, tints[line.label] if few else SEED, SOLID[kinds.index(line.series) % 3], few)
        looks[line.label, line.series] = look
    return looks


def _learned_line(figure: LearnedFigure, line: LearnedLine, name: str, tint: str, dash: str) -> Any:
    histogram = figure.text.kind == "histogram"
    mode = "lines" if histogram else _marked(line.points)
    return go.Scatter(
        x=line.points.x, y=line.points.y, mode=mode, name=name, legendgroup=name,
        line={"color": tint, "width": 2, "dash": dash, "shape": "hvh" if histogram else "linear"},
        fill="tozeroy" if histogram else None, fillcolor=fade(tint, 0.12) if histogram else None,
        marker={"size": 5}, hovertemplate=f"{name}: %{{y:.3g}}<extra></extra>",
    )  # fmt: skip


def _truth(panel: LearnedPanel) -> list[Any]:
    """The true line, and a vertical one at the true value of a histogram."""
    shared: dict[str, Any] = {"name": "true", "legendgroup": "true", "legendrank": 2000}
    shared["line"] = {"color": INK, "width": 1.6, "dash": "dash"}
    drawn = []
    if panel.mark is not None:
        note = f"true: {panel.mark:.1f}<extra></extra>"
        drawn.append(go.Scatter(x=[panel.mark, panel.mark], y=[0, 1.08], mode="lines", hovertemplate=note, **shared))
    if panel.truth is not None:
        note = "true: %{y:.3g}<extra></extra>"
        x, y, mode = panel.truth.x, panel.truth.y, _marked(panel.truth)
        drawn.append(go.Scatter(x=x, y=y, mode=mode, hovertemplate=note, marker={"size": 5}, **shared))
    return drawn


def _marked(points: Series) -> str:
    """A few places, such as lags, are shown as such."""
    return "lines+markers" if len(points.x) <= 12 else "lines"


def draw_images(figure: ImageFigure) -> Any:
    """A bar an image, worst first; whiskers span the seeds."""
    x = list(range(1, len(figure.images) + 1))
    sign, unit = measures.sign(figure.metric), measures.unit(figure.metric)
    tints = [fade(GOOD, 0.75) if sign * value >= 0 else BAD for value in figure.difference]
    spread = Series("", tuple(x), figure.difference, figure.low, figure.high)
    several = figure.low != figure.high
    bars = go.Bar(
        x=x, y=figure.difference, marker={"color": tints, "line": {"width": 0}}, customdata=figure.images,
        hovertemplate=f"%{{customdata}}: %{{y:+.3f}}{unit}<extra></extra>", showlegend=False,
        error_y={**_whiskers(spread, FAINT), "thickness": 1, "width": 0} if several else None,
    )  # fmt: skip
    canvas = go.Figure(bars)
    canvas.update_xaxes(title_text="images, worst first", showgrid=False, showticklabels=False)
    title = f"{figure.first} minus<br>{figure.second}{_unit(figure.metric)}"
    canvas.update_yaxes(title_text=title, zeroline=True, zerolinecolor=SOFT)
    worst = figure.images[0]
    place = {"y": min(figure.low[0], 0), "yanchor": "top", "yshift": -4}  # beyond the bar's end
    if sign < 0:
        place = {"y": max(figure.high[0], 0), "yanchor": "bottom", "yshift": 4}
    canvas.add_annotation(
        x=1, text=worst, showarrow=False, xanchor="left", xshift=-6, font={"size": 12, "color": SOFT}, **place,
    )  # fmt: skip
    return styled(canvas, height=270, top=30)


def draw_search(figure: SearchFigure) -> Any:
    """One panel an axis with every configuration, then the best value so far by the order of suggestion."""
    names = list(figure.axes)
    canvas = make_subplots(
        rows=1, cols=len(names) + 1, horizontal_spacing=0.05, shared_yaxes=True,
        subplot_titles=[*names, "best so far"],
    )  # fmt: skip
    for column, (name, x) in enumerate(figure.axes.items(), 1):
        _search_points(canvas, figure, x, column)
        if _wide(x):
            canvas.update_xaxes(type="log", row=1, col=column)
        elif tick(INFINITE) in x:
            even = {"type": "category", "categoryorder": "array", "categoryarray": _by_number(x)}
            canvas.update_xaxes(**even, row=1, col=column)
        canvas.update_xaxes(title_text=name, row=1, col=column)
    last, trial = len(names) + 1, list(range(1, len(figure.values) + 1))
    _search_points(canvas, figure, trial, last, legend=False)
    canvas.add_trace(
        go.Scatter(
            x=trial, y=figure.best_so_far, mode="lines", name="best so far",
            line={"color": INK, "width": 2, "shape": "hv"},
        ), row=1, col=last,
    )  # fmt: skip
    canvas.update_xaxes(title_text="suggestion", row=1, col=last)
    canvas.update_yaxes(title_text=f"{figure.measured} {measures.head(figure.metric)}", col=1)
    return styled(canvas, height=410, top=76)


def _search_points(canvas: Any, figure: SearchFigure, x: Sequence[Any], column: int, *, legend: bool = True) -> None:
    cross = {"color": PAPERS, "size": 8, "symbol": "x-thin", "line": {"color": PAPERS, "width": 1.8}}
    unit = measures.unit(figure.metric)
    styles = {
        False: ("finished", {"color": fade(OURS, 0.8), "size": 9, "line": {"color": PAPER, "width": 1}}),
        True: ("stopped early", cross),
    }
    for stopped, (name, marker) in styles.items():
        at = [i for i, flag in enumerate(figure.pruned) if flag == stopped and not math.isnan(figure.values[i])]
        canvas.add_trace(
            go.Scatter(
                x=[x[i] for i in at], y=[figure.values[i] for i in at], mode="markers", name=name, legendgroup=name,
                showlegend=legend and column == 1, marker=marker,
                hovertemplate=f"%{{x}}: %{{y:.{measures.digits(figure.metric)}f}}{unit}<extra></extra>",
            ), row=1, col=column,
        )  # fmt: skip


def _by_number(labels: Sequence[str]) -> list[str]:
    return sorted(set(labels), key=lambda label: math.inf if label == tick(INFINITE) else float(label))


def _wide(values: Sequence[Any]) -> bool:
    numbers = [v for v in values if is_number(v)]
    return len(numbers) == len(values) > 0 and min(numbers) > 0 and max(numbers) / min(numbers) > 30


def styled(canvas: Any, *, height: int, top: int = 94) -> Any:
    """The canvas in the fonts, colours and margins that all figures share."""
    canvas.update_layout(
        template="none", height=height, autosize=True, paper_bgcolor=PAPER, plot_bgcolor=PAPER, bargap=0.25,
        font={"family": FONT, "size": 13, "color": INK}, margin={"l": 70, "r": 14, "t": top, "b": 52},
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top", "font": {"color": SOFT}},
        hoverlabel={"bgcolor": PAPER, "bordercolor": RULE, "font": {"family": FONT, "size": 12, "color": INK}},
    )  # fmt: skip
    axis = {"gridcolor": RULE, "linecolor": FAINT, "tickcolor": FAINT, "automargin": True}
    ticks = {"tickfont": {"size": 12, "color": SOFT}, "title_font": {"size": 13, "color": INK}, "title_standoff": 8}
    canvas.update_xaxes(showline=True, zeroline=False, showgrid=False, ticks="outside", ticklen=4, **axis, **ticks)
    canvas.update_yaxes(showline=False, nticks=6, **axis, **ticks)
    for note in canvas.layout.annotations:
        if note.yref == "paper":  # the panels' titles
            note.update(font={"size": 13.5, "color": INK}, yshift=4)
    return canvas
