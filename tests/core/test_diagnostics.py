"""What is said about learned noise, against noise whose statistics are known in closed form."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor

from denoise_core.diagnostics import (
    BINS,
    EXTRACTED,
    FIGURES,
    GENERATED,
    LAGS,
    TRUE,
    Diagnostic,
    describe_noise,
    describe_patches,
    rows,
)

SIGMA = 25.0


def by_figure(found: list[Diagnostic], series: str) -> dict[str, Diagnostic]:
    return {one.figure: one for one in found if one.series == series}


def white(*shape: int, std: float = SIGMA) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)) * std / 255


def test_white_noise_has_its_standard_deviation_no_correlation_and_the_normal_density() -> None:
    found = by_figure(describe_noise(GENERATED, white(16, 1, 128, 128) + 0.1, SIGMA / 255), GENERATED)
    assert found["noise_std"].y[0] == pytest.approx(SIGMA, rel=0.01) and found["noise_std"].x == (0.0,)
    assert found["noise_lag1"].y[0] == pytest.approx(0, abs=0.01)
    correlation = found["noise_autocorrelation"]
    assert correlation.x == tuple(range(LAGS + 1)) and correlation.y[0] == 1.0
    assert max(abs(value) for value in correlation.y[1:]) < 0.01
    centred = by_figure(describe_noise(GENERATED, white(16, 1, 128, 128), SIGMA / 255), GENERATED)["noise_histogram"]
    x, y = np.array(centred.x), np.array(centred.y)
    assert len(x) == BINS and x[BINS // 2] == pytest.approx(0, abs=1e-9)
    assert y.sum() * (x[1] - x[0]) == pytest.approx(1, abs=1e-3)
    normal = np.exp(-(x**2) / (2 * SIGMA**2)) / (SIGMA * np.sqrt(2 * np.pi))
    assert np.abs(y - normal).max() < 0.05 * normal.max()
    shifted = found["noise_histogram"]  # the mean is part of what is seen, though not of the standard deviation
    assert shifted.x == centred.x and np.dot(shifted.x, shifted.y) * (x[1] - x[0]) == pytest.approx(25.5, rel=0.02)


def test_averaged_pixels_are_correlated_as_they_must_be() -> None:
    noise = torch.nn.functional.avg_pool2d(white(64, 1, 64, 64), 2, stride=1)  # moving average over 2 x 2
    found = by_figure(describe_noise(GENERATED, noise, SIGMA / 255), GENERATED)
    assert found["noise_std"].y[0] == pytest.approx(SIGMA / 2, rel=0.01)
    assert found["noise_autocorrelation"].y[:4] == pytest.approx((1.0, 0.5, 0.0, 0.0), abs=0.01)


def test_the_two_directions_are_averaged_and_few_pixels_bias_nothing() -> None:
    rho = 0.6
    drawn = np.random.default_rng(1).normal(size=(400, 1, 12, 212))
    noise = torch.from_numpy(lfilter([1.0], [1.0, -rho], drawn, axis=3)[..., 200:] / 255)  # horizontal AR(1), 12 pixels
    found = by_figure(describe_noise(GENERATED, noise, 1 / 255), GENERATED)
    analytic = [rho**lag / 2 for lag in range(1, LAGS + 1)]
    assert found["noise_autocorrelation"].y[1:] == pytest.approx(analytic, abs=0.015)
    assert found["noise_lag1"].y[0] == found["noise_autocorrelation"].y[1]


def test_a_constant_per_sample_is_full_correlation_and_one_constant_is_none() -> None:
    levels = torch.tensor([-0.1, 0.1]).view(2, 1, 1, 1).expand(2, 1, 16, 16)
    found = by_figure(describe_noise(GENERATED, levels, 0.1), GENERATED)
    assert found["noise_autocorrelation"].y == pytest.approx([1.0] * (LAGS + 1))
    nothing = by_figure(describe_noise(GENERATED, torch.full((2, 1, 16, 16), 0.3), 0.1), GENERATED)
    assert set(nothing) == {"noise_histogram", "noise_std"} and nothing["noise_std"].y[0] == pytest.approx(0)
    small = by_figure(describe_noise(GENERATED, white(8, 3, 4, 6), 0.1), GENERATED)
    assert len(small["noise_autocorrelation"].x) == 4  # no further than the samples reach


def test_values_beyond_the_bins_are_not_hidden_from_the_density() -> None:
    noise = torch.zeros(1, 1, 10, 10)
    noise[..., :5] = 1.0  # half of the values, far outside
    one = by_figure(describe_noise(GENERATED, noise, 0.01), GENERATED)["noise_histogram"]
    assert sum(one.y) * (one.x[1] - one.x[0]) == pytest.approx(0.5)


@pytest.mark.parametrize("scale", [0.0, 25.0])
def test_a_scale_in_another_unit_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="fraction of the intensity range"):
        describe_noise(GENERATED, white(1, 1, 4, 4), scale)
    with pytest.raises(ValueError, match="fraction of the intensity range"):
        describe_patches(torch.ones(3), scale)
    with pytest.raises(ValueError, match="shape"):
        describe_noise(GENERATED, white(4, 4), 0.1)


def test_patches_are_counted_on_one_grid_with_a_peak_of_one() -> None:
    sigmas = torch.normal(SIGMA, 0.6, (812,), generator=torch.Generator().manual_seed(0)) / 255
    found = describe_patches(sigmas, SIGMA / 255)
    ours, true = by_figure(found, EXTRACTED), by_figure(found, TRUE)
    assert ours["patch_count"].y == (812.0,) and true["patch_sigma_mean"].y[0] == pytest.approx(SIGMA)
    assert ours["patch_sigma_mean"].y[0] == pytest.approx(SIGMA, abs=0.1)
    assert ours["patch_sigma_spread"].y[0] == pytest.approx(0.6, abs=0.05)
    line = ours["patch_sigma"]
    assert max(line.y) == 1.0 and line.y[0] == line.y[-1] == 0.0
    assert abs(line.x[line.y.index(1.0)] - SIGMA) < 0.6
    others = by_figure(describe_patches(sigmas * 1.3, SIGMA / 255), EXTRACTED)["patch_sigma"]
    width = line.x[1] - line.x[0]
    assert width == pytest.approx(0.5)
    assert {x for x in others.x if x in line.x} == {x for x in others.x if x < line.x[-1] + width / 2}  # bit for bit


def test_no_patches_no_truth_and_patches_without_noise() -> None:
    assert describe_patches(torch.zeros(0), None) == [Diagnostic("patch_count", EXTRACTED, (0.0,), (0.0,))]
    flat = by_figure(describe_patches(torch.zeros(5), None), EXTRACTED)["patch_sigma"]
    assert flat.x == (0.0, 0.5) and flat.y == (1.0, 0.0)


def test_every_diagnostic_has_a_text_and_becomes_rows() -> None:
    found = [*describe_noise(TRUE, white(2, 1, 16, 16), 0.1), *describe_patches(torch.full((4,), 0.1), 0.1)]
    assert {one.figure for one in found} <= set(FIGURES)
    made = rows("a", found)
    assert len(made) == sum(len(one.x) for one in found)
    assert made[0] == {
        "trial_id": "a", "figure": "noise_histogram", "series": TRUE, "x": found[0].x[0], "y": found[0].y[0],
    }  # fmt: skip


def test_the_core_knows_nothing_of_reports() -> None:
    absent = "assert not {'ray', 'optuna', 'plotly', 'pyarrow', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys, denoise_core.diagnostics; {absent}"], check=True)
