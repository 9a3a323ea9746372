"""One self-contained HTML file: the verdict first, then its evidence. It loads nothing from any network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import pandas as pd
from plotly.offline import get_plotlyjs

from cluster.report import cells, drawing, figures
from cluster.report.html_parts import box, crops, duration, figure, items, prose, section, strip, table
from cluster.report.learned import LearnedTable, Quantity, learned, signed
from cluster.report.results import StudyResults
from cluster.report.style import SHEET
from cluster.report.tables import ComparisonTable, Number, Row, comparison_tables, costs
from cluster.report.verdict import Comparison, Verdict, judge, remedy
from denoise_core.diagnostics import FIGURES

# The browser itself refuses every request: a report that a paper carries must not depend on, or tell, anyone.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
PRINTING = """
const plots = () => document.querySelectorAll('.plotly-graph-div');
addEventListener('beforeprint', () => plots().forEach(p => Plotly.relayout(p, {width: 690, autosize: false})));
addEventListener('afterprint', () => plots().forEach(p => Plotly.relayout(p, {width: null, autosize: true})));
"""


def render(results: StudyResults, path: Path) -> Path:
    """Write the report and return its path. A reader never sees half a file: it is written aside and renamed."""
    text = page(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
    return path


def page(results: StudyResults) -> str:
    """The whole document. Sections without data are left out."""
    verdict = judge(results)
    parts: list[Callable[[], str]] = [
        lambda: _header(results, verdict),
        lambda: _main_figures(results),
        lambda: _tables(results),
        lambda: crops(results),
        lambda: _learned(results),
        lambda: _learning(results),
        lambda: _images(results),
        lambda: _cost(results),
        lambda: _differences_of_setup(results),
        lambda: _limits(results, verdict),
        lambda: _deviations(results),
        lambda: _failures(results),
        lambda: _manifest(results),
        lambda: _command(results),
    ]
    body = "\n".join(part() for part in parts)
    footer = f"<footer>{escape(results.name)} · {escape(results.created)}</footer>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(results.name)}</title><style>{SHEET}</style>"
        f"<script>{get_plotlyjs()}</script></head>\n"
        f"<body><main>{body}{footer}</main><script>{PRINTING}</script></body></html>\n"
    )


def _header(results: StudyResults, verdict: Verdict) -> str:
    caveats = box("Before you compare", results.caveats) if results.caveats else ""
    return (
        f'<header><div class="study">{escape(results.name)}</div><h1>{escape(results.question)}</h1>'
        f'<p class="verdict">{prose(verdict.headline)}</p></header>'
        f"{caveats}{_details(verdict)}{_status(results)}"
    )


def _details(verdict: Verdict) -> str:
    """A plain list for one setting, cards for several."""
    *settings, (_, general) = verdict.details
    if len(settings) <= 1:
        return items(verdict.sentences)
    cards = "".join(f"<div><h3>{escape(title)}</h3>{items(group)}</div>" for title, group in settings)
    return f'<div class="cards">{cards}</div>{items(general)}'


def _status(results: StudyResults) -> str:
    trainings = results.trials.drop_duplicates("training_id")
    counts, ours = trainings["status"].value_counts(), results.trials[results.trials["role"] == "cell"]
    trained = int(trainings["status"].isin(("done", "trained")).sum())
    shown = [(f"{trained} / {len(trainings)}", "trainings done", False)]
    if len(results.trials) > len(trainings):
        evaluated = int((results.trials["status"] == "done").sum())
        shown.append((f"{evaluated} / {len(results.trials)}", "evaluations", False))
    for status, text in (("failed", "failed"), ("pruned", "stopped early"), ("missing", "not run yet")):
        if counts.get(status, 0):
            shown.append((str(counts[status]), text, status != "pruned"))
    images = results.measurements.drop_duplicates(["dataset", "image_id"])
    devices = [str(device) for device in results.trials["device"].dropna().unique() if str(device)]
    shown += [(results.budget, "budget", False), (str(ours["seed"].nunique()), "seeds", False)]
    shown += [(str(len(images)), "test images", False)] if len(images) else []
    spent = trainings["train_s"].fillna(0) - trainings["shared_s"].fillna(0)  # what several need is trained once
    shown += [(duration(float(spent.sum())), "training time of this study", False)]
    shown += [(", ".join(devices), "device", False)] if devices else []
    return strip(shown)


def _main_figures(results: StudyResults) -> str:
    drawn = []
    for index, plain in enumerate(figures.axis_figures(results)):
        many = any(line.seeds for panel in plain.panels for line in panel.lines)
        note = "Upper row: our means" + (
            "; the band is the 95 % interval over trainings, on exactly these images. " if many else " (one seed). "
        )
        note += f"Lower row: the change against {plain.baseline}, with its paired 95 % interval over "
        note += "seeds and images" if many else "images"
        printed = any(line.paper.x for panel in plain.panels for line in panel.lines)
        note += ", each value by itself; the paper's changes are on the same axis." if printed else "."
        note += " The tested values are evenly spaced." if plain.categorical and plain.joined else ""
        canvas = drawing.draw_axis(plain)
        title = cells.dataset_name(plain.dataset) + ("" if plain.metric == results.metric else ", SSIM")
        drawn.append(figure(canvas, f"figure-{index}", note, title))
    for index, tried in enumerate(figures.search_figures(results)):
        note = "Every configuration that was tried; crosses were stopped early, at the value that they had reached."
        drawn.append(figure(drawing.draw_search(tried), f"search-{index}", note, tried.title))
    return section("Result", *drawn) if drawn else ""


def _tables(results: StudyResults) -> str:
    paper = results.paper_protocol
    main = comparison_tables(results, paper) if paper else []
    own = comparison_tables(results, results.canonical_protocol) if paper != results.canonical_protocol else []
    if not main and not own:
        return ""
    note = "± is half the 95 % interval over trainings, on exactly these images. "
    note += "Bold: better than each of the others by more than the paired interval."
    if any(item.paper_dataset not in ("", item.setting.dataset) for item in main):
        note += " The paper's images are others: the difference is mostly theirs and the budget's, not the method's."
    shown = "".join(_comparison(item) for item in main or own)
    if main and own:
        shown += f"<details><summary>The same under the protocol “{escape(results.canonical_protocol)}”</summary>"
        shown += "".join(_comparison(item) for item in own) + "</details>"
    protocol = paper if main else results.canonical_protocol
    title = f"Ours and the paper's, measured by the protocol “{protocol}”" if results.paper else "Values"
    source = _paper_source(results)
    return section(title, f'<p class="note">{source}{escape(note)}</p>', shown)


def _paper_source(results: StudyResults) -> str:
    if results.paper is None:
        return ""
    paper, printed = results.paper.source(), results.paper.load()
    note = f" ({printed.note})" if printed.note else ""
    return escape(f"Paper: {paper.citation}, {results.paper.table}: {printed.caption}{note}. ")


def _comparison(plain: ComparisonTable) -> str:
    head = [(metric.upper() + (" (dB)" if metric == "psnr" else "")) for metric in plain.metrics]
    columns = ["ours"]
    if plain.paper_dataset:
        same = plain.paper_dataset == plain.setting.dataset
        columns += ["paper" if same else f"paper ({cells.dataset_name(plain.paper_dataset)})", "difference"]
    groups = "".join(f'<th class="span" colspan="{len(columns)}">{escape(name)}</th>' for name in head)
    names = "".join(f"<th>{escape(name)}</th>" for _ in head for name in columns)
    rows = "".join(_comparison_row(plain, row) for row in plain.rows)
    counts = f"{plain.seeds} seed{'s' * (plain.seeds != 1)} × {plain.images} images"
    caption = f"{escape(str(plain.setting))} <small>({counts})</small>"
    return (
        f'<div class="scroll"><table><caption>{caption}</caption><thead><tr><th rowspan="2"></th>{groups}</tr>'
        f"<tr>{names}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _comparison_row(plain: ComparisonTable, row: Row) -> str:
    tags = ("<b>", "</b>") if row.best else ("", "")
    cols = [f"<td>{tags[0]}{escape(row.name)}{tags[1]}</td>"]
    for metric in plain.metrics:
        number = row.numbers.get(metric, Number())
        digits = 2 if metric == "psnr" else 4 if metric == "ssim" else 3
        spread = f" <small>± {number.spread:.{digits}f}</small>" if number.spread is not None else ""
        ours = f"{tags[0]}{number.ours:.{digits}f}{tags[1]}{spread}" if number.ours is not None else ""
        shown = [ours]
        if plain.paper_dataset:
            printed = min(digits, 3)
            shown += [f"{number.paper:.{printed}f}" if number.paper is not None else ""]
            shown += [f"{number.difference:+.{printed}f}" if number.difference is not None else ""]
        cols += [f"<td>{text}</td>" if text else '<td class="none">–</td>' for text in shown]
    return f'<tr class="{"" if row.role == "cell" else "other"}">{"".join(cols)}</tr>'


def _learned(results: StudyResults) -> str:
    plain = learned(results)
    if plain is None:
        return ""
    parts = [items(plain.sentences)]
    for one in plain.figures:
        spans = one.text.kind == "lines" and any(line.points.low for panel in one.panels for line in panel.lines)
        note = one.text.note + (" The shade spans the seeds." if spans else "")
        parts.append(figure(drawing.draw_learned(one), f"learned-{one.name}", note, one.text.title))
    parts += [_learned_table(one) for one in plain.tables]
    numbers = [number for one in plain.tables for row in one.rows for number in row.numbers]
    several = any(number and number.spread for number in numbers)
    notes = ["± is half the 95 % interval over trainings"] if several else []
    names = dict.fromkeys(name for one in plain.tables for name, _ in one.columns)
    notes += [f"{FIGURES[name].title}: {FIGURES[name].note}" for name in names]
    parts += [f'<p class="note">{prose("; ".join(notes))}.</p>'] if plain.tables else []
    return section("What was learned of the noise", *parts)


def _learned_table(plain: LearnedTable) -> str:
    rows = [
        [row.name, *(_quantity(name, number) for (name, _), number in zip(plain.columns, row.numbers, strict=True))]
        for row in plain.rows
    ]
    return f"<h3>{escape(f'Numbers, {plain.title}')}</h3>{table(['', *plain.heads], rows)}"


def _quantity(name: str, number: Quantity | None) -> str:
    """``21.70 ± 0.31 (-13 %)``."""
    if number is None:
        return "–"
    digits = 0 if name == "patch_count" else 3 if name in ("noise_lag1", "patch_lambda") else 2
    spread = f" ± {number.spread:,.{digits}f}" if number.spread is not None else ""
    relative = f" ({100 * number.relative:+.0f} %)" if number.relative is not None else ""
    return signed(number.value, digits) + spread + relative


def _learning(results: StudyResults) -> str:
    plain = figures.learning_figure(results)
    if plain is None:
        return ""
    note = "Mean validation PSNR over the seeds; the shade spans them."
    return section("Learning curves", figure(drawing.draw_learning(plain), "learning", note))


def _images(results: StudyResults) -> str:
    drawn = []
    for index, plain in enumerate(figures.image_figures(results)):
        lost = sum(value < 0 for value in plain.difference)
        note = f"{plain.first} is worse on {lost} of {len(plain.images)} images; worst: "
        ends = zip(plain.images[:3], plain.difference[:3], strict=True)
        note += ", ".join(f"{image} ({value:+.2f} dB)" for image, value in ends) + ". Whiskers span the seeds."
        drawn.append(figure(drawing.draw_images(plain), f"images-{index}", note, str(plain.setting)))
    return section("Image by image: the two best", *drawn) if drawn else ""


def _cost(results: StudyResults) -> str:
    rows = []
    for item in costs(results):
        per = f"{item.seconds_per_gain:.1f} s" if item.seconds_per_gain is not None else "–"
        gain = f"{item.gain:+.2f} dB" if item.gain is not None else "–"
        counts = [f"{value:,.0f}" if not pd.isna(value) else "–" for value in (item.steps, item.parameters)]
        times = [duration(value) for value in (item.train_s, item.eval_s, item.total_s)]
        rows.append([item.name, str(item.trainings), *counts, *times, gain, per])
    if not rows:
        return ""
    head = ["", "trainings", "steps", "parameters", "a training", "a test", "in all", "gain over noisy", "per dB"]
    total = sum(item.total_s for item in costs(results))
    shown = rows if len(rows) <= 24 else rows[:24]
    note = f"{duration(total)} of training and testing in all, summed over devices; times are means."
    return section("What it cost", f'<p class="note">{escape(note)}</p>', table(head, shown))


def _differences_of_setup(results: StudyResults) -> str:
    if results.paper is None:
        return ""
    if not results.like_for_like:
        return section("Like for like?", '<p class="note">This run follows the paper\'s recipe and data.</p>')
    lead = "Not like for like: compare shapes and signs with the paper, not levels."
    return section("Like for like?", box(lead, results.like_for_like))


def _limits(results: StudyResults, verdict: Verdict) -> str:
    if not verdict.comparisons:
        return ""
    sentences = []
    groups: dict[str, list[Comparison]] = {}
    for item in verdict.comparisons:
        groups.setdefault(str(item.setting), []).append(item)
    for setting, members in groups.items():
        widths = sorted(item.interval.half_width for item in members)
        middle, first = widths[len(widths) // 2], members[0].interval
        unclear = [item for item in members if not item.interval.conclusive]
        size = f"{middle:.2f}" if middle >= 0.01 else f"{middle:.4f}"
        counts = f"{first.seeds} seed{'s' * (first.seeds != 1)} × {first.images} images"
        sentence = f"{setting}: differences below about {size} dB are lost in {counts}."
        small = [item for item in members if item.paper is not None and abs(item.paper) < item.interval.half_width]
        if small:
            others = ", ".join(cells.cell_label(results, item.other) for item in small[:4])
            sentence += f" The paper's differences to {others} are smaller than that."
        if unclear:
            pair = (
                f"{cells.cell_label(results, unclear[0].winner)} against {cells.cell_label(results, unclear[0].other)}"
            )
            sentence += f" On {pair}: {remedy(unclear[0])}"
        sentences.append(sentence)
    if any(item.interval.seeds == 1 for item in verdict.comparisons):
        sentences.append("One seed says nothing about the luck of training: repeat with at least three.")
    how = "Intervals are 95 %, all comparisons of a setting together (Bonferroni), by a bootstrap that draws seeds and "
    how += "images independently, widened for few seeds."
    return section("What this budget cannot resolve", items(sentences), f'<p class="note">{escape(how)}</p>')


def _deviations(results: StudyResults) -> str:
    rows = [[item.topic, item.paper, item.code, item.ours] for item in results.deviations]
    head = ["topic", "the paper says", "its code does", "done here"]
    return section("Where paper, code and this run differ", table(head, rows, text=True)) if rows else ""


def _failures(results: StudyResults) -> str:
    failed = results.trials[results.trials["status"] == "failed"].drop_duplicates("training_id")
    rows = [
        [
            _text(row, "training_label"),
            _text(row, "noise"),
            _text(row, "seed"),
            _text(row, "error"),
            _text(row, "log_path"),
        ]
        for _, row in failed.iterrows()
    ]
    head = ["training", "noise", "seed", "error", "log"]
    return section("Failed trainings", table(head, rows, text=True)) if rows else ""


def _text(row: pd.Series, name: str) -> str:
    return "" if pd.isna(row[name]) else str(row[name])


def _manifest(results: StudyResults) -> str:
    def one(index: int, content: object) -> str:
        text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
        return f"<details><summary>Manifest {index}</summary><pre>{escape(text)}</pre></details>"

    shown: Sequence[str] = [one(index, content) for index, content in enumerate(results.manifests, 1)]
    return section("Code, packages, hardware, data", *shown) if shown else ""


def _command(results: StudyResults) -> str:
    return section("Run it again", f"<pre>{escape(results.command)}</pre>") if results.command else ""
