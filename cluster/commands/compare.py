"""Compare two settings: the difference of their means, and whether it can be told from zero.

A and B are beginnings of ids of trainings, or of settings. All seeds of a training's setting are taken; differences are
paired over the seeds and test images that both have. ``<training>-<values>`` names one evaluation of several.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pandas as pd

from cluster.console import Console
from cluster.watching.aligned import say_table
from cluster.watching.comparing import NOISY, Side, What, check_alike, check_known, parsed, short, side
from cluster.watching.stored import add_store, existing_store, labels, read_trials, shown, study_labels
from denoise_core.errors import UserError
from denoise_core.metrics.kinds import METRICS, MetricKind

LEVEL = 0.95


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument("a", metavar="A", help="the beginning of an id")
    parser.add_argument("b", metavar="B", help="the beginning of another")
    add_store(parser)
    parser.add_argument("--metric", default="psnr", help="what is compared (default: %(default)s)")
    parser.add_argument("--protocol", default="canonical", help="how it was measured (default: %(default)s)")
    parser.add_argument("--output", default="denoised", help="of which images (default: %(default)s)")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="which evaluation, where there are several"
    )
    parser.add_argument("--one-seed", action="store_true", help="these two trainings alone, not all seeds")


def run(flags: argparse.Namespace, console: Console) -> int:
    """Compares; the exit status is 0 whether or not the two can be told apart. Raises UserError."""
    what = What(flags.metric, flags.protocol, flags.output, parsed(flags.set))
    store = existing_store(flags.store)
    trials = read_trials(store)
    a, b = (side(store, trials, one, what.values, flags.one_seed) for one in (flags.a, flags.b))
    check_known(what.values, (a, b))
    check_alike(a, b, what)
    _say(a, b, what, _names(trials, a, b), console)
    return 0


def _say(a: Side, b: Side, what: What, names: Sequence[str], console: Console) -> None:
    from cluster.results.statistics import bonferroni, paired_difference  # here: SciPy takes its time

    kind = METRICS.get(what.metric) or MetricKind(what.metric, "", True, 4, float("-inf"), float("inf"))
    unit = f" {kind.unit}" if kind.unit else ""
    tables = [one.table(what, what.output) for one in (a, b)]
    seeds = sorted(set(tables[0].index) & set(tables[1].index))
    if not seeds:
        lists = [", ".join(map(str, one.index)) for one in tables]
        raise UserError(
            f"The two have no seed in common ({lists[0]} and {lists[1]}): differences are paired over seeds, so train "
            "both with the same ones."
        )
    first, second = (one.loc[seeds, tables[0].columns] for one in tables)
    sets = list(dict.fromkeys(first.columns.get_level_values("dataset")))
    for dataset in sets:
        here, there = first[dataset].to_numpy(), second[dataset].to_numpy()
        rows = [("A", short(a), names[0], f"{here.mean():.{kind.digits}f}{unit}")]
        rows += [("B", short(b), names[1], f"{there.mean():.{kind.digits}f}{unit}")]
        if NOISY in set(a.rows["output"]) and what.output != NOISY:
            noisy = a.table(what, NOISY)[dataset].to_numpy().mean()
            rows += [("", "", "noisy input", f"{noisy:.{kind.digits}f}{unit}")]
        title = f"{kind.title} ({what.protocol}) of the {what.output} images of {dataset}, noise {a.noise}"
        console.say(title, style="bold")
        say_table(console, ("", "setting", "", "mean"), rows, right="mean")
        try:
            found = paired_difference(here, there, level=bonferroni(LEVEL, len(sets)))
        except ValueError as error:
            raise UserError(f"The values of {dataset} cannot be compared ({error}): choose another --metric.") from None
        better = "A" if (found.mean > 0) == kind.higher_is_better else "B"
        better = better if found.seeds_resampled else f"this training of {better}"
        verdict = f"{better} is better" if found.conclusive else "the two cannot be told apart"
        low, high = (f"{one:+.{kind.digits}f}" for one in (found.low, found.high))
        console.say(
            f"A - B: {found.mean:+.{kind.digits}f}{unit}, {LEVEL:.0%} interval [{low}, {high}], "
            f"{found.seeds} seed{'s' * (found.seeds != 1)} × {found.images} images: {verdict}."
        )
    if len(sets) > 1:
        console.say(f"All {len(sets)} intervals hold together at {LEVEL:.0%} (Bonferroni).")
    if len(seeds) == 1:
        console.warn("One seed says nothing of the luck of training: train more seeds before you conclude anything.")
    left = sorted((set(tables[0].index) | set(tables[1].index)) - set(seeds))
    if left:
        console.warn(f"Left out, as only one of the two has them: seeds {', '.join(map(str, left))}.")


def _names(trials: pd.DataFrame, a: Side, b: Side) -> list[str]:
    """What each is in its study, with what was chosen at inference where that differs."""
    ones = pd.concat([a.trials.head(1), b.trials.head(1)], ignore_index=True)
    named = study_labels(trials, ones)
    names = [named[one] for one in ones["trial_id"]]
    names = labels(ones) if names[0] == names[1] else names
    for at, (one, other) in enumerate(((a, b), (b, a))):
        keys = [
            key for key in one.params if key in one.chosen or other.params.get(key, one.params[key]) != one.params[key]
        ]
        chosen = [f"{key} = {shown(one.params[key])}" for key in keys]
        names[at] = ", ".join([names[at], *(text for text in chosen if text not in names[at])])
    return names
