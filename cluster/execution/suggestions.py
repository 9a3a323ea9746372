"""Optuna's part of a search: ask, report, prune, tell. Plain Python without Ray, rebuilt from the store at any time.

Each suggestion is trained with every seed, one after another. The value is the mean of the seeds' last validation PSNR,
or of a criterion in its place, so that test images never choose a setting. A rung is reported as step
``seed_index * rungs + rung``, so that Optuna's pruner, which stops the worst third, compares rungs of the same seed;
since it looks at the best value of a suggestion so far, it is in effect the first seed that is pruned, and a suggestion
that passed it is trained with every seed.

With several objectives there is a value for each, again the mean of the seeds' last validation values. Optuna does not
prune such studies, so nothing is reported and every suggestion is trained to its end. Suggestions come from the same
multivariate TPE sampler, which ranks what is known by non-domination instead of by value. A suggestion without a finite
value for every objective ends as FAIL.
"""

from __future__ import annotations

import itertools
import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from denoise_core.config import Search
from denoise_core.metrics.kinds import METRICS
from denoise_core.seeding import seed_from

STARTUP = 4
"""Suggestions that are neither modelled nor pruned: there is nothing to compare with yet."""
KEPT = 200 / 3
"""Per cent that are kept at a rung, from the second on. Where a learning rate is searched, what is ahead at a quarter
of a training is often not so at its end, and stopping the worse half there costs more than it saves (docs/results).
"""
REPEATS = 20
"""How often to ask the sampler for a suggestion that was not tried yet. A finite space is gone through after that."""
FEW = 10_000
"""Settings of a finite space that are gone through."""


@dataclass(frozen=True)
class SearchSettings:
    """What a search looks for and where; ``search_id`` names it in the store."""

    search_id: str
    study: str
    space: Mapping[str, Search]
    trials: int
    seeds: tuple[int, ...]
    rungs: int
    journal: str | None = None
    """A file that optuna-dashboard can watch, on a local disk."""
    objectives: tuple[str, ...] = ("psnr",)

    @property
    def several(self) -> bool:
        """Whether it goes by more than one, and so prunes nothing."""
        return len(self.objectives) > 1

    def values(self, measured: Mapping[str, float]) -> tuple[float, ...] | None:
        """The objectives among what a training measured last; None where one is missing, NaN or infinite."""
        found = tuple(measured.get(name, math.nan) for name in self.objectives)
        return found if all(math.isfinite(value) for value in found) else None


@dataclass(frozen=True)
class Outcome:
    """What the store knows of one suggestion: state, and what each seed measured at its rungs."""

    number: int | None
    """None for a result that some other study left in the store: a starting point, not one of this search's trials."""
    params: Mapping[str, Any]
    state: TrialState
    values: tuple[float, ...] = ()
    """One for each objective, of what is complete."""
    rungs: Mapping[int, float] = field(default_factory=dict)


