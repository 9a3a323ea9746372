"""The page of a race: recommendation, standing, pictures with residuals, noise, who did not run and why, advice."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from cluster.race.standing import Place, Standing
from cluster.report.document import document, write
from cluster.report.drawing import styled
from cluster.report.html_parts import figure, items, prose, section, table
from cluster.report.noise_page import draw_curve, draw_lags
from cluster.report.style import FAINT, INK, OURS, PAPERS, fade
from denoise_core.method import method_class
from denoise_core.noise.report import NoiseReport

SHOWN = 6
"""Entrants whose pictures are shown."""
BARS = 20


@dataclass(frozen=True)
class Outcome:
    """All that the page tells. ``pictures`` are PNG crops by entrant's label and kind, the noisy one under ``""``."""

    title: str
    question: str
    verdict: str
    judged: Sequence[str]
    """How it was judged, or why it could not be."""
    report: NoiseReport
    standing: Standing | None
    pictures: Mapping[str, Mapping[str, bytes]]
    out: Sequence[tuple[str, str]]
    failed: Sequence[tuple[str, str]]
    advice: Sequence[str]
    use: Sequence[str]
    """What to type next."""
    costs: str
    command: str


def write_page(outcome: Outcome, path: Path) -> Path:
    """Writes the page aside and renames it; returns its path."""
    return write(path, page(outcome))


def page(outcome: Outcome) -> str:
    """The whole document, which loads nothing from any network."""
    parts = [
        f'<header><div class="study">{escape(outcome.title)}</div><h1>{escape(outcome.question)}</h1>'
        f'<p class="verdict">{prose(outcome.verdict)}</p></header>',
        items(outcome.judged),
    ]
    if outcome.standing is not None:
        parts.append(_ranking(outcome.standing))
    parts += [
        _pictures(outcome),
        section("Use it", *(f"<pre>{escape(line)}</pre>" for line in outcome.use)) if outcome.use else "",
        section("To know more", items(outcome.advice)),
        section(
            "The noise",
            items(outcome.report.sentences()),
            figure(draw_curve(outcome.report), "curve", "Variance of the noise by intensity, with the fitted line."),
            figure(draw_lags(outcome.report), "lags", "Autocorrelation of the noise by distance in pixels."),
        ),
        section("Who did not run, and why", table(("method", "why"), _titled(outcome.out), text=True)),
        section("Who failed", table(("entrant", "why"), outcome.failed, text=True)) if outcome.failed else "",
        section("What it cost", prose(outcome.costs), f"<pre>{escape(outcome.command)}</pre>"),
    ]
    body = "\n".join(part for part in parts if part)
    return document(outcome.title, body)


def _titled(out: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(method_class(name).title, reason) for name, reason in out]


def _ranking(found: Standing) -> str:
    known = any(one.truth is not None for one in found.places)
    head = ["", "entrant", f"{found.criterion.title}, dB", "the best is ahead by", "round"]
    rows = [
        [str(number), one.entrant.label, f"{one.value:.2f}", _behind(one, found), str(one.lap)]
        + ([f"{one.truth:.2f}" if one.truth is not None else "–"] if known else [])
        for number, one in enumerate(found.places, 1)
    ]
    note = "Intervals hold together at 95 %, paired over the images. Who left after an earlier round had fewer steps, "
    note += "so its value is not compared with the others'."
    if known:
        head.append("true PSNR, dB")
        note += " True PSNR is known here since clean images are; nothing was chosen by it."
    return section(
        "The standing",
        figure(draw_standing(found), "standing", "Means over the images of the last round, with the interval of what "
               "the best is ahead by. The line is the noisy input."),
        table(head, rows),
        items(found.limits()),
        f'<p class="note">{note}</p>',
    )  # fmt: skip


def _behind(one: Place, found: Standing) -> str:
    if one.behind is not None:
        text = f"{one.behind.mean:.2f} [{one.behind.low:.2f}, {one.behind.high:.2f}]"
        return text if one.told_apart else f"{text}, not told apart"
    return "–" if one is found.best else f"left after round {one.lap}"


def draw_standing(found: Standing) -> Any:
    """Bars of the last round, the best on top; the whiskers are the interval of the lead over each."""
    last = [one for one in found.places if one.lap == found.best.lap][:BARS][::-1]
    colours = [OURS if one is found.best else fade(OURS, 0.35 if one.told_apart else 0.7) for one in last]
    noisy = next((one.value for one in last if one.entrant.method == "noisy"), None)
    low = min(one.value for one in last)
    spread = [one.behind.half_width if one.behind else 0.0 for one in last]
    canvas = go.Figure(
        go.Bar(
            x=[one.value - low + 1 for one in last], base=low - 1, y=[one.entrant.label for one in last],
            orientation="h", marker={"color": colours}, text=[f"{one.value:.2f}" for one in last],
            textposition="inside", insidetextanchor="start", textfont={"color": INK},
            error_x={"type": "data", "array": spread, "color": FAINT, "thickness": 1.2, "width": 3},
            hovertemplate="%{y}: %{text} dB<extra></extra>",
        )
    )  # fmt: skip
    if noisy is not None:
        canvas.add_vline(x=noisy, line={"color": PAPERS, "width": 1.4, "dash": "dot"})
    high = max(one.value for one in last)
    margin = 1 + 0.1 * (high - low)  # whiskers of what was measured on few images would dwarf the bars
    canvas.update_xaxes(title_text=f"{found.criterion.title}, dB", range=[low - 1, high + margin])
    canvas = styled(canvas, height=90 + 30 * len(last), top=20)
    canvas.update_yaxes(automargin=True, ticks="", showgrid=False, dtick=1)
    return canvas


def _pictures(outcome: Outcome) -> str:
    shown = list(outcome.pictures.items())
    if not shown:
        return ""
    tiles = [_tile(shown[0][1].get("noisy"), "noisy", "")]
    residuals = ["<span></span>"]
    for label, kinds in shown[:SHOWN]:
        tiles.append(_tile(kinds.get("denoised"), label, ""))
        residuals.append(_tile(kinds.get("residual"), "what it removed", ""))
    if "clean" in shown[0][1]:
        tiles.append(_tile(shown[0][1]["clean"], "clean", ""))
        residuals.append("<span></span>")
    columns = f'<div class="crops" style="--columns: {len(tiles)}">'
    note = '<p class="note">The same crop of each. What a method removed should look like noise: lines and textures in '
    note += "it are structure that was lost.</p>"
    pictures = f"{columns}{''.join(tiles)}</div>"
    if any("residual" in kinds for _, kinds in shown):
        pictures += f"{columns}{''.join(residuals)}</div>"
    return section("Look at it", note, pictures)


def _tile(png: bytes | None, name: str, value: str) -> str:
    if png is None:
        return "<span></span>"
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{data}"><figcaption>{escape(name)}'
        f"{escape(value)}</figcaption></figure>"
    )
