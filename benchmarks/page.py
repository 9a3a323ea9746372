"""One page: the last run on this machine in figures, and how each came about from commit to commit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from benchmarks.harness import exponent
from cluster.report.document import document
from cluster.report.drawing import styled
from cluster.report.html_parts import figure, items, prose, section, table
from cluster.report.style import FAINT, colours

LINES = 8
"""Of a figure at most."""
HEAD = ("what", "against", "reference, ms", "ours, ms", "times as fast [quartiles]", "goal", "share of peak")


def page(rows: pd.DataFrame, device: str) -> str:
    """The document for the results of one machine."""
    mine = rows[rows["device"] == device]
    last = mine.drop_duplicates(["group", "name", "size"], keep="last")
    parts = [_header(last, device)]
    for group, one in last.groupby("group", sort=True):
        compared, grown = one[one["size"].isna()], one[one["size"].notna()]
        shown = []
        if len(compared):
            shown.append(table(HEAD, [_line(row) for _, row in compared.iterrows()]))
            history = mine[(mine["group"] == group) & mine["size"].isna()]
            note = "Times as fast as the reference, run by run; the reference is measured in the same run."
            for title, some in panels(history):
                shown.append(figure(draw_history(some), f"history-{group}-{title}", note, title))
                note = ""
        if len(grown):
            shown.append(table(("what", "growth", "sizes", "memory at the largest"), growth(grown), text=True))
            note = "Both axes are logarithmic: a line of slope 1 grows in proportion."
            shown.append(figure(draw_growth(grown), f"growth-{group}", note))
        parts.append(section(str(group).capitalize(), *shown))
    return document("Benchmarks", "\n".join(parts))


def _header(last: pd.DataFrame, device: str) -> str:
    newest = last.iloc[-1]
    missed = last[last["goal"].notna() & (last["ratio"] < last["goal"])]
    goals = int(last["goal"].notna().sum())
    reached = prose(f"{goals - len(missed)} of {goals} goals are reached on this machine.")
    changed = " with changes" if newest["changed"] else ""
    return (
        '<header><div class="study">benchmarks</div><h1>What does it cost, and against what?</h1>'
        f'<p class="verdict">{reached}</p></header>'
        + items([
            f"{device}, torch {newest['torch']}, commit {newest['commit'][:12]}{changed}, {newest['time']} UTC.",
            "Each figure is the median over rounds in which reference and ours took turns.",
            "Share of peak: operations of convolutions and matrix products by the time that all of the step took, "
            "against the best convolution that this machine showed in the same run.",
        ])
        + f"<pre>{escape('python -m benchmarks')}</pre>"
    )  # fmt: skip


def _line(row: pd.Series) -> tuple[str, ...]:
    goal = "" if pd.isna(row["goal"]) else f"{row['goal']:g}{'' if row['ratio'] >= row['goal'] else ', missed'}"
    share = "" if pd.isna(row["share_of_peak"]) else f"{100 * row['share_of_peak']:.0f} %"
    ratio = f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    theirs, ours = milliseconds(row["reference_ms"]), milliseconds(row["ours_ms"])
    return row["name"], row["reference"], theirs, ours, ratio, goal, share


def growth(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    """(what, exponent of time over the whole range and at its end, sizes, memory) for each curve."""
    lines = []
    for name, one in rows.groupby("name", sort=False):
        one = one.sort_values("size")
        sizes, times = [int(size) for size in one["size"]], list(one["ours_ms"])
        whole = exponent(sizes, times) if len(sizes) > 1 else math.nan
        end = exponent(sizes[-2:], times[-2:]) if len(sizes) > 1 else math.nan
        unit = one["reference"].iloc[-1]
        memory = one["memory_mb"].iloc[-1]
        lines.append((
            str(name), f"time grows with the exponent {whole:.2f}, {end:.2f} at the end",
            f"{sizes[0]:,} to {sizes[-1]:,} {unit}: {milliseconds(times[0])} to {milliseconds(times[-1])} ms",
            "" if pd.isna(memory) else f"{memory:.0f} MiB",
        ))  # fmt: skip
    return lines


def panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each figure with its title: by the first word of their names where one figure would be too full."""
    if rows["name"].nunique() <= LINES:
        return [("", rows)]
    return [(str(word), some) for word, some in rows.groupby(rows["name"].str.split(" ").str[0], sort=False)]


def milliseconds(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw_history(rows: pd.DataFrame) -> Any:
    """A line for each comparison over the runs."""
    runs = rows.drop_duplicates("run")
    ticks = [f"{row['time'][5:16]}<br>{row['commit'][:7]}{'+' if row['changed'] else ''}" for _, row in runs.iterrows()]
    places = {run: at for at, run in enumerate(runs["run"])}
    names: Sequence[str] = list(rows["name"].drop_duplicates())
    canvas = go.Figure()
    for name, colour in zip(names, colours(len(names), ordered=False), strict=True):
        one = rows[rows["name"] == name]
        canvas.add_scatter(
            x=[places[run] for run in one["run"]], y=one["ratio"], name=name, mode="lines+markers",
            line={"color": colour, "width": 1.6}, marker={"size": 6},
            error_y={"type": "data", "symmetric": False, "array": one["high"] - one["ratio"],
                     "arrayminus": one["ratio"] - one["low"], "color": FAINT, "thickness": 1, "width": 2},
            hovertemplate=f"{name}: %{{y:.2f}}<extra></extra>",
        )  # fmt: skip
    canvas.add_hline(y=1, line={"color": FAINT, "dash": "dot"})
    canvas.update_yaxes(title_text="times as fast", type="log")
    canvas.update_xaxes(tickvals=list(places.values()), ticktext=ticks)
    return styled(canvas, height=300 + 10 * len(names), top=30 + 12 * len(names))


def draw_growth(rows: pd.DataFrame) -> Any:
    """Time against size, a line a curve."""
    names = list(rows["name"].drop_duplicates())
    canvas = go.Figure()
    for name, colour in zip(names, colours(len(names), ordered=False), strict=True):
        one = rows[rows["name"] == name].sort_values("size")
        canvas.add_scatter(
            x=one["size"], y=one["ours_ms"] / 1e3, name=name, mode="lines+markers", line={"color": colour},
            hovertemplate=f"{name}, %{{x:,}}: %{{y:.3g}} s<extra></extra>",
        )  # fmt: skip
    canvas.update_xaxes(type="log", title_text="size")
    canvas.update_yaxes(type="log", title_text="seconds")
    return styled(canvas, height=420, top=40 + 10 * len(names))
