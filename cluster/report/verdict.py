"""What a study found, in sentences that claim no more than its intervals allow.

A difference is stated as a finding only when its paired interval excludes zero; the intervals of one setting hold
together (Bonferroni). Everything is plain data first, so a report, a terminal and a test read the same verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cluster.report import cells, controls
from cluster.report.cells import Cell, Grid, Setting
from cluster.report.results import StudyResults
from cluster.results.statistics import Interval, bonferroni, needed, paired_difference

LEVEL = 0.95
LISTED = 4  # comparisons that a sentence lists; a search has too many
UNITS = {"psnr": " dB", "ssim": ""}


@dataclass(frozen=True)
class Comparison:
    """The winner of a setting minus one other cell. ``paper`` is the difference that the paper prints, if any."""

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
        return Verdict(nothing, (("", _absent(results)),), ())
    compared = {grid.setting: compare(results, grid) for grid in grids}
    details = [(str(grid.setting), tuple(_setting_sentences(results, grid, compared[grid.setting]))) for grid in grids]
    pairing = dict.fromkeys(sentence for grid in grids for sentence in _pairing(results, grid))
    details.append(("", (*_seed_luck(grids), *pairing, *_absent(results))))
    if len(grids) == 1:
        headline = headline_of(results, grids[0], compared[grids[0].setting])
    else:
        headline = _summary(results, grids, [compared[grid.setting] for grid in grids])
    if any(item.interval.conclusive and item.interval.seeds == 1 for group in compared.values() for item in group):
        headline += " With one seed, the luck of training is not covered."
    return Verdict(headline, tuple(details), tuple(item for group in compared.values() for item in group))


def compare(results: StudyResults, grid: Grid) -> list[Comparison]:
    """The setting's winner against each other cell, the closest first."""
    winner, *others = grid.ranked()
    level = bonferroni(LEVEL, len(others))
    found: list[Comparison] = []
    for other in others:
        interval = paired_difference(grid.cells[winner], grid.cells[other], level=level)
        ours = cells.paper_value(results, grid.setting, winner)
        theirs = cells.paper_value(results, grid.setting, other)
        paper = ours[0] - theirs[0] if ours and theirs else None
        difference = grid.cells[winner] - grid.cells[other]
        more = None if interval.conclusive else needed(difference, level=level)
        by_seed = tuple(float(value) for value in difference.mean(axis=1))
        found.append(Comparison(grid.setting, winner, other, interval, paper, ours[1] if ours else "", more, by_seed))
    return found


def headline_of(results: StudyResults, grid: Grid, comparisons: Sequence[Comparison]) -> str:
    """One setting in at most two sentences: the clearest win first, then the nearest cell that may be as good."""
    if not comparisons:
        (cell,) = grid.cells
        return (
            f"Only {_label(results, cell)} has finished: {grid.mean(cell):.2f}{_unit(results)} "
            f"({_counts(grid)}); there is nothing to compare it with yet."
        )
    wins = [item for item in comparisons if item.interval.conclusive]
    ties = [item for item in comparisons if not item.interval.conclusive]
    if not wins:
        farthest = _tie(results, ties[-1])
        return farthest if len(ties) == 1 else f"No difference is conclusive: even {farthest}"
    name = _label(results, comparisons[0].winner)
    if not ties:
        nearest = wins[0]
        next_best = "the next best, " if len(wins) > 1 else ""
        return f"{name} beats {next_best}{_difference(results, nearest, counts=True)}."
    tied = _join([_label(results, item.other) for item in ties]) if len(ties) <= LISTED else f"{len(ties)} others"
    return f"{name} beats {_difference(results, wins[-1], counts=True)}. It cannot be told apart from {tied}."


def _setting_sentences(results: StudyResults, grid: Grid, comparisons: Sequence[Comparison]) -> list[str]:
    found = [_wins(results, comparisons), *_ties(results, comparisons), _default(results, comparisons)]
    found += controls.sentences(results, grid)
    found.append(_gain(results, grid))
    found += [_reference(results, grid, label) for label in grid.references]
    found.append(_order(results, grid))
    return [sentence for sentence in found if sentence]


def _wins(results: StudyResults, comparisons: Sequence[Comparison]) -> str:
    wins = [item for item in comparisons if item.interval.conclusive]
    if not wins:
        return ""
    name = _label(results, wins[0].winner)
    if len(wins) > LISTED:
        return (
            f"{name} beats {len(wins)} of the {len(comparisons)} others; of these the closest is "
            f"{_difference(results, wins[0], counts=True)}."
        )
    listed = [_difference(results, item, counts=index == 0) for index, item in enumerate(reversed(wins))]
    return f"{name} beats {_join(listed)}."


