"""D-BSN: its phases, guard, distillation, inference at every stage, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from denoise_core.diagnostics import ESTIMATED, TRUE
from denoise_core.errors import UserError
from denoise_core.images.image_set import ImageSet
from denoise_core.images.source import Realisation, SimulatedNoiseSource
from denoise_core.method import Context, create, method_class
from denoise_core.methods.dbsn import DBSN, Teacher, spread
from denoise_core.networks.noise_level import NoiseLevel
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator
from denoise_core.specification import DataSpec, specify
from denoise_core.trainer import Trainer

TINY: Mapping[str, Any] = {
    **DBSN.recipes["smoke"].config, "patch_size": 16, "student_patch_size": 16, "noisy_share": 0.25,
}  # fmt: skip
CONTENTS = (("train a", "1"), ("clean b", "2"), ("test c", "3"))


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed, "test"))


def method(channels: int = 1, **config: Any) -> DBSN:
    return cast(DBSN, create("dbsn", {**TINY, **config}, channels, seed=3))


def source(channels: int = 1, realisation: Realisation = "frozen", side: int = 64) -> SimulatedNoiseSource:
    sets = [
        ImageSet(name, ("a", "b"), tuple(tensor(channels, side, side + 8, seed=seed + i) for i in range(2)))
        for name, seed in (("noisy", 0), ("clean", 10))
    ]
    device = torch.device("cpu")
    return SimulatedNoiseSource(sets[0], parse_noise("gauss25"), realisation, seed=5, device=device, clean=sets[1])


def trainer(one: DBSN, steps: int = 2, data: SimulatedNoiseSource | None = None) -> Trainer:
    recipe = replace(DBSN.recipes["smoke"], steps=steps)
    return Trainer(one, source(one.channels) if data is None else data, recipe, seed=1)


def context(phase: str, step: int = 0, rank: int = 0, world: int = 1) -> Context:
    return Context(1, phase, step, 10, torch.device("cpu"), rank, world)


# ---- stage 1 ----


@pytest.mark.parametrize("name", ["dbsn", "laine19"])
def test_mu_is_blind_to_its_own_pixel_in_the_whole_method(name: str) -> None:
    one = create(name, {**method_class(name).recipes["smoke"].config, "estimate": "mu"}, 1, seed=0)
    one.eval()
    image = tensor(1, 1, 9, 11)
    for y, x in ((0, 0), (4, 5), (8, 10)):
        other = image.clone()
        other[0, 0, y, x] += 0.5
        with torch.no_grad():
            before, after = one.denoise(image), one.denoise(other)
        assert before[0, 0, y, x] == after[0, 0, y, x]


def test_the_phases_are_mu_then_the_likelihood_then_the_student() -> None:
    assert [phase.name for phase in method().phases()] == ["mu", "joint", "student"]
    with_all = method(variance_steps=0.5, warm_steps=0.5)
    assert [phase.name for phase in with_all.phases()] == ["mu", "variance", "joint", "warm", "student"]
    assert [phase.name for phase in method(distil=False, estimate="mu").phases()] == ["mu", "joint"]


def test_the_variances_phase_leaves_mu_alone() -> None:
    one = trainer(method(variance_steps=1.0))
    while one._stretch_at(one.step).phase.name != "variance":
        next(one.run())
    before = {name: value.clone() for name, value in one.method.state_dict().items()}
    for _ in range(2):
        next(one.run())
    changed = {name for name, value in one.method.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and not any(".mean." in name or name.startswith("student") for name in changed)


def test_the_likelihood_starts_at_the_residuals_mean_square() -> None:
    one = method()
    teacher = cast(Teacher, one.teachers[0])
    noisy = tensor(4, 1, 16, 16)
    update = next(one.updates("joint", {"noisy": noisy}, context("joint")))
    with torch.no_grad():
        residual = noisy - teacher.mean(noisy)[0]
    # the crops were flipped, which a network with zero padding sees; the level starts near, not at, this
    assert float(teacher.noise_level.scale) == pytest.approx(float(residual.square().mean().sqrt()), rel=0.2)
    assert float(update.logs["estimated_sigma"]) == pytest.approx(float(teacher.noise_level.scale) * 255, rel=1e-5)
    scale = teacher.noise_level.scale.clone()
    next(one.updates("joint", {"noisy": 2 * noisy}, context("joint", step=1)))
    assert torch.equal(scale, teacher.noise_level.scale)


def test_an_implausible_step_changes_nothing() -> None:
    """Neither weights nor moments: the official code's guard lets the gradients through."""
    one = trainer(method(distil=False, estimate="bayes"), steps=3)
    for step in one.run():
        if step == 4:  # in the joint phase
            break
    teacher = cast(Teacher, one.method.teachers[0])  # type: ignore[union-attr]
    before = {name: value.clone() for name, value in one.method.state_dict().items()}
    moments = [value["exp_avg"].clone() for value in one._optimizers["teacher0"].state.values()]
    with torch.no_grad():
        teacher.noise_level.scale.fill_(1e-9)
        teacher.mean_variance.scale.fill_(1e-9)
    update = next(cast(DBSN, one.method).updates("joint", {"noisy": 1e3 * tensor(4, 1, 16, 16)}, context("joint", 1)))
    assert update.valid is not None and not update.valid
    one._apply(one.stretches[1].phase.groups["teacher0"], update, 0.5)
    after = one.method.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items() if not name.endswith("scale"))
    assert all(
        torch.equal(old, new["exp_avg"])
        for old, new in zip(moments, one._optimizers["teacher0"].state.values(), strict=True)
    )


