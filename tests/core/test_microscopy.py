"""The film and charge noise of electron microscopy."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.images.image_set import ImageSet
from denoise_core.images.named import load_images
from denoise_core.metrics.full_reference import measure
from denoise_core.metrics.protocol import PROTOCOLS
from denoise_core.noise.evaluation import noisy_test_images
from denoise_core.noise.microscopy import ChargeNoise, FilmNoise, stationary_field
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator

NAMES = ("film", "charge")

# The constants again, so that a change of the model is noticed: stored results belong to a name and its constants.
DEPTH = 0.59
THICKNESS = {24.0: 0.14, 6.0: 0.14, 0.7: 0.26, 0.0: 0.17}
LIFT, COVERAGE, HEIGHT, DARK, GRAIN = 0.075, 0.10, 0.30, 0.25, 0.04
"""HEIGHT is the mean height of a blob, DARK the share of dark ones."""


def psnr(images: ImageSet, name: str) -> float:
    """Mean over the images of the PSNR (dB, data range 1) of their test noise."""
    noisy = list(noisy_test_images(images, parse_noise(name)))
    return sum(measure(PROTOCOLS["canonical"], item.noisy, item.clean)["psnr"] for item in noisy) / len(noisy)


def gray(count: int, side: int, value: float = 0.5) -> Tensor:
    return torch.full((count, 1, side, side), value)


def thickness(clean: Tensor, seed: int = 0) -> Tensor:
    """The relative thickness of the film over ``clean``, minus its mean 1."""
    transmission = parse_noise("film")(clean, generator(seed)) / clean
    return -transmission.log() / DEPTH - 1


def autocovariance(field: Tensor, lag: int) -> float:
    """Mean product of values ``lag`` pixels apart, over both directions; the field's mean is known to be 0."""
    side = field.shape[-1]
    down = field[..., lag:, :] * field[..., : side - lag, :]
    right = field[..., lag:] * field[..., : side - lag]
    return ((down.mean() + right.mean()) / 2).item()


# --- level ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "decibel"), [("film", 12.85), ("charge", 17.85)])
def test_calibration_on_real_slices(name: str, decibel: float, data_root: Path) -> None:
    if not (data_root / "em_isbi2012").is_dir():
        pytest.skip("the data pack has no em_isbi2012")
    images = load_images("em_isbi2012[0:15]", channels=None, data_root=data_root)
    assert psnr(images, name) == pytest.approx(decibel, abs=0.1)


@pytest.mark.parametrize(("name", "decibel"), [("film", 12.85), ("charge", 17.85)])
def test_calibration_holds_on_the_generated_images(name: str, decibel: float) -> None:
    images = load_images("em_generated", channels=None, data_root=None)
    assert psnr(images, name) == pytest.approx(decibel, abs=0.3)


def test_neither_has_mean_zero() -> None:
    clean = gray(8, 128)
    film, charge = ((parse_noise(name)(clean, generator(name)) - clean).mean().item() for name in NAMES)
    # exp(-mu t) of a Gaussian t has the mean exp(-mu + mu^2 var / 2).
    variance = sum(deviation**2 for deviation in THICKNESS.values())
    transmission = math.exp(-DEPTH + DEPTH**2 * variance / 2)
    assert film == pytest.approx(0.5 * (transmission - 1), abs=0.01)
    # Clipping takes little at this gray.
    assert charge == pytest.approx(LIFT + COVERAGE * HEIGHT * (1 - 2 * DARK), abs=0.006)


@pytest.mark.parametrize("name", NAMES)
def test_strength_zero_is_no_noise_and_more_is_worse(name: str) -> None:
    images = load_images("em_generated[0:4]", channels=None, data_root=None)
    clean = torch.stack(images.pixels)
    assert torch.equal(parse_noise(f"{name}0")(clean, generator(1)), clean)
    levels = [psnr(images, f"{name}{strength}") for strength in (0.1, 0.25, 0.5, 1, 2, 4)]
    assert levels == sorted(levels, reverse=True)
    assert all(better - worse > 1.5 for better, worse in pairwise(levels))


def test_film_strength_is_thickness() -> None:
    """Two films on each other are a film of the sum of their strengths."""
    clean = gray(2, 40)
    half = parse_noise("film0.5")
    twice = half(half(clean, generator(1)), generator(1))
    torch.testing.assert_close(twice, parse_noise("film")(clean, generator(1)))


# --- structure --------------------------------------------------------------------------------------------------------


def test_film_is_multiplicative_and_positive() -> None:
    dark, bright = (parse_noise("film")(gray(1, 64, value), generator(3)) for value in (0.2, 0.8))
    torch.testing.assert_close(dark * 4, bright)
    wide = parse_noise("film4")(gray(4, 256, 1.0), generator(3))
    assert wide.min() > 0


def test_film_correlates_at_its_scales() -> None:
    field = thickness(gray(40, 200))
    for lag in (0, 1, 2, 12, 60):
        expected = sum(
            deviation**2 * (math.exp(-(lag**2) / (4 * sigma**2)) if sigma else float(lag == 0))
            for sigma, deviation in THICKNESS.items()
        )
        assert autocovariance(field, lag) == pytest.approx(expected, abs=0.004), f"lag {lag}"
    assert abs(autocovariance(field, 150)) < 0.004


