"""Criteria without clean images: unbiased where their assumptions hold, refused where they do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_core.errors import UserError
from denoise_core.images.named import load_images
from denoise_core.metrics.clean_free import AUTO, choose, criteria, criterion
from denoise_core.metrics.facts import Facts, Scene
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


LEVELS = (10, 20, 40, 60)
"""Noise of each image, as of pictures with exposures of their own."""


@pytest.mark.parametrize("images", [CLEAN, IMAGES.pixels[:4]], ids=["small", "large"])
def test_images_of_several_exposures_have_noise_of_their_own(images: Sequence[Tensor]) -> None:
    draws = [torch.randn(clean.shape, generator=generator("exposure", k)) for k, clean in enumerate(images)]
    noisy = [clean + level / 255 * draw for clean, level, draw in zip(images, LEVELS, draws, strict=True)]
    known = Facts([Scene(str(k), (image,)) for k, image in enumerate(noisy)])
    assert known.differs and not facts("gauss25", 1).differs and not facts("poisson30", 1).differs
    for scene, clean, level in zip(known.scenes, images, LEVELS, strict=True):
        assert float(known.variance(scene).mean()) == pytest.approx((level / 255) ** 2, rel=0.25)
        for size in (1, 3, 9):
            true = float((blur(size)(scene.frames[0]) - clean).square().mean())
            found = criterion("sure").error(blur(size), scene, known)
            assert found == pytest.approx(true, abs=0.25 * (level / 255) ** 2)


def test_frames_tell_the_noise_of_their_own_scene() -> None:
    pairs = [
        Scene(
            str(k),
            tuple(clean + level / 255 * torch.randn(clean.shape, generator=generator("f", k, n)) for n in (0, 1)),
        )
        for k, (clean, level) in enumerate(zip(CLEAN, LEVELS, strict=True))
    ]
    known = Facts(pairs)
    assert known.differs
    for scene, level in zip(pairs, LEVELS, strict=True):
        assert float(known.variance(scene).mean()) == pytest.approx((level / 255) ** 2, rel=0.05)


def test_estimates_near_zero_and_below_keep_their_order() -> None:
    """With a level that is taken too high every good denoiser's estimate is negative: the better is still told."""
    scene = facts("gauss25", 1).scenes[0]
    known = Facts([scene], known_sigma=30 / 255)
    clean = CLEAN[0]

    def part(share: float) -> Callable[[Tensor], Tensor]:
        """What leaves so much of the noise."""
        return lambda noisy: clean + share * (noisy - clean)

    values = [criterion("sure").decibels(part(share), scene, known) for share in (0.0, 0.1, 0.2, 0.3)]
    assert criterion("sure").error(part(0.0), scene, known) < 0
    assert values == sorted(values, reverse=True) and len(set(values)) == 4


def test_the_scale_goes_on_where_the_logarithm_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    known, sure = facts("gauss25", 1), criterion("sure")
    scene = known.scenes[0]
    level = float(known.variance(scene).mean())
    found = []
    for part in (0.2, 0.0501, 0.05, 0.0499, 0.0, -0.1):
        monkeypatch.setattr(type(sure), "error", lambda *_, part=part: part * level)
        found.append(sure.decibels(blur(1), scene, known) + 10 * math.log10(level))
    assert found[0] == pytest.approx(-10 * math.log10(0.2))
    assert found[1] == pytest.approx(found[2], abs=0.01) and found[3] == pytest.approx(found[2], abs=0.01)
    assert found[1:] == sorted(found[1:])
    monkeypatch.setattr(type(sure), "error", lambda *_: math.nan)
    assert math.isnan(sure.decibels(blur(1), scene, known))


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
    assert choose(AUTO, facts("poisson30", 1)).criterion.name == "sure"  # the other one is never chosen by itself
    assert choose(AUTO, facts("gauss25", 1)).criterion.name == "sure"
    assert choose(AUTO, facts("gauss25", 2)).criterion.name == "pair_risk"
    assert choose(AUTO, facts("gauss25", 3)).criterion.name == "upsnr"
