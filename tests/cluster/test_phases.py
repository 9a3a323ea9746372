"""Which trainings share which phases, whether that is true to the bit, and what it saves."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from cluster import costs
from cluster.execution.one_training import Ended
from cluster.plan import DataInUse, Plan, PlannedTrial, Planner
from cluster.results.store import Store
from cluster.study import Study, grid
from denoise_core.config import MethodConfig
from denoise_core.errors import UserError
from denoise_core.method import Phase, create, methods
from denoise_core.specification import LoadedData, TrialSpec
from denoise_core.trainer import Trainer
from tests.cluster.phases_toys import (
    DENOISER_STEPS,
    GAN_STEPS,
    METHOD,
    TINY,
    Listener,
    ids,
    images,
    recipe,
    toy_data,
    training,
    trial,
)

OTHER: Mapping[str, Any] = {
    "rule": "variance", "patch_lambda": 0.05, "window_size": 48, "window_stride": 8, "mean_tolerance": 0.2,
    "variance_tolerance": 0.5, "max_patches": 6, "noise_weight": 2.0, "noisy_weight": 2.0, "cycle_weight": 1.0,
    "variant": "no L_Z", "critic_steps": 2, "clip": 0.01, "generator_lr": 1e-3, "critic_lr": 2e-4, "batch_size": 6,
    "patch_size": 64, "latent": 6, "generator_width": 6, "critic_width": 3, "rough_depth": 3, "cycle_depth": 3,
    "rough_width": 3, "network": "unet", "iterations": 1, "initial": "noisy", "pair": "estimate", "estimate": "first",
    "denoiser_lr": 2e-3, "denoiser_batch_size": 3, "denoiser_depth": 4, "denoiser_width": 3, "denoiser_steps": 2.0,
    "supervised_iterations": 2,
}  # fmt: skip
"""Another legal value of every parameter."""
Config: type[MethodConfig] = methods()[METHOD].Config
AFFECTS = {name: Config.affects(name) for name in Config.model_fields}
KIN = [name for name, kind in methods().items() if kind.lineage == METHOD and name != METHOD]


def shared(first: TrialSpec, second: TrialSpec) -> list[str]:
    """The phases that two trials have in common."""
    return [link.phase for link in first.links if link.phase_id in ids(second)]


# ---- identity ----


@pytest.mark.parametrize("fewer", range(3))
def test_fewer_iterations_are_the_beginning_of_more(fewer: int) -> None:
    assert ids(trial(iterations=fewer)) == ids(trial(iterations=3))[: fewer + 1]


@pytest.mark.parametrize(
    ("change", "common"),
    [
        ({"estimate": "first"}, ["gan", "g2g1"]),
        ({"pair": "estimate"}, ["gan"]),
        ({"initial": "noisy"}, ["gan"]),
        ({"denoiser_lr": 2e-3}, ["gan"]),
        ({"denoiser_steps": 2.0}, ["gan"]),
        ({"patch_lambda": 0.05}, []),
        ({"noise_weight": 2.0}, []),
        ({"patch_size": 64}, []),
        ({"steps": GAN_STEPS + 1}, []),
        ({"seed": 1}, []),
        ({"data": toy_data("gauss15")}, []),
        ({"data": toy_data(validation_seed=9)}, []),
        ({"data": toy_data(test_seed=9)}, ["gan", "g2g1", "g2g2", "g2g3"]),
    ],
    ids=lambda one: "-".join(one) if isinstance(one, dict) else "",
)
def test_trials_share_the_phases_that_begin_alike(change: dict[str, Any], common: list[str]) -> None:
    first, second = trial(), trial(**change)
    assert first.trial_id != second.trial_id
    assert shared(first, second) == shared(second, first) == common


def test_training_images_and_numerics_matter_and_where_the_images_lie_does_not() -> None:
    data, plain = toy_data(), trial()
    others = replace(data, train=images(seed=7))
    assert shared(plain, trial(data=others)) == []
    assert shared(plain, replace(plain, recipe=replace(plain.recipe, precision="bf16"))) == []
    elsewhere = replace(data, spec=data.spec.model_copy(update={"train": "/another/folder", "test": ("x",)}))
    assert ids(trial(data=elsewhere)) == ids(plain)


def test_seeds_are_one_group_phase_by_phase() -> None:
    first, second = trial(seed=0).links, trial(seed=1).links
    assert [one.group_id for one in first] == [one.group_id for one in second]
    every = [one.phase_id for one in first + second]
    assert len(set(every)) == len(every)
    assert len({one.group_id for one in first}) == len(first)


def test_a_method_without_a_lineage_is_one_link_named_like_its_trial() -> None:
    kind = methods()["neighbor2neighbor"]
    spec = replace(trial(), method="neighbor2neighbor", config=kind.Config.build({}, "").model_dump(mode="json"))
    assert ids(spec) == [spec.trial_id] and spec.steps == GAN_STEPS


@pytest.mark.parametrize("name", KIN)
def test_methods_of_the_lineage_share_the_gan_phase_to_the_bit(name: str) -> None:
    loose = {
        "mean_tolerance": 9.0,
        "variance_tolerance": 9.0,
        "rule": methods()[name].Config.build({}, "").model_dump()["rule"],
    }
    data = replace(toy_data(), train=images(count=6))
    first, second = trial(data=data, method=name, **loose), trial(data=data, **loose)
    assert shared(first, second) == ["gan"]
    assert_equal(kept_after("gan", first, data), kept_after("gan", second, data))
    assert shared(trial(data=data, noise_weight=2.0, **loose), first) == []


# ---- over the registry ----


def configurations(name: str) -> list[tuple[Phase, ...]]:
    """The phases of a method's default configuration at several lengths."""
    kind = methods()[name]
    lengths = [field for field in kind.Config.model_fields if kind.Config.affects(field) == "length"]
    found = []
    for length in range(4) if lengths else [0]:
        with suppress(UserError), torch.device("meta"):  # some begin at 1
            found.append(create(name, dict.fromkeys(lengths, length), 1, 0).phases())
    return found