def test_charge_blobs_stand_out_and_end() -> None:
    clean = gray(30, 160)
    noise = parse_noise("charge")(clean, generator(4)) - clean
    noise -= noise.mean()
    variance = autocovariance(noise, 0)
    near = autocovariance(noise, 1)
    assert variance - near == pytest.approx(GRAIN**2, rel=0.35), "white grain and the slope of blobs"
    assert near / variance > 0.7
    assert autocovariance(noise, 8) / variance > 0.15
    assert abs(autocovariance(noise, 110)) / variance < 0.05
    inside = noise.abs() > 0.15
    assert 0.04 < inside.float().mean() < 0.12, "sparse"
    assert 0.15 < (noise[inside] < 0).float().mean() < 0.4, "some darker, most brighter"


def test_charge_saturates() -> None:
    for value, bound in ((0.95, 1.0), (0.02, 0.0)):
        noisy = parse_noise("charge")(gray(4, 128, value), generator(5))
        assert noisy.min() >= 0
        assert noisy.max() <= 1
        assert (noisy == bound).float().mean() > 0.005


@pytest.mark.parametrize("name", NAMES)
def test_a_crop_has_the_statistics_of_a_place_in_a_whole_image(name: str) -> None:
    """Means over crops and how much crops differ from each other: both are wrong for fields scaled by their sample."""

    def blocks(field: Tensor) -> tuple[float, float, float]:
        return field.mean().item(), field.var().item(), field.mean(dim=(-1, -2)).std().item()

    noise = parse_noise(name)
    crops = blocks(noise(gray(600, 32), generator("crops")))
    whole = noise(gray(6, 320), generator("whole")).unfold(2, 32, 32).unfold(3, 32, 32)
    for ours, theirs, tolerance in zip(crops, blocks(whole), (0.01, 0.0012, 0.006), strict=True):
        assert ours == pytest.approx(theirs, abs=tolerance)


def test_stationary_field_has_exactly_the_stated_deviation() -> None:
    for deviations in ({0.0: 0.3}, {0.7: 0.5}, {3.0: 2.0}, {3.0: 0.6, 0.0: 0.8}):
        field = stationary_field(gray(60, 64), deviations, generator(6))
        expected = math.sqrt(sum(deviation**2 for deviation in deviations.values()))
        assert field.std().item() == pytest.approx(expected, rel=0.03)
        assert abs(field.mean().item()) < 0.05 * expected
    single = stationary_field(gray(20000, 1), {3.0: 2.0}, generator(6))
    assert single.std().item() == pytest.approx(2, rel=0.03), "a window of one pixel too"


def test_the_far_sides_of_a_crop_do_not_match() -> None:
    field = stationary_field(gray(300, 24), {3.0: 1.0}, generator(7))
    left, right = field[..., 0], field[..., -1]
    assert abs((left * right).mean().item()) < 0.06
    assert (left * field[..., 1]).mean().item() > 0.9


# --- contract ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_images_are_independent_and_channels_share_a_field(name: str) -> None:
    clean = gray(2, 96).expand(2, 3, 96, 96).contiguous()
    noisy = parse_noise(name)(clean, generator(8))
    assert torch.equal(noisy[:, 0], noisy[:, 1])
    assert torch.equal(noisy[:, 0], noisy[:, 2])
    correlation = torch.corrcoef(torch.stack([noisy[0, 0].flatten(), noisy[1, 0].flatten()]))[0, 1]
    assert abs(correlation) < 0.25


@pytest.mark.parametrize("name", NAMES)
def test_same_generator_same_noise(name: str) -> None:
    clean = torch.rand(2, 1, 32, 40, generator=generator("clean"))
    before = clean.clone()
    noise = parse_noise(name)
    torch.manual_seed(3)
    first = noise(clean, generator(1))
    assert torch.equal(first, parse_noise(name)(clean, generator(1)))
    assert not torch.equal(first, noise(clean, generator(2)))
    assert torch.equal(clean, before)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.equal(first, noise(clean, generator(1))), "whatever the number of threads"
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 1, 7), (3, 1, 33, 32)])
def test_any_size_and_type(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    noisy = parse_noise(name)(torch.full(shape, 0.5, dtype=dtype), generator(1))
    assert (noisy.shape, noisy.dtype) == (shape, dtype)
    assert noisy.isfinite().all()
    assert noisy.is_contiguous()


def test_names() -> None:
    for name, strength in (("film", 1), ("film0.5", 0.5), ("charge", 1), ("charge2", 2), ("charge0", 0)):
        noise = parse_noise(name)
        assert isinstance(noise, FilmNoise | ChargeNoise)
        assert (noise.name, noise.strength) == (name, strength)
        assert "surrogate" in noise.description
        assert "clip" in noise.description
    assert parse_noise("film1").name == parse_noise("film1.0").name == "film"
    assert parse_noise("film0.50").name == "film0.5"
    assert parse_noise("film-0").name == "film0"
    assert parse_noise("film1.00000001").strength == 1, "one name, one noise"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("flim", "unknown noise 'flim': did you mean 'film'"),
        ("filmy", "unknown noise"),
        ("film0.5_2", "unknown noise"),
        ("film-1", r"'film-1' has a strength out of range; it must lie from 0 .* to 4: film or film0\.5"),
        ("charge4.5", r"'charge4\.5' has a strength out of range; .* charge or charge0\.5"),
        ("charge" + "9" * 400, "strength out of range"),
    ],
)
def test_wrong_names(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_noise(name)
