"""What a study found, in sentences that claim no more than its intervals allow.

A difference is stated as a finding only when its paired interval excludes zero; the intervals of one setting hold
together (Bonferroni). Everything is plain data first, so a report, a terminal and a test read the same verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from cluster.report import cells, controls, gaps, measures
from cluster.report.cells import Cell, Grid, Setting
from cluster.report.results import StudyResults
from cluster.report.wording import capital, counts, join, sizes, span
from cluster.results.statistics import Interval, bonferroni, mean_interval, needed, paired_difference

LEVEL = 0.95
LISTED = 4  # comparisons that a sentence lists; a search has too many


@dataclass(frozen=True)
class Comparison:
    """By how much the winner of a setting is better than one other cell, in the direction of the metric.

    ``paper`` is the same difference of the values that the paper prints, if any.
    """

    setting: Setting
    winner: Cell
    other: Cell
    interval: Interval  # simultaneous with the setting's other comparisons
    paper: float | None
    paper_dataset: str
    needed: tuple[int, int] | None  # about how many (seeds, images) would resolve it
    by_seed: tuple[float, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """``headline`` is the one sentence to read; ``comparisons`` are the evidence of the details.

    ``details`` are sentences by setting, the general ones last under an empty title.
    """

    headline: str
    details: tuple[tuple[str, tuple[str, ...]], ...]
    comparisons: tuple[Comparison, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """All details in one list."""
        return tuple(sentence for _, group in self.details for sentence in group)

    def __str__(self) -> str:
        """For a terminal."""
        lines = [self.headline]
        for title, group in self.details:
            lines += ["", *([f"{title}:"] if title else []), *(f"- {sentence}" for sentence in group)]
        return "\n".join(lines)


def judge(results: StudyResults) -> Verdict:
    """The verdict over all settings of a study. It never fails for want of data: it says what is missing instead."""
    grids = [cells.grid(results, setting) for setting in cells.settings(results)]
    grids = [grid for grid in grids if grid.cells]
    if not grids:
        nothing = "Nothing can be said yet: no training of the swept cells has finished."
        return Verdict(nothing, (("", gaps.absent(results)),), ())
    compared = {grid.setting: compare(results, grid) for grid in grids}
    details = [(str(grid.setting), tuple(_setting_sentences(results, grid, compared[grid.setting]))) for grid in grids]
    pairing = dict.fromkeys(sentence for grid in grids for sentence in gaps.pairing(results, grid))
    details.append(("", (*gaps.estimated(results), *gaps.seed_luck(grids), *pairing, *gaps.absent(results))))
    if len(grids) == 1:
        headline = headline_of(results, grids[0], compared[grids[0].setting])
    else:
        headline = _summary(results, grids, [compared[grid.setting] for grid in grids])
    if any(item.interval.conclusive and item.interval.seeds == 1 for group in compared.values() for item in group):
        headline += " With one seed, the luck of training is not covered."
    return Verdict(headline, tuple(details), tuple(item for group in compared.values() for item in group))


@lru_cache(maxsize=64)
def compare(results: StudyResults, grid: Grid) -> tuple[Comparison, ...]:
    """The setting's winner against each other cell, the closest first."""
    winner, *others = grid.ranked()
    sign = measures.sign(grid.metric)
    level = bonferroni(LEVEL, len(others))
    found: list[Comparison] = []
    for other in others:
        difference = sign * (grid.cells[winner] - grid.cells[other])
        interval = mean_interval(difference, level=level)
        ours = cells.paper_value(results, grid.setting, winner)
        theirs = cells.paper_value(results, grid.setting, other)
        paper = sign * (ours[0] - theirs[0]) if ours and theirs else None
        more = None if interval.conclusive else needed(difference, level=level)
        by_seed = tuple(float(value) for value in difference.mean(axis=1))
        found.append(Comparison(grid.setting, winner, other, interval, paper, ours[1] if ours else "", more, by_seed))
    return tuple(found)


