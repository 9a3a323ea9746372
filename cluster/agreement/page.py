"""The page of the agreement: what may be trusted where, as figures and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from cluster.agreement.evidence import Evidence
from cluster.report.document import document, write
from cluster.report.drawing import styled
from cluster.report.html_parts import figure, items, prose, section, table
from cluster.report.style import FAINT, OURS, PAPERS
from denoise_core.metrics.clean_free import criterion

SMALL_DB = 0.1
"""A choice that loses less is as good as the best one."""
Refused = Mapping[tuple[str, str, str], str | None]


def write_page(found: Sequence[Evidence], refused: Refused, command: str, path: Path) -> Path:
    """Writes the page aside and renames it; returns its path."""
    return write(path, page(found, refused, command))


def page(found: Sequence[Evidence], refused: Refused, command: str) -> str:
    """The whole document, which loads nothing from any network."""
    rows = [
        (one.noise, one.dataset, criterion(one.criterion).title, str(one.tau), str(one.regret), f"{one.bias:+.2f}",
         f"{one.candidates} × {one.images}")
        for one in found
    ]  # fmt: skip
    reasons = [
        (one.noise, one.dataset, criterion(one.criterion).title, str(refused[_key(one)]))
        for one in found
        if refused.get(_key(one)) is not None
    ]
    head = ("noise", "test images", "criterion", "tau", "regret, dB", "bias, dB", "candidates × images")
    body = "\n".join([
        '<header><div class="study">criterion_agreement</div><h1>How far can criteria without clean images be trusted?'
        f'</h1><p class="verdict">{prose(verdict(found, refused))}</p></header>',
        items([
            "Tau: Kendall's rank agreement with true PSNR, 1 where all candidates are in the right order.",
            "Regret: how much true PSNR the criterion's choice loses against the best candidate.",
            "Intervals are over the images; candidates are trainings and settings of this store as they are.",
        ]),
        section("What a choice loses", figure(draw_regret(found, refused), "regret", "Regret by criterion and noise, "
                "with its interval; hollow where the criterion refuses the noise. Lower is better.")),
        section("All numbers", table(head, rows)),
        section("Refused there, and why", table(("noise", "test images", "criterion", "why"), reasons, text=True))
        if reasons else "",
        section("Made by", f"<pre>{escape(command)}</pre>"),
    ])  # fmt: skip
    return document("Criteria without clean images", body)


def verdict(found: Sequence[Evidence], refused: Refused) -> str:
    """What holds of the criteria where they are licensed, in a sentence or two."""
    licensed = [one for one in found if _key(one) in refused and refused[_key(one)] is None]
    if not licensed:
        return "No criterion was licensed on the noise of this store, so none of these numbers speaks for one."
    good = [one for one in licensed if one.regret.value <= SMALL_DB]
    worst = max(licensed, key=lambda one: one.regret.value)
    said = (
        f"Where a criterion is licensed, its choice loses at most {SMALL_DB} dB in {len(good)} of {len(licensed)} cases"
    )
    name = criterion(worst.criterion).title
    return f"{said}; the worst is {name} on {worst.noise}, {worst.dataset}, with {worst.regret} dB."


def draw_regret(found: Sequence[Evidence], refused: Refused) -> Any:
    """Points with intervals: a row for each noise, set and criterion."""
    names = [f"{one.noise}, {one.dataset}: {criterion(one.criterion).title}" for one in found][::-1]
    shown = list(found)[::-1]
    licensed = [refused.get(_key(one), "") is None for one in shown]
    canvas = go.Figure(
        go.Scatter(
            x=[one.regret.value for one in shown], y=names, mode="markers",
            marker={"size": 10, "color": [OURS if ok else "white" for ok in licensed],
                    "line": {"color": [OURS if ok else PAPERS for ok in licensed], "width": 2}},
            error_x={"type": "data", "symmetric": False, "color": FAINT, "thickness": 1.2, "width": 3,
                     "array": [max(0.0, one.regret.high - one.regret.value) for one in shown],
                     "arrayminus": [max(0.0, one.regret.value - one.regret.low) for one in shown]},
            hovertemplate="%{y}: %{x:.2f} dB<extra></extra>",
        )
    )  # fmt: skip
    canvas.update_xaxes(title_text="regret, dB", rangemode="tozero")
    canvas = styled(canvas, height=110 + 24 * len(shown), top=20)
    canvas.update_yaxes(automargin=True, ticks="")
    return canvas


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _key(one: Evidence) -> tuple[str, str, str]:
    return one.noise, one.dataset, one.criterion
