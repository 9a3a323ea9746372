"""Criteria without clean images: unbiased where their assumptions hold, refused where they do not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_core.errors import UserError
from denoise_core.images.named import load_images
from denoise_core.metrics.clean_free import AUTO, Facts, Scene, choose, criteria, criterion
from denoise_core.metrics.kinds import METRICS
from denoise_core.noise.models import parse_noise
from denoise_core.scenes import Scenes, chosen
from denoise_core.seeding import generator

IMAGES = load_images("bundled_test", channels=1, data_root=None)
CLEAN = [image[:, :160, :160] for image in IMAGES.pixels[:4]]


def blur(size: int) -> Callable[[Tensor], Tensor]:
    """A box: linear, so its error is known in closed form."""
    return lambda image: F.avg_pool2d(F.pad(image[None], [size // 2] * 4, mode="reflect"), size, stride=1)[0]


def scenes(noise: str, frames: int = 3) -> list[Scene]:
    model = parse_noise(noise)
    return [
        Scene(str(k), tuple(model(image[None], generator("scene", k, noise, number))[0] for number in range(frames)))
        for k, image in enumerate(CLEAN)
    ]


def facts(noise: str, frames: int) -> Facts:
    return Facts([Scene(one.image_id, one.frames[:frames]) for one in scenes(noise)])


def errors(noise: str, denoise: Callable[[Tensor], Tensor]) -> list[float]:
    return [
        float((denoise(scene.frames[0]) - clean).square().mean())
        for scene, clean in zip(scenes(noise), CLEAN, strict=True)
    ]


def test_every_criterion_is_a_metric_and_says_what_it_assumes() -> None:
    assert set(criteria()) <= set(METRICS)
    for one in criteria().values():
        assert METRICS[one.name].higher_is_better and one.assumption and one.source
    ranks = [one.rank for one in criteria().values() if one.rank]
    assert ranks == sorted(set(ranks)) and next(iter(criteria())) == "upsnr"
    with pytest.raises(UserError, match=r"no criterion 'sur': .*sure"):
        criterion("sur")


@pytest.mark.parametrize("noise", ["gauss25", "poisson30"])
@pytest.mark.parametrize("name", ["upsnr", "pair_risk"])
def test_frames_estimate_the_error_without_bias(noise: str, name: str) -> None:
    known = facts(noise, 3)
    for size in (1, 3, 7):
        found = [criterion(name).error(blur(size), scene, known) for scene in known.scenes]
        true = errors(noise, blur(size))
        # standard error of a mean of squares over so many pixels
        spread = 4 * float(np.mean([float(scene.frames[1].var()) for scene in known.scenes])) / 160
        assert np.mean(found) == pytest.approx(np.mean(true), abs=spread)


def test_upsnr_is_unbiased_over_many_draws() -> None:
    clean, values, true = CLEAN[0], [], []
    model, one = parse_noise("gauss50"), criterion("upsnr")
    for number in range(60):
        frames = tuple(model(clean[None], generator("draws", number, k))[0] for k in range(3))
        scene = Scene("a", frames)
        values.append(one.error(blur(5), scene, Facts([scene])))
        true.append(float((blur(5)(frames[0]) - clean).square().mean()))
    gap = np.array(values) - np.array(true)
    assert abs(gap.mean()) < 3 * gap.std() / math.sqrt(len(gap))
    assert gap.std() < 0.2 * np.mean(true)


@pytest.mark.parametrize(("noise", "level"), [("gauss25", 25 / 255), ("gauss50", 50 / 255)])
def test_sure_with_a_known_level_is_stein_s_formula_of_a_linear_denoiser(noise: str, level: float) -> None:
    """For y -> Ay the divergence is the trace: that of a 3 x 3 box is 1/9 of the pixels, but for its borders."""
    known = Facts(facts(noise, 1).scenes, known_sigma=level)
    for scene in known.scenes:
        noisy = scene.frames[0]
        fidelity = float((blur(3)(noisy) - noisy).square().mean())
        stein = fidelity - level**2 + 2 * level**2 / 9
        assert criterion("sure").error(blur(3), scene, known) == pytest.approx(stein, abs=0.03 * level**2)


def test_sure_follows_the_variance_of_shot_noise() -> None:
    known = facts("poisson30", 1)
    found = np.mean([criterion("sure").error(blur(5), scene, known) for scene in known.scenes])
    assert found == pytest.approx(np.mean(errors("poisson30", blur(5))), rel=0.35)


@pytest.mark.parametrize("name", ["sure", "recorrupted", "thinning", "neighbour_risk"])
def test_the_better_of_three_denoisers_is_found(name: str) -> None:
    noise = "poisson30" if name == "thinning" else "gauss25"
    known = facts(noise, 1)
    true = [np.mean([-10 * math.log10(error) for error in errors(noise, blur(size))]) for size in (1, 3, 9)]
    found = [
        np.mean([criterion(name).decibels(blur(size), scene, known) for scene in known.scenes]) for size in (1, 3, 9)
    ]
    assert int(np.argmax(found)) == int(np.argmax(true)) == 1


def test_whiteness_sees_structure_in_the_residual() -> None:
    known = facts("gauss25", 1)
    by_clean = dict(zip([scene.image_id for scene in known.scenes], CLEAN, strict=True))
    for scene in known.scenes:
        perfect = criterion("whiteness").decibels(lambda _, scene=scene: by_clean[scene.image_id], scene, known)
        assert perfect > criterion("whiteness").decibels(blur(9), scene, known) + 6


def test_correlated_noise_licenses_frames_only() -> None:
    clean = CLEAN[0]

    def frame(number: int) -> Tensor:
        white = torch.randn(1, 1, 162, 162, generator=generator("blurred", number))
        return clean + F.avg_pool2d(white, 3, stride=1)[0] * 0.3

    three = Facts([Scene("a", tuple(frame(k) for k in range(3)))])
    single = Facts([Scene("a", (frame(0),))])
    with pytest.raises(UserError, match=r"No criterion can be trusted.*SURE: the noise of neighbouring.*Record each"):
        choose(AUTO, single)
    with pytest.raises(UserError, match=r"SURE cannot be trusted here: .* correlated"):
        choose("sure", single)
    assert choose(AUTO, three).criterion.name == "upsnr"


def test_frames_that_differ_in_brightness_are_refused() -> None:
    """As film noise does: each frame has a field of its own."""
    frames = []
    for number in range(3):
        field = F.interpolate(torch.rand(1, 1, 4, 4, generator=generator("field", number)), size=160, mode="bilinear")
        frames.append(CLEAN[0] * (0.7 + 0.3 * field[0]) + 0.02 * torch.randn(1, 160, 160, generator=generator(number)))
    with pytest.raises(UserError, match=r"uPSNR cannot be trusted here: .*(brightness|aligned)"):
        choose("upsnr", Facts([Scene("a", tuple(frames))]))


def test_film_noise_is_refused_with_and_without_frames() -> None:
    seen = Scenes(load_images("em_generated[0:4]", channels=1, data_root=None), parse_noise("film"))
    for name in ("upsnr", "pair_risk", AUTO):
        with pytest.raises(UserError, match="trusted"):
            chosen(name, seen)


def test_counts_are_told_from_other_values() -> None:
    assert criterion("thinning").refusal(facts("poisson30", 1)) is None
    assert criterion("thinning").refusal(facts("gauss25", 1)) is not None
    assert "no photon counts" in str(criterion("thinning").refusal(facts("hg40_10", 1)))
    assert choose(AUTO, facts("poisson30", 1)).criterion.name == "thinning"
    assert choose(AUTO, facts("gauss25", 1)).criterion.name == "sure"
    assert choose(AUTO, facts("gauss25", 2)).criterion.name == "pair_risk"
    assert choose(AUTO, facts("gauss25", 3)).criterion.name == "upsnr"
