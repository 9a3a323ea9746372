"""The board: one small actor that holds what is left to train, hears how it goes and says when to stop.

Workers pull one training after another, so a Ray Train run carries as many short trainings as it should, none waits for
a partition made in advance, and nothing is ever killed: a worker that is told to stop finishes its step, saves and
returns. The class is plain Python; ``training.py`` makes it an actor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, Protocol

from optuna.trial import TrialState

from cluster.execution.progress import judged
from cluster.execution.runs import Runs
from cluster.execution.suggestions import Suggestions
from cluster.results.schema import DONE, FAILED, PRUNED
from denoise_core.specification import TrialSpec

MAX_DEATHS = 3
"""How often the worker of a training may die before that is taken to be the training's own fault."""
MAX_ATTEMPTS = 100
"""How often a training is begun at most, whoever is to blame."""
SILENT_S = 120.0
"""A run that is silent for so long and holds no lease keeps nobody waiting: Ray may have given it up."""

Order = Literal["go", "stop", "prune"]
Pending = Literal["work", "wait", "nothing"]


@dataclass(frozen=True)
class Task:
    """One training to do, with an evaluation for each of ``evaluations`` (inference-time values) afterwards.

    ``number`` and ``seed_index`` place it in a search; ``objectives`` are what it goes by, which the training
    has to measure. ``error`` says not to try it any more. A ``reference`` is not among the settings that are
    compared.
    """

    spec: TrialSpec
    label: str
    evaluations: tuple[Mapping[str, Any], ...]
    reference: bool = False
    number: int | None = None
    seed_index: int = 0
    attempt: int = 1
    deaths: int = 0
    """Attempts that ended with the death of a worker, on a node that lived on."""
    error: str = ""
    objectives: tuple[str, ...] = ()


@dataclass
class Progress:
    """A training that is running, for the terminal."""

    label: str
    seed: int
    step: int = 0
    steps: int = 0
    started: float = field(default_factory=time.time)
    heard: float = field(default_factory=time.time)


@dataclass
class Snapshot:
    """The state of a study, for the terminal."""

    done: int
    pruned: int
    failed: int
    left: int
    running: list[Progress]
    best: tuple[str, float] | None
    """By validation PSNR; None where that is not all that counts."""
    finished: list[tuple[str, int, str, float | None, float]]
    """(label, seed, status, validation PSNR, seconds) in the order in which they ended."""
    notes: list[str] = field(default_factory=list)
    """What a person should know, in the order in which it was noticed."""


class Phases(Protocol):
    """What the board must know of phases that several trainings need."""

    def stored(self, phase_id: str) -> bool:
        """Whether its result is stored."""

    def held(self, phase_id: str) -> bool:
        """Whether somebody, of this study or another, is training it."""


class NothingShared:
    """No phase is stored, none is in anybody's work."""

    def stored(self, phase_id: str) -> bool:
        """Never."""
        return False

    def held(self, phase_id: str) -> bool:
        """Never."""
        return False