class Suggestions:
    """An Optuna study with its sampler and pruner, told what the store already knows."""

    def __init__(self, settings: SearchSettings, known: Sequence[Outcome]):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.settings = settings
        self.space = {name: distribution(search) for name, search in settings.space.items()}
        self._directions = [
            "maximize" if METRICS[name].higher_is_better else "minimize" for name in settings.objectives
        ]
        self.study = optuna.create_study(
            study_name=settings.study,
            directions=self._directions,
            storage=_journal(settings.journal),
            pruner=optuna.pruners.PercentilePruner(KEPT, STARTUP, n_warmup_steps=1, n_min_trials=STARTUP),
        )
        if settings.several:
            self.study.set_metric_names([f"validation {METRICS[name].title}" for name in settings.objectives])
        self._running: dict[int, optuna.Trial] = {}
        self._waiting: list[tuple[int, Mapping[str, Any]]] = []
        self._values: dict[int, list[tuple[float, ...]]] = {}
        self.asked = 0
        for outcome in sorted(known, key=lambda one: (one.number is not None, one.number or 0)):
            self._remember(outcome)

    @property
    def left(self) -> int:
        """How many suggestions are still to be asked."""
        return len(self._waiting) + max(0, self.settings.trials - self.asked)

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """The next suggestion (number, parameters), unfinished ones of earlier runs first; None when all are asked."""
        if self._waiting:
            number, params = self._waiting.pop(0)
        elif self.asked < self.settings.trials:
            number = self.asked
            proposed = self._propose(number)
            if proposed is None:  # a finite space, and all of it was tried
                self.asked = self.settings.trials
                return None
            params = proposed
            self.asked += 1
        else:
            return None
        self.study.enqueue_trial(dict(params), user_attrs={"number": number})
        self._running[number] = self.study.ask(self.space)
        self._values[number] = []
        return number, dict(self._running[number].params)

    def report(self, number: int, seed_index: int, rung: int, value: float) -> bool:
        """Tells Optuna a rung's value; True means: stop, this suggestion is pruned."""
        if self.settings.several:
            return False
        trial = self._running[number]
        trial.report(value, seed_index * self.settings.rungs + rung)
        return bool(trial.should_prune())

    def finish_seed(self, number: int, *values: float) -> None:
        """Records one seed's final value of each objective; the last seed's complete the suggestion."""
        seeds = self._values[number]
        seeds.append(values)
        if len(seeds) == len(self.settings.seeds):
            self.study.tell(self._running.pop(number), list(means(seeds)))

    def end(self, number: int, state: TrialState) -> None:
        """Ends a suggestion as PRUNED (Optuna keeps its last reported value) or FAIL."""
        self.study.tell(self._running.pop(number), state=state)

    def _propose(self, number: int) -> dict[str, Any] | None:
        trials = self.study.get_trials(deepcopy=False)
        tried = [trial.params for trial in trials]
        for repeat in range(REPEATS):
            # asked of a copy, so that repetitions leave no trace; a sampler of its own for each number, so that what it
            # draws depends on the history and not on how often the search was resumed
            sampler = optuna.samplers.TPESampler(
                seed=seed_from(self.settings.search_id, number, repeat) % 2**32,
                n_startup_trials=max(STARTUP, 2 * len(self.space)),
                multivariate=True,
                constant_liar=True,
                warn_independent_sampling=False,
            )
            copy = optuna.create_study(directions=self._directions, sampler=sampler)
            copy.add_trials(trials)
            params = copy.ask(self.space).params
            if params not in tried:
                return dict(params)
        # the sampler asks again and again for what looks best; what else there is may be better
        left = [params for params in _settings(self.settings.space) if params not in tried]
        return random.Random(seed_from(self.settings.search_id, number, "left")).choice(left) if left else None

    def _remember(self, outcome: Outcome) -> None:
        if outcome.number is not None:
            self.asked = max(self.asked, outcome.number + 1)
        if outcome.state in (TrialState.RUNNING, TrialState.WAITING):
            assert outcome.number is not None
            self._waiting.append((outcome.number, outcome.params))
            return
        self.study.add_trial(_frozen(outcome, self.space))


def means(seeds: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The mean over the seeds of each objective, the same bits in whatever order the seeds come."""
    return tuple(math.fsum(values) / len(values) for values in zip(*seeds, strict=True))


def distribution(search: Search) -> BaseDistribution:
    """Optuna's distribution of a search space."""
    if search.kind == "choice":
        return CategoricalDistribution(search.choices)
    if search.kind == "integer":
        return IntDistribution(int(search.low), int(search.high))
    return FloatDistribution(search.low, search.high, log=search.kind == "log")


def settings_in(space: Mapping[str, Search]) -> int | None:
    """How many settings a finite space has, None for an infinite one."""
    counts = []
    for one in space.values():
        if one.kind not in ("choice", "integer"):
            return None
        counts.append(len(one.choices) if one.kind == "choice" else int(one.high) - int(one.low) + 1)
    return math.prod(counts)


def _settings(space: Mapping[str, Search]) -> Iterator[dict[str, Any]]:
    """All settings of a finite space, none of an infinite one or one of more than :data:`FEW`."""
    if (settings_in(space) or FEW + 1) > FEW:
        return
    values = [one.choices if one.kind == "choice" else range(int(one.low), int(one.high) + 1) for one in space.values()]
    for combination in itertools.product(*values):
        yield dict(zip(space, combination, strict=True))


def fits(params: Mapping[str, Any], space: Mapping[str, Search]) -> bool:
    """Whether a stored setting lies in the search space, so that it can be a starting point."""

    def contains(search: Search, value: Any) -> bool:
        if search.kind == "choice":
            return value in search.choices
        return isinstance(value, int | float) and search.low <= value <= search.high

    return all(name in params and contains(search, params[name]) for name, search in space.items())


def _frozen(outcome: Outcome, space: Mapping[str, BaseDistribution]) -> FrozenTrial:
    values = list(outcome.values)
    if outcome.state == TrialState.PRUNED and outcome.rungs:
        values = [outcome.rungs[max(outcome.rungs)]]  # as Optuna itself does when it prunes
    return create_trial(
        state=outcome.state,
        values=values or None,
        params={name: outcome.params[name] for name in space},
        distributions=dict(space),
        intermediate_values=dict(outcome.rungs),
        user_attrs={"number": outcome.number if outcome.number is not None else "from the store"},
    )


def _journal(path: str | None) -> optuna.storages.BaseStorage | None:
    if path is None:
        return None
    # the store is the truth; the journal is written anew from it at each start, for optuna-dashboard
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).unlink(missing_ok=True)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
