"""Metrics of generated noise, camera-like noise, the fitted white noise beside which they stand, what is measured."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from denoise_core.diagnostics import describe_noise
from denoise_core.errors import UserError
from denoise_core.evaluation import Evaluation, draws, evaluate, noise_pictures, validation
from denoise_core.images.image_set import ImageSet
from denoise_core.images.source import SimulatedNoiseSource
from denoise_core.method import Method, create, methods
from denoise_core.methods.danet_baselines import FittedNoise
from denoise_core.metrics.clean_free import criteria
from denoise_core.metrics.generation import FLOOR, WINDOW, akld, local_variance
from denoise_core.metrics.kinds import METRICS
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator
from denoise_core.specification import DataSpec, LoadedData
from denoise_core.trainer import Ranks, Trainer

Array = npt.NDArray[np.float64]
OPENCV_7 = (0.03125, 0.109375, 0.21875, 0.28125, 0.21875, 0.109375, 0.03125)
CPU = torch.device("cpu")


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed, "test"))


# ---- AKLD ----


def transcribed(clean: Array, noisy: Array, generated: list[Array]) -> float:
    """Eq. 10 to 13 pixel by pixel."""

    def variance(image: Array) -> Array:
        squares, result = (image - clean) ** 2, np.zeros(clean.shape)
        channels, height, width = clean.shape
        padded = np.pad(squares, ((0, 0), (3, 3), (3, 3)), mode="reflect")
        for channel in range(channels):
            for row in range(height):
                for column in range(width):
                    total = 0.0
                    for i in range(7):
                        for j in range(7):
                            total += OPENCV_7[i] * OPENCV_7[j] * padded[channel, row + i, column + j]
                    result[channel, row, column] = max(total, 1e-10)
        return result

    real, values = variance(noisy), []
    for one in generated:
        ratio = np.clip(variance(np.clip(one, 0, 1)) / real, 0.1, 10)
        values.append(np.mean((ratio - 1 - np.log(ratio)) / 2))
    return float(np.mean(values))


def test_the_window_is_opencvs_table() -> None:
    assert WINDOW == OPENCV_7
    assert sum(WINDOW) == 1


def test_akld_against_a_transcription() -> None:
    clean = tensor(2, 8, 9)
    noisy, one, two = (clean + 0.2 * (tensor(2, 8, 9, seed=seed) - 0.5) for seed in (1, 2, 3))
    two[0] += 3  # clipped, and beyond the bound of the ratio
    expected = transcribed(
        *(each.double().numpy() for each in (clean, noisy)), [each.double().numpy() for each in (one, two)]
    )
    assert akld(clean, noisy, [one, two]) == pytest.approx(expected, rel=1e-5)


def test_akld_is_nothing_for_equal_images() -> None:
    clean = tensor(3, 12, 12)
    noisy = (clean + 0.1 * tensor(3, 12, 12, seed=1)).clamp(0, 1)
    assert akld(clean, noisy, [noisy, noisy.clone()]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("factor", [0.2, 0.5, 0.8, 1.5, 2.0, 5.0])
def test_akld_of_a_wrong_level_is_the_formulas(factor: float) -> None:
    clean, noise = torch.full((1, 20, 20), 0.5), 0.05 * (tensor(1, 20, 20) - 0.5)
    ratio = min(max(factor**2, 0.1), 10)
    assert akld(clean, clean + noise, [clean + factor * noise]) == pytest.approx(
        0.5 * (ratio - 1 - math.log(ratio)), rel=1e-4
    )


def test_akld_of_no_noise_is_the_bounds() -> None:
    clean = tensor(1, 16, 16)
    assert akld(clean, clean + 0.01, [clean]) == pytest.approx(0.5 * (0.1 - 1 - math.log(0.1)))
    assert float(local_variance(torch.zeros(1, 16, 16)).max()) == pytest.approx(FLOOR)


def test_akld_needs_a_draw() -> None:
    with pytest.raises(ValueError, match="at least one"):
        akld(tensor(1, 8, 8), tensor(1, 8, 8, seed=1), [])


def test_white_noise_scores_better_than_the_true_noise_drawn_anew() -> None:
    """Why AKLD never stands alone."""
    noise, clean = parse_noise("camera25_5"), torch.full((1, 128, 128), 0.5)
    noisy, again = (noise(clean[None], generator("n", index))[0] for index in range(2))
    white = clean + float((noisy - clean).std()) * torch.randn(clean.shape, generator=generator("w"))
    assert akld(clean, noisy, [white]) < 0.8 * akld(clean, noisy, [again])


def test_every_metric_says_which_way_is_better() -> None:
    assert {name: kind.higher_is_better for name, kind in METRICS.items()} == {
        "psnr": True, "ssim": True, "akld": False, "pgap": False, **dict.fromkeys(criteria(), True),
    }  # fmt: skip


# ---- camera-like noise ----


def test_camera_noise_grows_correlates_and_is_clipped() -> None:
    noise = parse_noise("camera25_5")
    for level in (0.3, 0.5, 0.7):
        clean = torch.full((4, 3, 96, 96), level)
        added = noise(clean, generator("camera", level)) - clean
        expected = math.sqrt(25**2 * level + 5**2) / 255
        assert float(added.std()) == pytest.approx(expected, rel=0.02)
        for border in (added[..., 0], added[..., -1, :]):
            assert float(border.std()) == pytest.approx(expected, rel=0.15)
        found = {one.figure: one.y for one in describe_noise("true", added, expected)}
        assert found["noise_autocorrelation"][1:4] == pytest.approx((6 / 11, 1 / 11, 0), abs=0.03)
    edge = noise(torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 64, 64), generator("edge"))
    assert float(edge.min()) == 0
    assert float(edge.max()) == 1


@pytest.mark.parametrize("name", ["camera-1_5", "camera0_0", "camera5_-1"])
def test_camera_noise_refuses_levels_out_of_range(name: str) -> None:
    with pytest.raises(UserError, match="levels must be 0 or more, and one above 0"):
        parse_noise(name)


# ---- fitted white noise ----


def image_set(name: str, count: int = 3, side: int = 40) -> ImageSet:
    pictures = [tensor(3, side, side, seed=index) for index in range(count)]
    return ImageSet(name, tuple(f"{name}{index}" for index in range(count)), tuple(pictures))


def trained(name: str, steps: int, **config: object) -> Method:
    recipe = replace(methods()[name].recipes["smoke"], steps=steps)
    one = create(name, {**recipe.config, **config}, 3, 0)
    source = SimulatedNoiseSource(image_set("train"), parse_noise("camera25_5"), "frozen", seed=5, device=CPU)
    for _ in Trainer(one, source, recipe, 0).run():
        pass
    return one


def test_fitted_noise_has_the_pairs_level_at_each_intensity_and_no_correlation() -> None:
    one, camera = trained("fitted_noise", 60), parse_noise("camera25_5")
    for level in (0.2, 0.5, 0.8):
        clean = torch.full((1, 3, 128, 128), level)
        ours, true = (one.generate(clean, generator("a")) - clean, camera(clean, generator("b")) - clean)
        assert float(ours.std()) == pytest.approx(float(true.std()), rel=0.15)
        lag = {each.figure: each.y[0] for each in describe_noise("x", ours, 0.1)}["noise_lag1"]
        assert abs(lag) < 0.02


def test_the_baselines_say_what_they_know_of_the_noise() -> None:
    source = SimulatedNoiseSource(image_set("train"), parse_noise("camera25_5"), "frozen", seed=5, device=CPU)
    found = {(one.figure, one.series): one.y for one in trained("fitted_noise", 60).diagnose(source)}
    assert found["noise_std", "generated"][0] == pytest.approx(found["noise_std", "true"][0], rel=0.1)
    assert abs(found["noise_lag1", "generated"][0]) < 0.05 < found["noise_lag1", "true"][0]
    assert not trained("danet_l1", 3).diagnose(source)


def test_fitted_noise_of_intensities_that_were_not_seen_has_the_mean_level() -> None:
    one = create("fitted_noise", {}, 1, 0)
    assert isinstance(one, FittedNoise)
    one.sums[3] = torch.tensor([100.0, 0.0, 100 * 0.1**2])
    clean = torch.full((1, 1, 64, 64), 0.9)
    assert float((one.generate(clean, generator("a")) - clean).std()) == pytest.approx(0.1, rel=0.05)
    assert torch.equal(one.denoise(clean), clean)


# ---- what an evaluation measures ----


def loaded() -> LoadedData:
    spec = DataSpec(train="train", test=("test",), noise="camera25_5", channels=3)  # type: ignore[call-arg]
    return LoadedData(spec, image_set("train"), image_set("held", 2), (image_set("test", 2),))


def evaluated(one: Method, **params: object) -> Evaluation:
    return evaluate(one, loaded(), CPU, Ranks(), params)


def metrics(found: Evaluation, output: str) -> set[str]:
    return {row.metric for row in found.measurements if row.output == output}


def test_generated_noise_is_measured_for_each_image_and_shown() -> None:
    one = trained("danet", 3, pgap=True)
    found = evaluated(one)
    assert metrics(found, "generated") == {"akld", "pgap"}
    assert metrics(found, "denoised") == metrics(found, "noisy") == {"psnr", "ssim"}
    rows = [row for row in found.measurements if row.output == "generated"]
    assert len(rows) == 2 * 2 * 2  # images, metrics, protocols
    assert {shown.kind for shown in found.previews} == {
        "clean", "noisy", "denoised", "generated", "noise", "generated noise",
    }  # fmt: skip
    plain = evaluated(one, estimate="plain")
    assert not metrics(plain, "generated")
    assert {shown.kind for shown in plain.previews} == {"clean", "noisy", "denoised"}


def test_what_only_generates_noise_is_not_measured_as_a_denoiser() -> None:
    found = evaluated(trained("fitted_noise", 3))
    assert metrics(found, "generated") == {"akld"}
    assert metrics(found, "noisy") == {"psnr", "ssim"}
    assert not metrics(found, "denoised")
    assert "denoised" not in {shown.kind for shown in found.previews}


def test_pgap_is_the_difference_of_the_twins() -> None:
    one = trained("danet", 3, pgap=True)
    found = {
        estimate: {row.image_id: row.value for row in evaluated(one, estimate=estimate).measurements
                   if (row.metric, row.output, row.protocol) == ("psnr", "denoised", "canonical")}
        for estimate in ("plain", "synthetic")
    }  # fmt: skip
    gaps = {row.image_id: row.value for row in evaluated(one).measurements
            if (row.metric, row.protocol) == ("pgap", "canonical")}  # fmt: skip
    for image, gap in gaps.items():
        assert gap == pytest.approx(found["plain"][image] - found["synthetic"][image], abs=1e-9)


def test_draws_depend_on_image_and_number_only() -> None:
    one, clean = trained("danet", 3), tensor(3, 20, 20)
    first, second = draws(one, clean, "a", 2, CPU)
    assert not torch.equal(first, second)
    assert torch.equal(first, next(iter(draws(one, clean, "a", 1, CPU))))
    assert not torch.equal(first, next(iter(draws(one, clean, "b", 1, CPU))))
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


def test_validation_has_akld_where_noise_is_generated() -> None:
    assert set(validation(trained("danet", 3), loaded(), CPU)) == {"psnr", "akld"}
    assert set(validation(trained("danet_l1", 3), loaded(), CPU)) == {"psnr"}


def test_pictures_share_the_scale_of_the_real_noise() -> None:
    clean = torch.full((1, 32, 32), 0.5)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=generator("n"))
    pictures = noise_pictures(clean, noisy, clean + 2 * (noisy - clean))
    assert torch.allclose(pictures["generated noise"] - 0.5, 2 * (pictures["noise"] - 0.5), atol=1e-5)
    assert float(pictures["noise"].std()) == pytest.approx(1 / 6, rel=1e-3)