class Board:
    """Hands out the trainings of a grid (``tasks``) or of a search (``suggestions``), one at a time to each run."""

    def __init__(
        self,
        tasks: Sequence[Task] = (),
        suggestions: Suggestions | None = None,
        make: Callable[[Mapping[str, Any], int], Task] | None = None,
        asked: Callable[[int, Mapping[str, Any], str], None] | None = None,
        phases: Phases | None = None,
        share: int | None = None,
        runs: Runs | None = None,
    ):
        self._runs = runs or Runs()
        self._notes: dict[str, None] = {}
        self._trouble = ""
        self._phases, self._share = phases or NothingShared(), share
        self._taken: dict[str, int] = {}  # run -> how many trainings it was given
        self._hopeless: dict[str, str] = {}  # phase -> why it failed
        self._postponed: set[str] = set()  # trainings that had to wait for what seemed to be stored or free
        self._tasks = list(tasks)
        self._suggestions, self._make, self._asked = suggestions, make, asked
        self._current: dict[str, Task] = {}  # run -> what it trains
        self._reserved: dict[str, Task] = {}  # run -> what it trains next: a suggestion's first or following seed
        self._progress: dict[str, Progress] = {}
        self._finished: list[tuple[str, int, str, float | None, float]] = []
        self._values: dict[str, list[float]] = {}
        self._errors: dict[str, str] = {}
        self._stopping = False

    def next(self, run: str) -> Task | None:
        """The next training of a run; None when it should end. A run that died gets what it was training again.

        A run that has had its share gets only what is already its own, unless less than a share is left: to start
        another run for that would take longer than to go on, and leave other lanes without work meanwhile.
        """
        if self._stopping or self._runs.must_move(run):
            return None
        died = self._current.get(run)
        if died is not None:
            task = self._again(died, lost=self._runs.lost_a_node(run))
        else:
            found = self._own_or_new(run)
            if found is None:
                return None
            task = found
            self._taken[run] = self._taken.get(run, 0) + 1
        self._current[run] = task
        self._progress[run] = Progress(task.label, task.spec.seed, steps=task.spec.steps)
        return task

    def join(self, run: str, group: str, node: str) -> None:
        """A worker of a run begins; see Runs."""
        self._runs.join(run, group, node)

    def leave(self, run: str) -> None:
        """A worker of a run was told to end, as at the end of a spot instance: its training goes on elsewhere."""
        self._runs.leave(run)

    def broke(self, run: str, reason: str) -> None:
        """The workers of a run ended with an error; the run may begin again after a pause."""
        self._runs.broke(run, reason)

    def trouble(self, sentence: str) -> None:
        """Nothing can go on, as with a full disk: stops the study, which then says the sentence."""
        self._trouble = self._trouble or sentence
        self._stopping = True

    def note(self, sentence: str) -> None:
        """Something that a person should know and that does not stop the study."""
        self._notes[sentence] = None

    def ended(self) -> tuple[str, str]:
        """(what stopped the study, the last reason why workers ended); empty where nothing did."""
        return self._trouble, self._runs.reason

    def reserve(self, run: str) -> Mapping[str, Any] | None:
        """Takes a run's first training and answers what it varies; None when there is none."""
        found = None if self._stopping else self._take(waiting=True)
        if found is None:
            return None
        self._reserved[run] = found
        return self._params(found)

    def pending(self, run: str) -> Pending:
        """Whether :meth:`next` would give this run anything, now or when another training has ended a phase."""
        if self._stopping or self._runs.given_up(run):
            return "nothing"
        if self._runs.rests(run):
            return "wait"
        if run in self._current:
            return "work"
        if run in self._reserved:
            return "wait" if self._blocked(self._reserved[run]) else "work"
        if self._had_its_share(run):
            return "nothing"
        if any(not self._blocked(task) for task in self._tasks):
            return "work"
        if self._tasks:
            return "wait"
        return "work" if self._searching() else "nothing"

    def postpone(self, run: str) -> None:
        """Gives a training back whose next phase somebody else is training."""
        self._progress.pop(run, None)
        self._taken[run] -= 1
        self._tasks.insert(0, self._current.pop(run))
        self._postponed.add(self._tasks[0].spec.trial_id)

    def report(self, run: str, step: int, rung: int | None = None, value: float | None = None) -> Order:
        """Where a training is; at a rung also what it measured. Answers whether to go on."""
        self._progress[run].step, self._progress[run].heard = step, time.time()
        task = self._current[run]
        pruned = False
        if rung is not None and value is not None and task.number is not None and self._suggestions is not None:
            pruned = self._suggestions.report(task.number, task.seed_index, rung, value)
        if self._stopping or (self._runs.must_move(run) and not pruned):
            return "stop"
        return "prune" if pruned else "go"

    def crashed(self, run: str, error: str) -> None:
        """A training of several workers raised: the run is about to die and must not try it again."""
        if run in self._current:
            self._errors.setdefault(self._current[run].spec.trial_id, error)  # the first rank knows the cause

    def finish(
        self,
        run: str,
        status: str,
        measured: Mapping[str, float] = MappingProxyType({}),
        broken: tuple[str, str] | None = None,
    ) -> None:
        """A training ended and is stored: ``done``, ``pruned`` or ``failed``, with its last validation values.

        ``broken`` is the phase that could not be trained and why: the trainings that need it fail as well.
        """
        task, progress = self._current.pop(run), self._progress.pop(run)
        value = judged(measured, task.objectives)
        self._runs.goes_well(run)
        if broken is None and status == FAILED and task.error and len(task.spec.links) > 1:
            # it died with its worker: the phase that it was at would kill the workers of others as well
            missing = [link.phase_id for link in task.spec.links if not self._phases.stored(link.phase_id)]
            broken = (missing[0], task.error) if missing else None
        if broken is not None:
            self._hopeless.setdefault(*broken)
        self._finished.append((task.label, task.spec.seed, status, value, time.time() - progress.started))
        if status == DONE and value is not None and not task.reference:
            self._values.setdefault(task.label, []).append(value)
        if task.number is not None and self._suggestions is not None:
            self._finish_suggestion(run, task, status, measured)

    def stopped(self, run: str) -> None:
        """A training was stopped and its checkpoint saved: with the study, or to go on in other workers."""
        task = self._current.pop(run, None)
        self._progress.pop(run, None)
        if task is not None and not self._stopping:
            self._taken[run] -= 1
            self._tasks.insert(0, replace(task, attempt=task.attempt + 1))

    def stop(self) -> None:
        """Asks every run to save and return."""
        self._stopping = True

    def unfinished(self) -> list[Task]:
        """What is neither stored nor given back: to be recorded as failed if nobody stopped the study."""
        return [*self._current.values(), *self._reserved.values(), *self._tasks]

    def snapshot(self) -> Snapshot:
        """The state for the terminal."""
        statuses = [status for _, _, status, _, _ in self._finished]
        means = {label: sum(values) / len(values) for label, values in self._values.items()}
        several = self._suggestions is not None and self._suggestions.settings.several
        best = max(means.items(), key=lambda one: one[1]) if means and not several else None
        counts = (statuses.count(DONE), statuses.count(PRUNED), statuses.count(FAILED))
        return Snapshot(
            *counts, self._left(), list(self._progress.values()), best, list(self._finished), list(self._notes)
        )

    def _again(self, task: Task, lost: bool) -> Task:
        """A training whose worker died, with an error where it is not to be tried any more."""
        error = self._errors.get(task.spec.trial_id, "")
        deaths = task.deaths + (not lost)
        if not error and deaths >= MAX_DEATHS:
            error = f"its worker died {deaths} times while training it (out of memory, or killed)"
        if not error and task.attempt >= MAX_ATTEMPTS:
            error = f"it was begun {task.attempt} times and lost its node each time"
        return replace(task, attempt=task.attempt + 1, deaths=deaths, error=error)

    def _own_or_new(self, run: str) -> Task | None:
        if run in self._reserved:
            return None if self._blocked(self._reserved[run]) else self._checked(self._reserved.pop(run))
        return None if self._had_its_share(run) else self._take()

    def _had_its_share(self, run: str) -> bool:
        if self._share is None or self._taken.get(run, 0) < self._share:
            return False
        return self._suggestions is not None or len(self._tasks) >= self._share

    def _blocked(self, task: Task) -> bool:
        """Whether the next phase of a training is in somebody else's work."""
        ids = [link.phase_id for link in task.spec.links]
        if task.spec.trial_id in self._postponed and any(self._phases.held(one) for one in ids):
            return True  # what is stored may be damaged, and somebody trains it again
        missing = [one for one in ids if not self._phases.stored(one)]
        if not missing or missing[0] in self._hopeless:
            return False
        heard = [one for run, one in self._current.items() if time.time() - self._progress[run].heard < SILENT_S]
        here = {link.phase_id for one in heard for link in one.spec.links}
        return missing[0] in here or self._phases.held(missing[0])

    def _checked(self, task: Task) -> Task:
        """The same training with an error where one of its phases has failed already and nobody stored it since."""
        ids = [link.phase_id for link in task.spec.links if link.phase_id in self._hopeless]
        found = [self._hopeless[one] for one in ids if not self._phases.stored(one)]
        if not found:
            return task
        return replace(task, error=f"a phase that it shares with another training failed there: {found[0]}")

    def _take(self, waiting: bool = False) -> Task | None:
        """The first training that nobody else is preparing, else a search's next suggestion.

        A suggestion that must wait for another's phase is put aside, unless ``waiting``.
        """
        free = next((index for index, task in enumerate(self._tasks) if not self._blocked(task)), None)
        if free is not None:
            return self._checked(self._tasks.pop(free))
        if self._tasks and not waiting:  # one that waits is enough: it may be the first of many
            return None
        made = self._suggested()
        if made is not None and not waiting and self._blocked(made):
            self._tasks.append(made)
            return None
        return made

    def _suggested(self) -> Task | None:
        if self._suggestions is None or self._make is None:
            return None
        asked = self._suggestions.ask()
        if asked is None:
            return None
        number, params = asked
        task = self._of_suggestion(number, params, 0)
        if self._asked is not None:
            self._asked(number, params, task.spec.group_id)
        return task

    def _of_suggestion(self, number: int, params: Mapping[str, Any], seed_index: int) -> Task:
        assert self._suggestions is not None and self._make is not None
        settings = self._suggestions.settings
        made = self._make(params, settings.seeds[seed_index])
        return replace(made, number=number, seed_index=seed_index, objectives=settings.objectives)

    def _finish_suggestion(self, run: str, task: Task, status: str, measured: Mapping[str, float]) -> None:
        assert self._suggestions is not None and task.number is not None
        settings = self._suggestions.settings
        values = settings.values(measured) if status == DONE else None
        if values is not None:
            self._suggestions.finish_seed(task.number, *values)
            following = task.seed_index + 1
            if following < len(settings.seeds):
                self._reserved[run] = self._of_suggestion(task.number, self._params(task), following)
        else:
            self._suggestions.end(task.number, TrialState.PRUNED if status == PRUNED else TrialState.FAIL)

    def _params(self, task: Task) -> dict[str, Any]:
        names = self._suggestions.space if self._suggestions is not None else ()
        values = {**task.spec.data.model_dump(), **task.spec.config}
        return {name: values[name] for name in names}

    def _searching(self) -> bool:
        return self._suggestions is not None and self._suggestions.left > 0

    def _left(self) -> int:
        if self._suggestions is None:
            return len(self._tasks)
        seeds = len(self._suggestions.settings.seeds)
        following = sum(seeds - 1 - task.seed_index for task in self._current.values())
        waiting = sum(seeds - task.seed_index for task in [*self._reserved.values(), *self._tasks])
        return self._suggestions.left * seeds + following + waiting