@cache
def words(name: str) -> set[str]:
    """What phases of any configuration depend on."""
    return {word for phases in configurations(name) for phase in phases for word in phase.depends}


@pytest.mark.parametrize("name", sorted(methods()))
def test_what_a_parameter_affects_is_a_word_that_is_understood(name: str) -> None:
    kind = methods()[name]
    declared = {field: kind.Config.affects(field) for field in kind.Config.model_fields}
    # a method need not have all phases of its lineage; one without a lineage may have parameters of another method
    kin = [one for one, other in methods().items() if other.lineage == kind.lineage or not kind.lineage]
    known = {"data", "training", "inference", "length"}.union(*map(words, kin))
    assert {field: word for field, word in declared.items() if word not in known} == {}
    if kind.lineage:
        assert words(name) <= set(declared.values()), "a phase depends on what no parameter affects"


@pytest.mark.parametrize("name", [name for name, kind in methods().items() if kind.lineage])
def test_a_longer_training_goes_through_the_phases_of_a_shorter_one(name: str) -> None:
    found = [[(phase.name, phase.depends) for phase in one] for one in configurations(name)]
    for shorter, longer in pairwise(found):
        assert longer[: len(shorter)] == shorter


# ---- the declaration is true ----


def kept_after(phase: str, spec: TrialSpec, data: LoadedData | None = None) -> dict[str, Tensor]:
    method = create(spec.method, spec.config, spec.data.channels, spec.seed)
    source = (data or toy_data()).source(spec.seed, torch.device("cpu"))
    trainer = Trainer(method, source, spec.recipe, spec.seed)
    last = next(one.last for one in trainer.stretches if one.phase.name == phase)
    for step in trainer.run():
        if step == last:
            break
    return {name: value.clone() for name, value in trainer.kept(phase).items()}


def assert_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_another_value_of_every_parameter_is_known_here() -> None:
    assert set(OTHER) == set(AFFECTS)
    plain = trial().config
    assert [name for name, value in OTHER.items() if plain[name] == value] == []


@pytest.fixture(scope="module")
def after_gan() -> dict[str, Tensor]:
    return kept_after("gan", trial(steps=2))


@pytest.mark.parametrize("name", [name for name, word in AFFECTS.items() if word not in ("gan", "data", "training")])
def test_what_does_not_affect_the_gan_phase_leaves_its_bits_alone(name: str, after_gan: dict[str, Tensor]) -> None:
    other = trial(steps=2, **{name: OTHER[name]})
    assert ids(other)[0] == ids(trial(steps=2))[0]
    assert_equal(kept_after("gan", other), after_gan)


@pytest.mark.parametrize("name", [name for name, word in AFFECTS.items() if word in ("gan", "data", "training")])
def test_what_affects_the_gan_phase_is_part_of_its_identity(name: str) -> None:
    assert shared(trial(**{name: OTHER[name]}), trial()) == []


@pytest.mark.parametrize("name", [name for name, word in AFFECTS.items() if word in ("refined", "length")])
def test_what_acts_later_leaves_the_bits_of_the_first_iteration_alone(name: str) -> None:
    values: dict[str, Any] = {"iterations": 2, **{name: OTHER[name]}}
    other, plain = trial(steps=1, **values), trial(steps=1, iterations=2)
    assert ids(other)[:2] == ids(plain)[:2]
    assert_equal(kept_after("g2g1", other), kept_after("g2g1", plain))