def headline_of(results: StudyResults, grid: Grid, comparisons: Sequence[Comparison]) -> str:
    """One setting in at most two sentences: the clearest win first, then the nearest cell that may be as good."""
    if not comparisons:
        (cell,) = grid.cells
        title = f"{measures.kind(results.metric).title} " if _named(results) else ""
        return (
            f"Only {_label(results, cell)} has finished: {title}{_value(results, grid.mean(cell))} "
            f"({counts(grid)}); there is nothing to compare it with yet."
        )
    wins = [item for item in comparisons if item.interval.conclusive]
    ties = [item for item in comparisons if not item.interval.conclusive]
    if not wins:
        if len(ties) == 1:
            return _tie(results, ties[0])
        return f"No difference{_in(results)} is conclusive: even {_pair(results, ties[-1])}"
    if not ties:
        nearest = wins[0]
        next_best = "the next best, " if len(wins) > 1 else ""
        return f"{_lead(results, nearest)} {next_best}{_difference(results, nearest, with_counts=True)}."
    tied = join([_label(results, item.other) for item in ties]) if len(ties) <= LISTED else f"{len(ties)} others"
    beaten = f"{_lead(results, wins[-1])} {_difference(results, wins[-1], with_counts=True)}"
    if _named(results):
        return f"{beaten}, but cannot be told apart from that at {tied}."
    return f"{beaten}. It cannot be told apart from {tied}."


def _setting_sentences(results: StudyResults, grid: Grid, comparisons: Sequence[Comparison]) -> list[str]:
    found = [_wins(results, comparisons), *_ties(results, comparisons), _default(results, comparisons)]
    found += _of_further_metrics(results, grid.setting)
    found += controls.sentences(results, grid)
    found.append(_gain(results, grid))
    found += [_reference(results, grid, label) for label in grid.references]
    found.append(_order(results, grid))
    return [sentence for sentence in found if sentence]


def _of_further_metrics(results: StudyResults, setting: Setting) -> list[str]:
    """What is found in each further metric, and beside which baselines; its intervals hold together as well."""
    found: list[str] = []
    for metric in cells.further_metrics(results):
        measured = results.of(metric)
        grid = cells.grid(measured, setting)
        if grid.cells:
            found += [headline_of(measured, grid, compare(measured, grid)), _gain(measured, grid)]
            found += [_reference(measured, grid, label) for label in grid.references]
    return found


def _wins(results: StudyResults, comparisons: Sequence[Comparison]) -> str:
    wins = [item for item in comparisons if item.interval.conclusive]
    if not wins:
        return ""
    lead = _lead(results, wins[0])
    if len(wins) > LISTED:
        return (
            f"{lead} {len(wins)} of the {len(comparisons)} others; of these the closest is "
            f"{_difference(results, wins[0], with_counts=True)}."
        )
    listed = [_difference(results, item, with_counts=index == 0) for index, item in enumerate(reversed(wins))]
    return f"{lead} {join(listed)}."


def _ties(results: StudyResults, comparisons: Sequence[Comparison]) -> list[str]:
    ties = [item for item in comparisons if not item.interval.conclusive]
    listed = len(ties) if len(ties) <= LISTED else 1  # of a search's crowd, the closest stands for all
    sentences = [f"{_tie(results, item)} {capital(remedy(item))}" for item in ties[:listed]]
    if len(ties) > listed:
        sentences.append(f"Nor can {len(ties) - listed} further cells be told apart from the first.")
    return sentences


def _default(results: StudyResults, comparisons: Sequence[Comparison]) -> str:
    """The paper's own setting against the best, where neither of the lists above has room for it."""
    ties = [item for item in comparisons if not item.interval.conclusive]
    listed = ties if len(ties) <= LISTED else ties[:1]
    default = cells.default_cell(results)
    found = [item for item in comparisons if item.other == default]
    if len(comparisons) <= LISTED or not found or found[0] in listed:
        return ""
    interval, name = found[0].interval, _label(results, found[0].other)
    size = f"{_value(results, interval.mean)}, interval {_span(results, interval)}"
    if interval.conclusive:
        side = "below" if measures.kind(results.metric).higher_is_better else "above"
        return f"The paper's setting, {name}, is {side} {_label(results, found[0].winner)}{_in(results)} ({size})."
    return f"The paper's setting, {name}, cannot be told apart from the best{_in(results)} ({size})."


def _tie(results: StudyResults, item: Comparison) -> str:
    where = _in(results)
    return f"{capital(where.strip())}, {_pair(results, item)}" if where else _pair(results, item)


