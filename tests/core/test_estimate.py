"""Correlation of noise, measured from noisy images alone, and what a method is told of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_core.assumptions import correlation_warning, measured_correlation, takes_pixels_as_independent
from denoise_core.images.named import KNOWN, load_images
from denoise_core.method import create, method_class
from denoise_core.noise.estimate import CORRELATED, Correlation, noise_correlation
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator
from denoise_core.specification import DataSpec, load_data


def scene(number: int, side: int = 96) -> Tensor:
    """(1, side, side): half of it smooth, half of it a texture."""
    draw = generator("scene", number)
    ramp = torch.linspace(0.2, 0.8, side).expand(1, side, side).clone()
    coarse = torch.rand(1, 1, side // 4, side // 8, generator=draw)
    texture = F.interpolate(coarse, size=(side, side // 2), mode="bilinear")[0]
    ramp[:, :, side // 2 :] = texture
    return ramp


def noisy(sigma: float, edge: int = 1) -> list[Tensor]:
    """Scenes with Gaussian noise that is blurred edge x edge, with a deviation of sigma/255 after it."""
    found = []
    for number in range(12):
        clean = scene(number)
        white = torch.randn(1, 1, 96 + edge - 1, 96 + edge - 1, generator=generator("noise", number))
        found.append(clean + F.avg_pool2d(white, edge, stride=1)[0] * edge * sigma / 255)
    return found


@pytest.mark.parametrize("sigma", [10, 25, 50])
def test_white_noise_is_white_and_blurred_noise_is_not(sigma: float) -> None:
    white = noise_correlation(noisy(sigma))
    assert abs(white.lag1) < 0.05
    assert not white.correlated
    assert 255 * white.deviation == pytest.approx(sigma, rel=0.1)
    for edge, true in ((2, 1 / 2), (3, 2 / 3)):
        blurred = noise_correlation(noisy(sigma, edge))
        assert (blurred.horizontal, blurred.vertical) == pytest.approx((true, true), abs=0.05)
        assert blurred.correlated


def test_both_directions_are_told_apart() -> None:
    rows = [image + 0 for image in noisy(0)]
    for number, image in enumerate(rows):
        white = torch.randn(1, 96, 97, generator=generator("rows", number))
        image += (white[:, :, 1:] + white[:, :, :-1]) * 25 / 255
    found = noise_correlation(rows)
    assert found.horizontal == pytest.approx(0.5, abs=0.05)
    assert abs(found.vertical) < 0.05


def test_nothing_is_measured_of_what_is_too_small_or_constant() -> None:
    nothing = Correlation(0.0, 0.0, 0.0, 0)
    assert noise_correlation([]) == nothing
    assert noise_correlation([torch.rand(1, 15, 200)]) == nothing
    assert noise_correlation([torch.full((3, 64, 64), 0.5)]) == nothing
    assert noise_correlation([torch.rand(3, 20, 40, generator=generator(0))]).windows == 1


def test_the_number_of_pixels_is_bounded() -> None:
    many = [torch.rand(1, 64, 64, generator=generator(0))] * 5000
    large = [torch.rand(1, 2048, 2048, generator=generator(1))]
    started = time.process_time()
    assert noise_correlation(many).windows <= 0.05 * 200 * 4 + 1
    assert noise_correlation(large).windows <= 0.05 * 64 + 1
    assert time.process_time() - started < 2


@pytest.mark.parametrize("name", ["bundled_train", "em_generated[0:8]"])
@pytest.mark.parametrize(("noise", "correlated"), [("gauss10", False), ("gauss25", False), ("film", True)])
def test_images_that_need_no_download(name: str, noise: str, correlated: bool) -> None:
    images = load_images(name, channels=None, data_root=None)
    draws = [parse_noise(noise)(image[None], generator(index))[0] for index, image in enumerate(images.pixels)]
    assert noise_correlation(draws).correlated is correlated


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("w2s", -0.02, 0.02), ("fmd", 0.3, 0.6), ("sidd_sample", 0.15, 0.35), ("cc15", 0.4, 0.7)],
)
def test_recorded_noise(data_root: Path, name: str, low: float, high: float) -> None:
    if not (data_root / (KNOWN[name].folder or name)).is_dir():
        pytest.skip(f"the data pack has no {name}")
    images = load_images(name, channels=None, data_root=data_root)
    assert images.noisy is not None
    assert low < noise_correlation(images.noisy).lag1 < high


def test_methods_that_take_pixels_as_independent_are_told() -> None:
    measured = Correlation(0.5, 0.3, 0.1, 40)
    own = create("neighbor2neighbor", method_class("neighbor2neighbor").recipes["smoke"].config, 1, 0)
    found = correlation_warning(own, measured)
    assert found is not None
    assert "correlated (0.40, over 40 flat windows), but neighbor2neighbor takes it as independent" in found
    assert found.endswith("such as gan2gan.")
    assert correlation_warning(own, Correlation(CORRELATED, 0, 0.1, 40)) is None
    other = create("gan2gan", method_class("gan2gan").recipes["smoke"].config, 1, 0)
    assert correlation_warning(other, measured) is None


def test_pixel_shuffle_is_a_remedy() -> None:
    kind = method_class("dbsn")
    plain, shuffled = (create("dbsn", {**kind.recipes["smoke"].config, "pixel_shuffle": n}, 1, 0) for n in (1, 4))
    warning = correlation_warning(plain, Correlation(0.5, 0.5, 0.1, 40))
    assert warning is not None
    assert "--set pixel_shuffle=4" in warning
    assert not takes_pixels_as_independent(shuffled)


@pytest.mark.parametrize(
    ("noise", "realisation"), [("gauss25", "fresh"), ("gauss25", "frozen"), ("poisson30", "fresh")]
)
def test_what_a_training_sees_is_measured_the_same_way_each_time(noise: str, realisation: str) -> None:
    fields = {"noise": noise, "noise_realisation": realisation, "train": "bundled_train[0:4]"}
    data = load_data(DataSpec.model_validate(fields), None)
    found = measured_correlation(data)
    assert found == measured_correlation(data)
    assert abs(found.lag1) < 0.05
    assert found.windows > 100
