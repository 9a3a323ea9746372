"""What GAN2GAN is compared with: learned noise on clean images, blind DnCNNs, Noisy N2N and the theorem behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from denoise_core.errors import UserError
from denoise_core.images.image_set import ImageSet
from denoise_core.images.source import Realisation, SimulatedNoiseSource
from denoise_core.method import Context, Method, Recipe, create, methods
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator
from denoise_core.specification import DataSpec, Link, TrialSpec, specify
from denoise_core.trainer import Trainer, stretches

LEARNED = ("n2c_eq4", "n2c_gcbd")
BLIND = ("dncnn_b", "n2n_blind")
FIELDS = ("estimate", "noise", "noise2")
CPU = torch.device("cpu")
Array = npt.NDArray[np.float64]


def image_set(side: int = 96, count: int = 3) -> ImageSet:
    ids = tuple(f"image{index}" for index in range(count))
    return ImageSet("random", ids, tuple(torch.rand(1, side, side, generator=generator(one)) for one in ids))


def source(
    noise: str = "gauss25", realisation: Realisation = "frozen", images: ImageSet | None = None, seed: int = 7
) -> SimulatedNoiseSource:
    return SimulatedNoiseSource(images or image_set(), parse_noise(noise), realisation, seed, CPU)


def method(name: str, **values: Any) -> Method:
    return create(name, {**methods()[name].recipes["smoke"].config, **values}, 1, 7)


def trainer(name: str, steps: int = 3, **values: Any) -> Trainer:
    recipe = replace(methods()[name].recipes["smoke"], steps=steps)
    return Trainer(method(name, **values), source(), recipe, 7)


def context(phase: str, step: int = 0) -> Context:
    return Context(7, phase, step, 10, CPU, 0, 1)


class Probe(nn.Module):
    """Stands for a denoiser: keeps its input, and an output of zeros whose gradient tells the target."""

    def forward(self, images: Tensor) -> Tensor:
        self.input = images.detach().clone()
        self.output = torch.zeros_like(images, requires_grad=True)
        return self.output


def pair(one: Any, phase: str, batch: Mapping[str, Tensor], step: int = 0) -> tuple[Array, Array]:
    """What the denoiser is given and what it shall make of it, where its loss is a mean squared error."""
    one.denoiser = probe = Probe()
    (update,) = one.updates(phase, batch, context(phase, step))
    update.loss.backward()
    assert probe.output.grad is not None
    target = -probe.output.grad * probe.output.numel() / 2
    assert float(update.loss.detach()) == pytest.approx(float(target.square().mean()), rel=1e-5)
    return probe.input.double().numpy(), target.double().numpy()


def flipped(images: Tensor, draws: Context) -> Array:
    """Left to right where the first draw says so, then upside down where the second does; the first draws of all."""
    result = []
    for image, (across, down) in zip(images.double().numpy(), draws.randint(2, (len(images), 2)).tolist(), strict=True):
        image = image[:, :, ::-1] if across else image
        result.append(image[:, ::-1, :] if down else image)
    return np.stack(result)


# ---- the equations, written out ----


@pytest.mark.parametrize("name", LEARNED)
def test_learned_noise_is_added_to_clean_crops_which_are_the_targets(name: str) -> None:
    one: Any = method(name)
    clean = source().batch(size=4, patch=32, seed=1, step=0, fields=("clean",))
    given, target = pair(one, "n2c", clean)
    draws = context("n2c")
    assert np.allclose(target, flipped(clean["clean"], draws), atol=1e-5)
    one.generator.eval()
    with torch.no_grad():
        noise = one.generator(draws.randn((4, one.config.latent)))
    assert np.allclose(given - target, noise.double().numpy(), atol=1e-5)
    again, _ = pair(one, "n2c", clean, step=1)
    assert not np.allclose(given, again)


@pytest.mark.parametrize("name", BLIND)
def test_blind_noise_has_one_level_for_each_crop(name: str) -> None:
    clean = source().batch(size=5, patch=32, seed=1, step=0, fields=("clean",))
    given, target = pair(method(name), "train", clean)
    draws = context("train")
    image = flipped(clean["clean"], draws)
    level = 55 / 255 * draws.rand((5, 1, 1, 1)).double().numpy()
    first, second = (draws.randn((5, 1, 32, 32)).double().numpy() for _ in range(2))
    assert np.allclose(given, image + level * first, atol=1e-5)
    assert np.allclose(target, image + level * second if name == "n2n_blind" else image, atol=1e-5)


def test_blind_levels_are_uniform_up_to_55_and_both_noises_independent() -> None:
    black = {"clean": torch.zeros(50, 1, 24, 24)}
    found = [pair(method("n2n_blind"), "train", black, step) for step in range(20)]
    given, target = (np.concatenate(one) * 255 for one in zip(*found, strict=True))
    level, second = given.std((1, 2, 3)), target.std((1, 2, 3))
    assert stats.kstest(level / 55, "uniform").pvalue > 0.01  # 1000 levels, each measured to 3 %
    assert np.corrcoef(level, second)[0, 1] > 0.99  # a crop's two noises have one level
    assert abs((given * target).mean() / (given.std() * target.std())) < 0.01
    assert np.unique(level).size == level.size


def test_noisy_n2n_learns_from_pairs_of_its_estimate() -> None:
    one: Any = method("noisy_n2n", iterations=2)
    batch = one.prepare(source()).batch(size=4, patch=32, seed=1, step=0, fields=(*FIELDS, "noisy"))
    given, target = pair(one, "n2n1", batch)
    estimate, first, second = (flipped(batch[field], context("n2n1")) for field in FIELDS)
    assert np.allclose(given, estimate + first, atol=1e-5)
    assert np.allclose(target, estimate + second, atol=1e-5)
    # from the second on, the denoiser before makes the estimate, of the observed image
    given, target = pair(one, "n2n2", batch)
    observed, first, second = (flipped(batch[field], context("n2n2")) for field in ("noisy", "noise", "noise2"))
    with torch.no_grad():
        image = one.previous.eval()(torch.from_numpy(observed).float()).double().numpy()
    assert np.allclose(given, image + first, atol=1e-5)
    assert np.allclose(target, image + second, atol=1e-5)
    assert np.abs(image - observed).mean() > 1e-3


def test_the_estimate_stays_while_the_noise_is_new_at_every_step() -> None:
    images = image_set(side=64, count=1)  # a crop of the whole image
    one = method("noisy_n2n", initial_sigma=25.0).prepare(source(images=images))
    first, later = (
        one.batch(size=1, patch=64, seed=1, step=step, fields=(*FIELDS, "clean", "noisy")) for step in (0, 1)
    )
    assert torch.equal(first["estimate"], later["estimate"]) and torch.equal(first["noisy"], later["noisy"])
    drawn = {field: first[field] for field in ("noise", "noise2")}
    drawn["later"] = later["noise"]
    drawn |= {field: first[field] - first["clean"] for field in ("estimate", "noisy")}
    noises = np.stack([value.double().numpy().ravel() for value in drawn.values()])
    assert noises.std(1) * 255 == pytest.approx(25, rel=0.05)
    correlation = np.corrcoef(noises) - np.eye(len(noises))
    assert np.abs(correlation).max() < 4 / np.sqrt(noises.shape[1])  # N0, N, N1 and N2 are all independent
    other = method("noisy_n2n").prepare(source(images=images, seed=8)).batch(size=1, patch=64, seed=1, step=0,
                                                                            fields=("estimate",))  # fmt: skip
    assert not torch.equal(other["estimate"], first["estimate"])


def test_without_initial_noise_it_is_n2n() -> None:
    one = method("noisy_n2n", initial_sigma=0.0).prepare(source())
    batch = one.batch(size=4, patch=32, seed=1, step=0, fields=("estimate", "clean"))
    assert torch.equal(batch["estimate"], batch["clean"])


# ---- what they share with GAN2GAN ----


@pytest.mark.parametrize("name", [*LEARNED, *BLIND, "noisy_n2n"])
@pytest.mark.parametrize("budget", ["smoke", "laptop", "gpu", "paper"])
def test_a_denoiser_is_trained_as_one_of_an_iteration(name: str, budget: str) -> None:
    recipe, theirs = (methods()[one].recipes[budget] for one in (name, "gan2gan"))
    assert replace(recipe, config={}) == replace(theirs, config={})
    ours, iteration = (
        stretches(create(one, given.config, 1, 0).phases(), given.steps)[index]
        for one, given, index in ((name, recipe, -1), ("gan2gan", theirs, 1))
    )
    times = recipe.config.get("supervised_iterations", 1) if name != "noisy_n2n" else 1
    assert ours.last - ours.first == times * (iteration.last - iteration.first)
    assert (ours.phase.patch, ours.phase.batch) == (iteration.phase.patch, iteration.phase.batch)
    groups = [one.phase.groups["denoiser"] for one in (ours, iteration)]
    rates = [one.optimizer([nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"] for one in groups]
    assert rates[0] == rates[1]
    assert all(groups[0].schedule(at / 20) == groups[1].schedule(at / 20) for at in range(20))


def test_depths_are_the_papers() -> None:
    depths = {name: create(name, {}, 1, 0).config.denoiser_depth for name in ("n2c_eq4", "noisy_n2n", *BLIND)}  # type: ignore[attr-defined]
    assert depths == {"n2c_eq4": 17, "noisy_n2n": 17, "dncnn_b": 20, "n2n_blind": 20}
    weights = sum(one.numel() for one in create("dncnn_b", {}, 1, 0).parameters())
    assert weights == 667_008


def links(name: str, **values: Any) -> tuple[Link, ...]:
    data = DataSpec(noise_realisation="frozen")
    spec: TrialSpec = specify(name, values, data, (("train a", "1"),), methods()[name].recipes["laptop"], 0)
    return spec.links


def test_the_gan_phase_is_shared_and_the_denoiser_is_not() -> None:
    learned = links("n2c_eq4")
    assert [one.phase for one in learned] == ["gan", "n2c"]
    assert learned[0] == links("gan2gan")[0] == links("gan2gan", rule="wavelet")[0]
    assert learned[1].phase_id != links("gan2gan")[1].phase_id
    assert learned == links("n2c_eq4", iterations=1)
    gcbd = links("n2c_gcbd")
    assert gcbd[0] == links("gan2gan", rule="variance")[0] and gcbd[0] != learned[0]
    assert gcbd == links("n2c_eq4", rule="variance")
    assert learned[0] == links("n2c_eq4", denoiser_lr=1e-4)[0] and learned[1] != links("n2c_eq4", denoiser_lr=1e-4)[1]


@pytest.mark.parametrize(("name", "rule"), [("n2c_eq4", "wavelet"), ("n2c_gcbd", "variance")])
def test_a_denoiser_may_start_from_the_gan_of_gan2gan(name: str, rule: str) -> None:
    whole, gan = trainer(name), trainer("gan2gan", rule=rule)
    noisy = torch.rand(1, 1, 40, 33, generator=generator("test"))
    for one in (whole, gan):
        while one.step < 3:
            next(one.run())
    kept = gan.kept("gan")
    assert kept.keys() == whole.kept("gan").keys()
    assert all(torch.equal(value, whole.kept("gan")[key]) for key, value in kept.items())
    started: Any = trainer(name)
    started.start_after("gan", kept)
    for one in (whole, started):
        list(one.run())
    for key, value in whole.kept("n2c").items():
        assert torch.equal(value, started.method.state_dict()[key]), key
    trained = started.method.eval()
    with torch.no_grad():
        assert torch.equal(trained.denoise(noisy), trained.denoiser(noisy).clamp(0, 1))
        trained.enter("gan")
        assert torch.equal(trained.denoise(noisy), trained.rough(noisy).clamp(0, 1))


def test_chains_of_noisy_n2n_are_shared() -> None:
    long = links("noisy_n2n", iterations=3)
    assert [one.phase for one in long] == ["n2n1", "n2n2", "n2n3"]
    assert links("noisy_n2n", iterations=2) == long[:2]
    assert links("noisy_n2n", initial_sigma=5.0)[0] != long[0]
    first, second = trainer("noisy_n2n", iterations=1), trainer("noisy_n2n", iterations=2)
    list(first.run())
    started = trainer("noisy_n2n", iterations=2)
    started.start_after("n2n1", first.kept("n2n1"))
    previous = started.method.previous.state_dict()  # type: ignore[union-attr,operator]
    denoiser = first.method.denoiser.state_dict()  # type: ignore[union-attr,operator]
    assert all(torch.equal(value, denoiser[key]) for key, value in previous.items())  # a warm start
    for one in (second, started):
        list(one.run())
    for key, value in second.method.state_dict().items():
        assert torch.equal(value, started.method.state_dict()[key]), key


@pytest.mark.parametrize("name", [*LEARNED, "noisy_n2n"])
def test_noise_that_is_drawn_anew_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="given once and for all"):
        Trainer.check(method(name), source(realisation="fresh"))


def test_noisy_n2n_needs_noise_that_can_be_drawn() -> None:
    seen = SimulatedNoiseSource(image_set(), parse_noise("gauss25"), "frozen", 7, CPU, window="chest")
    with pytest.raises(UserError, match="noisy_n2n needs the image fields noise, noise2"):
        Trainer.check(method("noisy_n2n"), seen)


# ---- Theorem 1 (section 3; proof in section 1 of the supplement) ----


def coefficient(y: float, signal: float, noise: float) -> float:
    """Eq. 2: what multiplies Z, for variances ``signal`` of X, ``noise`` of N and y * ``signal`` of N0."""
    return signal * (1 + y) / (signal * (1 + y) + noise)


def gain(y: float, signal: float, noise: float) -> float:
    """Eq. 5 of the supplement: sigma_0^2 - E(X - f(Z, y))^2."""
    numerator = y * (signal * (1 + y) + noise) ** 2 - noise**2 - noise * signal * (1 + y) ** 2
    return signal * numerator / (signal * (1 + y) + noise) ** 2


def turning_point(signal: float, noise: float) -> float:
    """y_0, by the polynomial of the supplement's Eq. 7."""
    polynomial = [signal**2, 2 * signal**2 + noise * signal, signal**2 + noise**2, -noise * signal - noise**2]
    (root,) = (one.real for one in np.roots(polynomial) if abs(one.imag) < 1e-9 and 0 < one.real < 1)
    return float(root)


