"""Likelihoods and posterior mean of D-BSN against NumPy transcriptions of its equations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from denoise_core import gaussian
from denoise_core.networks.noise_level import MeanVariance, NoiseLevel, covariance_of
from denoise_core.seeding import generator

PLACES = [(i, j) for i in range(3) for j in range(i, 3)]
FORMS = ["gray", "diagonal", "full"]
Array = NDArray[np.float64]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed, "gaussian"), dtype=torch.float64)


def covariance(form: str, seed: int, scale: float = 0.01) -> Tensor:
    channels = 1 if form == "gray" else 3
    if form != "full":
        return scale * (0.1 + draw(2, channels, 4, 5, seed=seed).square())
    return scale * (covariance_of(draw(2, 6, 4, 5, seed=seed)) + torch.tensor([0.1, 0, 0, 0.1, 0, 0.1])[:, None, None])


def matrix(covariance: Tensor, channels: int, at: tuple[int, int, int]) -> Array:
    """The covariance of one pixel as a matrix."""
    values = covariance[at[0], :, at[1], at[2]].numpy()
    if len(values) == channels:
        return np.diag(values)
    full = np.zeros((3, 3))
    for value, (i, j) in zip(values, PLACES, strict=True):
        full[i, j] = full[j, i] = value
    return full


def pixels(form: str) -> tuple[int, list[tuple[int, int, int]]]:
    return (1 if form == "gray" else 3), [(n, y, x) for n in range(2) for y in range(4) for x in range(5)]


@pytest.mark.parametrize("form", FORMS)
def test_posterior_mean_is_equation_9(form: str) -> None:
    channels, places = pixels(form)
    noisy, mu = draw(2, channels, 4, 5, seed=1), draw(2, channels, 4, 5, seed=2)
    mean, noise = covariance(form, 3), covariance(form, 4)
    found = gaussian.posterior_mean(noisy, mu, mean, noise)
    for at in places:
        m, n = matrix(mean, channels, at), matrix(noise, channels, at)
        y, u = noisy[at[0], :, at[1], at[2]].numpy(), mu[at[0], :, at[1], at[2]].numpy()
        # the weighting of precisions, of which Eq. 9 is the form for matrices that commute
        expected = np.linalg.solve(np.linalg.inv(m) + np.linalg.inv(n), np.linalg.solve(m, u) + np.linalg.solve(n, y))
        assert np.allclose(found[at[0], :, at[1], at[2]].numpy(), expected, rtol=1e-8)


def literal(residual: Array, mean: Array, noise: Array, kind: str, weight: float) -> float:
    """One pixel's term of Eq. 6 (with the trace at ``weight``) or Eq. 8."""
    total = mean + noise
    quadratic = residual @ np.linalg.inv(total) @ residual
    trace = np.trace(np.linalg.inv(noise) @ mean)
    if kind == "constrained":
        return float(quadratic + np.log(np.linalg.det(noise)) + trace) / 2
    return float(quadratic + np.log(np.linalg.det(total)) + weight * trace) / 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "weight"), [("ordinary", 0.0), ("ordinary", 0.3), ("constrained", 1.0)])
