"""What the board knows of its runs: where they work, why they broke, when they may begin again.

A run that breaks off begins again after a pause that doubles each time. A node that was lost or taken away is nobody's
fault and is not counted; a run that breaks off again and again for other reasons, with nothing finished in between, is
given up. Plain Python; the cluster's state comes in as a function.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

MOST_BREAKS = 6
"""Breaks of a run, with nothing finished in between, until it is given up."""
PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
"""Before a run begins again: doubled at each break."""


@dataclass(frozen=True)
class Nodes:
    """Ids of the cluster's nodes: those that live, and those of them that are about to leave."""

    alive: frozenset[str]
    leaving: frozenset[str] = frozenset()


@dataclass
class _Run:
    group: str = ""
    nodes: set[str] = field(default_factory=set)
    told_to_leave: bool = False
    breaks: int = 0
    rests_until: float = 0.0
    lost_node: bool = False
    reason: str = ""


class Runs:
    """The runs of a study. ``nodes`` answers None where nothing is known of the cluster."""

    def __init__(self, nodes: Callable[[], Nodes | None] = lambda: None, now: Callable[[], float] = time.monotonic):
        self._nodes, self._now = nodes, now
        self._runs: dict[str, _Run] = {}

    def join(self, run: str, group: str, node: str) -> None:
        """A worker of a run begins on a node; a new ``group`` of workers takes the place of the old one."""
        mine = self._of(run)
        if mine.group != group:
            mine.lost_node = self._is_lost(mine)
            mine.group, mine.nodes, mine.told_to_leave = group, set(), False
        mine.nodes.add(node)

    def leave(self, run: str) -> None:
        """A worker of the run was told to end: the run should go on with others."""
        self._of(run).told_to_leave = True

    def must_move(self, run: str) -> bool:
        """Whether the workers of a run should save and return, to be followed by others elsewhere."""
        mine, known = self._of(run), self._nodes()
        return mine.told_to_leave or (known is not None and bool(mine.nodes & known.leaving))

    def lost_a_node(self, run: str) -> bool:
        """Whether the group of workers before the present one ended with one of its nodes."""
        return self._of(run).lost_node

    def broke(self, run: str, reason: str) -> None:
        """The workers of a run ended with an error."""
        mine = self._of(run)
        mine.reason = reason
        if mine.told_to_leave or self._is_lost(mine):
            mine.rests_until = self._now() + PAUSE_S
            return
        mine.breaks += 1
        mine.rests_until = self._now() + min(LONGEST_PAUSE_S, PAUSE_S * 2 ** (mine.breaks - 1))

    def goes_well(self, run: str) -> None:
        """A run finished something: what broke before is forgotten."""
        self._of(run).breaks = 0

    def rests(self, run: str) -> bool:
        """Whether a run should wait before it begins again."""
        return self._now() < self._of(run).rests_until

    def given_up(self, run: str) -> bool:
        """Whether a run broke so often that it is not begun again."""
        return self._of(run).breaks >= MOST_BREAKS

    @property
    def reason(self) -> str:
        """Why runs broke: the last error of one that was given up, else of any; empty where none broke."""
        broken = sorted((one for one in self._runs.values() if one.reason), key=lambda one: -one.breaks)
        return broken[0].reason if broken else ""

    def _of(self, run: str) -> _Run:
        return self._runs.setdefault(run, _Run())

    def _is_lost(self, run: _Run) -> bool:
        known = self._nodes()
        return known is not None and bool(run.nodes - (known.alive - known.leaving))
