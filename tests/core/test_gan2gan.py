"""GAN2GAN: inference at every stage, what its data must be like, noise that is given and noise that is fresh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from denoise_core import checkpoint as checkpoints
from denoise_core.diagnostics import EXTRACTED, FIGURES, GENERATED, TRUE
from denoise_core.errors import TrainingDiverged, UserError
from denoise_core.images.image_set import ImageSet
from denoise_core.images.source import Realisation, SimulatedNoiseSource
from denoise_core.method import create, method_class
from denoise_core.methods.gan2gan import GAN2GAN
from denoise_core.networks.gan2gan import NoiseGenerator, PatchCritic
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator
from denoise_core.trainer import Trainer

TINY: Mapping[str, Any] = {
    "patch_size": 32, "window_size": 32, "window_stride": 8, "patch_lambda": "auto", "batch_size": 4,
    "denoiser_batch_size": 2, "generator_width": 8, "critic_width": 4, "rough_width": 4, "rough_depth": 3,
    "cycle_depth": 3, "denoiser_width": 4, "denoiser_depth": 3, "latent": 8, "critic_steps": 2, "denoiser_steps": 1.0,
    "iterations": 2,
}  # fmt: skip


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed, "test"))


def method(channels: int = 1, **config: Any) -> GAN2GAN:
    made = create("gan2gan", {**TINY, **config}, channels, seed=3)
    assert isinstance(made, GAN2GAN)
    return made


def scene(height: int, width: int, channels: int = 1) -> Tensor:
    """A dark and a bright half with a smooth gradient."""
    across = torch.linspace(0, 0.1, width).expand(height, width)
    return (0.2 + 0.5 * (torch.arange(height) >= height // 2)[:, None] + across).expand(channels, -1, -1).contiguous()


def source(
    noise: str = "gauss25", realisation: Realisation = "frozen", images: Mapping[str, Tensor] | None = None
) -> SimulatedNoiseSource:
    images = {f"scene{i}": scene(80, 64 + 8 * i) for i in range(3)} if images is None else images
    chosen = ImageSet("toy", tuple(images), tuple(images.values()))
    return SimulatedNoiseSource(chosen, parse_noise(noise), realisation, seed=5, device=torch.device("cpu"))


def trainer(one: GAN2GAN, steps: int = 2, data: SimulatedNoiseSource | None = None) -> Trainer:
    recipe = replace(GAN2GAN.recipes["smoke"], steps=steps)
    return Trainer(one, source() if data is None else data, recipe, seed=1)


# ---- inference ----


@pytest.mark.parametrize("initial", ["g2", "noisy"])
def test_each_stage_denoises_with_its_own_network(initial: str) -> None:
    one, noisy = method(initial=initial).eval(), tensor(2, 1, 40, 36) * 1.4 - 0.2
    assert [phase.name for phase in one.phases()] == ["gan", "g2g1", "g2g2"]
    with torch.no_grad():
        for stage, name in enumerate(("gan", "g2g1", "g2g2")):
            one.enter(name)
            network = one.denoiser if stage else one.rough
            expected = network(noisy)
            assert torch.equal(one.denoise(noisy), expected.clamp(0, 1))
            assert int(one.state_dict()["stage"]) == stage  # it travels with the weights


@pytest.mark.parametrize("network", ["dncnn", "unet"])
@pytest.mark.parametrize("size", [(64, 32), (33, 41), (17, 70), (5, 3)])
def test_any_size_is_denoised_into_the_range(network: str, size: tuple[int, int]) -> None:
    one, noisy = method(network=network).eval(), 3 * tensor(2, 1, *size) - 1
    for name in ("gan", "g2g1"):
        one.enter(name)
        with torch.no_grad():
            result = one.denoise(noisy)
        assert result.shape == noisy.shape
        assert result.isfinite().all() and result.min() >= 0 and result.max() <= 1


def test_simulated_noise_leaves_the_running_moments_alone() -> None:
    one = method()
    before = [value.clone() for value in one.generator.state_dict().values()]
    noise = one.train().simulate(tensor(5, 8))
    assert noise.shape == (5, 1, 32, 32)
    assert noise.abs().max() <= 1 and not noise.requires_grad
    for value, old in zip(one.generator.state_dict().values(), before, strict=True):
        assert torch.equal(value, old)


@pytest.mark.parametrize("side", [32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_generator_and_critics_of_every_patch_size(side: int, channels: int) -> None:
    noise = NoiseGenerator(channels, width=8, patch=side, latent=6)(tensor(2, 6))
    assert noise.shape == (2, channels, side, side)
    scores = side // 8 - 3
    assert PatchCritic(channels, 4)(noise).shape == (2, 1, scores, scores)


# ---- training ----


def test_a_colour_training_runs_through_all_phases() -> None:
    one = method(channels=3)
    images = {f"colour{i}": scene(80, 64, channels=3) for i in range(2)}
    running = trainer(one, data=source(images=images))
    before = {name: value.clone() for name, value in one.state_dict().items()}
    losses = []
    for _ in running.run():
        losses.append(running.logs())
    assert len(losses) == running.steps == 6
    assert set(losses[0]) == {
        "noise_critic", "noisy_critic", "generators", "cycle", "generated_std", "smooth_std",
    }  # fmt: skip
    networks = ("generator", "rough", "cycle", "noise_critic", "noisy_critic", "denoiser", "previous")
    for network in networks:
        changed = [n for n, v in one.state_dict().items() if n.startswith(network) and not torch.equal(v, before[n])]
        assert changed, network
    assert one.denoise(tensor(1, 3, 33, 35)).shape == (1, 3, 33, 35)


def test_a_later_iteration_begins_with_the_weights_of_the_one_before() -> None:
    one = method(iterations=3)
    running = trainer(one)
    for step in running.run():
        if step == running.stretches[1].last:  # the weights at the end of G2G1
            ended = {name: value.clone() for name, value in one.denoiser.state_dict().items()}
            running._enter(running.stretches[2], fresh=True)
            assert not running._optimizers["denoiser"].state  # and a new optimizer
            break
    for network in (one.denoiser, one.previous):
        for name, value in network.state_dict().items():
            assert torch.equal(value, ended[name])
    assert not any(parameter.requires_grad for parameter in one.previous.parameters())


def test_given_noise_is_frozen_and_simulated_noise_is_fresh() -> None:
    side = {f"image{i}": scene(32, 32) + 0.05 * i for i in range(3)}  # one place for a crop: only flips remain
    one = method(batch_size=3, denoiser_batch_size=3)
    data = source(images=side)
    seen: list[Tensor] = []
    latents: list[Tensor] = []
    one.rough.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().clone()))
    one.generator.register_forward_hook(lambda _, inputs, __: latents.append(inputs[0].detach().clone()))
    list(trainer(one, steps=4, data=data).run())
    given = data.whole("noisy")
    flips = [image.flip(dims) for image in given for dims in ((), (1,), (2,), (1, 2))]
    crops = [crop for batch in seen for crop in batch]
    found = {next(i for i, flip in enumerate(flips) if torch.equal(crop, flip)) for crop in crops}
    assert len(crops) == 3 * (4 + 4)  # g2 serves the W-GAN and the first denoiser
    assert len(found) > 6
    assert {index // 4 for index in found} == {0, 1, 2}
    assert len(latents) == 4 + 2 * 4 + 2 * 4  # once a step of the W-GAN, two draws a step of each denoiser
    numbers = torch.cat([one.flatten() for one in latents])
    assert len(set(numbers.tolist())) == len(numbers)


def test_smooth_noise_has_zero_mean_and_lies_in_the_noisy_images() -> None:
    data = method().prepare(source())
    batch = data.batch(size=6, patch=32, seed=0, step=2, fields=("noisy", "smooth"))
    assert batch["smooth"].shape == (6, 1, 32, 32)
    assert batch["smooth"].mean((1, 2, 3)).abs().max() < 1e-6
    assert batch["smooth"].std().item() == pytest.approx(25 / 255, rel=0.15)
    again = data.batch(size=6, patch=32, seed=0, step=2, fields=("smooth",))
    assert torch.equal(batch["smooth"], again["smooth"])


@pytest.mark.parametrize("variant", ["full", "no L_Z", "no L_cyc", "no sigmoid"])
def test_a_training_resumes_bitwise_in_every_phase(variant: str, tmp_path: Any) -> None:
    def fresh() -> Trainer:
        return trainer(method(variant=variant))

    whole = fresh()
    list(whole.run())
    expected = whole.kept(whole.stretches[-1].phase.name)
    for stop in range(1, 6):
        first = fresh()
        for step in first.run():
            if step == stop:
                break
        path = checkpoints.save(tmp_path / f"{stop}", first.checkpoint())
        second = fresh()
        second.restore(checkpoints.load(path))
        list(second.run())
        for name, value in second.kept(second.stretches[-1].phase.name).items():
            assert torch.equal(value, expected[name]), (stop, name)


def test_the_rule_of_gcbd_gives_noise_to_train_on() -> None:
    data = source(images={f"scene{i}": scene(192, 192) for i in range(2)})
    one = method(rule="variance", mean_tolerance=0.3, variance_tolerance=0.6)
    running = trainer(one, data=data)
    next(running.run())
    assert running.logs()["smooth_std"] == pytest.approx(25 / 255, rel=0.2)


@pytest.mark.parametrize("network", ["generator", "rough", "cycle", "noise_critic", "noisy_critic"])
def test_nan_in_the_gan_ends_the_training(network: str) -> None:
    one = method()
    running = trainer(one)
    with torch.no_grad():
        next(one.get_submodule(network).parameters())[0, 0, 0, 0] = float("nan")
    next(running.run())
    with pytest.raises(TrainingDiverged, match="became nan"):
        running.logs()


# ---- what the data must be like ----


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"patch_size": 48}, r"patch_size = 48 is not allowed: .* use one of \(32, 64, 128\)"),
        ({"patch_size": 16}, "patch_size = 16"),
        ({"patch_lambda": -1}, "patch_lambda = -1 is not allowed: give a number above 0, such as 0.03, or auto"),
        ({"patch_lambda": "aut"}, "patch_lambda = 'aut' is not allowed: give a number above 0, such as 0.03, or auto"),
        ({"patch_lambda": float("nan")}, "patch_lambda = nan is not allowed: give a number above 0"),
        ({"patch_lambda": True}, "patch_lambda = True is not allowed: give a number above 0"),
        ({"variant": "no L"}, "use one of 'full', 'no L_Z', 'no L_cyc', 'no sigmoid'"),
        ({"window_size": 63}, "window_size = 63"),
        ({"lambda": 0.1}, "no parameter 'lambda': did you mean 'patch_lambda'"),
    ],
)
def test_bad_settings_are_refused_with_the_remedy(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        create("gan2gan", config, 1, 0)


def test_a_number_may_be_written_as_text() -> None:
    assert method(patch_lambda="0.05").config.patch_lambda == 0.05
    assert method(patch_lambda="auto").config.patch_lambda == "auto"


@pytest.mark.parametrize(
    ("config", "data", "sentence"),
    [
        ({}, {"realisation": "fresh"}, "must be given once and for all.*noise_realisation=frozen"),
        ({}, {"images": {"small": scene(24, 90)}}, "small .* 24 x 90 pixels, less than the .* of 32 x 32"),
        ({"window_size": 64}, {"images": {"low": scene(50, 90)}},
         "low has 50 x 90 pixels, less than the window of 64 x 64; choose a window_size of at most 50"),
        ({"window_size": 16}, {}, "a crop of 32 pixels does not fit into a smooth patch of 16"),
        ({"patch_lambda": 1e-4}, {},
         r"patch_lambda = 0.0001 keeps 0 of \d+ windows, fewer than a batch of 4: 0.00015 would keep 0.*auto"),
        ({"patch_lambda": 0.012}, {"images": {"one": scene(40, 40)}},
         r"keeps \d of 4 windows, fewer than a batch of 4: .*would keep"),
        ({}, {"noise": "gauss0", "images": {"flat": torch.full((1, 64, 64), 0.5)}}, "flat is constant"),
        ({"batch_size": 40}, {"images": {"one": scene(40, 40)}}, "4 of 4 windows .* fewer than a batch of 40"),
        ({"max_patches": 2}, {}, "limit of 2 smooth patches is less than a batch of 4"),
        ({"rule": "variance", "mean_tolerance": 1e-6}, {"images": {"one": scene(90, 90)}},
         "rule of GCBD keeps 0 of .* raise mean_tolerance"),
    ],
)  # fmt: skip
def test_unsuitable_images_are_refused_with_the_remedy(
    config: dict[str, Any], data: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        Trainer.check(method(**config), source(**data))


def test_noise_that_depends_on_the_signal_is_warned_of() -> None:
    images = {f"scene{i}": scene(192, 192) for i in range(2)}
    assert Trainer.check(method(), source(images=images)) == []
    (warning,) = Trainer.check(method(patch_lambda=0.2), source("poisson30", images=images))
    assert "variance grows with brightness" in warning and "Anscombe" in warning


# ---- what was learned ----


def test_diagnose_returns_the_figures_of_the_noise() -> None:
    one = method(iterations=0)
    running = trainer(one)
    list(running.run())
    found = one.eval().diagnose(running.source)
    assert {name.figure for name in found} <= set(FIGURES)
    values = {(item.figure, item.series): item for item in found}
    for figure in ("noise_histogram", "noise_autocorrelation", "noise_std", "noise_lag1"):
        for series in (GENERATED, TRUE, EXTRACTED):
            assert (figure, series) in values
    for figure in ("patch_sigma", "patch_sigma_mean", "patch_sigma_spread", "patch_count", "patch_lambda"):
        assert (figure, EXTRACTED) in values
    assert values["noise_std", TRUE].y[0] == pytest.approx(25, rel=0.05)
    assert values["noise_std", EXTRACTED].y[0] == pytest.approx(25, rel=0.1)
    assert values["noise_histogram", GENERATED].x == values["noise_histogram", TRUE].x
    assert values["patch_count", EXTRACTED].y[0] >= 4
    again = one.diagnose(running.source)
    assert again == found  # no random state


def test_phases_share_only_what_comes_before_them() -> None:
    """What a longer training begins with is the shorter one, so that trials can share it."""
    short, long = method(iterations=1), method(iterations=2)
    trainers = [trainer(short), trainer(long)]
    list(trainers[0].run())
    for step in trainers[1].run():
        if step == trainers[0].steps:
            break
    for name, value in short.state_dict().items():
        assert torch.equal(value, long.state_dict()[name]), name


def test_deviations_name_every_point_once() -> None:
    deviations = method_class("gan2gan").deviations
    topics = [one.topic for one in deviations]
    assert len(topics) == len(set(topics)) > 20
    assert all(one.paper and one.code and one.ours for one in deviations)