def _pair(results: StudyResults, item: Comparison) -> str:
    """Two cells that cannot be told apart, with the first minus the second."""
    difference = _as_measured(results, item.interval)
    return (
        f"{_label(results, item.winner)} and {_label(results, item.other)} cannot be told apart with "
        f"{sizes(difference)} (difference {_value(results, difference.mean)}, interval {_span(results, difference)}"
        f"{_agreement(results, item)}{_paper(results, item)})."
    )


def _agreement(results: StudyResults, item: Comparison) -> str:
    """Whether the seeds agree in sign: no evidence by itself, but a reader wants to know."""
    by_seed = [measures.sign(results.metric) * value for value in item.by_seed]
    low, high = min(by_seed, default=0.0), max(by_seed, default=0.0)
    if len(by_seed) < 2 or low * high <= 0:
        return ""
    digits = measures.digits(results.metric)
    return f"; every seed has this sign, {low:.{digits}f} to {high:.{digits}f}"


def remedy(item: Comparison) -> str:
    """What would resolve a difference of this size: the rest of a sentence."""
    interval = item.interval
    if item.needed is None:
        return "a difference this small is out of reach of more seeds or images; take the two as equal."
    seeds, images = item.needed
    more = [f"about {seeds} seeds"] if seeds > interval.seeds else []
    more += [f"about {images} images"] if images > interval.images else []
    if interval.seeds == 1:
        more.append("several seeds")
    return f"if it is real, {' and '.join(more or ['a few more seeds'])} would show it; a larger budget may widen it."


def _difference(results: StudyResults, item: Comparison, *, with_counts: bool) -> str:
    interval = item.interval
    detail = f"95 % interval {_span(results, interval)}"
    if with_counts:
        detail += f", {sizes(interval)}, paired"
    return f"{_label(results, item.other)} by {_value(results, interval.mean)} ({detail}{_paper(results, item)})"


def _paper(results: StudyResults, item: Comparison) -> str:
    if item.paper is None:
        return ""
    elsewhere = item.paper_dataset != item.setting.dataset
    where = f" on {cells.dataset_name(item.paper_dataset)}" if elsewhere else ""
    printed = measures.sign(results.metric) * item.paper
    return f"; the paper reports {printed:+.{measures.digits(results.metric)}f}{where}"


def _gain(results: StudyResults, grid: Grid) -> str:
    if grid.noisy is None:
        return ""
    best, digits = grid.ranked()[0], measures.digits(results.metric)
    gain = measures.sign(results.metric) * (grid.mean(best) - grid.noisy)
    verb = "gains" if gain > 0 else "LOSES"
    name = _label(results, best)
    ends = f"{grid.noisy:.{digits}f} to {_value(results, grid.mean(best))}"
    side = "over" if gain > 0 else "against"
    return f"{name} {verb} {_value(results, abs(gain))} {side} the noisy input{_in(results)} ({ends})."


def _reference(results: StudyResults, grid: Grid, label: str) -> str:
    best, reference = grid.ranked()[0], grid.references[label]
    name, digits = cells.reference_name(label), measures.digits(results.metric)
    ours = grid.cells[best]
    if reference.shape != ours.shape:
        level = float(reference.mean())
        gap = f"{grid.mean(best) - level:+.{digits}f}"
        return f"{name} is at {_value(results, level)}{_in(results)} ({gap} from there to the best cell; not paired)."
    interval = paired_difference(ours, reference, level=LEVEL)
    if not interval.conclusive:
        return (
            f"{_label(results, best)} cannot be told apart from {name}{_in(results)} "
            f"(difference {interval.mean:+.{digits}f}{measures.unit(results.metric)}, "
            f"interval {_span(results, interval)})."
        )
    side = "below" if interval.mean < 0 else "above"
    low, high = sorted((abs(interval.low), abs(interval.high)))
    return (
        f"{_label(results, best)} is {_value(results, abs(interval.mean))} {side} {name}{_in(results)} "
        f"(interval [{low:.{digits}f}, {high:.{digits}f}])."
    )


def _order(results: StudyResults, grid: Grid) -> str:
    """The paper's order beside ours, where it prints at least two of our cells."""
    if cells.is_search(results):
        return ""
    found = {cell: cells.paper_value(results, grid.setting, cell) for cell in grid.cells}
    theirs = {cell: value[0] for cell, value in found.items() if value}
    if len(theirs) < 2:
        return ""
    ours = {cell: grid.mean(cell) for cell in theirs}
    sign = measures.sign(results.metric)
    pairs = [(a, b) for a in theirs for b in theirs if sign * theirs[a] > sign * theirs[b]]
    if all(sign * ours[a] > sign * ours[b] for a, b in pairs):
        return f"By the means, the order is the paper's: {_chain(theirs, sign)}."
    return f"By the means, the paper's order is {_chain(theirs, sign)}; ours is {_chain(ours, sign)}."


