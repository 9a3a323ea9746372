"""The board as an actor: made in the process that holds it, with the store and the cluster that it asks."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray

from cluster.execution.board import Board, Task
from cluster.execution.leases import Leases
from cluster.execution.runs import Nodes, Runs
from cluster.execution.suggestions import Outcome, SearchSettings, Suggestions
from cluster.execution.survey import draining
from cluster.results.files import StoreTrouble
from cluster.results.store import Store

FRESH_S = 0.5
"""How long an answer of the store about a phase is good for."""
LOOK_S = 2.0
"""Seconds between two looks at the nodes of the cluster."""
BOARD_PATIENCE_S = 1.0
"""The board never waits long for the store: all workers wait for the board."""


@dataclass(frozen=True)
class Work:
    """What is to be run: a grid's tasks, or a search with what is known of it."""

    study: str
    budget: str
    tasks: Sequence[Task] = ()
    search: SearchSettings | None = None
    known: Sequence[Outcome] = ()
    make: Callable[[Mapping[str, Any], int], Task] | None = None

    @property
    def count(self) -> int:
        """How many trainings at most."""
        if self.search is None:
            return len(self.tasks)
        asked = sum(1 for one in self.known if one.number is not None and one.state.is_finished())
        return max(0, self.search.trials - asked) * len(self.search.seeds)


class Recorder:
    """Writes suggestions to the store when they are asked, so that an interrupted search takes them up again."""

    def __init__(self, location: str, search_id: str, study: str):
        self._store, self.search_id, self.study = Store(location, BOARD_PATIENCE_S), search_id, study
        self._left: dict[str, dict[str, Any]] = {}

    def __call__(self, number: int, params: Mapping[str, Any], group_id: str) -> None:
        """One row, in a file of its own."""
        row = {"search_id": self.search_id, "study": self.study, "number": number, "group_id": group_id}
        self._left[f"{self.search_id}-{number:06d}"] = {**row, "params_json": json.dumps(dict(params))}
        self.write_left()

    def write_left(self) -> None:
        """Writes what is not written yet, as after an outage; what cannot be written now, waits for the next call."""
        with suppress(StoreTrouble):
            for name in list(self._left):
                self._store.write("suggestions", name, [self._left[name]])
                del self._left[name]


class StoredPhases:
    """What the store knows of phases. What was stored once stays stored."""

    def __init__(self, store: Store):
        self._store, self._leases = store, Leases(store)
        self._known: set[str] = set()
        self._answers: dict[tuple[str, str], tuple[float, bool]] = {}

    def stored(self, phase_id: str) -> bool:
        """Whether its result is stored."""
        if phase_id not in self._known and self._asked("phases", phase_id, partial(self._store.has, "phases")):
            self._known.add(phase_id)
        return phase_id in self._known

    def held(self, phase_id: str) -> bool:
        """Whether somebody is training it."""
        return self._asked("leases", phase_id, self._leases.held)

    def _asked(self, table: str, phase_id: str, ask: Callable[[str], bool]) -> bool:
        """An answer of the store, at most FRESH_S old: many trainings ask for the same, and a store may be far away."""
        now = time.monotonic()
        since, answer = self._answers.get((table, phase_id), (-math.inf, False))
        if now - since > FRESH_S:
            with suppress(OSError):  # as last known, while the store cannot be reached
                answer = ask(phase_id)
            self._answers[table, phase_id] = (now, answer)
        return answer


class ClusterNodes:
    """The nodes of the cluster, looked at now and then."""

    def __init__(self) -> None:
        self._since, self._seen = -math.inf, Nodes(frozenset())

    def __call__(self) -> Nodes:
        """Who lives and who is about to leave, at most LOOK_S ago."""
        if time.monotonic() - self._since > LOOK_S:
            alive = frozenset(one["NodeID"] for one in ray.nodes() if one["Alive"])
            self._seen, self._since = Nodes(alive, frozenset(draining())), time.monotonic()
        return self._seen


class HostedBoard(Board):
    """The board of a study, made in the process that holds it: an actor."""

    def __init__(self, work: Work, location: str, share: int):
        phases, runs = StoredPhases(Store(location, BOARD_PATIENCE_S)), Runs(ClusterNodes())
        self._recorder: Recorder | None = None
        if work.search is None:
            super().__init__(work.tasks, phases=phases, share=share, runs=runs)
        else:
            self._recorder = Recorder(location, work.search.search_id, work.study)
            super().__init__((), Suggestions(work.search, work.known), work.make, self._recorder, phases, share, runs)

    def finish(self, *ended: Any, **how: Any) -> None:
        """See Board.finish."""
        super().finish(*ended, **how)
        if self._recorder is not None:
            self._recorder.write_left()
