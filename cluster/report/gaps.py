"""What a verdict does not cover: trainings without an end, seeds that cannot be paired, the luck of one training."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.report import cells, measures
from cluster.report.cells import Grid
from cluster.report.results import StudyResults
from cluster.report.wording import join, plural

LISTED = 4  # names that a sentence lists
MOST_LISTED = 24  # of cells that are not judged all are named, unless there are very many


def pairing(results: StudyResults, grid: Grid) -> list[str]:
    """Seeds and cells that were left out, so that the others can be compared in pairs."""
    parts = []
    if grid.left_out:
        parts.append(
            f"Compared over {plural(len(grid.seeds), 'seed')} that every cell has finished; "
            f"left out: {join([str(seed) for seed in grid.left_out])}."
        )
    if grid.dropped:
        names = join([cells.cell_label(results, cell) for cell in grid.dropped[:LISTED]])
        parts.append(f"Without a seed in common with the others, and so not compared: {names}.")
    return parts


def seed_luck(grids: Sequence[Grid]) -> list[str]:
    """That a single seed says nothing of others."""
    if all(len(grid.seeds) > 1 for grid in grids):
        return []
    return ["One seed: the intervals cover the choice of images only; the luck of training is not covered."]


def absent(results: StudyResults) -> tuple[str, ...]:
    """What did not finish."""
    trainings = results.trials.drop_duplicates("training_id")
    counts = trainings["status"].value_counts()
    texts = {"failed": "failed", "missing": "not run yet", "pruned": "stopped early by the search"}
    parts = [f"{counts[status]} {text}" for status, text in texts.items() if counts.get(status, 0)]
    lacking = int((results.trials["status"] == "trained").sum())
    if lacking:
        parts.append(f"{plural(lacking, 'evaluation')} not made yet")
    if not parts:
        return ()
    sentence = f"Of {plural(len(trainings), 'planned training')}, {join(parts)}."
    trained = results.trials["status"].isin(("done", "trained"))
    done = results.trials[trained & (results.trials["role"] == "cell")]
    finished = {cells.cell_of(row) for row in done[list(results.axes)].itertuples(index=False)}
    lost = [] if cells.is_search(results) else [c for c in cells.planned_cells(results) if c not in finished]
    listed = lost if len(lost) <= MOST_LISTED else lost[:LISTED]
    further = [f"{len(lost) - len(listed):,} others"] if len(lost) > len(listed) else []
    names = join([*(cells.cell_label(results, cell) for cell in listed), *further])
    return (sentence, f"Without any finished training, and so not judged: {names}.") if lost else (sentence,)


def estimated(results: StudyResults) -> tuple[str, ...]:
    """What a study that goes by a criterion without clean images does not know."""
    from denoise_core.metrics.clean_free import criteria, criterion  # here: most studies use none

    if results.metric not in criteria():
        return ()
    title, assumed = measures.kind(results.metric).title, criterion(results.metric).assumption
    return (
        f"In this report {title} is an estimate without clean images, which assumes {assumed}: the intervals cover "
        "images and seeds, not what the estimate itself misses.",
    )