# ---- plan and costs ----


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(str(tmp_path_factory.mktemp("store")))


def planned(iterations: tuple[int, ...] = (0, 1, 2, 3), data: LoadedData | None = None) -> list[PlannedTrial]:
    data = data or toy_data()
    study = Study(name="toy", question="?", method=METHOD, axes=[grid("iterations", iterations)])
    return Planner(study, recipe(), {}, [DataInUse(data.spec, data.contents)]).grid((0, 1))


def estimated(plan: Plan, store: Store, *, measure: bool = False) -> costs.Costs:
    left = [one for group in plan.trainings_left.values() for one in group]
    return costs.estimate(left, [toy_data()], plan, store, measure=measure)


def to_train(plan: Plan) -> dict[tuple[int, int], list[str]]:
    """The phases that are to be trained, by iterations and seed."""
    return {(one.cell["iterations"], one.spec.seed): [link.phase for link in plan.to_train(one)] for one in plan.trials}


def test_steps_are_counted_once_a_seed(store: Store) -> None:
    plan = Plan(planned()).read(store)
    found = estimated(plan, store)
    assert round(TINY["denoiser_steps"] * GAN_STEPS) == DENOISER_STEPS
    assert found.steps == 2 * (GAN_STEPS + 3 * DENOISER_STEPS) == 30
    assert found.steps_alone == 2 * (4 * GAN_STEPS + (1 + 2 + 3) * DENOISER_STEPS) == 72
    assert to_train(plan)[3, 1] == ["gan", "g2g1", "g2g2", "g2g3"]


def test_a_stored_gan_phase_is_left_out_and_tells_what_another_seed_costs(store: Store) -> None:
    spec = next(one.spec for one in planned() if (one.cell["iterations"], one.spec.seed) == (2, 0))
    assert training(spec, store).run(toy_data(), Listener({GAN_STEPS: "stop"})) is Ended.STOPPED
    plan = Plan(planned()).read(store)
    assert to_train(plan) == {
        (0, 0): [], (1, 0): ["g2g1"], (2, 0): ["g2g1", "g2g2"], (3, 0): ["g2g1", "g2g2", "g2g3"],
        (0, 1): ["gan"], (1, 1): ["gan", "g2g1"], (2, 1): ["gan", "g2g1", "g2g2"],
        (3, 1): ["gan", "g2g1", "g2g2", "g2g3"],
    }  # fmt: skip
    found = estimated(plan, store)
    assert found.steps == 30 - GAN_STEPS and found.steps_alone == 72 - 4 * GAN_STEPS
    # nothing but the gan phase is known, so every step counts as much as one of its own
    per_step = float(store.read("phases", plan.phases).to_pylist()[0]["train_s"]) / GAN_STEPS
    assert sum(found.shared.values()) == pytest.approx(found.steps * per_step)
    assert sum(found.alone.values()) == pytest.approx(found.steps_alone * per_step)
    assert found.saved == pytest.approx((found.steps_alone - found.steps) * per_step)


def test_what_is_done_or_stored_as_a_whole_has_no_steps_left(store: Store) -> None:
    spec = next(one.spec for one in planned() if (one.cell["iterations"], one.spec.seed) == (3, 1))
    assert training(spec, store).run(toy_data(), Listener()) is Ended.DONE
    plan = Plan(planned()).read(store)
    assert len(plan.left) == 7
    assert [phases for (_, seed), phases in to_train(plan).items() if seed == 1] == [[]] * 4
    found = estimated(plan, store)
    assert (found.steps, found.steps_alone) == (15, 36)
    # test images of their own: nothing to train for the other trials either
    other = Plan(planned(data=toy_data(test_seed=9))).read(store)
    assert len(other.left) == 8
    assert [phases for (_, seed), phases in to_train(other).items() if seed == 1] == [[]] * 4


def test_measured_costs_of_a_phase_are_the_same_for_all_that_share_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "MEASURED_S", 0.1)
    plan = Plan(planned((0, 2))).read(store)
    found = estimated(plan, store, measure=True)
    assert all(value > 0 for value in found.alone.values())
    assert 0 < sum(found.shared.values()) < sum(found.alone.values())
    by_cell = {(one.cell["iterations"], one.spec.seed): found.alone[one.spec.trial_id] for one in plan.trials}
    assert by_cell[0, 0] == by_cell[0, 1] < by_cell[2, 0] == by_cell[2, 1]
