"""The board and phases that several trainings need: who waits, who is preferred, what fails, searches."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from optuna.trial import TrialState

from cluster.execution.board import Board, Task
from cluster.execution.suggestions import SearchSettings, Suggestions
from cluster.results.schema import DONE, FAILED
from denoise_core.config import choice, integer
from denoise_core.specification import TrialSpec
from tests.cluster.phases_toys import ids, task, trial


@cache
def specified(iterations: int, seed: int = 0, pair: str = "two", initial: str = "g2") -> TrialSpec:
    return trial(seed, iterations=iterations, pair=pair, initial=initial)


def tasks(*iterations: int, seed: int = 0) -> list[Task]:
    return [task(specified(one, seed)) for one in iterations]


class Known:
    """Phases as a store would know them: what is stored, and who holds a lease."""

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.leases: dict[str, str] = {}

    def stored(self, phase_id: str) -> bool:
        return phase_id in self.done

    def held(self, phase_id: str) -> bool:
        return phase_id in self.leases

    def end(self, phase_id: str) -> None:
        self.done.add(phase_id)
        self.leases.pop(phase_id, None)

    def missing(self, spec: TrialSpec) -> str | None:
        return next((one for one in ids(spec) if one not in self.done), None)


# ---- grids ----


def test_a_training_waits_while_another_run_trains_the_phase_that_both_need() -> None:
    known = Known()
    first, second = tasks(1, 2)
    board = Board([first, second], phases=known)
    gan, g2g1, _ = ids(second.spec)
    assert board.next("a") == first
    assert board.pending("b") == "wait" and board.next("b") is None
    known.end(gan)
    assert board.pending("b") == "wait"  # now G2G1 is in the other's work
    known.end(g2g1)
    assert board.pending("b") == "work" and board.next("b") == second
    assert board.pending("c") == "nothing"


def test_a_training_that_branches_off_is_handed_out_when_the_shared_phase_is_stored() -> None:
    known = Known()
    first, second = task(specified(1)), task(specified(1, pair="estimate"))
    board = Board([first, second], phases=known)
    assert board.next("a") == first and board.pending("b") == "wait"
    known.end(ids(first.spec)[0])
    assert board.next("b") == second


def test_what_nobody_prepares_is_preferred() -> None:
    board = Board([*tasks(1, 2), *tasks(1, 2, seed=1)], phases=Known())
    taken = [board.next("a"), board.next("b"), board.next("c")]
    assert [one and one.spec.seed for one in taken] == [0, 1, None]
    assert board.pending("c") == "wait"


def test_a_phase_in_the_work_of_another_study_is_waited_for() -> None:
    known = Known()
    board = Board(tasks(0), phases=known)
    known.leases[ids(specified(0))[0]] = "another study"
    assert board.pending("a") == "wait" and board.next("a") is None
    known.leases.clear()  # it died
    assert board.pending("a") == "work" and board.next("a") is not None


def test_a_training_whose_phases_are_all_stored_waits_for_nobody() -> None:
    known = Known()
    known.done |= set(ids(specified(1)))
    board = Board(tasks(3, 1), phases=known)
    assert [board.next(run) for run in "ab"] == tasks(3, 1)


def test_a_training_that_must_wait_after_all_is_given_back_and_comes_first() -> None:
    known = Known()
    first, second = tasks(2, 3)
    board = Board([first, second, *tasks(1, seed=1)], phases=known, share=1)
    assert board.next("a") == first
    known.leases[ids(first.spec)[0]] = "another study"  # it was quicker
    board.postpone("a")
    assert board.pending("a") == "work"  # that did not count as its share
    other = board.next("a")
    assert other is not None and other.spec.seed == 1
    assert board.pending("b") == "wait" and board.snapshot().left == 2
    known.end(ids(first.spec)[0])
    assert board.next("b") == first
    assert board.unfinished() == [other, first, second]


def test_a_stored_phase_that_is_damaged_and_trained_again_is_waited_for_without_asking_on_and_on() -> None:
    known = Known()
    first, second = task(specified(1)), task(specified(1, pair="estimate"))
    board = Board([first, second], phases=known)
    gan = ids(first.spec)[0]
    known.done.add(gan)
    assert (board.next("a"), board.next("b")) == (first, second)  # as it seems, nobody is in the other's way
    known.leases[gan] = "a"
    board.postpone("b")
    assert board.pending("b") == "wait" and board.next("b") is None
    known.leases.clear()
    assert board.next("b") == second


def test_a_run_that_had_its_share_takes_nothing_more_and_waits_for_nothing() -> None:
    board = Board(tasks(0, 1), phases=Known(), share=1)
    board.next("a")
    board.finish("a", DONE, {"psnr": 20.0})
    assert board.pending("a") == "nothing" and board.next("a") is None
    assert board.pending("b") == "work"


def test_a_failed_phase_fails_the_trainings_that_need_it_and_no_others() -> None:
    known = Known()
    board = Board([*tasks(1, 2), *tasks(1, seed=1), *tasks(3)], phases=known)
    first = board.next("a")
    assert first is not None
    board.finish("a", FAILED, broken=(ids(first.spec)[0], "MemoryError: no"))
    found = [board.next(run) for run in "bcd"]
    assert all(one is not None for one in found)
    errors = {(one.spec.config["iterations"], one.spec.seed): one.error for one in found if one}
    sentence = "a phase that it shares with another training failed there: MemoryError: no"
    assert errors == {(2, 0): sentence, (3, 0): sentence, (1, 1): ""}
    assert board.pending("e") == "nothing"


def test_a_failed_later_phase_spares_those_that_branch_off_before() -> None:
    known = Known()
    board = Board([task(specified(1)), task(specified(1, pair="estimate"))], phases=known)
    first = board.next("a")
    assert first is not None
    known.end(ids(first.spec)[0])
    board.finish("a", FAILED, broken=(ids(first.spec)[1], "it diverged"))
    other = board.next("a")
    assert other is not None and other.error == ""


def test_a_failed_phase_that_another_study_stored_since_fails_nobody() -> None:
    known = Known()
    board = Board(tasks(0, 1), phases=known)
    first = board.next("a")
    assert first is not None
    gan = ids(first.spec)[0]
    board.finish("a", FAILED, broken=(gan, "the disk was full"))
    known.end(gan)
    other = board.next("a")
    assert other is not None and other.error == ""


def test_a_run_that_died_gets_its_training_again_and_the_others_wait_for_it() -> None:
    known = Known()
    board = Board(tasks(1, 2), phases=known)
    first = board.next("a")
    again = board.next("a")
    assert first is not None and again is not None and again.spec is first.spec and again.attempt == 2
    assert board.pending("b") == "wait"


def test_a_run_that_never_comes_back_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.time()]
    monkeypatch.setattr(time, "time", lambda: now[0])
    known = Known()
    board = Board(tasks(1, 2), phases=known)
    gan = ids(specified(1))[0]
    assert board.next("a") is not None
    known.leases[gan] = "a"
    for _ in range(3):
        now[0] += 3600.0
        assert board.pending("b") == "wait"  # it lives: its lease says so
    del known.leases[gan]
    assert board.pending("b") == "work" and board.next("b") == tasks(2)[0]


def test_who_reports_is_trusted_without_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.time()]
    monkeypatch.setattr(time, "time", lambda: now[0])
    board = Board(tasks(1, 2), phases=Known())
    assert board.next("a") is not None
    for step in range(1, 10):
        now[0] += 30.0
        assert board.pending("b") == "wait"
        board.report("a", step)


def test_stopping_ends_the_waiting() -> None:
    board = Board(tasks(1, 2), phases=Known())
    board.next("a")
    assert board.pending("b") == "wait"
    board.stop()
    assert board.pending("b") == "nothing" and board.next("b") is None


# ---- searches ----


def make(params: Mapping[str, Any], seed: int) -> Task:
    return task(specified(params["iterations"], seed, params["pair"], params["initial"]))


def search(trials: int, seeds: tuple[int, ...] = (0, 1)) -> Suggestions:
    space = {"iterations": integer(0, 3), "pair": choice("two", "estimate"), "initial": choice("g2", "noisy")}
    return Suggestions(SearchSettings("id", "study", space, trials, seeds, 4), [])


def test_a_suggestion_that_must_wait_is_put_aside_and_not_lost() -> None:
    known, suggestions = Known(), search(3)
    board = Board((), suggestions, make, phases=known)
    first = board.next("a")
    assert first is not None and first.number == 0
    assert board.pending("b") == "work"  # it is not known yet that it would have to wait
    assert board.next("b") is None and board.pending("b") == board.pending("c") == "wait"
    assert board.next("c") is None and suggestions.left == 1  # a second one was asked, and no more
    assert board.snapshot().left == 2 + 2 + 1  # both seeds of the third and of the second, the other one of the first
    for phase in ids(first.spec):
        known.end(phase)
    second = board.next("b")
    assert second is not None and second.number == 1


def test_a_reserved_suggestion_waits_in_its_own_run() -> None:
    known, suggestions = Known(), search(3, seeds=(0,))
    board = Board((), suggestions, make, phases=known)
    assert board.reserve("a") is not None and board.reserve("b") is not None
    first = board.next("a")
    assert first is not None and board.pending("b") == "wait" and board.next("b") is None
    for phase in ids(first.spec):
        known.end(phase)
    second = board.next("b")
    assert second is not None and second.number == 1


@pytest.mark.parametrize("chance", range(8))
@pytest.mark.parametrize("share", [None, 2])
def test_a_search_beside_another_study_ends_with_everything_trained_once(chance: int, share: int | None) -> None:
    suggestions, asked = search(12), list[int]()
    board = Board((), suggestions, make, lambda number, params, group: asked.append(number), known := Known(), share)
    done, trained = simulate(board, known, random.Random(chance), searching=True)
    assert asked == list(range(len(asked))) and len(asked) > 6  # it ends before where it would only repeat itself
    assert sorted(done) == [(number, seed) for number in asked for seed in (0, 1)]
    states = [one.state for one in suggestions.study.get_trials(deepcopy=False)]
    assert states == [TrialState.COMPLETE] * len(asked)
    assert set(trained.values()) == {1}
    assert board.unfinished() == [] and board.snapshot().left == 0


@pytest.mark.parametrize("chance", range(6))
def test_a_grid_beside_another_study_ends_with_everything_trained_once(chance: int) -> None:
    grid = [*tasks(0, 1, 2, 3), *tasks(3, 1, 0, seed=1), task(specified(2, pair="estimate"))]
    board = Board(grid, phases=(known := Known()))
    done, trained = simulate(board, known, random.Random(chance), searching=False)
    assert len(done) == len(grid) == board.snapshot().done
    assert set(trained.values()) == {1} and board.unfinished() == []


def simulate(
    board: Board, known: Known, chance: random.Random, *, searching: bool
) -> tuple[list[tuple[int | None, int]], Counter[str]]:
    """Runs that do what workers do, in any order, beside a study that trains some of the same phases."""
    running: dict[str, Task | None] = {}
    done: list[tuple[int | None, int]] = []
    trained: Counter[str] = Counter()
    foreign = [phase for pair in ("two", "estimate") for phase in ids(specified(2, chance.randint(0, 1), pair))]
    names = iter(range(100))
    begun: list[str] = []
    for _ in range(5000):
        if len(running) < 3 and (name := next(names, None)) is not None:  # Tune keeps three runs going
            run = f"run {name}"
            if not searching and name >= 3:
                continue
            if not searching or board.reserve(run) is not None:
                running[run] = None
                begun.append(run)
        if chance.random() < 0.2 and foreign:  # the other study takes its next phase, or ends it
            phase = foreign[0]
            if known.leases.get(phase) == "other":
                known.end(phase)
                trained[phase] += 1
            elif phase in known.done:
                foreign.pop(0)
            else:
                known.leases.setdefault(phase, "other")
        if not running:
            break
        run = chance.choice(list(running))
        current = running[run]
        if current is None:
            pending = board.pending(run)
            if pending == "nothing":
                del running[run]
            elif pending == "work" or chance.random() < 0.5:  # a worker that ended a training asks at once
                running[run] = board.next(run)
            continue
        missing = known.missing(current.spec)
        if missing is None:
            board.finish(run, DONE, {"psnr": 20.0 + current.spec.seed})
            done.append((current.number, current.spec.seed))
            running[run] = None
        elif known.leases.setdefault(missing, run) != run:
            board.postpone(run)
            running[run] = None
        elif chance.random() < 0.3:
            known.end(missing)
            trained[missing] += 1
    assert running == {}, "it did not end"
    return done, trained