@pytest.mark.parametrize(("signal", "noise"), [(1.0, 1.0), (2.0, 0.5), (0.3, 1.5)])
def test_the_theorem_in_closed_form(signal: float, noise: float) -> None:
    assert gain(0, signal, noise) < 0 < gain(1, signal, noise)
    root = turning_point(signal, noise)
    assert gain(root, signal, noise) == pytest.approx(0, abs=1e-9)
    for y in np.linspace(0.001, 0.999, 200):
        assert (gain(y, signal, noise) > 0) == (y > root)


@pytest.mark.parametrize(("signal", "noise"), [(1.0, 1.0), (2.0, 0.5), (0.3, 1.5)])
@pytest.mark.parametrize("y", [0.0, 0.3, 0.9])
def test_the_theorem_against_a_regression(y: float, signal: float, noise: float) -> None:
    draws = np.random.default_rng(5).standard_normal((5, 400_000))
    scales = np.sqrt([signal, y * signal, noise, noise, noise])[:, None]
    clean, initial, first, second, observed = draws * scales
    given, target = clean + initial + first, clean + initial + second
    slope = (given * target).sum() / (given * given).sum()
    assert slope == pytest.approx(coefficient(y, signal, noise), abs=0.006)
    error = np.square(clean - slope * (clean + observed)).mean()
    assert y * signal - error == pytest.approx(gain(y, signal, noise), abs=0.01 * max(signal, noise))


