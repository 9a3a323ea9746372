"""Small pieces of HTML. Every text that comes in is escaped here."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd

from cluster.report import cells, measures
from cluster.report.cells import Setting
from cluster.report.drawing import to_html
from cluster.report.results import StudyResults
from denoise_core.diagnostics import GENERATED

CROPS = 7  # cells that are shown of many
REAL, MADE = "noise", "generated noise"  # kinds of previews


def section(title: str, *parts: str) -> str:
    """A headed section; ``parts`` are finished HTML."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def prose(sentence: str) -> str:
    """A sentence in which no line breaks inside ``gamma = 2``, ``0.3 dB`` or ``3 seeds × 20 images``."""
    joined = re.sub(r" ([=×]) ", "\u00a0\\1\u00a0", escape(sentence))
    return re.sub(r" (%|dB\b|seeds?\b)", "\u00a0\\1", joined)


def items(sentences: Sequence[str]) -> str:
    """A list of sentences."""
    listed = "".join(f"<li>{prose(sentence)}</li>" for sentence in sentences)
    return f"<ul>{listed}</ul>" if sentences else ""


def box(lead: str, sentences: Sequence[str]) -> str:
    """A warning with its reasons."""
    return f'<div class="box"><b>{prose(lead)}</b>{items(sentences)}</div>'


def strip(shown: Sequence[tuple[str, str, bool]]) -> str:
    """A row of (value, what it is, whether it is bad)."""
    parts = [
        f"<div{' class=bad' if bad else ''}><b>{escape(value)}</b><span>{escape(name)}</span></div>"
        for value, name, bad in shown
    ]
    return f'<div class="strip">{"".join(parts)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text: bool = False) -> str:
    """A table of texts; ``text`` aligns left and wraps, as sentences want."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(value)}</td>' for value in row)}</tr>" for row in rows)
    kind = "text" if text else "numbers"
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(canvas: Any, name: str, note: str, title: str = "") -> str:
    """A Plotly figure with its caption."""
    head = f"<h3>{escape(title)}</h3>" if title else ""
    caption = f'<p class="note">{prose(note)}</p>'
    return f'{head}<div class="scroll"><div class="figure">{to_html(canvas, name)}</div></div>{caption}'


def crops(results: StudyResults) -> str:
    """The same crop clean, noisy and denoised by each cell: a row an image, one seed each.

    Where noise is generated a second row has the real noise, once, and that of each of these cells.
    """
    previews = results.previews
    metric = "psnr" if cells.of_noise(results, results.metric) else results.metric
    rows, made = [], False
    for (noise, dataset, image), group in previews.groupby(["noise", "dataset", "image_id"], sort=False):
        setting = Setting(str(noise), str(dataset))
        noisy, clean = (group[group["kind"] == kind].head(1) for kind in ("noisy", "clean"))
        chosen = _chosen(results, _of_labels(results, group, "denoised"))
        shown = [_crop(row["png"], "clean", "") for _, row in clean.iterrows()]
        shown += [
            _crop(row["png"], "noisy", _measured(results, setting, row, "noisy", metric)) for _, row in noisy.iterrows()
        ]
        shown += [
            _crop(
                row["png"],
                cells.reference_name(str(row["label"])),
                _measured(results, setting, row, "denoised", metric),
            )
            for _, row in chosen.iterrows()
        ]
        columns = len(shown) if len(shown) <= 6 else -(-len(shown) // 2)
        head = f"<h3>{escape(f'{setting}, {image}')}</h3>"
        rows.append(f'{head}<div class="crops" style="--columns: {columns}">{"".join(shown)}</div>')
        noises = _noises(results, setting, group, list(chosen["label"]))
        if noises:
            # under the noisy image and those denoised, where these take one row
            blank = ["<span></span>"] * (len(shown) == columns and len(clean) > 0)
            rows.append(f'<div class="crops" style="--columns: {columns}">{"".join([*blank, *noises])}</div>')
            made = True
    note = f"The same crop of each; {measures.kind(metric).title} of the whole image below, of the training shown."
    if made:
        note += " Below them what noise adds, around middle gray: black and white are three standard deviations of the "
        note += "real noise in all of them."
    return section("Look at it", f'<p class="note">{note}</p>', *rows) if rows else ""


def _of_labels(results: StudyResults, group: pd.DataFrame, kind: str) -> pd.DataFrame:
    """One picture of this kind for each label, in their order."""
    found = group[group["kind"] == kind].sort_values("seed", kind="stable").drop_duplicates("label")
    return found.sort_values("label", key=lambda labels: labels.map(_rank(results)), kind="stable")


def _noises(results: StudyResults, setting: Setting, group: pd.DataFrame, labels: Sequence[str]) -> list[str]:
    """The real noise, and what these labels generate; nothing where none does."""
    generated = _of_labels(results, group, MADE)
    generated = generated[generated["label"].isin(labels)]
    if generated.empty:
        return []
    shown = [_crop(row["png"], "real noise", "") for _, row in group[group["kind"] == REAL].head(1).iterrows()]
    for _, row in generated.iterrows():
        name = cells.reference_name(str(row["label"]))
        value = _measured(results, setting, row, GENERATED, "akld")
        shown.append(_crop(row["png"], f"generated, {name}", f"AKLD {value}" if value else ""))
    return shown


def _chosen(results: StudyResults, denoised: pd.DataFrame) -> pd.DataFrame:
    """Of many cells the first, the last and some between, evenly; every reference."""
    references = set(results.trials.loc[results.trials["role"] == "reference", "label"])
    is_reference = denoised["label"].isin(references)
    ours = denoised[~is_reference]
    if len(ours) > CROPS:
        places = {round(index * (len(ours) - 1) / (CROPS - 1)) for index in range(CROPS)}
        ours = ours.iloc[sorted(places)]
    return pd.concat([ours, denoised[is_reference]])


def _rank(results: StudyResults) -> dict[str, int]:
    """The order of labels: cells by their values, then references."""
    labels = [cells.cell_label(results, cell) for cell in cells.planned_cells(results)]
    every = [*labels, *(str(label) for label in results.previews["label"].dropna().unique() if label not in labels)]
    return {label: index for index, label in enumerate(every)}


def _measured(results: StudyResults, setting: Setting, row: pd.Series, output: str, metric: str) -> str:
    """What was measured of this image and training under the canonical protocol."""
    values = results.measured.rows(
        noise=setting.noise, dataset=setting.dataset, metric=metric, protocol=results.canonical_protocol, output=output
    )  # fmt: skip
    chosen = values["image_id"] == row["image_id"]
    if output != "noisy":  # that is measured once, perhaps with another training
        chosen &= values["trial_id"] == row["trial_id"]
    mean = values.loc[chosen, "value"].mean()
    return "" if pd.isna(mean) else f"{mean:.{measures.digits(metric)}f}{measures.unit(metric)}"


def _crop(png: bytes, name: str, value: str) -> str:
    data = base64.b64encode(png).decode()
    small = f"<br><small>{escape(value)}</small>" if value else ""
    return (
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(name)}{small}</figcaption></figure>"
    )


def duration(seconds: float) -> str:
    """``0.4 s``, ``37 s``, ``12 min``, ``3.4 h``, ``2.1 days``."""
    if math.isnan(seconds):
        return "–"
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    for limit, size, unit in ((5400, 60, "min"), (129_600, 3600, "h"), (math.inf, 86_400, "days")):
        if seconds < limit:
            return f"{seconds / size:.0f} min" if unit == "min" else f"{seconds / size:.1f} {unit}"
    return "–"
