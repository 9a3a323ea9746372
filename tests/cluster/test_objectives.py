"""Searches with several objectives: what Optuna is told, what fails, what the store gives back; without Ray."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from cluster.cli import parse
from cluster.execution import training as worker
from cluster.execution.board import Board, Task
from cluster.execution.hosted import Recorder
from cluster.execution.launch import RunSettings
from cluster.execution.one_training import RUNGS
from cluster.execution.progress import last_measured
from cluster.execution.suggestions import Outcome, SearchSettings, Suggestions
from cluster.execution.training import BoardLine
from cluster.plan import DataInUse, Plan, Planner, task_of
from cluster.results.schema import DONE, FAILED, PRUNED
from cluster.results.store import Store
from cluster.searching import known_outcomes, search_settings, suggested
from cluster.study import Study, choice
from denoise_core.errors import UserError
from denoise_core.method import method_class
from denoise_core.methods.neighbor2neighbor import Neighbor2Neighbor
from denoise_core.trainer import Ranks
from tests.cluster.phases_toys import toy_data
from tests.cluster.test_search import SETTINGS, make, outcomes

BOTH = replace(SETTINGS, objectives=("psnr", "akld"))
Measure = Callable[[Mapping[str, Any], int], Mapping[str, float]]


def drive(search: Suggestions, measure: Measure, limit: int = 100) -> list[Task]:
    """Trains what a board hands out, each to its end; returns the trainings."""
    board = Board((), search, make)
    done: list[Task] = []
    while len(done) < limit and (task := board.next("a")) is not None:
        measured = measure(task.spec.config, task.spec.seed)
        assert [board.report("a", rung, rung, -9.0 * len(done)) for rung in range(4)] == ["go"] * 4
        board.finish("a", DONE, measured)
        done.append(task)
    assert board.snapshot().best is None
    return done


def trade(config: Mapping[str, Any], seed: int) -> Mapping[str, float]:
    """More gamma: better PSNR, worse noise. A learning rate off 1e-3 harms both; a seed is worth 1 dB and 0.1."""
    harm = abs(math.log10(config["lr"]) + 3)
    return {"psnr": 20 + config["gamma"] - harm + seed, "akld": config["gamma"] / 20 + harm - seed / 10}


def trials(search: Suggestions) -> list[FrozenTrial]:
    return search.study.get_trials(deepcopy=False)


def front(search: Suggestions) -> list[tuple[dict[str, Any], list[float]]]:
    found = [(one.params, one.values) for one in search.study.best_trials]
    return sorted(found, key=lambda one: one[1])


# ---- what Optuna is told ----


def test_every_objective_gets_the_mean_of_the_seeds() -> None:
    search = Suggestions(BOTH, [])
    drive(search, trade, limit=2)
    (first,) = trials(search)
    expected = [trade(first.params, 0)[name] + half for name, half in (("psnr", 0.5), ("akld", -0.05))]
    assert first.state == TrialState.COMPLETE and first.values == pytest.approx(expected)


def test_a_higher_psnr_and_a_lower_akld_are_better() -> None:
    points = [(30.0, 0.2), (29.0, 0.1), (29.0, 0.3), (31.0, 0.9), (28.0, 0.1)]
    params = [{"gamma": float(one), "lr": 1e-3} for one in range(len(points))]
    outcomes = [Outcome(None, params[i], TrialState.COMPLETE, values=point) for i, point in enumerate(points)]
    assert [values for _, values in front(Suggestions(BOTH, outcomes))] == [[29.0, 0.1], [30.0, 0.2], [31.0, 0.9]]


def test_nothing_is_reported_or_pruned() -> None:
    search = Suggestions(replace(BOTH, trials=12), [])
    assert len(drive(search, trade)) == 24  # that the values fall and fall, from rung to rung, stops none of them
    assert {one.state for one in trials(search)} == {TrialState.COMPLETE}
    assert not any(one.intermediate_values for one in trials(search))


@pytest.mark.parametrize("objective", ["psnr", "akld"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_value_that_is_no_number_fails_the_suggestion_only(objective: str, value: float | None, seed: int) -> None:
    def measure(config: Mapping[str, Any], at: int) -> Mapping[str, float]:
        nonlocal broken
        values = dict(trade(config, at))
        if at != seed or broken:
            return values
        broken = True
        return {**{name: one for name, one in values.items() if name != objective}, **given}

    broken, given = False, {} if value is None else {objective: value}
    search = Suggestions(replace(BOTH, trials=3), [])
    done = drive(search, measure)
    assert [one.state for one in trials(search)] == [TrialState.FAIL, *[TrialState.COMPLETE] * 2]
    assert trials(search)[0].values is None
    assert [task.seed_index for task in done] == [*range(seed + 1), 0, 1, 0, 1]  # and its other seeds are left out


def test_a_resumed_search_suggests_what_an_uninterrupted_one_would() -> None:
    settings = replace(BOTH, trials=12, seeds=(0,))
    whole = Suggestions(settings, [])
    drive(whole, trade)
    first = Suggestions(settings, [])
    drive(first, trade, limit=7)
    resumed = Suggestions(settings, outcomes(first))
    assert resumed.left == 5
    drive(resumed, trade)
    assert outcomes(resumed) == outcomes(whole) and front(resumed) == front(whole)


def test_the_search_moves_towards_the_front() -> None:
    """So the sampler does learn from both objectives: off the best learning rate, both get worse."""
    search = Suggestions(replace(BOTH, trials=40, seeds=(0,)), [])
    drive(search, trade)
    harm = [abs(math.log10(one.params["lr"]) + 3) for one in trials(search)]
    assert sum(harm[20:]) < 0.6 * sum(harm[:20])


def test_the_journal_shows_both_objectives_to_optuna_dashboard(tmp_path: Path) -> None:
    path = tmp_path / "optuna" / "study.journal"
    search = Suggestions(replace(BOTH, journal=str(path)), [])
    drive(search, trade)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    shown = optuna.load_study(study_name="study", storage=storage)
    assert shown.metric_names == ["validation PSNR", "validation AKLD"]
    assert [one.name for one in shown.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert [one.values for one in shown.trials] == [one.values for one in trials(search)]


def test_trainings_know_the_objectives_of_their_search() -> None:
    for settings in (BOTH, SETTINGS):
        board = Board((), Suggestions(settings, []), make)
        task = board.next("a")
        assert task is not None and task.objectives == settings.objectives


def test_the_last_point_of_a_curve_counts() -> None:
    points = [("validation_akld", 4, 0.1), ("validation_akld", 2, 0.9), ("loss", 4, 7.0), ("validation_psnr", 2, 20.0)]
    curves = [{"name": name, "step": step, "value": value} for name, step, value in points]
    assert last_measured(curves) == {"akld": 0.1, "psnr": 20.0}


# ---- the command's side: store, trainings ----


class Search:
    """A study's search on toy images, as one call of its command sees it: with what the store knows at the start."""

    def __init__(self, store: Store, objectives: Sequence[str] = ("psnr", "akld"), seeds: int = 2, *more: str):
        axes = [choice("gamma", [0.0, 2.0, 8.0]), choice("lr", [1e-3, 1e-2])]
        self.study = Study(name="toy", question="?", method="neighbor2neighbor", axes=axes, objectives=objectives)
        flags = ["--budget", "smoke", "--search", "optuna", "--seeds", str(seeds), "--trials", "4", *more]
        self.options = parse(self.study, flags)
        self.data = DataInUse(toy_data().spec, toy_data().contents)
        self.planner = Planner(self.study, method_class("neighbor2neighbor").recipes["smoke"], {}, [self.data])
        self.store = store
        self.settings = search_settings(self.study, self.planner, self.data, self.options, store)
        self.suggestions = Suggestions(self.settings, self.known())

    def known(self) -> list[Outcome]:
        asked = suggested(self.store, self.settings)
        planned = [self.planner.trial(params, self.data, seed) for _, params in asked for seed in self.settings.seeds]
        return known_outcomes(self.store, self.settings, self.planner, self.data, Plan(planned).read(self.store))

    def make(self, params: Mapping[str, Any], seed: int) -> Task:
        return task_of([self.planner.trial(params, self.data, seed)])

    def run(self, limit: int = 100) -> int:
        """Does what a worker does until nothing is left; returns the number of trainings."""
        recorder = Recorder(self.store.location, self.settings.search_id, "toy")
        board = Board((), self.suggestions, self.make, recorder)
        line = Direct(board, "a", Ranks())
        settings = RunSettings("toy", "smoke", self.store.location, None, 1, 1.0, 0.0, "")
        count = 0
        while count < limit and (task := line.next()) is not None:
            assert worker._one(task, settings, self.store, line, Ranks())
            count += 1
        return count

    @property
    def states(self) -> list[str]:
        return [one.state.name for one in trials(self.suggestions)]

    @property
    def errors(self) -> set[str]:
        rows = self.store.trials(self.store.names("trials")).values()
        return {row["error"] for row in rows if row["status"] == FAILED}


