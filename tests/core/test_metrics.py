"""PSNR and SSIM against scikit-image and against a plain transcription of a paper's definition."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from denoise_core.errors import TrainingDiverged, UserError
from denoise_core.metrics.full_reference import MAX_PSNR, measure, psnr, ssim
from denoise_core.metrics.protocol import PROTOCOLS, SSIM
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator

CANONICAL, PAPER = PROTOCOLS["canonical"], PROTOCOLS["neighbor2neighbor"]


def pair(channels: int, height: int = 61, width: int = 83) -> tuple[torch.Tensor, torch.Tensor]:
    """(noisy, clean): a smooth 8-bit image with sigma 25, which leaves [0, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 5, width), indexing="ij")
    clean = torch.stack([(0.5 + 0.5 * torch.sin(x * (k + 1) + y * y)) for k in range(channels)])
    clean = (255 * clean).round() / 255
    return parse_noise("gauss25")(clean[None], generator("metrics"))[0], clean


def slow_ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """SSIM of one channel in 0..255, window by window: Gaussian 11x11, sigma 1.5, valid region."""
    offset = np.arange(11) - 5
    window = np.exp(-(offset[:, None] ** 2 + offset[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    total, count = 0.0, 0
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            p, q = a[top : top + 11, left : left + 11], b[top : top + 11, left : left + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            total += (2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
            count += 1
    return total / count


def to_uint8(image: torch.Tensor) -> NDArray[np.uint8]:
    return np.clip(image.permute(1, 2, 0).numpy() * 255.0 + 0.5, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_neighbor2neighbor_equals_a_literal_transcription(channels: int) -> None:
    noisy, clean = pair(channels, 30, 26)
    a, b = (to_uint8(image).astype(np.float64) for image in (noisy, clean))
    result = measure(PAPER, noisy, clean)
    assert result["psnr"] == pytest.approx(10 * math.log10(255**2 / ((a - b) ** 2).mean()), abs=1e-9)
    expected = np.mean([slow_ssim(a[..., k], b[..., k]) for k in range(channels)])
    assert result["ssim"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_both_protocols_equal_scikit_image(channels: int) -> None:
    noisy, clean = pair(channels)
    settings = {"gaussian_weights": True, "use_sample_covariance": False, "sigma": 1.5}
    a, b = noisy.double().numpy(), clean.double().numpy()
    result = measure(CANONICAL, noisy, clean)
    assert result["psnr"] == pytest.approx(peak_signal_noise_ratio(b, a, data_range=1), abs=1e-9)
    expected = structural_similarity(a, b, data_range=1, channel_axis=0, **settings)
    assert result["ssim"] == pytest.approx(expected, abs=1e-9)
    result = measure(PAPER, noisy, clean)
    p, q = to_uint8(noisy), to_uint8(clean)
    assert result["psnr"] == pytest.approx(peak_signal_noise_ratio(q, p, data_range=255), abs=1e-9)
    expected = structural_similarity(p, q, data_range=255, channel_axis=2, **settings)
    assert result["ssim"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("sample_covariance", [True, False])
def test_uniform_window_equals_scikit_image(sample_covariance: bool) -> None:
    noisy, clean = pair(1)
    a, b = noisy[0].double().numpy(), clean[0].double().numpy()
    settings = SSIM("uniform", 7, 0.0, sample_covariance, data_range="prediction")
    expected = structural_similarity(
        a, b, win_size=7, use_sample_covariance=sample_covariance, data_range=a.max() - a.min()
    )
    assert ssim(noisy.double(), clean.double(), settings) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_protocol_of_dbsn_clips_the_prediction_only(channels: int) -> None:
    noisy, clean = pair(channels)
    assert noisy.min() < 0 or noisy.max() > 1
    a, b = noisy.clamp(0, 1).double().numpy(), clean.double().numpy()
    result = measure(PROTOCOLS["dbsn"], noisy, clean)
    assert result["psnr"] == pytest.approx(peak_signal_noise_ratio(b, a, data_range=1), abs=1e-9)
    settings = {"gaussian_weights": True, "use_sample_covariance": False, "sigma": 1.5}
    expected = structural_similarity(a, b, data_range=1, channel_axis=0, **settings)
    assert result["ssim"] == pytest.approx(expected, abs=1e-9)


def test_clipping_and_rounding_are_what_they_say() -> None:
    clean = torch.zeros(1, 16, 16)
    prediction = torch.full_like(clean, -0.5)
    assert measure(CANONICAL, prediction, clean)["psnr"] == pytest.approx(10 * math.log10(4))
    assert measure(PAPER, prediction, clean)["psnr"] == MAX_PSNR
    half = torch.full_like(clean, 2.49 / 255)
    assert measure(PAPER, half, clean)["psnr"] == pytest.approx(20 * math.log10(255 / 2))
    clipped = replace(CANONICAL, clip_prediction=True)
    assert measure(clipped, prediction, clean)["psnr"] == MAX_PSNR


def test_identical_images() -> None:
    _, clean = pair(3)
    for protocol in PROTOCOLS.values():
        assert measure(protocol, clean, clean) == {"psnr": 100.0, "ssim": pytest.approx(1.0, abs=1e-12)}


def test_the_names_agree_with_the_protocols() -> None:
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())


def test_bad_input() -> None:
    small = torch.zeros(1, 10, 40)
    with pytest.raises(UserError, match="at least 11 x 11 pixels, this one has 10 x 40"):
        measure(CANONICAL, small, small)
    image = torch.zeros(1, 16, 16)
    for value in (math.nan, math.inf):
        with pytest.raises(TrainingDiverged, match="NaN or infinite"):
            measure(PAPER, torch.full_like(image, value), image)
    with pytest.raises(ValueError, match="one shape"):
        measure(CANONICAL, torch.zeros(3, 16, 16), image)


def test_values_that_are_not_finite_never_score() -> None:
    image = torch.rand(1, 16, 16)
    broken = image.clone()
    broken[0, 0, 0] = float("nan")
    assert math.isnan(psnr(broken, image, 1.0))