def _ties(results: StudyResults, comparisons: Sequence[Comparison]) -> list[str]:
    ties = [item for item in comparisons if not item.interval.conclusive]
    listed = len(ties) if len(ties) <= LISTED else 1  # of a search's crowd, the closest stands for all
    sentences = [f"{_tie(results, item)} {_capital(remedy(item))}" for item in ties[:listed]]
    if len(ties) > listed:
        sentences.append(f"Nor can {len(ties) - listed} further cells be told apart from the first.")
    return sentences


def _default(results: StudyResults, comparisons: Sequence[Comparison]) -> str:
    """The paper's own setting against the best, where neither of the lists above has room for it."""
    ties = [item for item in comparisons if not item.interval.conclusive]
    listed = ties if len(ties) <= LISTED else ties[:1]
    found = [item for item in comparisons if item.other == cells.default_cell(results)]
    if len(comparisons) <= LISTED or not found or found[0] in listed:
        return ""
    interval, name = found[0].interval, _label(results, found[0].other)
    size = f"{interval.mean:.2f}{_unit(results)}, interval {_span(interval)}"
    if interval.conclusive:
        return f"The paper's setting, {name}, is below {_label(results, found[0].winner)} ({size})."
    return f"The paper's setting, {name}, cannot be told apart from the best ({size})."


def _tie(results: StudyResults, item: Comparison) -> str:
    interval, unit = item.interval, _unit(results)
    return (
        f"{_label(results, item.winner)} and {_label(results, item.other)} cannot be told apart with "
        f"{_sizes(interval)} (difference {interval.mean:.2f}{unit}, interval {_span(interval)}{_agreement(item)}"
        f"{_paper(results, item)})."
    )


def _agreement(item: Comparison) -> str:
    """Whether the seeds agree in sign: no evidence by itself, but a reader wants to know."""
    low, high = min(item.by_seed, default=0.0), max(item.by_seed, default=0.0)
    if len(item.by_seed) < 2 or low * high <= 0:
        return ""
    return f"; every seed has this sign, {low:.2f} to {high:.2f}"


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


def _difference(results: StudyResults, item: Comparison, *, counts: bool) -> str:
    interval = item.interval
    detail = f"95 % interval {_span(interval)}"
    if counts:
        detail += f", {_sizes(interval)}, paired"
    return f"{_label(results, item.other)} by {interval.mean:.2f}{_unit(results)} ({detail}{_paper(results, item)})"


def _paper(results: StudyResults, item: Comparison) -> str:
    if item.paper is None:
        return ""
    elsewhere = item.paper_dataset != item.setting.dataset
    where = f" on {cells.dataset_name(item.paper_dataset)}" if elsewhere else ""
    return f"; the paper reports {item.paper:+.2f}{where}"


def _gain(results: StudyResults, grid: Grid) -> str:
    if grid.noisy is None:
        return ""
    best, unit = grid.ranked()[0], _unit(results)
    gain = grid.mean(best) - grid.noisy
    verb = "gains" if gain > 0 else "LOSES"
    name = _label(results, best)
    span = f"{grid.noisy:.2f} to {grid.mean(best):.2f}{unit}"
    return f"{name} {verb} {abs(gain):.2f}{unit} {'over' if gain > 0 else 'against'} the noisy input ({span})."


