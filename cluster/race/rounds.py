"""The rounds of a race: all entrants for a short time, the better ones for longer, within a given time.

Successive halving [Jamieson & Talwalkar 2016] with the methods themselves among the settings. A round trains anew with
more steps, as a schedule that is cut off is not that of a short training. What needs no training stays to the end.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from cluster.costs import estimate
from cluster.plan import CELL, Plan, PlannedTrial, task_of
from cluster.race.entrants import Entrant, trained
from cluster.results.schema import DONE
from cluster.results.store import Store
from denoise_core.errors import UserError
from denoise_core.method import method_class
from denoise_core.metrics.clean_free import Criterion
from denoise_core.specification import LoadedData, specify

PARTS = (0.2, 0.5, 1.0)
"""Steps of each round, as a part of the last one's."""
KEPT = (1.0, 0.5, 0.25)
"""Entrants of each round, as a part of the first one's."""
LEAST = 2
"""Entrants of the last round at least."""
LEAST_PART = 0.02
"""Of a budget's steps: less trains nothing."""
PASSES = 4
"""Times that an image goes through a method to be measured with its criterion, more or less."""
ROUND_S = 30.0
"""What a round costs beside its trainings: start-up and evaluation."""

log = logging.getLogger("denoise")
Execute = Callable[[Sequence[PlannedTrial], float], bool]
"""Trains what is given, which takes so many seconds each; False when it was interrupted."""


@dataclass(frozen=True)
class Lap:
    """What a round found: steps of the longest training, and the criterion's values by entrant and image."""

    part: float
    trials: Mapping[Entrant, PlannedTrial]
    values: Mapping[Entrant, Mapping[str, float]]
    failed: Mapping[Entrant, str]

    @property
    def order(self) -> list[Entrant]:
        """Who was measured, the best first."""
        return sorted(self.values, key=lambda one: -_mean(self.values[one]))