def test_four_bayer_phases_have_networks_of_their_own() -> None:
    one = method(pixel_shuffle=2, bayer_groups=True, labels="whole")
    run = trainer(one)
    batch = run.source.batch(size=8, patch=16, seed=1, step=0, fields=("sub",))["sub"]
    updates = list(one.updates("mu", {"sub": batch}, context("mu")))
    assert [update.group for update in updates] == ["teacher0", "teacher1", "teacher2", "teacher3"]
    list(run.run())
    assert one.denoise(tensor(1, 1, 37, 42)).shape == (1, 1, 37, 42)
    plain = method(pixel_shuffle=2, bayer_groups=True, guided_radius=0, estimate="mu")  # that filter changes nothing
    plain.eval()
    image = tensor(1, 1, 16, 16)
    with torch.no_grad():
        before = plain.denoise(image)
        for parameter in cast(Teacher, plain.teachers[3]).mean.parameters():
            parameter.zero_()
        changed = plain.denoise(image) != before
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[1::2, 1::2] = True  # its own phase alone
    assert not changed[0, 0][~expected].any() and changed[0, 0][expected].any()


# ---- stage 2 ----


def test_the_batch_is_split_evenly_whatever_the_number_of_ranks() -> None:
    chosen, others, number = spread(16, 0.125, context("student"))
    parts = [spread(8, 0.125, context("student", rank=rank, world=2)) for rank in range(2)]
    assert torch.equal(chosen, torch.cat([part[0] + 8 * rank for rank, part in enumerate(parts)])) and number == 2
    assert sorted([*chosen.tolist(), *others.tolist()]) == list(range(16))
    assert [spread(2, share, context("student"))[2] for share in (0.01, 0.99)] == [1, 1]


