"""Searches that go by a criterion without clean images: they prune by it, and by nothing else; without Ray."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch

from cluster.execution import one_training
from cluster.execution import training as worker
from cluster.execution.suggestions import STARTUP
from cluster.results.schema import DONE, PRUNED
from cluster.results.store import Store
from cluster.searching import suggested
from denoise_core.trainer import Ranks
from tests.cluster import test_objectives
from tests.cluster.phases_toys import toy_data
from tests.cluster.test_objectives import Search, store, trials

__all__ = ["store"]  # a fixture
ALL = ("--trials", "6")
"""Every setting of the toy's space."""


@pytest.fixture(autouse=True)
def measured(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """SURE beside PSNR."""
    data = replace(toy_data(), spec=toy_data().spec.model_copy(update={"criteria": ("sure",)}))
    monkeypatch.setattr(worker, "_data", lambda spec, root: data)
    monkeypatch.setattr(test_objectives, "toy_data", lambda: data)


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> None:
    """From measurement to measurement of the validation images SURE falls and PSNR rises, by 1 dB."""
    numbers = count()

    def validation(*_: Any, last: bool) -> dict[str, float]:
        number = next(numbers)
        return {"sure": 30.0 - number, "psnr": 20.0 + number}

    monkeypatch.setattr(one_training, "validation", validation)


def last(store: Store, metric: str) -> list[float]:
    """The last validation values of all trainings."""
    curves = store.read("curves", store.names("curves")).to_pylist()
    points = sorted(curves, key=lambda one: one["step"])
    return sorted({one["trial_id"]: one["value"] for one in points if one["name"] == f"validation_{metric}"}.values())


def test_a_search_goes_by_a_criterion(store: Store) -> None:
    search = Search(store, ("sure",), 1)
    assert search.run() == 4 and search.states == ["COMPLETE"] * 4 and search.errors == set()
    assert sorted(one.value for one in trials(search.suggestions)) == pytest.approx(last(store, "sure"))
    assert last(store, "sure") != pytest.approx(last(store, "psnr"))
    again = Search(store, ("sure",), 1)
    assert again.states == ["COMPLETE"] * 4 and again.run() == 0
    assert again.settings.search_id != Search(store, ("psnr",), 1).settings.search_id


@pytest.mark.parametrize(("objective", "pruned"), [("sure", 2), ("psnr", 0)])
def test_it_prunes_by_the_criterion_alone(store: Store, falling: None, objective: str, pruned: int) -> None:
    search = Search(store, (objective,), 1, *ALL)
    assert search.run() == 6
    assert search.states == ["COMPLETE"] * (6 - pruned) + ["PRUNED"] * pruned and STARTUP == 4
    again = Search(store, (objective,), 1, *ALL)
    assert again.suggestions.left == 0 and again.run() == 0
    told = [[(one.state, one.params, one.values, one.intermediate_values) for one in trials(each.suggestions)]
            for each in (search, again)]  # fmt: skip
    assert told[0] == told[1]


def test_an_interrupted_training_tells_its_rungs_by_the_criterion(store: Store) -> None:
    """A new board, which has not heard of them, prunes as the first would have done."""
    task = replace(Search(store, ("sure",)).make({"gamma": 0.0, "lr": 1e-2}, 0), objectives=("sure",))
    training = one_training.Training(task, "toy", "smoke", store, Ranks(), torch.device("cpu"))
    values = {"validation_sure": 7.0, "validation_psnr": 9.0, "loss": 1.0}
    training.progress.point("denoiser", 1, values)
    training.progress.point("denoiser", 3, values)  # no rung
    line = Listening()
    assert training._replay(line, {1: 0, 2: 1}, 0) == "prune" and line.heard == [(1, 0, 7.0)]


class Listening:
    """A line that prunes at once."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int | None, float | None]] = []

    def report(self, step: int, rung: int | None = None, value: float | None = None) -> str:
        self.heard.append((step, rung, value))
        return "prune"

    def note(self, sentence: str) -> None: ...


def test_what_a_search_for_something_else_pruned_is_trained_to_its_end(store: Store, falling: None) -> None:
    Search(store, ("sure",), 1, *ALL).run()
    statuses = sorted(row["status"] for row in store.trials(store.names("trials")).values())
    assert statuses == [DONE] * 4 + [PRUNED] * 2
    by_psnr = Search(store, ("psnr",), 1, *ALL)
    assert by_psnr.run() == 2  # the other four are known
    assert {row["status"] for row in store.trials(store.names("trials")).values()} == {DONE}
    # now the other search prunes what this one has suggested itself
    _, params = suggested(store, by_psnr.settings)[0]
    name = by_psnr.make(params, 0).spec.trial_id
    store.write("trials", name, [{**store.trials([name])[name], "status": PRUNED, "steps": 1}])
    again = Search(store, ("psnr",), 1, *ALL)
    assert again.run() == 1
    assert store.trials([name])[name]["status"] == DONE


def test_a_criterion_that_cannot_be_computed_fails_the_training(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_training, "validation", lambda *_, last: {"psnr": 20.0})
    search = Search(store, ("sure",), 1)
    assert search.run() == 4 and search.states == ["FAIL"] * 4
    assert len(search.errors) == 1 and "the validation PSNR by SURE is missing" in str(search.errors)