def _reference(results: StudyResults, grid: Grid, label: str) -> str:
    best, reference = grid.ranked()[0], grid.references[label]
    name, unit = cells.reference_name(label), _unit(results)
    ours = grid.cells[best]
    if reference.shape != ours.shape:
        gap = grid.mean(best) - float(reference.mean())
        return f"{name} is at {reference.mean():.2f}{unit} ({gap:+.2f} from there to the best cell; not paired)."
    interval = paired_difference(ours, reference, level=LEVEL)
    if not interval.conclusive:
        return (
            f"{_label(results, best)} cannot be told apart from {name} "
            f"(difference {interval.mean:+.2f}{unit}, interval {_span(interval)})."
        )
    side = "below" if interval.mean < 0 else "above"
    low, high = sorted((abs(interval.low), abs(interval.high)))
    return (
        f"{_label(results, best)} is {abs(interval.mean):.2f}{unit} {side} {name} (interval [{low:.2f}, {high:.2f}])."
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
    pairs = [(a, b) for a in theirs for b in theirs if theirs[a] > theirs[b]]
    if all(ours[a] > ours[b] for a, b in pairs):
        return f"By the means, the order is the paper's: {_chain(theirs)}."
    return f"By the means, the paper's order is {_chain(theirs)}; ours is {_chain(ours)}."


def _chain(means: dict[Cell, float]) -> str:
    ordered = sorted(means, key=lambda cell: means[cell], reverse=True)
    text = _short(ordered[0])
    for before, after in pairwise(ordered):
        text += f" {'>' if means[before] > means[after] else '='} {_short(after)}"
    return text


def _pairing(results: StudyResults, grid: Grid) -> list[str]:
    parts = []
    if grid.left_out:
        parts.append(
            f"Compared over {_plural(len(grid.seeds), 'seed')} that every cell has finished; "
            f"left out: {_join([str(seed) for seed in grid.left_out])}."
        )
    if grid.dropped:
        names = _join([_label(results, cell) for cell in grid.dropped[:LISTED]])
        parts.append(f"Without a seed in common with the others, and so not compared: {names}.")
    return parts


def _seed_luck(grids: Sequence[Grid]) -> list[str]:
    if all(len(grid.seeds) > 1 for grid in grids):
        return []
    return ["One seed: the intervals cover the choice of images only; the luck of training is not covered."]


def _absent(results: StudyResults) -> tuple[str, ...]:
    """What did not finish."""
    trainings = results.trials.drop_duplicates("training_id")
    counts = trainings["status"].value_counts()
    texts = {"failed": "failed", "missing": "not run yet", "pruned": "stopped early by the search"}
    parts = [f"{counts[status]} {text}" for status, text in texts.items() if counts.get(status, 0)]
    lacking = int((results.trials["status"] == "trained").sum())
    if lacking:
        parts.append(f"{_plural(lacking, 'evaluation')} not made yet")
    if not parts:
        return ()
    sentence = f"Of {_plural(len(trainings), 'planned training')}, {_join(parts)}."
    trained = results.trials["status"].isin(("done", "trained"))
    done = results.trials[trained & (results.trials["role"] == "cell")]
    finished = {cells.cell_of(row) for row in done[list(results.axes)].itertuples(index=False)}
    lost = [] if cells.is_search(results) else [c for c in cells.planned_cells(results) if c not in finished]
    names = _join([_label(results, cell) for cell in lost])
    return (sentence, f"Without any finished training, and so not judged: {names}.") if lost else (sentence,)


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
        sizes = _sizes(groups[0][0].interval) if groups[0] else _counts(grids[0])
        ahead_in = f"{name} is ahead by the means in {where}"
        return f"No difference is conclusive: {ahead_in}, but within the intervals ({sizes})."
    best = max(clear, key=lambda cell: (len(clear[cell]), float(np.mean(clear[cell]))))
    gains = sorted(clear[best])
    size = f"{gains[0]:.2f}" if len(gains) == 1 else f"{gains[0]:.2f} to {gains[-1]:.2f}"
    sizes = _sizes(ahead[0][0].interval)
    count = every if len(gains) == total else f"{len(gains)} of {total}"
    return (
        f"{name} has the best mean in {where}; it beats {_label(results, best)} in {count}, by {size}{_unit(results)} "
        f"(95 % intervals without zero, {sizes}, paired)."
    )


def _label(results: StudyResults, cell: Cell) -> str:
    return cells.cell_label(results, cell)


def _short(cell: Cell) -> str:
    return "/".join(cells.value_text(value) for value in cell)


def _unit(results: StudyResults) -> str:
    return UNITS.get(results.metric, "")


def _sizes(interval: Interval) -> str:
    return f"{_plural(interval.seeds, 'seed')} × {_plural(interval.images, 'image')}"


def _counts(grid: Grid) -> str:
    return f"{_plural(len(grid.seeds), 'seed')} × {_plural(len(grid.images), 'image')}"


def _span(interval: Interval) -> str:
    """``[0.17, 0.31]``, with as many digits as it takes to see on which side of zero it lies."""
    for digits in (2, 3, 4):
        low, high = f"{interval.low:.{digits}f}", f"{interval.high:.{digits}f}"
        if float(low) != 0 and float(high) != 0:
            break
    return f"[{low}, {high}]"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
