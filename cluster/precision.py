"""``--precision auto``: half precision where it leaves a method's results as they are and this machine gains by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Literal

from cluster.console import Console
from cluster.costs import measured
from cluster.plan import Plan, PlannedTrial
from cluster.results.store import Store
from denoise_core.method import Recipe, method_class
from denoise_core.specification import LoadedData

AUTO = "auto"
ROUNDS = 3
LEAST_GAIN = 1.15
"""Half precision is taken only where it is so many times as fast."""
Precision = Literal["fp32", "bf16"]


def fitting(
    recipe: Recipe,
    trials_of: Callable[[Recipe], Sequence[PlannedTrial]],
    data: Sequence[LoadedData],
    store: Store,
    console: Console,
    *,
    gpu: bool,
) -> Recipe:
    """The recipe in the precision that suits the method and this machine. Says which and why.

    What the store has of these trials decides first, so that the same command goes on in the same numbers. A recipe
    that has half precision anyway keeps it, and on GPUs, which this process does not have, the recipe decides.
    """
    if gpu or recipe.precision == "bf16":
        console.say(f"Precision: {recipe.precision}, as the budget has it.")
        return recipe
    choices = {one: replace(recipe, precision=one) for one in ("fp32", "bf16")}
    planned = {one: trials_of(changed) for one, changed in choices.items()}
    for one, trials in planned.items():
        if Plan(trials).read(store).stored:
            console.say(f"Precision: {one}, as in what is stored of this study.")
            return choices[one]
    method = planned["fp32"][0].spec.method
    if not method_class(method).half_precision:
        console.say(f"Precision: fp32, since nobody has shown that {method} gives the same results in half precision.")
        return choices["fp32"]
    gain = _gain(planned["fp32"][0], planned["bf16"][0], data)
    chosen: Precision = "bf16" if gain >= LEAST_GAIN else "fp32"
    console.say(f"Precision: {chosen}; half precision is {gain:.2f} times as fast as single on this machine.")
    return choices[chosen]


def _gain(single: PlannedTrial, half: PlannedTrial, data: Sequence[LoadedData]) -> float:
    """How many times as fast half precision is, measured in turn; 0 where it cannot be measured."""
    loaded = next(one for one in data if one.contents == single.spec.contents)
    ratios = []
    for _ in range(ROUNDS):
        costs = []
        for one in (single, half):
            found = measured(one.spec, replace(loaded, spec=one.spec.data), evaluations=1)
            if found is None:
                return 0.0
            costs.append(sum(found[0].values()))
        ratios.append(costs[0] / max(costs[1], 1e-9))
    return median(ratios)
