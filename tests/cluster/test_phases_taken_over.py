"""Trainings that take over phases of others: the same bits, nothing trained twice, damage, two studies at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from cluster.execution.one_training import RUNGS, Ended
from cluster.execution.suggestions import SearchSettings
from cluster.results.schema import DONE
from cluster.results.store import Store
from cluster.searching import _Measured
from denoise_core.method import create
from denoise_core.specification import TrialSpec
from denoise_core.trainer import Trainer
from tests.cluster.phases_toys import (
    DENOISER_STEPS,
    GAN_STEPS,
    Listener,
    curves,
    ids,
    measured,
    row,
    toy_data,
    training,
    trial,
)

PHASES = ["gan", "g2g1", "g2g2"]
ENDS = [GAN_STEPS, GAN_STEPS + DENOISER_STEPS, GAN_STEPS + 2 * DENOISER_STEPS]
WANTED = trial(iterations=2)


class Counted:
    """How many steps were trained since it was last looked at."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self) -> int:
        steps, self.steps = self.steps, 0
        return steps


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted, run = Counted(), Trainer.run

    def counting(self: Trainer) -> Iterator[int]:
        for step in run(self):
            counted.steps += 1
            yield step

    monkeypatch.setattr(Trainer, "run", counting)
    return counted


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Where one training made all phases of WANTED."""
    store = Store.open(str(tmp_path_factory.mktemp("whole") / "store"))
    assert train(WANTED, store) is Ended.DONE
    return store


def train(spec: TrialSpec, store: Store, line: Listener | None = None) -> Ended:
    one = training(spec, store)
    try:
        return one.run(toy_data(), line or Listener())
    finally:
        one.release()


def path(store: Store, table: str, name: str) -> Path:
    assert store.local is not None
    suffix = "safetensors" if table == "weights" else "parquet"
    return store.local / table / f"{name}.{suffix}"


def assert_same(store: Store, whole: Store, spec: TrialSpec = WANTED) -> None:
    """The same weights after every phase, measurements, objective and validation at the phases' ends."""
    for name in ids(spec):
        first, second = (load(path(one, "weights", name).read_bytes()) for one in (store, whole))
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert measured(store, spec) == measured(whole, spec) != []
    assert row(store, spec)["objective"] == row(whole, spec)["objective"]
    at_ends = [[one for one in curves(place, spec) if one[1] in ENDS] for place in (store, whole)]
    assert at_ends[0] == at_ends[1] and [phase for phase, _, _ in at_ends[0]] == PHASES


def seconds(store: Store, spec: TrialSpec) -> list[float]:
    """What each phase took, whoever trained it."""
    return [one["train_s"] for one in store.read("phases", ids(spec)).to_pylist()]


# ---- bits and numbers ----


@pytest.mark.parametrize("iterations", range(4))
def test_taking_over_another_trials_phases_ends_in_the_same_bits(
    iterations: int, store: Store, whole: Store, steps: Counted
) -> None:
    assert train(trial(iterations=iterations), store) is Ended.DONE
    assert steps() == GAN_STEPS + iterations * DENOISER_STEPS
    assert train(WANTED, store) is Ended.DONE
    taken = min(iterations, 2) + 1
    assert steps() == (2 - taken + 1) * DENOISER_STEPS
    assert_same(store, whole)
    stored, each = row(store, WANTED), seconds(store, WANTED)
    assert stored["status"] == DONE and stored["steps"] == ENDS[-1]
    assert stored["train_s"] == pytest.approx(sum(each))
    assert stored["shared_s"] == pytest.approx(0 if iterations == 2 else sum(each[:taken]))
    assert {phase for phase, _, _ in curves(store, WANTED, "loss")} == {"g2g1", "g2g2"}


def test_curves_of_a_phase_hold_no_scalars_of_the_one_before(whole: Store) -> None:
    assert {phase for phase, _, _ in curves(whole, WANTED, "cycle")} == {"gan"}


