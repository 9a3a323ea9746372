"""Mixture and correlated noise: statistics, and the official code's formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import signal

from denoise_core.errors import UserError
from denoise_core.metrics.full_reference import measure
from denoise_core.metrics.protocol import PROTOCOLS
from denoise_core.noise.additive import INTERIOR_GAIN, NEIGHBOUR_WEIGHT, OWN_WEIGHT, correlate
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator

NAMES = ("mixa15", "mixb30", "corr25", "corrn25")


def field(name: str, shape: tuple[int, ...] = (1, 1, 1000, 1000)) -> torch.Tensor:
    """Noise in units of 0..255."""
    return 255 * parse_noise(name)(torch.zeros(shape, dtype=torch.float64), generator("noise", name))


@pytest.mark.parametrize(
    ("name", "deviation", "decibel"),
    [("mixa15", 2.776, 39.26), ("mixa25", 4.587, 34.90), ("mixb30", 17.678, 23.18), ("mixb50", 19.131, 22.50)],
)
def test_mixtures_have_the_deviation_and_psnr_of_the_formula(name: str, deviation: float, decibel: float) -> None:
    clean = torch.rand(1, 1, 1000, 1000, generator=generator("clean"))
    noisy = parse_noise(name)(clean, generator("noise", name))
    assert 255 * (noisy - clean).std().item() == pytest.approx(deviation, rel=0.006)  # 4 standard errors of mixture A
    assert measure(PROTOCOLS["canonical"], noisy[0], clean[0])["psnr"] == pytest.approx(decibel, abs=0.05)
    assert abs(255 * (noisy - clean).mean().item()) < 4 * deviation / 1000


def inside(value: float, deviation: float) -> float:
    """P(|N(0, deviation^2)| < value)."""
    return math.erf(value / deviation / math.sqrt(2))


@pytest.mark.parametrize(
    ("name", "level", "narrow", "wide"), [("mixa15", 15, 0.1, 1), ("mixa25", 25, 0.1, 1), ("mixb50", 50, 15, 25)]
)
def test_mixtures_have_the_shares_of_their_parts(name: str, level: float, narrow: float, wide: float) -> None:
    noise = field(name).abs()
    for value in (0.5 * narrow, 2 * narrow, wide, 2.5 * wide, 0.7 * level):
        share = 0.7 * inside(value, narrow) + 0.2 * inside(value, wide) + 0.1 * min(1, value / level)
        assert (noise < value).double().mean().item() == pytest.approx(share, abs=0.002)  # 4 standard errors
    moment = 0.7 * 3 * narrow**4 + 0.2 * 3 * wide**4 + 0.1 * level**4 / 5
    assert noise.pow(4).mean().item() == pytest.approx(moment, rel=0.03)


def test_mixtures_are_white() -> None:
    noise = field("mixa15")[0, 0]
    for neighbour in (noise[1:] * noise[:-1], noise[:, 1:] * noise[:, :-1]):
        assert abs(neighbour.mean().item()) < 0.005 * noise.var().item()


@pytest.mark.parametrize("shape", [(60, 47), (16, 16), (9, 5), (1, 1)])
def test_correlation_is_that_of_the_official_code(shape: tuple[int, int]) -> None:
    white = np.random.default_rng(0).normal(0, 25, shape)
    window = np.ones((16, 16))
    window[8, 8] = 0
    summed = signal.convolve2d(white, window, mode="same", boundary="fill", fillvalue=0)
    expected = white * 0.7 + (1 - 0.7) * summed / math.sqrt(16 * 16 - 1)
    given = torch.from_numpy(white)
    assert np.allclose(correlate(given).numpy(), expected, rtol=0, atol=1e-12)
    assert np.array_equal(given.numpy(), white)


def test_the_window_reaches_further_up_and_left_and_omits_the_upper_left_neighbour() -> None:
    spike = torch.zeros(40, 40, dtype=torch.float64)
    spike[20, 20] = 1
    answer = correlate(spike)
    expected = torch.zeros_like(answer)
    expected[13:29, 13:29] = NEIGHBOUR_WEIGHT  # the pixels y whose window y - 8 .. y + 7 has 20
    expected[21, 21] = 0
    expected[20, 20] += OWN_WEIGHT
    assert torch.allclose(answer, expected, atol=1e-15)


@pytest.mark.parametrize(("name", "deviation"), [("corr15", 15 * 0.7787), ("corr25", 25 * 0.7787), ("corrn25", 25.0)])
def test_correlated_noise_has_its_deviation_away_from_the_border(name: str, deviation: float) -> None:
    noise = field(name)
    assert noise[..., 8:-8, 8:-8].std().item() == pytest.approx(deviation, rel=0.01)
    many = field(name, (20000, 1, 8, 8))
    assert many[..., 0, 0].std().item() == pytest.approx(deviation * 0.7341 / 0.7787, rel=0.02)  # the weaker border


def test_correlation_with_the_next_pixel() -> None:
    # Weights a over the window, less a at (-1, -1), r more at the centre: windows one pixel apart share 240 pixels.
    a, r = NEIGHBOUR_WEIGHT, OWN_WEIGHT
    variance = r**2 + 2 * r * a + 255 * a**2
    expected = (240 * a**2 + 2 * a * (r - a)) / variance
    assert variance == pytest.approx(INTERIOR_GAIN**2)
    assert expected == pytest.approx(0.1819, abs=1e-4)
    noise = field("corrn25")[0, 0, 8:-8, 8:-8]
    for product in (noise[1:] * noise[:-1], noise[:, 1:] * noise[:, :-1]):
        assert product.mean().item() / 625 == pytest.approx(expected, abs=0.008)
    far = noise[:, 17:] * noise[:, :-17]
    assert abs(far.mean().item() / 625) < 0.008


@pytest.mark.parametrize("name", NAMES)
def test_noise_depends_on_the_generator_only(name: str) -> None:
    clean = torch.rand(2, 3, 24, 20, generator=generator("clean"))
    before = clean.clone()
    noise = parse_noise(name)
    noisy = noise(clean, generator(1))
    assert noisy.shape == clean.shape and noisy.dtype == clean.dtype
    assert torch.equal(noisy, parse_noise(name)(clean, generator(1)))
    assert not torch.equal(noisy, noise(clean, generator(2)))
    assert torch.equal(clean, before)
    residual = (noisy - clean).flatten(0, 1)
    assert len({part.numpy().tobytes() for part in residual}) == 6  # images and channels have noise of their own


def test_names_and_descriptions() -> None:
    for name in NAMES:
        assert parse_noise(name).name == name
    assert parse_noise("mixa15.0").name == "mixa15" and parse_noise("corr-0").name == "corr0"
    assert "70 % N(0, 15^2), 20 % N(0, 25^2) or 10 % U(-30, 30)" in parse_noise("mixb30").description
    assert "standard deviation 0.7787 s" in parse_noise("corr25").description
    clean = torch.rand(1, 1, 4, 4, generator=generator("clean"))
    assert torch.equal(parse_noise("corr0")(clean, generator(1)), clean)


@pytest.mark.parametrize("name", ["mixa-1", "mixb-30", "corr-25", "corrn-25", "corr" + 400 * "9"])
def test_levels_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="has a level out of range; levels must be 0 or more: "):
        parse_noise(name)