class Race:
    """Runs the rounds of one race on loaded images."""

    def __init__(
        self, data: LoadedData, criterion: Criterion | None, budget: str, seed: int, store: Store, execute: Execute
    ):
        self.data, self.criterion, self.budget, self.seed = data, criterion, budget, seed
        self.store, self._execute = store, execute
        self.interrupted = False

    def run(self, entrants: Sequence[Entrant], seconds: float, lanes: int, say: Callable[[str], None]) -> list[Lap]:
        """All rounds, in about so many seconds on ``lanes`` trainings at a time; fewer where it was interrupted.

        Without a criterion nobody can be told to be better: everybody is trained once.
        """
        still = [one for one in entrants if trained(one, self.data.spec.channels, self.budget)]
        free = [one for one in entrants if one not in still]
        parts, kept = (PARTS, KEPT) if self.criterion is not None and len(still) > LEAST else ((1.0,), (1.0,))
        scale = self._scale(still, free, parts, kept, seconds, lanes)
        laps: list[Lap] = []
        first = len(still)
        for number, part in enumerate(parts):
            if laps:
                ranked = [one for one in laps[-1].order if one in still]
                still = ranked[: _left(kept[number], first)]
            say(self._sentence(number, len(parts), len(still), part * scale))
            trials = {one: self.trial(one, part * scale) for one in [*still, *free]}
            if not self._execute(list(trials.values()), seconds * lanes * part / (sum(parts) * max(1, len(still)))):
                self.interrupted = True
                break
            laps.append(self._read(part * scale, trials))
        return laps

    def trial(self, entrant: Entrant, part: float) -> PlannedTrial:
        """Its training with a part of its budget's steps; what is not trained has the steps that it has."""
        recipe = method_class(entrant.method).recipes[self.budget]
        if trained(entrant, self.data.spec.channels, self.budget):
            recipe = replace(recipe, steps=max(2, round(part * recipe.steps)))
        spec = specify(entrant.method, entrant.values, self.data.spec, self.data.contents, recipe, self.seed)
        return PlannedTrial(spec, CELL, entrant.label, {})

    def _scale(
        self,
        entrants: Sequence[Entrant],
        free: Sequence[Entrant],
        parts: Sequence[float],
        kept: Sequence[float],
        seconds: float,
        lanes: int,
    ) -> float:
        """The part of the budgets' steps that the last round can afford, at most all of them.

        What is not trained (``free``) is evaluated first; some of it takes longer than a training. It rests on
        measured times, so the first call of a race writes it down: the same command trains the same.
        """
        if not entrants:
            return 1.0
        trials = [self.trial(one, 1.0) for one in entrants]
        asked = [sorted(one.spec.trial_id for one in trials), parts, seconds]
        name = f"races/{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]}.json"
        with suppress(FileNotFoundError):
            return float(json.loads(self.store.files.read(name))["scale"])
        whole = needed([self._cost(one) for one in trials], parts, kept, lanes)
        measured_once = PASSES * sum(self._cost(self.trial(one, 1.0)) for one in free) / lanes
        spent = max(ROUND_S, seconds - ROUND_S * len(parts) - measured_once)
        scale = float(f"{min(1.0, max(LEAST_PART, spent / whole)):.3g}") if whole > 0 else 1.0
        self.store.files.write(name, json.dumps({"scale": scale}).encode())
        return scale

    def _cost(self, trial: PlannedTrial) -> float:
        """Seconds of a whole training; 0 where these images do not suit its settings, so that it is going to fail."""
        try:
            found = estimate([trial], [self.data], Plan([trial]), self.store, measure=True)
        except UserError as error:
            log.info("%s cannot be trained: %s", trial.label, error)
            return 0.0
        return found.alone[trial.spec.trial_id]

    def _read(self, part: float, trials: Mapping[Entrant, PlannedTrial]) -> Lap:
        rows = self.store.trials([one.spec.trial_id for one in trials.values()])
        values: dict[Entrant, dict[str, float]] = {}
        failed: dict[Entrant, str] = {}
        for entrant, trial in trials.items():
            row = rows.get(trial.spec.trial_id)
            if row is None or row["status"] != DONE:
                failed[entrant] = row["error"] if row else "it was not trained"
                continue
            name = self.criterion.name if self.criterion else ""
            found = measured(self.store, trial, name)
            if found or not name:
                values[entrant] = found
            else:
                failed[entrant] = "its results could not be measured"
        return Lap(part, trials, values, failed)

    def _sentence(self, number: int, rounds: int, count: int, part: float) -> str:
        share = f"{100 * part:.0f} % of the {self.budget} budget's steps"
        return f"Round {number + 1} of {rounds}: {count} trainings with {share}."


def needed(costs: Sequence[float], parts: Sequence[float], kept: Sequence[float], lanes: int) -> float:
    """Seconds of all rounds with whole budgets, on ``lanes`` trainings of so many seconds at a time.

    Who stays is not known: the mean counts, but no round is shorter than the longest training, which may stay.
    """
    mean, longest = sum(costs) / len(costs), max(costs)
    left = [min(len(costs), _left(share, len(costs))) for share in kept]
    return sum(part * max(mean * count / lanes, longest) for part, count in zip(parts, left, strict=True))


def _left(share: float, first: int) -> int:
    return max(LEAST, math.ceil(share * first))


def measured(store: Store, trial: PlannedTrial, metric: str, output: str = "denoised") -> dict[str, float]:
    """What was measured of each image: value by id."""
    columns = ["image_id", "output", "metric", "protocol", "value"]
    rows = store.read("measurements", [trial.spec.evaluation_id], columns).to_pylist()
    chosen = [one for one in rows if one["metric"] == metric and one["output"] == output]
    return {one["image_id"]: one["value"] for one in chosen if one["protocol"] == "canonical"}


def tasks(trials: Sequence[PlannedTrial], store: Store) -> list[object]:
    """What is left to train of them."""
    plan = Plan(list(trials)).read(store)
    return [task_of(group) for group in plan.trainings_left.values()]


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values) if values else math.nan
