"""One self-contained HTML file: the verdict first, then its evidence. It loads nothing from any network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from cluster.report import cells, drawing, figures, measures
from cluster.report.document import document, write
from cluster.report.drawing_pareto import draw_pareto
from cluster.report.html_parts import box, crops, duration, figure, items, prose, section, strip, table
from cluster.report.html_tables import comparisons
from cluster.report.learned import LearnedTable, Quantity, learned, signed
from cluster.report.noise_notes import notes
from cluster.report.pareto import ParetoFigure, pareto
from cluster.report.results import StudyResults
from cluster.report.tables import costs
from cluster.report.verdict import Comparison, Verdict, judge, remedy
from denoise_core.diagnostics import FIGURES

FAILED_SHOWN = 100


def render(results: StudyResults, path: Path) -> Path:
    """Write the report and return its path. A reader never sees half a file: it is written aside and renamed."""
    return write(path, page(results))


def page(results: StudyResults) -> str:
    """The whole document. Sections without data are left out."""
    verdict = judge(results)
    parts: list[Callable[[], str]] = [
        lambda: _header(results, verdict),
        lambda: _main_figures(results) + _pareto(results),
        lambda: comparisons(results),
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
    return document(results.name, body + footer, _reload(results))


def _reload(results: StudyResults) -> str:
    return f'<meta http-equiv="refresh" content="{results.reload_s}">' if results.reload_s else ""


def _header(results: StudyResults, verdict: Verdict) -> str:
    caveats = box("Before you compare", results.caveats) if results.caveats else ""
    if results.reload_s:
        running = f"What is below is what was stored at {results.created}; this page loads itself anew."
        caveats = box("The study is running", (running,)) + caveats
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
    devices = [str(device) for device in results.trials["device"].dropna().unique() if str(device)]
    shown += [(results.budget, "budget", False), (str(ours["seed"].nunique()), "seeds", False)]
    images = results.measured.images
    shown += [(str(images), "test images", False)] if images else []
    spent = trainings["train_s"].fillna(0) - trainings["shared_s"].fillna(0)  # what several need is trained once
    shown += [(duration(float(spent.sum())), "training time of this study", False)]
    shown += [(", ".join(devices), "device", False)] if devices else []
    return strip(shown)


def _main_figures(results: StudyResults) -> str:
    drawn: list[str] = []
    told: set[str] = set()
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
        drawn_seeds = max((len(line.seeds) for panel in plain.panels for line in panel.lines), default=0)
        note += f" Single seeds are the first {drawn_seeds}." if drawn_seeds == figures.SEEDS else ""
        note += _notes(results, plain.metric, told)
        canvas = drawing.draw_axis(plain)
        title = cells.dataset_name(plain.dataset)
        title += "" if plain.metric == results.metric else f", {measures.kind(plain.metric).title}"
        drawn.append(figure(canvas, f"figure-{index}", note, title))
    for index, tried in enumerate(figures.search_figures(results)):
        note = "Every configuration that was tried; crosses were stopped early, at the value that they had reached."
        note += _notes(results, tried.metric, told)
        title = tried.title + ("" if tried.metric == results.metric else f", {measures.kind(tried.metric).title}")
        drawn.append(figure(drawing.draw_search(tried), f"search-{index}", note, title))
    return section("Result", *drawn) if drawn else ""


def _notes(results: StudyResults, metric: str, told: set[str]) -> str:
    """What must be known of the metric, once in a section."""
    sentences = notes(results, {metric} - told)
    told.add(metric)
    return "".join(f" {sentence}" for sentence in sentences)


def _pareto(results: StudyResults) -> str:
    plain = pareto(results)
    if plain is None:
        return ""
    titles = [measures.kind(metric).title for metric in plain.metrics]
    several = len(plain.panels) > 1
    sentences = [f"{panel.title}: {panel.sentence}" if several else panel.sentence for panel in plain.panels]
    drawn = figure(draw_pareto(plain), "pareto", _pareto_note(results, plain))
    return section(f"{titles[0]} against {titles[1]}", items(sentences), drawn)


def _pareto_note(results: StudyResults, plain: ParetoFigure) -> str:
    right, up = (measures.kind(metric).higher_is_better for metric in plain.metrics)
    values = "the last validation values of a suggestion" if plain.validation else "means over seeds and images"
    note = f"Points are {values}; better is {'up' if up else 'down'} and to the {'right' if right else 'left'}."
    if any(point.x.interval is not None for panel in plain.panels for point in panel.points):
        note += " Bars are 95 % intervals over trainings."
    note += f" Names are {'/'.join(plain.axes)}." if len(plain.axes) > 1 else ""
    if any(panel.paper for panel in plain.panels):
        note += " The paper's values have their own axes: compare the order of the settings, not the levels."
    return note + "".join(f" {sentence}" for sentence in notes(results, plain.metrics))


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
    drawn = []
    for index, plain in enumerate(figures.learning_figures(results)):
        note = f"Mean validation {measures.kind(plain.metric).title} over the seeds; the shade spans them."
        note += f" {plain.left_out:,} settings between those shown are left out." if plain.left_out else ""
        name = f"learning-{plain.metric}" if index else "learning"
        drawn.append(figure(drawing.draw_learning(plain), name, note))
    return section("Learning curves", *drawn) if drawn else ""


def _images(results: StudyResults) -> str:
    drawn = []
    sign, unit, digits = measures.sign(results.metric), measures.unit(results.metric), measures.digits(results.metric)
    for index, plain in enumerate(figures.image_figures(results)):
        lost = sum(sign * value < 0 for value in plain.difference)
        note = f"{plain.first} is worse on {lost} of {len(plain.images)} images; worst: "
        ends = zip(plain.images[:3], plain.difference[:3], strict=True)
        note += ", ".join(f"{image} ({value:+.{digits}f}{unit})" for image, value in ends)
        note += ". Whiskers span the seeds."
        drawn.append(figure(drawing.draw_images(plain), f"images-{index}", note, str(plain.setting)))
    return section("Image by image: the two best", *drawn) if drawn else ""


def _cost(results: StudyResults) -> str:
    rows = []
    unit, digits = measures.unit(results.metric), measures.digits(results.metric)
    spent = costs(results)
    for item in spent:
        per = f"{item.seconds_per_gain:.1f} s" if item.seconds_per_gain is not None else "–"
        gain = f"{item.gain:+.{digits}f}{unit}" if item.gain is not None else "–"
        counts = [f"{value:,.0f}" if not pd.isna(value) else "–" for value in (item.steps, item.parameters)]
        times = [duration(value) for value in (item.train_s, item.eval_s, item.total_s)]
        rows.append([item.name, str(item.trainings), *counts, *times, gain, per])
    if not rows:
        return ""
    head = ["", "trainings", "steps", "parameters", "a training", "a test", "in all", "gain over noisy"]
    head.append(f"per {unit.strip() or measures.kind(results.metric).title}")
    total = sum(item.total_s for item in spent)
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
    unit, digits = measures.unit(results.metric), measures.digits(results.metric)
    groups: dict[str, list[Comparison]] = {}
    for item in verdict.comparisons:
        groups.setdefault(str(item.setting), []).append(item)
    for setting, members in groups.items():
        widths = sorted(item.interval.half_width for item in members)
        middle, first = widths[len(widths) // 2], members[0].interval
        unclear = [item for item in members if not item.interval.conclusive]
        size = f"{middle:.{digits}f}" if middle >= 0.01 else f"{middle:.4f}"
        counts = f"{first.seeds} seed{'s' * (first.seeds != 1)} × {first.images} images"
        sentence = f"{setting}: differences below about {size}{unit} are lost in {counts}."
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
    shown = ("training_label", "noise", "seed", "error", "log_path")
    rows = [[_text(row, name) for name in shown] for _, row in failed.head(FAILED_SHOWN).iterrows()]
    head = ["training", "noise", "seed", "error", "log"]
    note = f'<p class="note">The first {FAILED_SHOWN} of {len(failed):,}.</p>' if len(failed) > len(rows) else ""
    return section("Failed trainings", note, table(head, rows, text=True)) if rows else ""


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