class Direct(BoardLine):
    """A worker's line to a board in the same process."""

    def _call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._board, method)(self._run, *arguments)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(worker, "_data", lambda spec, root: toy_data())
    monkeypatch.setattr(worker, "get_device", lambda: torch.device("cpu"))
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def generating(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbor2Neighbor also generates noise, the stronger the larger gamma is."""
    _generate(monkeypatch, lambda method: 0.05 + method.config.gamma / 40)


def _generate(monkeypatch: pytest.MonkeyPatch, level: Callable[[Neighbor2Neighbor], float]) -> None:
    def generate(method: Neighbor2Neighbor, clean: Tensor, random: torch.Generator) -> Tensor:
        return clean + level(method) * torch.randn(clean.shape, generator=random)

    monkeypatch.setattr(Neighbor2Neighbor, "draws", property(lambda method: 1))
    monkeypatch.setattr(Neighbor2Neighbor, "generate", generate)


def test_the_same_command_again_knows_the_same_front_and_trains_nothing(store: Store, generating: None) -> None:
    first = Search(store)
    assert first.run() == 8 and first.states == ["COMPLETE"] * 4
    again = Search(store)
    assert front(again.suggestions) == front(first.suggestions) and len(front(first.suggestions)) > 0
    assert [one.values for one in trials(again.suggestions)] == [one.values for one in trials(first.suggestions)]
    assert again.suggestions.left == 0 and again.run() == 0
    rows = store.trials(store.names("trials"))
    points = store.read("curves", list(rows)).to_pylist()
    for row in rows.values():  # the objective of the row stays the PSNR
        last = [one["value"] for one in points if one["trial_id"] == row["trial_id"] and one["name"].endswith("psnr")]
        assert row["objective"] == last[-1]


def test_an_interrupted_search_goes_on_where_it_ended(store: Store, generating: None, tmp_path: Path) -> None:
    whole = Search(Store.open(str(tmp_path / "whole")))
    whole.run()
    assert Search(store).run(limit=3) == 3  # the second suggestion has one seed more to train
    resumed = Search(store)
    assert resumed.suggestions.left == 3 and resumed.run() == 6  # and is told of the stored one
    assert front(resumed.suggestions) == front(whole.suggestions)


def test_what_other_studies_left_is_known_by_all_objectives(store: Store, generating: None) -> None:
    other = Search(store, ("psnr",))
    other.run()
    assert set(other.states) == {"COMPLETE"}  # of four suggestions none is pruned
    search = Search(store)
    values = {json.dumps(one.params): one.values for one in trials(search.suggestions)}
    for one in trials(other.suggestions):
        assert values[json.dumps(one.params)][0] == pytest.approx(one.value)
        assert len(values[json.dumps(one.params)]) == 2


def test_what_another_study_left_without_an_objective_is_no_starting_point(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Search(store, ("psnr",))
    other.run()
    _generate(monkeypatch, lambda method: 0.1)
    assert Search(store).known() == []


def test_a_finished_training_without_an_objective_fails_the_suggestion_and_stays_finished(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is another study's as well, which has no need of the objective."""
    space = ("--set", "gamma=2", "--set", "lr=0.001")
    Search(store, ("psnr",), 2, *space).run()
    search = Search(store, ("psnr", "akld"), 2, *space)
    assert search.run() == 1 and search.states == ["FAIL"]
    assert Search(store, ("psnr", "akld"), 2, *space).states == ["FAIL"]
    assert search.errors == set()


def test_what_another_search_pruned_is_trained_to_its_end(store: Store, generating: None) -> None:
    search = Search(store, seeds=1)
    search.run(limit=1)
    (name,) = store.names("trials")
    store.write("trials", name, [{**store.trials([name])[name], "status": PRUNED, "steps": 1}])
    resumed = Search(store, seeds=1)
    assert resumed.suggestions.left == 4 and resumed.run() == 4
    assert store.trials([name])[name]["status"] == DONE and resumed.states == ["COMPLETE"] * 4


def test_a_method_that_generates_no_noise_fails_with_the_reason(store: Store) -> None:
    search = Search(store)
    assert search.run() == 4  # the second seed of none
    assert search.errors == {
        "ObjectiveMissing: the validation AKLD is missing: the method generates no noise with these settings; "
        "leave them out with --set"
    }
    again = Search(store)
    assert search.states == again.states == ["FAIL"] * 4 and again.suggestions.left == 0


def test_an_objective_that_validation_does_not_measure_fails_with_the_reason(store: Store) -> None:
    search = Search(store, ("psnr", "ssim"))
    search.run()
    assert len(search.errors) == 1 and "the validation SSIM is missing: the method does not measure it" in str(
        search.errors
    )


def test_noise_that_became_nan_fails_the_setting_and_no_other(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _generate(monkeypatch, lambda method: math.nan if method.config.gamma == 2 else 0.1)
    search = Search(store, ("psnr", "akld"), 2, "--trials", "6")  # all there are
    search.run()
    assert search.errors == {"TrainingDiverged: the validation AKLD became NaN at step 4 of 4"}
    expected = {one.params["gamma"]: one.state.name for one in trials(search.suggestions)}
    assert expected == {0.0: "COMPLETE", 2.0: "FAIL", 8.0: "COMPLETE"}
    again = Search(store, ("psnr", "akld"), 2, "--trials", "6")
    assert again.states == search.states and again.run() == 0


def test_the_names_of_searches_with_one_objective_do_not_depend_on_it(store: Store) -> None:
    one, both, turned = (Search(store, names) for names in (("psnr",), ("psnr", "akld"), ("akld", "psnr")))
    assert len({one.settings.search_id, both.settings.search_id, turned.settings.search_id}) == 3
    base = one.planner.trial({}, one.data, 0).spec
    config = {name: value for name, value in base.config.items() if name not in ("gamma", "lr")}
    asked: list[Any] = [base.method, config, base.data.model_dump(mode="json"), base.contents, base.recipe.steps]
    spaces = {name: ["choice", 0.0, 0.0, values] for name, values in (("gamma", [0.0, 2.0, 8.0]), ("lr", [1e-3, 1e-2]))}
    text = json.dumps([*asked, (0, 1), spaces], sort_keys=True)
    assert one.settings.search_id == hashlib.sha256(text.encode()).hexdigest()[:12]  # as of stores of before
    assert one.settings == SearchSettings(
        one.settings.search_id, "toy", one.settings.space, 4, (0, 1), len(RUNGS), one.settings.journal
    )


@pytest.mark.parametrize(
    ("objectives", "said"),
    [
        (("psnr", "alkd"), "no metric 'alkd' to choose by: did you mean 'akld'?"),
        (("psnr", "psnr"), "name a metric twice"),
        (("akld",), "chooses by akld alone: a single objective is psnr"),
        ((), "chooses by nothing alone"),
    ],
)
def test_objectives_that_make_no_search_are_refused(store: Store, objectives: Sequence[str], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        Search(store, objectives)
