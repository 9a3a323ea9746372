"""The section with our values beside the paper's."""

from __future__ import annotations

from html import escape

from cluster.report import cells, measures
from cluster.report.html_parts import section
from cluster.report.noise_notes import drawn_metrics, notes
from cluster.report.results import StudyResults
from cluster.report.tables import ComparisonTable, Number, Row, comparison_tables


def comparisons(results: StudyResults) -> str:
    """Our values and the paper's by its protocol, and by the canonical one behind a fold."""
    paper = results.paper_protocol
    main = comparison_tables(results, paper) if paper else []
    own = comparison_tables(results, results.canonical_protocol) if paper != results.canonical_protocol else []
    if not main and not own:
        return ""
    note = "± is half the 95 % interval over trainings, on exactly these images. "
    note += "Bold: better than each of the others by more than the paired interval."
    if any(item.paper_dataset not in ("", item.setting.dataset) for item in main):
        note += " The paper's images are others: the difference is mostly theirs and the budget's, not the method's."
    untold = {metric for item in (*main, *own) for metric in item.metrics} - set(drawn_metrics(results))
    note += "".join(f" {sentence}" for sentence in notes(results, untold))
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
    same = plain.paper_dataset == plain.setting.dataset
    beside = ["paper" if same else f"paper ({cells.dataset_name(plain.paper_dataset)})", "difference"]
    columns = {metric: ["ours", *(beside if plain.compared(metric) else [])] for metric in plain.metrics}
    groups = "".join(
        f'<th class="span" colspan="{len(names)}">{escape(measures.head(metric))}</th>'
        for metric, names in columns.items()
    )
    names = "".join(f"<th>{escape(name)}</th>" for names in columns.values() for name in names)
    rows = "".join(_comparison_row(plain, row) for row in plain.rows)
    counts = f"{plain.seeds} seed{'s' * (plain.seeds != 1)} × {plain.images} images"
    counts += f"; the best cells, {plain.left_out:,} others are not shown" if plain.left_out else ""
    caption = f"{escape(str(plain.setting))} <small>({counts})</small>"
    return (
        f'<div class="scroll"><table><caption>{caption}</caption><thead><tr><th rowspan="2"></th>{groups}</tr>'
        f"<tr>{names}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _comparison_row(plain: ComparisonTable, row: Row) -> str:
    cols = [f"<td>{_bold(escape(row.name), row.best)}</td>"]
    for metric in plain.metrics:
        number, digits = row.numbers.get(metric, Number()), measures.digits(metric)
        spread = f" <small>± {number.spread:.{digits}f}</small>" if number.spread is not None else ""
        ours = f"{_bold(f'{number.ours:.{digits}f}', number.best)}{spread}" if number.ours is not None else ""
        shown = [ours]
        if plain.compared(metric):
            printed = min(digits, 3)
            shown += [f"{number.paper:.{printed}f}" if number.paper is not None else ""]
            shown += [f"{number.difference:+.{printed}f}" if number.difference is not None else ""]
        cols += [f"<td>{text}</td>" if text else '<td class="none">–</td>' for text in shown]
    return f'<tr class="{"" if row.role == "cell" else "other"}">{"".join(cols)}</tr>'


def _bold(text: str, bold: bool) -> str:
    return f"<b>{text}</b>" if bold else text