@pytest.mark.parametrize("cut", [2, ENDS[0], 5, ENDS[1], 9])
@pytest.mark.parametrize("more", [0, 1], ids=["same trial", "one with more iterations"])
def test_a_stopped_training_goes_on_in_itself_and_in_another(
    cut: int, more: int, store: Store, whole: Store, steps: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.execution.one_training.REPORT_S", 0.0)  # every step is reported
    assert train(trial(iterations=2 + more), store, Listener({cut: "stop"})) is Ended.STOPPED
    assert steps() == cut
    assert train(WANTED, store) is Ended.DONE
    assert steps() == ENDS[-1] - cut
    assert_same(store, whole)
    stored, each = row(store, WANTED), seconds(store, WANTED)
    assert stored["train_s"] == pytest.approx(sum(each))
    ended = sum(end <= cut for end in ENDS)
    assert stored["shared_s"] == pytest.approx(sum(each[:ended]) if more else 0)
    numbers = [step for _, step, _ in curves(store, WANTED)]
    assert numbers == sorted(set(numbers))


def test_a_search_finds_the_rungs_of_a_stored_trial(store: Store) -> None:
    line = Listener()
    assert train(WANTED, store, line) is Ended.DONE
    at = {step: value for _, step, value in curves(store, WANTED)}
    told = {rung: at[step] for step, rung in line.heard if rung is not None}
    settings = SearchSettings("search", "toy", {}, 1, (0,), len(RUNGS))
    assert _Measured(store, settings, [WANTED.trial_id]).rungs([WANTED.trial_id]) == told


def test_a_trial_whose_phases_are_all_stored_is_evaluated_without_training(
    store: Store, whole: Store, steps: Counted
) -> None:
    assert train(trial(iterations=3), store) is Ended.DONE
    steps()
    before = {one.name: one.stat().st_mtime_ns for one in path(store, "weights", "").parent.iterdir()}
    line = Listener()
    assert train(WANTED, store, line) is Ended.DONE
    assert steps() == 0
    assert_same(store, whole)
    assert {one.name: one.stat().st_mtime_ns for one in path(store, "weights", "").parent.iterdir()} == before
    assert row(store, WANTED)["shared_s"] == row(store, WANTED)["train_s"] > 0


def test_nothing_is_left_behind(store: Store) -> None:
    train(trial(iterations=1), store)
    train(WANTED, store)
    assert store.local is not None
    assert [one for one in (store.local / "leases").iterdir() if one.suffix == ".json"] == []
    assert not (store.local / "checkpoints").exists() or list((store.local / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"denoiser_width": 3},
        {"denoiser_depth": 3},
        {"denoiser_lr": 2e-3},
    ],
)
def test_a_gan_phase_that_was_stopped_half_way_goes_on_in_a_trial_with_another_denoiser(
    change: dict[str, Any], store: Store, steps: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.execution.one_training.REPORT_S", 0.0)  # every step is reported
    other = trial(iterations=1, **change)
    alone = Store.open(str(store.local) + "-alone")
    assert train(other, alone) is Ended.DONE and steps() == ENDS[1]
    assert train(WANTED, store, Listener({2: "stop"})) is Ended.STOPPED
    assert train(other, store) is Ended.DONE
    assert steps() == ENDS[1]
    assert measured(store, other) == measured(alone, other)


# ---- damage ----


def truncate(one: Path) -> None:
    one.write_bytes(one.read_bytes()[: one.stat().st_size // 2])


def other_shape(one: Path) -> None:
    """Weights of the same names, the last of another shape."""
    weights = load(one.read_bytes())
    last = max(name for name, value in weights.items() if value.dim() == 4)
    weights[last] = torch.zeros(7, 7)
    one.write_bytes(save(weights))


def other_names(one: Path) -> None:
    one.write_bytes(save({"of another version": torch.zeros(1)}))


def empty(one: Path) -> None:
    one.write_bytes(b"")


BREAK: dict[str, tuple[str, Callable[[Path], None]]] = {
    "weights missing": ("weights", Path.unlink),
    "weights truncated": ("weights", truncate),
    "weights empty": ("weights", empty),
    "weights of another shape": ("weights", other_shape),
    "weights of other names": ("weights", other_names),
    "row truncated": ("phases", truncate),
    "row empty": ("phases", empty),
    "row missing": ("phases", Path.unlink),
}


@pytest.mark.parametrize("how", list(BREAK))
def test_a_damaged_last_phase_is_trained_again(how: str, store: Store, whole: Store, steps: Counted) -> None:
    train(trial(iterations=0), store)
    steps()
    table, damage = BREAK[how]
    damage(path(store, table, ids(WANTED)[0]))
    assert train(WANTED, store) is Ended.DONE
    assert steps() == ENDS[-1]
    assert_same(store, whole)
    assert train(trial(iterations=3), store) is Ended.DONE  # what was repaired serves others
    assert steps() == DENOISER_STEPS


@pytest.mark.parametrize(
    "how",
    ["weights missing", "weights of another shape", "weights of other names", "row empty"],
)
def test_damage_to_a_later_phase_spares_the_one_before(how: str, store: Store, whole: Store, steps: Counted) -> None:
    train(trial(iterations=1), store)
    steps()
    table, damage = BREAK[how]
    damage(path(store, table, ids(WANTED)[1]))
    assert train(WANTED, store) is Ended.DONE
    assert_same(store, whole)
    assert steps() == 2 * DENOISER_STEPS


def test_a_damaged_row_of_an_earlier_phase_costs_nothing(store: Store, steps: Counted) -> None:
    train(trial(iterations=1), store)
    steps()
    truncate(path(store, "phases", ids(WANTED)[0]))
    assert train(WANTED, store) is Ended.DONE
    assert steps() == DENOISER_STEPS
    assert measured(store, WANTED)


# ---- two studies at once ----


def test_of_two_studies_one_trains_what_both_need_and_the_other_waits(
    store: Store, whole: Store, steps: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.execution.one_training.REPORT_S", 0.0)  # every step is reported
    first, third = trial(iterations=1), trial(iterations=1, denoiser_lr=2e-3)
    ended: dict[int, list[Ended]] = {}

    class Beside(Listener):
        def report(self, step: int, rung: int | None = None, value: float | None = None) -> str:
            if step == 2 and step not in ended:  # the gan phase is in work
                ended[step] = [train(one, store) for one in (WANTED, third, first)]
            if step == 5 and step not in ended:  # G2G1 is in work, and the third's is another
                ended[step] = [train(one, store) for one in (WANTED, third, first)]
            return "go"

    assert train(first, store, Beside()) is Ended.DONE
    assert ended[2] == [Ended.WAITING] * 3
    assert ended[5] == [Ended.WAITING, Ended.DONE, Ended.WAITING]
    assert steps() == GAN_STEPS + 2 * DENOISER_STEPS
    assert train(WANTED, store) is Ended.DONE
    assert steps() == DENOISER_STEPS
    assert_same(store, whole)


def test_waiting_stores_nothing_and_a_failed_owner_is_followed_at_once(
    store: Store, whole: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(Listener):
        def report(self, step: int, rung: int | None = None, value: float | None = None) -> str:
            assert train(WANTED, store) is Ended.WAITING
            raise RuntimeError("the machine burns")

    one = training(trial(iterations=1), store)
    with pytest.raises(RuntimeError, match="burns"):
        one.run(toy_data(), Fails())
    assert one.chain.broken("burns") == (ids(WANTED)[0], "burns")
    one.release()
    assert store.names("trials") == store.names("phases") == []
    assert train(WANTED, store) is Ended.DONE
    assert_same(store, whole)


STUDY = """
import sys, time, torch
from cluster.execution import one_training
from cluster.results.store import Store
from tests.cluster.phases_toys import Listener, toy_data, training, trial

torch.set_num_threads(1)
one_training.CHECKPOINT_S = one_training.REPORT_S = 0.0
class Stuck(Listener):
    def report(self, step, rung=None, value=None):
        print(step, flush=True)
        if step == 3:
            time.sleep(600)
        return "go"
training(trial(iterations=1, steps=5), Store.existing(sys.argv[1])).run(toy_data(), Stuck())
"""


def test_a_killed_study_is_followed_from_its_last_checkpoint(store: Store, steps: Counted) -> None:
    wanted = trial(iterations=1, steps=5)
    command = [sys.executable, "-c", STUDY, store.location]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as other:
        try:
            assert other.stdout is not None
            lines = [other.stdout.readline().strip() for _ in range(3)]
            meanwhile = train(wanted, store)
        finally:
            other.send_signal(signal.SIGKILL)
    assert lines == ["1", "2", "3"] and meanwhile is Ended.WAITING and steps() == 0
    assert train(wanted, store) is Ended.DONE  # at once: nobody waits for the lease to expire
    assert steps() == wanted.steps - 2  # the third step was not saved yet
    alone = Store.open(f"{store.location}-alone")
    assert train(wanted, alone) is Ended.DONE
    assert measured(store, wanted) == measured(alone, wanted)


def test_toys_are_what_they_are_taken_for() -> None:
    with torch.device("meta"):
        method = create(WANTED.method, WANTED.config, 1, 0)
    assert [phase.name for phase in method.phases()] == PHASES
    assert sum(link.steps for link in WANTED.links) == WANTED.steps == ENDS[-1]
