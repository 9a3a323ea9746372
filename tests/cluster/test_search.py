"""Optuna's part of a search and the board, without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from cluster.execution.board import MAX_DEATHS, Board, Task
from cluster.execution.suggestions import STARTUP, Outcome, SearchSettings, Suggestions, fits
from cluster.results.schema import DONE, FAILED, PRUNED
from denoise_core.config import choice, integer, log, uniform
from denoise_core.method import methods
from denoise_core.specification import DataSpec, specify

SPACE = {"gamma": uniform(0, 20), "lr": log(1e-4, 1e-2)}
SETTINGS = SearchSettings("id", "study", SPACE, trials=8, seeds=(0, 1), rungs=4)


def make(params: Mapping[str, Any], seed: int) -> Task:
    recipe = methods()["neighbor2neighbor"].recipes["smoke"]
    return Task(specify("neighbor2neighbor", params, DataSpec(), (), recipe, seed), str(params), ({},))


def quality(params: Mapping[str, Any]) -> float:
    return 30.0 - abs(params["gamma"] - 2)


def drive(search: Suggestions, limit: int = 100) -> list[tuple[int, dict[str, Any]]]:
    """Trains every suggestion with every seed, pruned ones not to the end."""
    asked = []
    while len(asked) < limit and (one := search.ask()) is not None:
        number, params = one
        asked.append(one)
        _train(search, number, params)
    return asked


def _train(search: Suggestions, number: int, params: Mapping[str, Any]) -> None:
    for index in range(len(search.settings.seeds)):
        for rung in range(search.settings.rungs):
            if search.report(number, index, rung, quality(params) - 3 + rung):
                search.end(number, TrialState.PRUNED)
                return
        search.finish_seed(number, quality(params))


def outcomes(search: Suggestions) -> list[Outcome]:
    """What the store would know of it."""
    return [
        Outcome(one.user_attrs["number"], one.params, one.state, tuple(one.values or ()), one.intermediate_values)
        for one in search.study.get_trials(deepcopy=False)
    ]


def states(search: Suggestions) -> list[TrialState]:
    return [trial.state for trial in search.study.get_trials(deepcopy=False)]


def test_pruned_suggestions_are_pruned_in_optuna_and_others_complete() -> None:
    search = Suggestions(replace(SETTINGS, trials=20), [])
    asked = drive(search)
    assert [number for number, _ in asked] == list(range(20))
    counted = states(search)
    assert len(counted) == 20 and set(counted) == {TrialState.COMPLETE, TrialState.PRUNED}
    assert counted[:STARTUP] == [TrialState.COMPLETE] * STARTUP
    for trial in search.study.get_trials(deepcopy=False):
        if trial.state == TrialState.COMPLETE:
            assert trial.value == quality(trial.params)
    best = search.study.best_trial.params["gamma"]
    assert abs(best - 2) < 2


@pytest.mark.parametrize(
    ("rung", "value", "stopped"), [(0, -9.0, False), (1, 2.9, True), (1, 3.1, False), (3, 2.9, True)]
)
def test_the_worst_third_is_stopped_from_half_of_a_training_on(rung: int, value: float, stopped: bool) -> None:
    known = [
        Outcome(None, {"gamma": one, "lr": 1e-3}, TrialState.COMPLETE, (one,), dict.fromkeys(range(4), one))
        for one in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
    ]
    search = Suggestions(SETTINGS, known)
    asked = search.ask()
    assert asked is not None and search.report(asked[0], 0, rung, value) is stopped


def test_a_resumed_search_suggests_what_an_uninterrupted_one_would() -> None:
    whole = drive(Suggestions(SETTINGS, []))
    first = Suggestions(SETTINGS, [])
    drive(first, limit=5)
    known = outcomes(first)
    assert drive(Suggestions(SETTINGS, known)) == whole[5:]


def test_unfinished_suggestions_come_first_and_keep_their_number() -> None:
    params = {"gamma": 3.0, "lr": 1e-3}
    done = {"gamma": 1.0, "lr": 1e-3}
    known = [Outcome(0, done, TrialState.COMPLETE, (29.0,)), Outcome(1, params, TrialState.WAITING)]
    search = Suggestions(SETTINGS, known)
    assert search.left == 7
    assert search.ask() == (1, params)
    following = search.ask()
    assert following is not None and following[0] == 2


def test_more_trials_start_from_the_earlier_ones() -> None:
    first = Suggestions(SETTINGS, [])
    drive(first)
    known = outcomes(first)
    more = Suggestions(replace(SETTINGS, trials=12), known)
    assert [number for number, _ in drive(more)] == [8, 9, 10, 11]
    assert len(states(more)) == 12


def test_results_of_other_studies_are_starting_points_and_not_counted() -> None:
    search = Suggestions(SETTINGS, [Outcome(None, {"gamma": 2.0, "lr": 1e-3}, TrialState.COMPLETE, (30.0,))])
    assert search.left == 8 and search.study.best_value == 30.0


def test_a_finite_space_ends_when_it_is_exhausted_without_repetitions() -> None:
    space = {"sampler": choice("random", "fix-location"), "features": integer(4, 5)}
    search = Suggestions(replace(SETTINGS, space=space, seeds=(0,)), [])
    seen = []
    while (one := search.ask()) is not None:
        seen.append(tuple(one[1].values()))
        search.finish_seed(one[0], 1.0)
    assert len(seen) == len(set(seen)) == 4
    assert states(search) == [TrialState.COMPLETE] * 4


def test_a_finite_space_is_gone_through_where_one_setting_is_far_better_than_the_others() -> None:
    """Which the sampler would suggest for ever."""
    space = {"gamma": choice(0.0, 1.0, 2.0, 8.0, 20.0), "features": integer(3, 6)}
    for trials in (20, 12):
        search = Suggestions(replace(SETTINGS, space=space, seeds=(0,), trials=trials), [])
        seen = []
        while (one := search.ask()) is not None:
            seen.append(tuple(one[1].values()))
            search.finish_seed(one[0], 1000.0 if seen[-1] == seen[0] else -float(len(seen)))
        assert len(seen) == len(set(seen)) == trials


def test_the_journal_shows_the_same_states_to_optuna_dashboard(tmp_path: Path) -> None:
    path = tmp_path / "optuna" / "study.journal"
    search = Suggestions(replace(SETTINGS, trials=20, journal=str(path)), [])
    drive(search)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    shown = optuna.load_study(study_name="study", storage=storage)
    assert [trial.state for trial in shown.trials] == states(search)


@pytest.mark.parametrize(
    ("params", "expected"),
    [({"gamma": 2, "lr": 1e-3}, True), ({"gamma": 21, "lr": 1e-3}, False), ({"gamma": 2}, False)],
)
def test_only_settings_inside_the_space_are_starting_points(params: dict[str, float], expected: bool) -> None:
    assert fits(params, SPACE) is expected


def test_the_board_hands_out_each_task_once_and_counts() -> None:
    tasks = [make({"gamma": float(one)}, 0) for one in range(3)]
    board = Board(tasks)
    taken = [board.next("a"), board.next("b")]
    board.finish("a", DONE, {"psnr": 27.0})
    taken.append(board.next("a"))
    assert taken == tasks and board.pending("c") == "nothing"
    board.finish("a", FAILED)
    board.finish("b", DONE, {"psnr": 28.0})
    assert board.next("a") is None
    snapshot = board.snapshot()
    assert (snapshot.done, snapshot.failed, snapshot.left) == (2, 1, 0)
    assert snapshot.best == (tasks[1].label, 28.0)


def test_a_run_that_died_gets_the_same_task_again_until_it_is_given_up() -> None:
    board = Board([make({}, 0)])
    attempts = [board.next("a") for _ in range(MAX_DEATHS + 1)]
    assert [one.attempt for one in attempts if one] == [1, 2, 3, 4]
    assert [bool(one.error) for one in attempts if one] == [False, False, False, True]
    assert attempts[-1] is not None and "its worker died 3 times" in attempts[-1].error


def test_a_training_that_raised_on_a_rank_is_not_tried_again() -> None:
    board = Board([make({}, 0)])
    board.next("a")
    board.crashed("a", "ValueError: no")
    again = board.next("a")
    assert again is not None and again.error == "ValueError: no"


def test_stopping_is_told_at_the_next_report_and_hands_out_nothing_more() -> None:
    board = Board([make({}, 0), make({}, 1)])
    board.next("a")
    assert board.report("a", 1) == "go"
    board.stop()
    assert board.report("a", 2) == "stop"
    board.stopped("a")
    assert board.next("a") is None and board.pending("a") == "nothing"
    assert [task.spec.seed for task in board.unfinished()] == [1]


def test_a_run_ends_after_its_share_only_where_another_share_is_left() -> None:
    board = Board([make({}, seed) for seed in range(7)], share=3)

    def trains(run: str, count: int) -> None:
        for _ in range(count):
            assert board.next(run) is not None
            board.finish(run, "done", {"psnr": 1.0})

    trains("a", 3)  # four are left, a share and more
    assert board.pending("a") == "nothing" and board.next("a") is None
    trains("b", 3)  # one is left: no other run is started for it
    assert board.pending("b") == "work"
    trains("b", 1)
    assert board.pending("b") == "nothing" and board.unfinished() == []


def test_a_search_trains_the_seeds_of_a_suggestion_in_the_same_run_and_prunes() -> None:
    asked: list[int] = []
    search = Suggestions(replace(SETTINGS, trials=12), [])
    board = Board((), search, make, lambda number, params, group: asked.append(number))
    params = board.reserve("a")
    assert params is not None and set(params) == {"gamma", "lr"}
    seeds: dict[int, list[int]] = {}
    statuses = []
    while (task := board.next("a")) is not None:
        assert task.number is not None
        seeds.setdefault(task.number, []).append(task.spec.seed)
        good = quality(task.spec.config)
        orders = [board.report("a", rung, rung, good - 3 + rung) for rung in range(4)]
        statuses.append(PRUNED if "prune" in orders else DONE)
        board.finish("a", statuses[-1], {"psnr": good})
    assert asked == list(range(12))
    assert set(map(tuple, seeds.values())) == {(0,), (0, 1)} and PRUNED in statuses
    counted = states(search)
    assert counted.count(TrialState.PRUNED) == statuses.count(PRUNED)
    assert counted.count(TrialState.COMPLETE) == sum(len(one) == 2 for one in seeds.values())


def test_a_failed_seed_fails_its_suggestion_and_the_search_goes_on() -> None:
    search = Suggestions(replace(SETTINGS, trials=2), [])
    board = Board((), search, make)
    first = board.next("a")
    board.finish("a", FAILED)
    second = board.next("a")
    assert first is not None and second is not None and (first.number, second.number) == (0, 1)
    assert states(search)[0] == TrialState.FAIL


def test_a_run_that_had_its_share_still_trains_the_seeds_of_its_suggestion() -> None:
    search = Suggestions(replace(SETTINGS, trials=2), [])
    board = Board((), search, make, share=1)
    for run in ("a", "b"):
        assert board.reserve(run) is not None
        seeds = []
        while (task := board.next(run)) is not None:
            seeds.append(task.spec.seed)
            left = board.snapshot().left
            board.finish(run, DONE, {"psnr": 20.0})
        assert seeds == [0, 1] and left == (2 if run == "a" else 0)
    assert board.next("c") is None and states(search) == [TrialState.COMPLETE] * 2


def test_the_first_rank_to_fail_names_the_cause() -> None:
    board = Board([make({}, 0)])
    board.next("a")
    board.crashed("a", "ValueError: the cause")
    board.crashed("a", "RuntimeError: a consequence")
    again = board.next("a")
    assert again is not None and again.error == "ValueError: the cause"