class Scale(nn.Module):
    """f(z) = a z, the form of the best estimate for Gaussians."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * images


@pytest.mark.parametrize("level", [25.5, 51.0])
@pytest.mark.parametrize("side", ["N2N", "below", "above"])
def test_the_theorem_with_noisy_n2n_as_it_is_trained(side: str, level: float) -> None:
    spread = 0.2
    signal, noise = spread**2, (level / 255) ** 2
    root = turning_point(signal, noise)
    y = {"N2N": 0.0, "below": root - 0.15, "above": root + 0.15}[side]
    pixels = tuple(spread * torch.randn(1, 256, 256, generator=generator("pixels", index)) for index in range(4))
    images = ImageSet("pixels", tuple("abcd"), pixels)
    recipe = Recipe(150, {}, channels_last=False)
    values = {"initial_sigma": 255 * spread * y**0.5, "iterations": 2, "patch_size": 64, "denoiser_batch_size": 8,
              "denoiser_steps": 1.0, "denoiser_lr": 0.02}  # fmt: skip
    one: Any = method("noisy_n2n", **values)
    one.denoiser, one.previous = Scale(), Scale().requires_grad_(False)
    training = Trainer(one, source(f"gauss{level:g}", images=images), recipe, 7)
    for step in training.run():
        if step == 150:
            first = float(one.denoiser.factor.detach())
    # 260,000 pixels: their variance is known to 0.3 %
    assert first == pytest.approx(coefficient(y, signal, noise), abs=0.005)
    clean, observed = (torch.stack(training.source.whole(field)) for field in ("clean", "noisy"))  # type: ignore[attr-defined]
    error = float((clean - first * observed).square().mean())
    assert y * signal - error == pytest.approx(gain(y, signal, noise), abs=0.01 * signal)
    assert (error < y * signal) == (side == "above")
    # the second iteration trains on the first one's estimates a Z, of variance a^2 (signal + noise)
    estimate = first**2 * (signal + noise)
    assert float(one.denoiser.factor.detach()) == pytest.approx(estimate / (estimate + noise), abs=0.005)
