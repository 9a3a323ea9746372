"""Heteroscedastic and multivariate Gaussian noise: statistics, names, and the official code's formulas."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from scipy.linalg import orth

from denoise_core.errors import UserError
from denoise_core.noise.heteroscedastic import (
    VALIDATION_COVARIANCE,
    DrawnMultivariate,
    Heteroscedastic,
    Multivariate,
    NamedCovariance,
)
from denoise_core.noise.models import noise_families, parse_noise
from denoise_core.seeding import generator
from denoise_core.specification import DataSpec, load_data

LEVELS = (0.1, 0.5, 0.9)
FORMS = {"hg40_10": (16.1, 30.0, 39.2), "hgt40_10": (10.8, 22.4, 37.4), "hgv40_10": (14.0, 30.0, 46.0)}
NAMES = (*FORMS, "mg75", "mgdraw75", "cov3439_175_286_3701_289_3361")
PIXELS = 1_000_000
DEVIATION = 5 / math.sqrt(2 * PIXELS)  # relative: 5 standard errors of a standard deviation
CORRELATION = 5 / math.sqrt(PIXELS)  # 5 standard errors of a mean of products of unit variance


def heteroscedastic(name: str) -> Heteroscedastic:
    model = parse_noise(name)
    assert isinstance(model, Heteroscedastic)
    return model


def channel_covariance(noise: torch.Tensor) -> torch.Tensor:
    """(3, 3) of noise (3, H, W) of zero mean."""
    flat = noise.flatten(1).double()
    return flat @ flat.T / flat.shape[1]


def within_errors(found: torch.Tensor, expected: torch.Tensor, pixels: int) -> bool:
    """Whether a measured covariance lies within 5 standard errors, sqrt((s_ii s_jj + s_ij^2) / n), of the true one."""
    variances = expected.diagonal()
    errors = ((variances[:, None] * variances + expected.square()) / pixels).sqrt()
    return bool(((found - expected).abs() < 5 * errors).all())


@pytest.mark.parametrize("name", FORMS)
def test_the_three_forms_have_their_deviations(name: str) -> None:
    model = heteroscedastic(name)
    for level, expected in zip(LEVELS, FORMS[name], strict=True):
        clean = torch.full((1, 1, 1000, 1000), level)
        noise = 255 * (model(clean, generator("noise", name, level)) - clean)
        true = 255 * model.std(clean)
        assert true.shape == clean.shape and true.min() == true.max()
        assert true.mean().item() == pytest.approx(expected, abs=0.05)  # as the fact sheet rounds
        assert noise.std().item() == pytest.approx(true.mean().item(), rel=DEVIATION)
        assert abs(noise.mean().item()) < CORRELATION * expected


def test_training_form_is_the_sum_of_two_draws_and_validation_form_one_draw_twice() -> None:
    values = torch.linspace(0, 1, 5)
    clean = values[:, None, None].expand(5, 1000, 1000)[None]
    first, second = (torch.randn(clean.shape, generator=generator(name)) for name in ("z1", "z2"))
    for name, other in (("hgt40_10", second), ("hgv40_10", first)):
        deviations = (40 * clean * first + 10 * other).std(dim=(0, 2, 3))
        assert torch.allclose(255 * heteroscedastic(name).std(values), deviations, rtol=DEVIATION, atol=0)


@pytest.mark.parametrize("name", FORMS)
def test_heteroscedastic_noise_is_white_gaussian_and_independent_between_channels(name: str) -> None:
    clean = torch.rand(1, 2, 1000, 1000, generator=generator("clean"))
    model = heteroscedastic(name)
    unit = ((model(clean, generator("noise")) - clean) / model.std(clean))[0].double()
    assert unit.pow(4).mean().item() == pytest.approx(3, abs=5 * math.sqrt(96 / (2 * PIXELS)))
    assert unit.square().mean().item() == pytest.approx(1, abs=5 * math.sqrt(2 / (2 * PIXELS)))
    for product in (unit[:, 1:] * unit[:, :-1], unit[..., 1:] * unit[..., :-1], unit[0] * unit[1]):
        assert abs(product.mean().item()) < CORRELATION


def test_below_black_the_deviation_is_that_of_black_and_nothing_is_clipped() -> None:
    below = torch.tensor([-0.5, -0.01, 0.0])
    for name in FORMS:
        assert torch.allclose(heteroscedastic(name).std(below), torch.full((3,), 10 / 255))
    noisy = parse_noise("hg40_10")(torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1).expand(1, 2, 50, 50), generator(0))
    assert noisy.min() < 0 and noisy.max() > 1
    without = parse_noise("hg0_25")(torch.zeros(1, 1, 8, 8), generator(3))
    assert torch.allclose(without, parse_noise("gauss25")(torch.zeros(1, 1, 8, 8), generator(3)))


def test_validation_covariance_is_that_of_the_official_code() -> None:
    shares = np.random.RandomState(0).rand(3)
    basis = orth(np.random.RandomState(0).rand(3, 3))
    drawn = np.abs(75**2 * basis.T @ np.diag(shares) @ basis)
    assert np.abs(drawn - np.array(VALIDATION_COVARIANCE)).max() < 0.05


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("mg75", VALIDATION_COVARIANCE),
        ("mg30", tuple(tuple(0.16 * entry for entry in row) for row in VALIDATION_COVARIANCE)),
        ("cov900_-300_20.5_625_0_100", ((900, -300, 20.5), (-300, 625, 0), (20.5, 0, 100))),
    ],
)
def test_fixed_covariances(name: str, rows: tuple[tuple[float, ...], ...]) -> None:
    model = parse_noise(name)
    assert isinstance(model, Multivariate | NamedCovariance)
    expected = torch.tensor(rows, dtype=torch.float64)
    assert torch.allclose(255**2 * model.covariance, expected, rtol=1e-12, atol=0)
    clean = torch.rand(1, 3, 1000, 1000, generator=generator("clean"))
    noise = 255 * (model(clean, generator("noise", name)) - clean)[0]
    assert within_errors(channel_covariance(noise), expected, PIXELS)
    assert bool((noise.mean(dim=(1, 2)).abs() < CORRELATION * expected.diagonal().sqrt()).all())
    for product in (noise[:, 1:] * noise[:, :-1], noise[..., 1:] * noise[..., :-1]):
        assert bool((product.mean(dim=(1, 2)).abs() < CORRELATION * expected.diagonal()).all())


def test_drawn_covariances_are_those_of_the_formula_and_new_for_each_image() -> None:
    model = parse_noise("mgdraw75")
    assert isinstance(model, DrawnMultivariate) and model.covariance is None
    noise = 255 * model(torch.zeros(400, 3, 64, 64), generator("noise"))
    found = torch.stack([channel_covariance(one) for one in noise])
    shares = torch.linalg.eigvalsh(found) / 75**2
    assert shares.min() > 0 and shares.max() < 1 + 5 * math.sqrt(2 / 64**2)
    # l ~ U(0, 1) has mean 1/2 and variance 1/12; U leaves nothing between channels on average.
    traces = found.diagonal(dim1=1, dim2=2).sum(1) / 75**2
    assert traces.mean().item() == pytest.approx(1.5, abs=5 * math.sqrt(3 / 12 / 400))
    assert traces.std().item() == pytest.approx(0.5, rel=5 / math.sqrt(2 * 400))
    mean = found.mean(0) / 75**2
    assert bool(((mean - 0.5 * torch.eye(3, dtype=torch.float64)).abs() < 5 * math.sqrt(1 / 12 / 400)).all())


def test_noise_depends_on_the_generator_only() -> None:
    clean = torch.rand(2, 3, 8, 8, generator=generator("clean"))
    before = clean.clone()
    for name in NAMES:
        torch.manual_seed(1)
        first = parse_noise(name)(clean, generator(1))
        torch.manual_seed(2)
        model = parse_noise(name)
        assert torch.equal(first, model(clean, generator(1))), name
        assert torch.equal(first, model(clean, generator(1))), name
        assert not torch.equal(first, model(clean, generator(2))), name
        assert not torch.equal(first[0] - clean[0], first[1] - clean[1]), name
    assert torch.equal(clean, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_types_are_kept(name: str, dtype: torch.dtype) -> None:
    for shape in ((1, 3, 5, 7), (4, 3, 1, 1)):
        noisy = parse_noise(name)(torch.zeros(shape, dtype=dtype), generator(0))
        assert noisy.shape == shape and noisy.dtype == dtype and bool(noisy.isfinite().all())


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("hg40.0_10", "hg40_10"),
        ("hgt040_2.50", "hgt40_2.5"),
        ("hgv0_-0", "hgv0_0"),
        ("hg1000000_0", "hg1000000_0"),
        ("mg075.0", "mg75"),
        ("mgdraw37.5", "mgdraw37.5"),
        ("cov3438.9_175.3_-286.1_3701.2_-0_1000000", "cov3438.9_175.3_-286.1_3701.2_0_1000000"),
    ],
)
def test_names_are_canonical_and_round_trip(given: str, canonical: str) -> None:
    model = parse_noise(given)
    again = parse_noise(model.name)
    assert model.name == again.name == canonical
    assert model.description == again.description and model.description.endswith(".")


def test_every_name_belongs_to_one_family() -> None:
    examples = [example for family in noise_families() for example in family.example.split(" or ")]
    for name in {*examples, *NAMES}:
        assert sum(re.fullmatch(family.pattern, name) is not None for family in noise_families()) == 1, name


@pytest.mark.parametrize("name", ["mg75", "mgdraw75", "cov3439_175_286_3701_289_3361"])
def test_gray_images_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}' .* needs images of 3 channels, .* have 1: use --channels 3"):
        parse_noise(name)(torch.zeros(1, 1, 8, 8), generator(0))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("hg-40_10", "'hg-40_10' has a level out of range; levels must be 0 or more: hg40_10"),
        ("hgv40_-10", "'hgv40_-10' has a level out of range; levels must be 0 or more"),
        ("hg40", "unknown noise 'hg40': did you mean 'hg40_10'"),
        ("hgx40_10", "unknown noise 'hgx40_10'"),
        ("mg0", "'mg0' has a level out of range; levels must be more than 0: mg75"),
        ("mgdraw-75", "'mgdraw-75' has a level out of range; levels must be more than 0: mgdraw75"),
        ("mg" + "9" * 400, "has a level out of range"),
        ("cov100_50_0_100_0", "unknown noise"),
        ("cov1_2_0_1_0_1", r"not positive definite: its smallest eigenvalue is -1 .*write larger variances"),
        ("cov1_1_1_1_1_1", "not positive definite"),
        ("cov-5_0_0_1_0_1", "its smallest eigenvalue is -5 "),
        ("cov" + "9" * 400 + "_0_0_1_0_1", "a number out of range; all must be finite"),
    ],
)
def test_wrong_names(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_noise(name)


@pytest.mark.parametrize("name", ["mg75", "mgdraw75", "cov100_0_0_100_0_100"])
def test_colour_noise_on_gray_images_is_refused_before_training(name: str) -> None:
    with pytest.raises(UserError, match="--channels 3"):
        load_data(DataSpec(noise=name), None)
