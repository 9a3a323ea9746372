"""DANet: networks, losses against NumPy, who learns from what, phases and what they share, bad input, inference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from denoise_core.clipping import ShrinkingClip
from denoise_core.diagnostics import GENERATED, TRUE
from denoise_core.errors import UserError
from denoise_core.images.augment import mostly_upright
from denoise_core.images.image_set import ImageSet
from denoise_core.images.source import SimulatedNoiseSource
from denoise_core.method import Context, create, methods
from denoise_core.methods.danet import BLUR, DANet, averaged, blurred, combined, critic_terms
from denoise_core.networks.danet import PairCritic, ResidualUNet, halvings
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator
from denoise_core.specification import DataSpec, TrialSpec, specify
from denoise_core.trainer import Trainer

Array = npt.NDArray[np.float64]
SMOKE = DANet.recipes["smoke"]


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed, "test"))


def method(channels: int = 3, **config: Any) -> DANet:
    made = create("danet", {**SMOKE.config, **config}, channels, seed=3)
    assert isinstance(made, DANet)
    return made


def source(channels: int = 3) -> SimulatedNoiseSource:
    images = {f"scene{i}": tensor(channels, 24 + 4 * i, 30, seed=i) for i in range(3)}
    chosen = ImageSet("toy", tuple(images), tuple(images.values()))
    return SimulatedNoiseSource(chosen, parse_noise("camera25_5"), "frozen", seed=5, device=torch.device("cpu"))


def trainer(one: DANet, steps: int = 6) -> Trainer:
    return Trainer(one, source(one.channels), replace(SMOKE, steps=steps), seed=1)


def state(one: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in one.state_dict().items()}


def changed(before: Mapping[str, Tensor], one: DANet) -> set[str]:
    """The networks whose weights differ from ``before``."""
    after = one.state_dict()
    return {name.split(".")[0] for name in before if "." in name and not torch.equal(before[name], after[name])}


# ---- networks ----


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (lambda: ResidualUNet(3, 3), 9_153_571),
        (lambda: ResidualUNet(1, 1), 9_152_417),
        (lambda: ResidualUNet(4, 3), 9_153_859),
        (lambda: ResidualUNet(2, 1), 9_152_705),
        (lambda: PairCritic(3), 44_703_745),
        (lambda: PairCritic(1), 44_699_649),
    ],
)
def test_parameter_counts_are_the_published_ones(network: Any, count: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in network().parameters()) == count


@pytest.mark.parametrize("patch", [8, 10, 12, 14, 16, 24, 40, 64])
def test_the_gradient_of_a_score_is_that_of_autograd(patch: int) -> None:
    critic, pairs = PairCritic(2, 4, patch).double(), tensor(3, 4, patch, patch).double().requires_grad_()
    (expected,) = torch.autograd.grad(critic(pairs).sum(), pairs)
    found = critic.input_gradient(pairs.detach())
    assert expected.abs().max() > 0
    assert torch.allclose(found, expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(("patch", "count"), [(128, 5), (64, 4), (96, 4), (8, 1), (7, None), (4, None), (18, None)])
def test_which_patches_the_critic_takes(patch: int, count: int | None) -> None:
    assert halvings(patch) == count
    if count is None:
        with pytest.raises(ValueError, match="no patches of"):
            PairCritic(3, 4, patch)


def test_a_narrow_critic_passes_on_as_much_as_the_published_one() -> None:
    pairs = tensor(8, 6, 128, 128)
    with torch.no_grad():
        narrow = np.median([float(_critic(8, seed).input_gradient(pairs).norm()) for seed in range(9)])
        published = float(_critic(64, 0).input_gradient(pairs).norm())
    assert published / 5 < narrow < published * 5  # with weights of the same deviation a thousandth of it


def _critic(width: int, seed: int) -> PairCritic:
    torch.manual_seed(seed)
    return PairCritic(3, width, 128)


def test_identity_starts_at_the_image() -> None:
    one, noisy = method(init="identity"), tensor(1, 3, 21, 18)
    assert torch.equal(one.denoise(noisy), noisy)
    assert not torch.allclose(one.generate(noisy, generator("z")), noisy, atol=0.01)  # it is to depend on z


# ---- losses, against literal transcriptions ----


def test_the_blur_is_opencvs_table() -> None:
    assert tuple(round(16 * tap) for tap in BLUR) == (1, 4, 6, 4, 1)
    assert sum(BLUR) == 1
    noise = tensor(2, 3, 7, 9).double() - 0.5
    padded = np.pad(noise.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    window = np.outer(np.array([1, 4, 6, 4, 1]), np.array([1, 4, 6, 4, 1])) / 256
    expected = np.zeros(noise.shape)
    for row in range(7):
        for column in range(9):
            part = padded[:, :, row : row + 5, column : column + 5]
            expected[:, :, row, column] = (part * window).sum((2, 3))
    assert np.allclose(blurred(noise).numpy(), expected, atol=1e-12)


def naive(critic: PairCritic, real: Tensor, fakes: list[Tensor], weights: list[float], mix: list[Tensor]) -> Array:
    """Eq. 5 and WGAN-GP as the official code has them: a pass for each, penalties through autograd."""
    distance, penalty = 0.0, 0.0
    for fake, weight, share in zip(fakes, weights, mix, strict=True):
        with torch.no_grad():
            distance += weight * (float(critic(fake).mean()) - float(critic(real).mean()))
        point = (share * real + (1 - share) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(point).sum(), point)
        norms = np.sqrt((gradient.double().numpy() ** 2).sum((1, 2, 3)) + 1e-12)
        penalty += weight * float(((norms - 1) ** 2).mean())
    return np.array([distance, penalty])


@pytest.mark.parametrize("weights", [[0.3, 0.7], [1.0]])
def test_the_critics_loss(weights: list[float]) -> None:
    critic, real = PairCritic(3, 6, 16).double(), tensor(4, 6, 16, 16).double()
    fakes = [tensor(4, 6, 16, 16, seed=k + 1).double() for k in range(len(weights))]
    mix = [tensor(4, 1, 1, 1, seed=9 + k).double() for k in range(len(weights))]
    found = torch.stack(critic_terms(critic, real, fakes, weights, mix)).detach().numpy()
    assert np.allclose(found, naive(critic, real, fakes, weights, mix), rtol=1e-9)


def test_the_penalty_has_autograds_gradient() -> None:
    critic, real, fake = PairCritic(1, 4, 16).double(), tensor(2, 2, 16, 16).double(), tensor(2, 2, 16, 16, seed=1)
    share = tensor(2, 1, 1, 1, seed=2).double()
    _, penalty = critic_terms(critic, real, [fake.double()], [1.0], [share])
    point = (share * real + (1 - share) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(point).sum(), point, create_graph=True)
    expected = ((gradient.square().sum(dim=(1, 2, 3)) + 1e-12).sqrt() - 1).square().mean()
    weights = [one for one in critic.parameters() if one.ndim > 1]
    for a, b in zip(torch.autograd.grad(penalty, weights), torch.autograd.grad(expected, weights), strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-12)


def test_no_penalty_for_a_critic_of_unit_gradient() -> None:
    critic, pair, one = PairCritic(3, 4, 16).double(), tensor(1, 6, 16, 16).double(), torch.ones(1, 1, 1, 1).double()
    with torch.no_grad():
        critic.score.weight /= critic.input_gradient(pair).norm()
    assert float(critic_terms(critic, pair, [torch.zeros_like(pair)], [1.0], [one])[1]) == pytest.approx(0, abs=1e-8)
    with torch.no_grad():
        critic.score.weight *= 3
    assert float(critic_terms(critic, pair, [torch.zeros_like(pair)], [1.0], [one])[1]) == pytest.approx(4, abs=1e-6)


def test_tau_at_its_ends() -> None:
    error, score = torch.tensor(2.0), torch.tensor(5.0)
    assert float(combined(10.0, error, lambda: score)) == 15
    assert float(combined(0.0, error, lambda: score)) == -5
    assert float(combined("inf", error, lambda: pytest.fail("the critic is asked"))) == 2


@pytest.mark.parametrize(("networks", "weights"), [("both", (0.3, 0.7)), ("denoiser", (1, 0)), ("generator", (0, 1))])
def test_alpha_weighs_the_denoiser_as_in_the_paper(networks: str, weights: tuple[float, float]) -> None:
    one = method(networks=networks, alpha=0.3, pgap=networks == "generator")
    kinds = [kind for kind, weight in zip(("denoiser", "generator"), weights, strict=True) if weight]
    assert [one._weight(kind) for kind in kinds] == [weight for weight in weights if weight]


# ---- who learns from what ----


def test_the_critic_learns_at_every_step_the_others_at_every_third() -> None:
    one = method()
    training = trainer(one)
    for step in training.run():
        if step == training.stretches[0].last:
            assert int(one.stage) == 0
            before = state(one)
        elif step > training.stretches[0].last:
            due = (step - training.stretches[0].last) % 3 == 0
            assert changed(before, one) == ({"critic", "denoiser", "generator"} if due else {"critic"})
            before = state(one)


@pytest.mark.parametrize(
    ("changes", "rests"),
    [
        ({"tau1": "inf"}, {"denoiser"}),
        ({"tau2": "inf"}, {"generator"}),
        ({}, set()),
    ],
)
def test_who_takes_its_weight_as_infinite_does_not_see_the_critic(changes: Mapping[str, Any], rests: set[str]) -> None:
    results = []
    for scale in (1.0, 50.0):
        one = method(critic_lr=1e-12, **changes)
        with torch.no_grad():
            one.critic.score.weight *= scale
        for _ in trainer(one).run():
            pass
        results.append(state(one))
    after = {name.split(".")[0] for name in results[0] if not torch.equal(results[0][name], results[1][name])}
    assert after == {"critic", "denoiser", "generator"} - rests


@pytest.mark.parametrize(("networks", "lacks"), [("denoiser", "generator"), ("generator", "denoiser")])
def test_one_may_play_alone(networks: str, lacks: str) -> None:
    one = method(networks=networks, pgap=networks == "generator")
    assert getattr(one, lacks) is None
    for _ in trainer(one).run():
        pass
    assert one.draws == (1 if networks == "generator" else 0)
    chosen = one.denoiser if networks == "denoiser" else one.synthetic
    assert one._chosen() is chosen


# ---- phases ----


def test_the_denoisers_begin_alike_and_end_differently() -> None:
    one = method(pgap=True, plus=True)
    others = [one.denoiser, one.synthetic, one.retrained]
    for other in others:
        assert other is not None
        assert all(torch.equal(a, b) for a, b in zip(one.plain.parameters(), other.parameters(), strict=True))
    training = trainer(one)
    lengths = {stretch.phase.name: stretch.last - stretch.first for stretch in training.stretches}
    assert lengths == {"plain": 2, "game": 6, "synthetic": 2, "plus": 2}
    for _ in training.run():
        pass
    weights = [one.plain.last.weight, *(other.last.weight for other in others if other is not None)]
    assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


def test_resumed_at_any_step_of_any_phase() -> None:
    config = {"pgap": True, "plus": True, "plus_clip": 1e-3}
    whole = method(**config)
    training = trainer(whole)
    kept = {step: deepcopy(training.checkpoint()) for step in training.run()}
    for step in (1, 2, 4, 7, 9, 11):
        other = method(**config)
        again = trainer(other)
        again.restore(kept[step])
        for _ in again.run():
            pass
        for name, value in training.kept("plus").items():
            assert torch.equal(value, again.kept("plus")[name]), f"{name}, resumed at {step}"


def spec(name: str = "danet", seed: int = 0, **values: Any) -> TrialSpec:
    data = DataSpec(train="a", test=("b",), noise="camera25_5", channels=3)  # type: ignore[call-arg]
    return specify(name, values, data, (("train a", "1"), ("test b", "2")), methods()[name].recipes["smoke"], seed)


def test_plain_training_is_shared_by_all_settings_of_the_game() -> None:
    first = spec().links[0].phase_id
    for other in (spec(tau1="inf"), spec(tau2=0, pgap=True), spec(alpha=0.1, critic_lr=1e-5), spec("danet_l1")):
        assert other.links[0].phase_id == first
    for other in (spec(lr=0.5), spec(width=4), spec(critic_steps=2), spec(seed=1)):
        assert other.links[0].phase_id != first


def test_what_follows_the_game_shares_it() -> None:
    game = spec().links[1].phase_id
    assert spec(pgap=True).links[1].phase_id == spec(plus=True, fake_ratio=0.5).links[1].phase_id == game
    assert spec(tau2=0.0).links[1].phase_id != game


def test_the_last_part_of_a_batch_of_danet_plus_is_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    one, seen = method(plus=True, plus_batch_size=10, fake_ratio=0.25, augmentation="none"), []
    assert one.retrained is not None
    monkeypatch.setattr(one, "_fake", lambda clean, context: torch.full_like(clean, 7.0))
    one.retrained.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    batch = {"noisy": tensor(10, 3, 16, 16), "clean": tensor(10, 3, 16, 16, seed=1)}
    (update,) = one.updates("plus", batch, Context(0, "plus", 0, 700, torch.device("cpu"), 0, 1))
    assert [bool((image == 7).all()) for image in seen[0]] == [False] * 8 + [True] * 2
    assert torch.equal(seen[0][:8], batch["noisy"][:8])
    expected = (seen[0] - one.retrained(seen[0]) - batch["clean"]).abs().sum() / 10
    assert float(update.loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert one.clip.every == 10


def test_the_bound_of_clipping_shrinks_to_each_epochs_mean_norm() -> None:
    clip, weight = ShrinkingClip(10.0), nn.Parameter(torch.zeros(4))
    clip.every = 2
    for norm, bound in ((8.0, 10.0), (4.0, 6.0), (12.0, 6.0), (12.0, 6.0), (1.0, 6.0), (2.0, 1.5)):
        weight.grad = torch.full((4,), norm / 2)
        limit = float(clip.bound)
        clip([weight])
        assert float(weight.grad.norm()) == pytest.approx(min(norm, limit), rel=1e-5)
        assert float(clip.bound) == pytest.approx(bound, rel=1e-6)


def test_half_of_the_crops_stay_upright() -> None:
    context = Context(0, "game", 0, 1, torch.device("cpu"), 0, 1)
    image = torch.arange(9.0).view(1, 1, 3, 3).expand(14_000, 1, 3, 3)
    moved, again = mostly_upright([image, image], context)
    assert torch.equal(moved, again)
    kinds, counts = torch.unique(moved.flatten(1), dim=0, return_counts=True)
    assert len(kinds) == 8
    upright = (kinds == torch.arange(9.0)).all(1)
    assert float(counts[upright]) / 14_000 == pytest.approx(0.5, abs=0.02)
    assert counts[~upright].numpy() / 14_000 == pytest.approx(np.full(7, 1 / 14), abs=0.01)


# ---- bad input ----


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tau1": -1}, "tau1 = -1 is not allowed: give a weight of 0 or more, such as 10, or inf"),
        ({"tau2": math.nan}, "give a weight of 0 or more"),
        ({"tau2": "much"}, "give a weight of 0 or more"),
        ({"alpha": 1.5}, "alpha = 1.5 is not allowed"),
        ({"alpha": -0.1}, "alpha = -0.1 is not allowed"),
        ({"patch_size": 100, "depth": 5}, "use one of 80, 96, 112, 128"),
        ({"patch_size": 72, "depth": 3}, "use one of"),
        ({"networks": "denoiser", "pgap": True}, "without a generator there are no generated pairs"),
        ({"networks": "denoiser", "plus": True}, "without a generator there are no generated pairs"),
        ({"networks": "generator", "pgap": False}, "give pgap = true"),
        ({"estimate": "plus"}, "give plus = true"),
        ({"estimate": "synthetic"}, "give pgap = true"),
        ({"networks": "generator", "pgap": True, "estimate": "dual"}, "no denoiser plays"),
    ],
)
def test_bad_values_are_refused(values: Mapping[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")) as error:
        methods()["danet"].Config.build(values, "danet")
    assert "\n" not in str(error.value)


def test_infinite_weights_have_one_name() -> None:
    for value in ("inf", math.inf, "Infinity"):
        assert methods()["danet"].Config.build({"tau1": value}, "danet").model_dump()["tau1"] == "inf"
    assert spec(tau1="inf").trial_id == spec(tau1=math.inf).trial_id


def test_without_a_generator_nothing_is_generated() -> None:
    one = method(networks="denoiser")
    assert one.diagnose(source()) == []
    with pytest.raises(UserError, match="has no generator"):
        one.generate(tensor(1, 3, 16, 16), generator("z"))


# ---- inference ----


@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_only_the_given_randomness(channels: int) -> None:
    one, clean = method(channels), tensor(1, channels, 19, 33)
    assert one.denoise(clean).shape == clean.shape
    first, second = one.generate(clean, generator("z")), one.generate(clean, generator("z"))
    assert torch.equal(first, second)
    assert not torch.equal(first, one.generate(clean, generator("other")))
    assert first.shape == clean.shape


def test_the_ensemble_commutes_with_flips_and_rotations() -> None:
    one, noisy = method(init="default"), tensor(1, 3, 16, 16).double()
    one.double()
    plain = one.denoise(noisy)
    one.reconfigure({"ensemble": True})
    turned = one.denoise(noisy.rot90(1, (-2, -1)))
    assert torch.allclose(turned, one.denoise(noisy).rot90(1, (-2, -1)), atol=1e-12)
    assert not torch.allclose(plain, one.denoise(noisy))
    assert torch.allclose(averaged(lambda images: images, noisy), noisy)


def test_which_denoiser_is_best_and_what_is_generated() -> None:
    one = method(pgap=True, plus=True)
    expected = [(one.plain, 0), (one.denoiser, 1), (one.denoiser, 1), (one.retrained, 1)]
    for phase, (network, draws) in zip(("plain", "game", "synthetic", "plus"), expected, strict=True):
        one.enter(phase)
        assert one._chosen() is network
        assert one.draws == draws
        assert (one.twins() is not None) == (phase in ("synthetic", "plus"))
    one.reconfigure({"estimate": "plain"})
    assert one._chosen() is one.plain
    assert one.draws == 0
    assert one.twins() is None


def test_the_noise_is_described_beside_the_true_one() -> None:
    one = method()
    one.enter("game")
    found = {(each.figure, each.series): each for each in one.diagnose(source())}
    for figure in ("noise_std", "noise_lag1", "noise_histogram", "noise_autocorrelation", "noise_level_function"):
        assert (figure, TRUE) in found
        assert (figure, GENERATED) in found
    level = found["noise_level_function", TRUE]
    assert list(level.y[:6]) == sorted(level.y[:6])  # it grows with the intensity, until white cuts it off