def _chain(means: dict[Cell, float], sign: float) -> str:
    """The best first: ``2 > 0``, or ``2 < 0`` of a metric where less is better."""
    ordered = sorted(means, key=lambda cell: sign * means[cell], reverse=True)
    text, relation = _short(ordered[0]), ">" if sign > 0 else "<"
    for before, after in pairwise(ordered):
        text += f" {relation if means[before] != means[after] else '='} {_short(after)}"
    return text


def _summary(results: StudyResults, grids: Sequence[Grid], groups: Sequence[Sequence[Comparison]]) -> str:
    """Several settings in one sentence: how often each cell wins, and how often that is more than luck."""
    first = [grid.ranked()[0] for grid in grids]
    lead = max(set(first), key=first.count)
    ahead = [group for cell, group in zip(first, groups, strict=True) if cell == lead and group]
    name, total = _label(results, lead), len(grids)
    clear: dict[Cell, list[float]] = {}
    for group in ahead:
        for item in group:
            if item.interval.conclusive:
                clear.setdefault(item.other, []).append(item.interval.mean)
    every = "both" if total == 2 else f"all {total}"
    where = f"{every} settings" if len(ahead) == total else f"{len(ahead)} of {total} settings"
    if not clear:
        covered = sizes(groups[0][0].interval) if groups[0] else counts(grids[0])
        ahead_in = f"{name} is ahead by the means in {where}"
        return f"No difference{_in(results)} is conclusive: {ahead_in}, but within the intervals ({covered})."
    best = max(clear, key=lambda cell: (len(clear[cell]), float(np.mean(clear[cell]))))
    gains, digits = sorted(clear[best]), measures.digits(results.metric)
    size = f"{gains[0]:.{digits}f}" if len(gains) == 1 else f"{gains[0]:.{digits}f} to {gains[-1]:.{digits}f}"
    count = every if len(gains) == total else f"{len(gains)} of {total}"
    title = measures.kind(results.metric).title
    mean, verb = (f"mean {title}", f"is {_side(results)} than at") if _named(results) else ("mean", "beats")
    return (
        f"{name} has the best {mean} in {where}; it {verb} {_label(results, best)} in {count}, by "
        f"{size}{measures.unit(results.metric)} (95 % intervals without zero, {sizes(ahead[0][0].interval)}, paired)."
    )


def _label(results: StudyResults, cell: Cell) -> str:
    return cells.cell_label(results, cell)


def _short(cell: Cell) -> str:
    return "/".join(cells.value_text(value) for value in cell)


def _named(results: StudyResults) -> bool:
    """Whether sentences must name the metric: "beats" is said of true PSNR, where nothing else comes first."""
    return any(metric != "psnr" for metric in (results.metric, *results.plot.metrics[:1]))


def _in(results: StudyResults) -> str:
    return f" in {measures.kind(results.metric).title}" if _named(results) else ""


def _lead(results: StudyResults, item: Comparison) -> str:
    """``gamma = 2 beats`` or ``AKLD at gamma = 2 is lower than at``."""
    name = _label(results, item.winner)
    if not _named(results):
        return f"{name} beats"
    return f"{measures.kind(results.metric).title} at {name} is {_side(results)} than at"


def _side(results: StudyResults) -> str:
    return "higher" if measures.kind(results.metric).higher_is_better else "lower"


def _value(results: StudyResults, value: float) -> str:
    """With the metric's digits and unit."""
    return f"{value:.{measures.digits(results.metric)}f}{measures.unit(results.metric)}"


def _span(results: StudyResults, interval: Interval) -> str:
    return span(interval, measures.digits(results.metric))


def _as_measured(results: StudyResults, interval: Interval) -> Interval:
    """The first minus the second, where a comparison keeps by how much the first is better."""
    if measures.kind(results.metric).higher_is_better:
        return interval
    return replace(interval, mean=-interval.mean, low=-interval.high, high=-interval.low)