def distilled(one: DBSN, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    (update,) = one.updates("student", batch, context("student"))
    return {**update.logs, "whole": update.loss}


def test_the_students_losses_are_means_over_their_own_crops() -> None:
    one = method(disturbance=0.0, distillation_lambda=0.3)
    one.enter("student")
    batch = {"noisy": tensor(8, 1, 16, 16), "clean_unpaired": tensor(8, 1, 16, 16, seed=1)}
    seen: list[Tensor] = []
    hook = one.student.register_forward_hook(lambda _, inputs, result: seen.extend((inputs[0], result)))
    logs = distilled(one, batch)
    hook.remove()
    given, made = (value.detach().numpy() for value in seen)
    assert len(given) == 8
    # the last two of eight crops (noisy_share = 0.25) are noisy images with the first stage's result
    labels = one._label(torch.from_numpy(given[6:])).numpy()
    assert logs["distilled"].item() == pytest.approx(float(np.mean((made[6:] - labels) ** 2)), rel=1e-5)
    assert logs["whole"].item() == pytest.approx(logs["synthetic"].item() + 0.3 * logs["distilled"].item(), rel=1e-5)
    # simulated noise of the estimated level: 1,536 pixels give the deviation to 2 %
    level = cast(NoiseLevel, cast(Teacher, one.teachers[0]).noise_level)(batch["clean_unpaired"]).mean().sqrt()
    plain = method(disturbance=0.0, distillation_lambda=0.3)
    noise = plain.simulate(batch["clean_unpaired"], context("student")) - batch["clean_unpaired"]
    assert float(noise.std()) == pytest.approx(float(level.detach()), rel=0.08)


def test_without_lambda_only_clean_images_are_learned_from() -> None:
    one = method(distillation_lambda=0.0)
    one.enter("student")
    batch = {"noisy": tensor(8, 1, 16, 16), "clean_unpaired": tensor(8, 1, 16, 16, seed=1)}
    logs = distilled(one, batch)
    assert "distilled" not in logs and torch.equal(logs["whole"], logs["synthetic"])


@pytest.mark.parametrize("labels", ["crop", "whole"])
def test_the_student_leaves_the_first_stage_alone(labels: str) -> None:
    one = trainer(method(labels=labels))
    while one._stretch_at(one.step).phase.name != "student":
        next(one.run())
    before = {name: value.clone() for name, value in one.method.teachers.state_dict().items()}  # type: ignore[union-attr]
    list(one.run())
    after = one.method.teachers.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_trainings_with_one_first_stage_share_their_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two values of lambda: the second finds the labels of the first; another first stage makes its own."""
    monkeypatch.setenv("DENOISE_CACHE", str(tmp_path))
    for changed, files in (({}, 1), ({"distillation_lambda": 1.0}, 1), ({"joint_lr": 0.01}, 2)):
        list(trainer(method(labels="whole", **changed)).run())
        assert len(list(tmp_path.glob("*.npy"))) == files


def test_labels_are_made_once_of_the_whole_images() -> None:
    one, made = method(labels="whole"), []
    run = trainer(one)
    original = run.source._label  # type: ignore[attr-defined]
    run.source._label = lambda image: made.append(image) or original(image)  # type: ignore[attr-defined,func-returns-value]
    list(run.run())
    assert len(made) == 2
    batch = run.source.batch(size=2, patch=16, seed=1, step=9, fields=("noisy", "label", "clean_unpaired"))
    assert batch["label"].shape == batch["noisy"].shape and not torch.equal(batch["label"], batch["noisy"])


def test_labels_of_whole_images_need_given_noise() -> None:
    with pytest.raises(UserError, match="noise_realisation=frozen"):
        trainer(method(labels="whole"), data=source(realisation="fresh"))


def test_trainings_with_other_likelihoods_share_mu() -> None:
    def links(**values: Any) -> list[str]:
        spec = specify("dbsn", values, DataSpec(clean="b"), CONTENTS, DBSN.recipes["smoke"], 0)
        return [link.phase_id for link in spec.links]

    usual = links()
    assert links(likelihood="constrained")[0] == usual[0] and links(likelihood="constrained")[1] != usual[1]
    assert links(distillation_lambda=1.0)[:2] == usual[:2] and links(distillation_lambda=1.0)[2] != usual[2]
    assert links(distil=False, estimate="bayes") == usual[:2]
    assert links(noise_form="heteroscedastic")[0] == usual[0]
    assert links(width=7)[0] != usual[0]


def test_mu_of_one_training_serves_another_form_of_noise() -> None:
    first, second = trainer(method()), trainer(method(noise_form="heteroscedastic", level_width=6))
    while first.step < first.stretches[0].last:
        next(first.run())
    second.start_after("mu", first.kept("mu"))
    assert second._stretch_at(second.step).phase.name == "joint"


# ---- inference ----


def test_each_stage_gives_the_best_that_it_has() -> None:
    one, image = method(), tensor(1, 1, 19, 22)
    one.eval()
    with torch.no_grad():
        one.enter("mu")
        first = one.denoise(image)
        one.enter("joint")
        second = one.denoise(image)
        one.enter("student")
        third = one.denoise(image)
        one.reconfigure({"estimate": "bayes"})
        assert torch.equal(one.denoise(image), second)
        one.reconfigure({"estimate": "mu"})
        assert torch.equal(one.denoise(image), first)
    assert first.shape == second.shape == third.shape == image.shape
    assert not torch.equal(first, second) and not torch.equal(second, third)


def test_a_network_of_the_image_fits_the_image_and_repeats() -> None:
    one = method(noise_network="image", image_steps=30, joint_lr=0.02)
    one.enter("joint")
    one.eval()
    one.reconfigure({"estimate": "bayes"})
    image = tensor(1, 1, 24, 24)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    with torch.inference_mode():
        first, second = one.denoise(image), one.denoise(image)
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())
    one.reconfigure({"noise_network": "shared"})
    assert not torch.equal(one.denoise(image), first)


def test_the_factor_of_the_fusion_moves_towards_mu() -> None:
    one, image = method(), tensor(1, 1, 16, 16)
    one.enter("joint")
    one.eval()

    def result(**values: Any) -> Tensor:
        one.reconfigure(values)
        with torch.no_grad():
            return one.denoise(image)

    mu = result(estimate="mu")
    distances = [(result(estimate="bayes", fusion_gamma=gamma) - mu).abs().mean() for gamma in (0.5, 1.0, 2.0)]
    assert distances[0] > distances[1] > distances[2]


@pytest.mark.parametrize(
    ("channels", "form"),
    [(1, "homoscedastic"), (1, "heteroscedastic"), (3, "multivariate"), (3, "heteroscedastic")],
)
def test_every_form_of_noise_trains_and_is_described(channels: int, form: str) -> None:
    one = trainer(method(channels, noise_form=form))
    list(one.run())
    found = {(line.figure, line.series): line for line in one.method.diagnose(one.source)}
    # 32 crops of 256 pixels: the deviation of 25 is known to a few per cent
    assert found["noise_std", TRUE].y[0] == pytest.approx(25, rel=0.1)
    assert found["noise_std", ESTIMATED].y[0] > 0
    assert (("noise_level_function", ESTIMATED) in found) == (form == "heteroscedastic")
    if form == "heteroscedastic":
        assert found["noise_level_function", TRUE].x == found["noise_level_function", ESTIMATED].x
    assert one.method.denoise(tensor(1, channels, 21, 18)).shape == (1, channels, 21, 18)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("channels", "config", "message"),
    [
        (1, {"distil": False, "estimate": "student"}, "there is no student without stage 2"),
        (1, {"joint_steps": 0}, "give joint_steps above 0"),
        (1, {"bayer_groups": True, "pixel_shuffle": 3}, "where pixel_shuffle is even"),
        (1, {"bayer_groups": True, "pixel_shuffle": 4, "batch_size": 6}, "give batch_size = 4, 8, 12"),
        (1, {"noise_form": "multivariate"}, "the images are gray; use --channels 3"),
        (2, {}, "takes images of 1 or 3 channels, not 2"),
        (1, {"student_patch_size": 20}, "multiple of 8"),
        (1, {"noisyshare": 0.1}, "has no parameter 'noisyshare'"),
    ],
)
def test_unsuitable_settings_are_refused(channels: int, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        method(channels, **config)


def test_clean_images_are_needed_for_stage_2_only() -> None:
    images = ImageSet("noisy", ("a",), (tensor(1, 64, 64),))
    data = SimulatedNoiseSource(images, parse_noise("gauss25"), "fresh", 5, torch.device("cpu"))
    with pytest.raises(UserError, match="needs the image fields clean_unpaired"):
        trainer(method(), data=data)
    assert not trainer(method(distil=False, estimate="bayes"), data=data).finished


def test_sub_images_must_hold_a_crop() -> None:
    with pytest.raises(UserError, match="give patch_size of at most 16"):
        trainer(method(pixel_shuffle=4, labels="whole", patch_size=24))