def test_likelihoods_are_the_papers(form: str, kind: str, weight: float) -> None:
    channels, places = pixels(form)
    residual, mean, noise = 0.1 * draw(2, channels, 4, 5, seed=1), covariance(form, 3), covariance(form, 4)
    found = (
        gaussian.constrained(residual, mean, noise)
        if kind == "constrained"
        else gaussian.ordinary(residual, mean, noise, weight)
    )
    terms = []
    for at in places:
        m, n = matrix(mean, channels, at), matrix(noise, channels, at)
        terms.append(literal(residual[at[0], :, at[1], at[2]].numpy(), m, n, kind, weight))
    assert float(found.loss) == pytest.approx(np.mean(terms), rel=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_one_level_for_the_image_is_that_level_everywhere(form: str) -> None:
    channels, _ = pixels(form)
    residual, mean, noise = draw(2, channels, 4, 5, seed=1), covariance(form, 3), covariance(form, 4)[..., :1, :1]
    for likelihood in (gaussian.ordinary, gaussian.constrained):
        spread = likelihood(residual, mean, noise.expand(-1, -1, 4, 5)).loss
        assert torch.allclose(likelihood(residual, mean, noise).loss, spread)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("likelihood", [gaussian.ordinary, gaussian.constrained])
@pytest.mark.parametrize(("mean_scale", "noise_scale"), [(1e-8, 1e-8), (1e4, 1e-8), (1e-8, 1e4), (1e4, 1e4)])
def test_likelihoods_and_gradients_are_finite_at_extreme_variances(
    form: str,
    likelihood: Callable[[Tensor, Tensor, Tensor], gaussian.Likelihood],
    mean_scale: float,
    noise_scale: float,
) -> None:
    channels, _ = pixels(form)
    residual = draw(2, channels, 4, 5).float()
    mean = covariance(form, 3, mean_scale).float().requires_grad_()
    noise = covariance(form, 4, noise_scale).float().requires_grad_()
    found = likelihood(residual, mean, noise)
    found.loss.backward()
    assert mean.grad is not None and noise.grad is not None
    assert torch.isfinite(found.loss) and torch.isfinite(mean.grad).all() and torch.isfinite(noise.grad).all()


def test_samples_have_their_covariance() -> None:
    wanted = covariance("full", 5)[:1, :, :1, :1]
    noise = gaussian.sample(wanted, draw(1, 3, 300, 300, seed=6))
    found = np.cov(noise[0].flatten(1).numpy())
    # 90,000 samples: an entry's standard error is at most 0.5 % of the largest variance
    assert np.allclose(found, matrix(wanted, 3, (0, 0, 0)), atol=0.02 * found.max())


def test_the_factor_is_upper_triangular() -> None:
    entries = draw(1, 6, 1, 1, seed=7)
    upper = np.zeros((3, 3))
    for value, (i, j) in zip(entries.flatten().numpy(), PLACES, strict=True):
        upper[i, j] = value
    assert np.allclose(matrix(covariance_of(entries), 3, (0, 0, 0)), upper @ upper.T)


@pytest.mark.parametrize("form", ["homoscedastic", "heteroscedastic", "multivariate"])
def test_the_noise_level_starts_where_it_is_told(form: str) -> None:
    channels = 3 if form == "multivariate" else 1
    level = NoiseLevel(channels, 4, form, "residual")  # type: ignore[arg-type]
    level.start_at(torch.tensor(0.04))
    found = level(torch.rand(2, channels, 6, 7))
    expected = torch.tensor([0.04, 0, 0, 0.04, 0, 0.04] if form == "multivariate" else [0.04])[:, None, None]
    assert found.shape[2:] == ((6, 7) if form == "heteroscedastic" else (1, 1))
    assert torch.allclose(found, expected.expand_as(found), atol=1e-7)


def test_the_official_start_is_about_five() -> None:
    level = NoiseLevel(1, 16, "homoscedastic", "official")(torch.rand(1, 1, 8, 8))
    assert float(level.detach().sqrt() * 255) == pytest.approx(4.9, abs=0.05)


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (lambda: NoiseLevel(1, 16, "homoscedastic", "residual"), 865),
        (lambda: NoiseLevel(1, 32, "heteroscedastic", "residual"), 3_265),
        (lambda: NoiseLevel(3, 32, "heteroscedastic", "residual"), 3_395),
        (lambda: NoiseLevel(3, 32, "multivariate", "residual"), 3_494),
        (lambda: MeanVariance(96, 1, 16, "residual"), 1_841),
        (lambda: MeanVariance(96, 1, 32, "official"), 4_193),
        (lambda: MeanVariance(96, 3, 32, "residual"), 4_259),
        (lambda: MeanVariance(96, 3, 32, "residual", full=True), 4_358),
    ],
)
def test_parameter_counts_are_those_of_the_code(network: Callable[[], torch.nn.Module], count: int) -> None:
    assert sum(one.numel() for one in network().parameters()) == count
