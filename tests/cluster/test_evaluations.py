"""One training, many evaluations: what is trained, what is evaluated from stored weights, what is done again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from cluster.execution.one_training import Ended, Training
from cluster.imagery import Microscopy, Tomography
from cluster.plan import TRAINED, DataInUse, Plan, PlannedTrial, Planner, task_of
from cluster.report.collect import collect
from cluster.report.html import page
from cluster.report.results import StudyResults
from cluster.report.tables import costs
from cluster.results.schema import DONE
from cluster.results.store import Store
from cluster.study import Study, grid
from denoise_core.errors import UserError
from denoise_core.method import method_class
from denoise_core.specification import DataSpec, LoadedData, load_data
from denoise_core.trainer import Ranks

RECIPE = method_class("iscl").recipes["smoke"]


class Silent:
    def report(self, step: int, rung: int | None = None, value: float | None = None) -> str:
        return "go"


def study(gammas: Sequence[float], imagery: Microscopy | Tomography | None = None) -> tuple[Study, list[LoadedData]]:
    one = Study(
        name="toy", question="?", method="iscl", axes=[grid("gamma", gammas)], data=imagery or Microscopy(),
        baselines=["affine_match"],
    )  # fmt: skip
    return one, [load_data(spec, None) for spec in one.data.specs("smoke", None)]


def planned(one: Study, data: Sequence[LoadedData], seeds: Sequence[int] = (0, 1)) -> list[PlannedTrial]:
    return Planner(one, RECIPE, {}, [DataInUse(d.spec, d.contents) for d in data]).grid(seeds)


def run(plan: Plan, data: Sequence[LoadedData], store: Store) -> list[str]:
    """Does what a worker does with what the plan has left; returns what it did with each training."""
    done = []
    for group in plan.trainings_left.values():
        training = Training(task_of(group), "toy", "smoke", store, Ranks(), torch.device("cpu"))
        loaded = next(one for one in data if one.contents == group[0].spec.contents)
        if training.stored() is not None and training.evaluate_stored(lambda loaded=loaded: loaded):
            done.append("evaluated")
        else:
            assert training.run(loaded, Silent()) is Ended.DONE
            done.append("trained")
    return done


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def report(one: Study, plan: Plan, store: Store) -> StudyResults:
    return collect(one, plan, store, "smoke", "python toy.py")


def test_gamma_is_trained_once_a_seed_and_evaluated_for_every_value(store: Store) -> None:
    one, data = study([0, 0.5, 1])
    plan = Plan(planned(one, data)).read(store)
    assert (len(plan.trainings), len(plan.trials)) == (4, 8)  # two of iscl with three values, two affine matches
    assert run(plan, data, store) == ["trained"] * 4
    plan = plan.read(store)
    assert plan.left == []
    results = report(one, plan, store)
    assert sorted(results.trials.loc[results.trials["role"] == "cell", "gamma"]) == [0, 0, 0.5, 0.5, 1, 1]
    values = results.measurements.query("output == 'denoised' and metric == 'psnr' and protocol == 'canonical'")
    means = values.groupby("gamma")["value"].mean()
    assert len(set(means.round(4))) == 3  # each gamma has values of its own
    assert results.trials["training_id"].nunique() == 4
    shown = {item.name: item for item in costs(results)}
    assert shown["ISCL"].trainings == 2
    assert "8 / 8" in page(results)
    assert "gamma = 0.5" in page(results)


def test_a_further_value_is_evaluated_from_the_stored_weights(store: Store) -> None:
    one, data = study([0, 1])
    run(Plan(planned(one, data)).read(store), data, store)
    before = store.trials(store.names("trials"))
    more, _ = study([0, 0.25, 1])
    plan = Plan(planned(more, data)).read(store)
    assert [plan.status(trial) for trial in plan.left] == [TRAINED, TRAINED]
    assert "4 / 4" in page(report(more, plan, store)) and "6 / 8" in page(report(more, plan, store))
    assert run(plan, data, store) == ["evaluated", "evaluated"]
    plan = plan.read(store)
    assert plan.left == [] and all(plan.status(trial) == DONE for trial in plan.trials)
    assert store.trials(store.names("trials")) == before  # no row was touched


@pytest.mark.parametrize("method", ["iscl", "neighbor2neighbor"])  # the second trains in channels_last
def test_evaluating_later_gives_the_same_bits_as_at_once(tmp_path: Path, method: str) -> None:
    name, values = {"iscl": ("gamma", [0, 0.5]), "neighbor2neighbor": ("padding", ["square", "minimal"])}[method]

    def planned_for(values: Sequence[Any], store: Store) -> Plan:
        one = Study(name="toy", question="?", method=method, axes=[grid(name, values)], data=Microscopy())
        recipe = method_class(method).recipes["smoke"]
        return Plan(Planner(one, recipe, {}, [DataInUse(d.spec, d.contents) for d in data]).grid((0,))).read(store)

    def measured(store: Store) -> list[dict[str, object]]:
        return store.read("measurements", store.names("measurements")).to_pylist()  # type: ignore[no-any-return]

    data = [load_data(spec, None) for spec in Microscopy().specs("smoke", None)]
    at_once, later = Store.open(str(tmp_path / "a")), Store.open(str(tmp_path / "b"))
    run(planned_for(values, at_once), data, at_once)
    run(planned_for(values[:1], later), data, later)
    assert run(planned_for(values, later), data, later) == ["evaluated"]
    assert measured(at_once) == measured(later)


def test_lost_weights_cost_a_training_and_nothing_else(store: Store) -> None:
    one, data = study([0, 1])
    run(Plan(planned(one, data, (0,))).read(store), data, store)
    assert store.local is not None
    for path in (store.local / "weights").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    more, _ = study([0, 0.5, 1])
    plan = Plan(planned(more, data, (0,))).read(store)
    assert run(plan, data, store) == ["trained"]
    assert plan.read(store).left == []


def test_a_damaged_measurement_is_made_again_without_training(store: Store) -> None:
    one, data = study([0, 1])
    plan = Plan(planned(one, data, (0,)))
    run(plan.read(store), data, store)
    name = plan.trials[0].spec.evaluation_id
    assert store.local is not None
    (store.local / "measurements" / f"{name}.parquet").write_bytes(b"PAR1")
    faults = store.damaged([t.spec.trial_id for t in plan.trials], [t.spec.evaluation_id for t in plan.trials])
    assert len(faults) == 1
    assert run(plan.read(store), data, store) == ["evaluated"]


def test_doses_share_a_training_and_are_told_apart(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENOISE_CACHE", "off")
    one, data = study([0.5], Tomography(test_noises=("ldct1e4", "ldct1e5")))
    plan = Plan(planned(one, data, (0,))).read(store)
    assert (len(plan.trainings), len(plan.trials)) == (2, 4)
    assert run(plan, data, store) == ["trained", "trained"]
    results = report(one, plan.read(store), store)
    noisy = results.measurements.query("output == 'noisy' and metric == 'psnr' and protocol == 'canonical'")
    means = noisy.groupby("noise")["value"].mean()
    assert means["ldct1e5"] > means["ldct1e4"] + 5
    assert all(text in page(results) for text in ("low dose, 10,000 photons", "low dose, 100,000 photons"))


def test_what_acts_at_inference_only_is_not_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cluster.cli import run as command

    one, _ = study([0, 1])
    status = command(one, ["--budget", "smoke", "--search", "optuna", "--store", str(tmp_path / "s")])
    assert status == 2
    assert "gamma acts at inference only" in " ".join(capsys.readouterr().err.split())


def test_training_images_without_clean_ones_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cluster.cli import run as command

    one, _ = study([0, 1])
    base = ["--budget", "smoke", "--store", str(tmp_path / "s"), "--dry-run"]
    assert command(one, [*base, "--train", "em_generated[8:12]"]) == 2
    assert "with --train pass --clean as well" in " ".join(capsys.readouterr().err.split())
    colour = ["--train", "em_generated[8:12]", "--clean", _colour_folder(tmp_path / "colour")]
    assert command(one, [*base, *colour, "--test", "em_generated[20:22]"]) == 2
    assert "give images of one kind" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError, match="must show other scenes"):
        load_data(data_of(one).model_copy(update={"clean": "em_generated[20:24]"}), None)


def data_of(one: Study) -> DataSpec:
    return one.data.specs("smoke", None)[0]


def _colour_folder(folder: Path) -> str:
    from PIL import Image

    folder.mkdir()
    for index in range(2):
        bands = [Image.effect_noise((128, 128), 40 + 10 * index + band) for band in range(3)]
        Image.merge("RGB", bands).save(folder / f"{index}.png")
    return str(folder)


def test_validation_does_not_depend_on_what_is_asked_for(tmp_path: Path) -> None:
    objectives = []
    for gammas in ([0, 1], [1, 0]):
        one, data = study(gammas)
        store = Store.open(str(tmp_path / str(gammas[0])))
        plan = Plan(planned(one, data, (0,)))
        run(plan.read(store), data, store)
        rows = plan.read(store).stored
        cell = next(trial for trial in plan.trials if trial.role == "cell")
        objectives.append(rows[cell.spec.trial_id]["objective"])
    assert objectives[0] == objectives[1]


def test_weights_of_another_code_are_trained_again(store: Store) -> None:
    one, data = study([0])
    run(Plan(planned(one, data, (0,))).read(store), data, store)
    assert store.local is not None
    for path in (store.local / "weights").iterdir():
        path.write_bytes(save({"of another version": torch.zeros(1)}))
    more, _ = study([0, 1])
    assert run(Plan(planned(more, data, (0,))).read(store), data, store) == ["trained"]


def test_one_failed_training_is_told_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one, data = study([0, 0.5, 1])
    plan = Plan(planned(one, data, (0,)))
    for group in plan.read(store).trainings.values():
        Training(task_of(group), "toy", "smoke", store, Ranks(), torch.device("cpu")).store_failure("it broke")
    text = page(report(one, plan.read(store), store))
    assert text.count("it broke") == 2  # ISCL and the affine match


def test_two_trainings_that_a_report_could_not_tell_apart_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cluster.cli import run as command

    one, _ = study([0.5], Tomography(test_noises=("ldct1e4", "ldct1e5")))
    base = ["--budget", "smoke", "--store", str(tmp_path / "s"), "--dry-run"]
    assert command(one, [*base, "--noise", "ldct1e4", "--noise", "ldct1e5"]) == 2
    assert "give one --noise" in " ".join(capsys.readouterr().err.split())
    assert command(one, [*base, "--noise", "ldct5e4"]) == 0
    assert "noise ldct5e4, tested with ldct1e4, ldct1e5" in " ".join(capsys.readouterr().out.split())


def test_clean_images_are_refused_where_nobody_learns_from_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cluster.cli import run as command

    other = Study(name="toy", question="?", method="n2c", axes=[grid("features", [4])])
    arguments = ["--budget", "smoke", "--store", str(tmp_path / "s"), "--dry-run", "--clean", "em_generated[0:2]"]
    assert command(other, arguments) == 2
    assert "leave --clean out" in " ".join(capsys.readouterr().err.split())
