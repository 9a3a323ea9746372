"""Runs that break, rest, move away from nodes that leave, and are given up; what the board makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.execution.board import MAX_ATTEMPTS, MAX_DEATHS, Board, Task
from cluster.execution.runs import LONGEST_PAUSE_S, MOST_BREAKS, PAUSE_S, Nodes, Runs
from denoise_core.method import methods
from denoise_core.specification import DataSpec, specify


class World:
    """A clock and the nodes of a cluster, both moved by the test."""

    def __init__(self) -> None:
        self.time, self.nodes = 0.0, Nodes(frozenset({"a", "b"}))
        self.runs = Runs(lambda: self.nodes, lambda: self.time)

    def lose(self, *nodes: str) -> None:
        self.nodes = replace(self.nodes, alive=self.nodes.alive - set(nodes))

    def drain(self, *nodes: str) -> None:
        self.nodes = replace(self.nodes, leaving=frozenset(nodes))


@pytest.fixture
def world() -> World:
    return World()


def tasks(count: int) -> list[Task]:
    recipe = methods()["n2c"].recipes["smoke"]
    specs = [specify("n2c", {}, DataSpec(), (), recipe, seed) for seed in range(count)]
    return [Task(spec, f"seed {spec.seed}", (spec.params,)) for spec in specs]


def begun(board: Board, run: str, group: str, node: str) -> Task:
    board.join(run, group, node)
    found = board.next(run)
    assert found is not None
    return found


def test_pauses_double_and_end_when_something_is_finished(world: World) -> None:
    runs = world.runs
    for number in range(MOST_BREAKS - 1):
        runs.broke("r", "no reason")
        pause = min(LONGEST_PAUSE_S, PAUSE_S * 2**number)
        world.time += pause - 0.01
        assert runs.rests("r")
        world.time += 0.02
        assert not runs.rests("r") and not runs.given_up("r")
    runs.goes_well("r")
    runs.broke("r", "no reason")
    assert not runs.given_up("r")


def test_a_run_that_breaks_again_and_again_is_given_up_with_its_reason(world: World) -> None:
    board = Board(tasks(1), runs=world.runs)
    for number in range(MOST_BREAKS):
        world.time += LONGEST_PAUSE_S
        assert board.pending("r") == "work"
        board.broke("r", f"no torch on node {number}")
        assert board.pending("r") in ("wait", "nothing")
    world.time += LONGEST_PAUSE_S
    assert board.pending("r") == "nothing" and len(board.unfinished()) == 1
    assert board.ended() == ("", f"no torch on node {MOST_BREAKS - 1}")


def test_a_lost_node_is_nobodys_fault(world: World) -> None:
    board = Board(tasks(1), runs=world.runs)
    found = begun(board, "r", "g", "a")
    for number in range(2 * MAX_DEATHS):
        there = "b" if number % 2 == 0 else "a"
        world.nodes = Nodes(frozenset({there}))  # the other one was lost
        board.broke("r", "actor died")
        assert board.pending("r") == "wait"
        world.time += PAUSE_S
        assert board.pending("r") == "work"
        found = begun(board, "r", f"g{number}", there)
    assert found.attempt == 2 * MAX_DEATHS + 1 and found.deaths == 0 and not found.error


def test_a_worker_that_dies_on_a_node_that_lives_is_its_trainings_fault(world: World) -> None:
    board = Board(tasks(1), runs=world.runs)
    found = [begun(board, "r", f"g{number}", "a") for number in range(MAX_DEATHS + 1)]
    assert [one.attempt for one in found] == [1, 2, 3, 4] and not any(one.error for one in found[:-1])
    assert "its worker died 3 times" in found[-1].error


def test_lost_nodes_are_bounded_too(world: World) -> None:
    board = Board(tasks(1), runs=world.runs)
    found = begun(board, "r", "g", "a")
    for number in range(MAX_ATTEMPTS):
        world.lose("a")
        found = begun(board, "r", f"g{number}", "a")
        world.nodes = Nodes(frozenset({"a", "b"}))
    assert "lost its node each time" in found.error


@pytest.mark.parametrize("how", ["drained", "told"])
def test_a_training_moves_when_its_node_leaves(world: World, how: str) -> None:
    board = Board(tasks(2), runs=world.runs)
    first = begun(board, "r", "g", "a")
    assert board.report("r", 1) == "go"
    world.drain("a") if how == "drained" else board.leave("r")
    assert board.report("r", 2) == "stop"
    board.stopped("r")
    assert board.next("r") is None, "workers that are to leave get nothing new"
    assert board.pending("r") == "work", "but the run begins again"
    again = begun(board, "r", "g2", "b")
    assert again == replace(first, attempt=2) and again.deaths == 0
    assert board.report("r", 3) == "go"


def test_a_run_that_moves_does_not_use_up_its_share(world: World) -> None:
    board = Board(tasks(2), runs=world.runs, share=1)
    begun(board, "r", "g", "a")
    board.leave("r")
    board.stopped("r")
    assert board.pending("r") == "work" and begun(board, "r", "g2", "b").attempt == 2


def test_pruning_comes_before_moving_and_stopping_before_all(world: World) -> None:
    board = Board(tasks(1), runs=world.runs)
    begun(board, "r", "g", "a")
    board.trouble("The disk is full.")
    board.trouble("Another sentence.")
    assert board.report("r", 1) == "stop" and board.pending("r") == "nothing" and board.next("s") is None
    assert board.ended()[0] == "The disk is full."


def test_notes_are_said_once(world: World) -> None:
    board = Board(tasks(1), runs=world.runs)
    for note in ("a", "b", "a"):
        board.note(note)
    assert board.snapshot().notes == ["a", "b"]
