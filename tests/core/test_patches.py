"""Smooth patches against the papers' rules, window by window; every refusal; the slope of the variance."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.images import smooth_rules
from denoise_core.images.patches import (
    Scored,
    SmoothPatches,
    choose,
    extract,
    signal_dependence,
    variance_slope,
)
from denoise_core.images.smooth_rules import SmoothRule, VarianceRule, WaveletRule, plain_scores

RAMP = torch.linspace(0, 1, 4096).reshape(1, 64, 64)


def structured(shape: tuple[int, int, int], seed: int, sigma: float = 0.05) -> Tensor:
    """Flat parts, a ramp, an edge and a fine texture under Gaussian noise."""
    channels, height, width = shape
    draw = torch.Generator().manual_seed(seed)
    down, right = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    clean = 0.3 + 0.2 * (right > 0.6) + 0.3 * down * (down > 0.7)
    clean += 0.1 * (down < 0.3) * (right < 0.3) * torch.sin(100 * right)
    return clean * torch.linspace(1, 0.8, channels)[:, None, None] + sigma * torch.randn(shape, generator=draw)


def noise(count: int, side: int, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [0.5 + 0.1 * torch.randn((1, side, side), generator=draw) for _ in range(count)]


def scored(images: Sequence[Tensor], rule: SmoothRule | None = None) -> Scored:
    rule = WaveletRule(16, 8) if rule is None else rule
    return extract(images, [f"image{i}" for i in range(len(images))], rule, cache_parts=None)


@settings(max_examples=25, deadline=None)
@given(
    size=st.sampled_from([4, 10, 16, 24]),
    stride=st.integers(1, 13),
    channels=st.sampled_from([1, 3]),
    extra=st.tuples(st.integers(0, 31), st.integers(0, 31)),
    seed=st.integers(0, 99),
)
def test_shared_transform_equals_a_transform_of_each_window(
    size: int, stride: int, channels: int, extra: tuple[int, int], seed: int
) -> None:
    rule, image = WaveletRule(size, stride), structured((channels, size + extra[0], size + extra[1]), seed)
    expected = plain_scores(rule, image)
    assert expected.shape == (extra[0] // stride + 1, extra[1] // stride + 1)
    torch.testing.assert_close(rule.scores([image])[0], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_defaults_keep_the_same_patches_in_strips_and_far_from_zero(
    offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = structured((1, 301, 261), 3) + offset
    fast, plain = WaveletRule().scores([image])[0], plain_scores(WaveletRule(), image)
    assert fast.shape == (9, 7)
    for threshold in (0.0075, 0.01, 0.015, 0.03, 0.1, 0.42):
        assert torch.equal(fast <= threshold, plain <= threshold)
    monkeypatch.setattr("denoise_core.images.smooth_rules.STRIP", 1)
    torch.testing.assert_close(WaveletRule().scores([image])[0], fast, rtol=1e-6, atol=0)


@settings(max_examples=15, deadline=None)
@given(
    stride=st.integers(3, 12),
    sub=st.sampled_from([(4, 4), (6, 3), (5, 2), (16, 7)]),
    channels=st.sampled_from([1, 3]),
    extra=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    seed=st.integers(0, 99),
)
def test_variance_rule_equals_a_literal_loop(
    stride: int, sub: tuple[int, int], channels: int, extra: tuple[int, int], seed: int
) -> None:
    rule = VarianceRule(16, stride, *sub, mean_tolerance=0.15, variance_tolerance=0.9)
    image = structured((channels, 16 + extra[0], 16 + extra[1]), seed)
    result = rule.scores([image])[0]
    for (i, j), score in np.ndenumerate(result.numpy()):
        window = image[:, i * stride : i * stride + 16, j * stride : j * stride + 16].double().numpy()
        assert score == (0 if all(literally_smooth(channel, rule) for channel in window) else math.inf)


def literally_smooth(window: np.ndarray, rule: VarianceRule) -> bool:
    """Eq. 3, sub-patch by sub-patch."""
    starts = range(0, len(window) - rule.sub_size + 1, rule.sub_stride)
    parts = [window[i : i + rule.sub_size, j : j + rule.sub_size] for i in starts for j in starts]
    return all(
        abs(part.mean() - window.mean()) <= rule.mean_tolerance * window.mean()
        and abs(part.var() - window.var()) <= rule.variance_tolerance * window.var()
        for part in parts
    )


def test_variance_rule_tells_flat_from_structure() -> None:
    image = structured((1, 256, 256), 1)
    image[:, :128, :128] = 0.5 + 0.01 * torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    accepted = VarianceRule(variance_tolerance=0.5).scores([image])[0] == 0
    assert accepted[:3, :3].all() and 9 <= accepted.sum() < accepted.numel()


@settings(max_examples=15, deadline=None)
@given(
    stride=st.integers(1, 13),
    channels=st.sampled_from([1, 3]),
    extra=st.tuples(st.integers(0, 31), st.integers(0, 31)),
    count=st.integers(2, 6),
    colour_last=st.booleans(),
)
def test_images_have_the_same_scores_together_as_alone(
    stride: int, channels: int, extra: tuple[int, int], count: int, colour_last: bool
) -> None:
    images = [structured((channels, 16 + extra[0], 16 + extra[1]), seed) for seed in range(count)]
    if colour_last:  # as files are decoded
        images = [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in images]
    for rule in (WaveletRule(16, stride), VarianceRule(16, stride, 4, 4, 0.15, 0.9)):
        assert torch.equal(rule.scores(images), torch.cat([rule.scores([image]) for image in images]))


def test_images_of_mixed_sizes_keep_their_order_and_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(1, 24, 32), (1, 32, 24), (1, 24, 32), (1, 40, 40), (1, 24, 32), (1, 32, 24)]
    images = [structured(shape, seed) for seed, shape in enumerate(shapes)]
    images[2][:, :8, 24:] = 2  # saturated, in one of three that are alike
    alone = [scored([image]) for image in images]
    assert alone[2].scores.isinf().tolist() == [False, False, True, False, False, False]
    for most in (1, 2000, 10**6):  # one image, three images, all at once
        monkeypatch.setattr("denoise_core.images.patches.BATCH", most)
        found = scored(images)
        assert torch.equal(found.scores, torch.cat([one.scores for one in alone]))
        assert torch.equal(found.places[:, 1:], torch.cat([one.places[:, 1:] for one in alone]))
        assert found.places[:, 0].tolist() == [index for index, one in enumerate(alone) for _ in range(len(one))]


def test_few_images_are_kept_and_few_pixels_transformed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most, transformed = 0, []

    def read() -> Iterator[Tensor]:
        nonlocal most
        for seed in range(40):
            image = structured((1, 32, 32), seed)
            alive.add(image)
            most = max(most, len(alive))
            yield image

    def watched(planes: Sequence[Tensor], middles: Tensor) -> Tensor:
        transformed.append(sum(plane.numel() for plane in planes))
        return haar(planes, middles)

    haar = smooth_rules._haar
    monkeypatch.setattr("denoise_core.images.patches.BATCH", 8 * 32 * 32)
    monkeypatch.setattr(smooth_rules, "STRIP", 3 * 32 * 32)
    monkeypatch.setattr(smooth_rules, "_haar", watched)
    found = extract(read(), [f"image{i}" for i in range(40)], WaveletRule(16, 8), cache_parts=None)
    assert len(found) == 40 * 9 and 2 < most <= 9  # a batch, and the image that is being read
    assert transformed == 5 * [3 * 32 * 32, 3 * 32 * 32, 2 * 32 * 32]
    monkeypatch.setattr(smooth_rules, "STRIP", 300)  # a part of an image
    scored(noise(1, 32))
    assert transformed[15:] == 4 * [8 * 32]


def test_white_noise_is_accepted_as_often_as_the_papers_lambdas_say() -> None:
    found = scored(noise(40, 480), WaveletRule(96, 96))
    shares = [found.count(threshold) / len(found) for threshold in (0.0075, 0.01, 0.015, 0.03)]
    assert shares == pytest.approx([0.30, 0.53, 0.86, 1.00], abs=0.06)


def test_a_constant_or_saturated_window_is_never_accepted_and_nobody_is_warned() -> None:
    image = noise(1, 64)[0]
    image[:, :16, :16] = 0.4
    clipped = image.clone()
    clipped[:, 24:] = clipped[:, 24:].clamp(max=0.6)
    clipped[:, :24] *= 0.5  # below 0.6, so that only the other rows have saturated pixels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rule in (WaveletRule(16, 16), VarianceRule(16, 16, 4, 4, 9, 9)):
            assert rule.scores([image])[0, 0, 0] == math.inf and rule.scores([image])[0, 1:].isfinite().all()
    assert plain_scores(WaveletRule(16, 16), image)[0, 0] == math.inf
    found = scored([clipped], WaveletRule(16, 16))
    share = (clipped == clipped.max()).double().unfold(1, 16, 16).unfold(2, 16, 16).mean((-1, -2)).flatten()
    expected = share <= 0.01
    expected[0] = False
    assert torch.equal(found.scores.isfinite(), expected) and 1 < expected.sum() < 16


def test_places_are_in_order_and_hold_the_last_aligned_window() -> None:
    found = scored([*noise(1, 32), structured((1, 24, 17), 0)])
    rows = [[0, top, left] for top in (0, 8, 16) for left in (0, 8, 16)] + [[1, 0, 0], [1, 8, 0]]
    assert found.places.tolist() == rows and found.places.dtype == torch.int32
    assert found.places_within(math.inf).tolist() == rows


@settings(deadline=None)
@given(count=st.integers(1, 40))
def test_threshold_for_is_the_smallest_that_keeps_enough(count: int) -> None:
    found = scored(noise(2, 40))
    threshold = found.threshold_for(count)
    if count > len(found):
        assert threshold == math.inf
    else:
        assert found.count(threshold) >= count > found.count(math.nextafter(threshold, 0) * (1 - 1e-6))


def test_auto_keeps_the_smallest_threshold_that_is_enough() -> None:
    found = scored(noise(8, 128))  # 225 windows an image
    for batch, wanted in ((4, 54), (32, 128)):
        patches = choose(found, "auto", batch=batch, seed=0)
        assert patches.survivors == len(patches) == wanted and patches.windows == len(found) == 1800
        assert patches.threshold == found.threshold_for(wanted)
    assert len(choose(found, "auto", batch=1000, seed=0)) == 1800


def test_auto_stops_at_ten_thousand() -> None:
    places, scores = torch.zeros((400_000, 3), dtype=torch.int32), torch.arange(400_000) / 1e6
    assert choose(Scored(WaveletRule(), places, scores), "auto", batch=64, limit=0, seed=0).survivors == 10_000


def test_a_limit_keeps_a_seeded_choice_of_all_images() -> None:
    found = scored(noise(8, 128))
    first, again, other = (choose(found, 1.0, batch=4, limit=100, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.places, again.places) and not torch.equal(first.places, other.places)
    assert len(first) == 100 and first.survivors == 1800 and first.size == 16
    assert set(first.places[:, 0].tolist()) == set(range(8))
    assert first.places.tolist() == sorted(first.places.tolist())
    assert len(choose(found, 1.0, batch=4, limit=0, seed=1)) == 1800


def test_scores_are_remembered_bit_for_bit_and_by_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENOISE_CACHE", str(tmp_path))
    images = [*noise(2, 40), torch.full((1, 40, 40), 0.5)]
    images[2][0, 0, 0] = 0.6
    images[2][0, :20] = images[0][0, :20]
    rule = WaveletRule(16, 8)
    first = extract(images, ["a", "b", "c"], rule, cache_parts=("here",))
    again = extract(iter(()), [], rule, cache_parts=("here",))
    assert torch.equal(first.places, again.places) and torch.equal(first.scores, again.scores)
    assert first.scores.isinf().any() and first.scores.isfinite().any()
    assert len(extract(images, ["a", "b", "c"], WaveletRule(16, 16), cache_parts=("here",))) < len(first)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (torch.rand(1, 15, 40), r"image image0 has 15 x 40 pixels, less than the window of 16 x 16; choose a window"),
        (torch.full((1, 16, 16), 0.3), "image image0 is constant, so that there is no noise to learn; remove it"),
        (RAMP.clamp(max=0.4), "image0 is saturated: 60% of its pixels are exactly 0.4, where"),
        (RAMP.sub(0.5).mul(9).clamp(0, 1), "image0 is saturated: 89% of its .* exactly 0 or 1, where"),
        (torch.tensor([-1.0, 2.0, 0.0, 0.0]).repeat(1, 16, 4), "image0 is saturated: 100% .* exactly -1 or 0 or 2"),
        (torch.stack((torch.rand(16, 16), torch.zeros(16, 16))), r"image image0 \(channel 2\) is constant"),
        (torch.rand(1, 16, 16).log().log(), "image image0 has pixels that are not finite; repair or remove it"),
    ],
)
def test_images_without_use_are_refused_in_one_sentence(image: Tensor, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        scored([image])


def test_too_few_patches_are_refused_with_a_lambda_that_works() -> None:
    found = scored(noise(4, 128), WaveletRule(32, 8))
    counts = [found.count(0.005 * factor) for factor in (1, 1.5, 2, 4)]
    with pytest.raises(UserError) as caught:
        choose(found, 0.005, batch=64, seed=0)
    expected = (
        f"patch_lambda = 0.005 keeps {counts[0]} of 676 windows, fewer than a batch of 64: 0.0075 would keep "
        f"{counts[1]}, 0.01 {counts[2]}, 0.02 {counts[3]}; use --set patch_lambda="
    )
    sentence = str(caught.value)
    assert sentence.startswith(expected) and sentence.endswith(" windows), or --set patch_lambda=auto.")
    proposed, count = sentence.removeprefix(expected).split(" windows)")[0].split(" (")
    assert len(choose(found, float(proposed), batch=64, seed=0)) == int(count) >= 128


@pytest.mark.parametrize(
    ("rule", "threshold", "arguments", "sentence"),
    [
        (
            WaveletRule(16, 8),
            "auto",
            {"batch": 50},
            "9 of 9 windows are usable at any patch_lambda, fewer than a batch",
        ),
        (WaveletRule(16, 8), 0.0, {"batch": 5}, "patch_lambda = 0 keeps 0 of 9 windows, .*patch_lambda=0.*auto"),
        (WaveletRule(16, 8), 1.0, {"batch": 5, "limit": 4}, "a limit of 4 smooth patches is less than a batch of 5"),
        (
            VarianceRule(16, 8, 4, 4),
            "auto",
            {"batch": 5},
            "GCBD keeps 0 of 9 windows, fewer than a batch of 5, .* raise mean_tolerance = 0.1 or variance_toleran",
        ),
    ],
)
def test_other_choices_that_cannot_be_trained_on(
    rule: SmoothRule, threshold: float, arguments: dict[str, int], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        choose(scored(noise(1, 32), rule), threshold, **arguments, seed=0)


@pytest.mark.parametrize("rule", [(15, 8), (2, 2), (16, 0)])
def test_windows_without_a_haar_transform_are_refused(rule: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="have no Haar transform; give an even size"):
        WaveletRule(*rule)


def test_sub_patches_larger_than_their_window_are_refused() -> None:
    with pytest.raises(UserError, match="windows of 16 pixels cannot hold sub-patches of 32"):
        VarianceRule(16, 8, 32)


def stairs(side: int = 256) -> Tensor:
    """Sixteen flat squares of 0.2 to 0.8."""
    levels = torch.linspace(0.2, 0.8, 16).reshape(4, 4)
    return levels.repeat_interleave(side // 4, 0).repeat_interleave(side // 4, 1)[None]


def chosen(images: list[Tensor]) -> SmoothPatches:
    return choose(scored(images, WaveletRule(32, 16)), 0.1, batch=16, seed=0)


def test_poisson_noise_is_warned_of_with_its_slope() -> None:
    draw = torch.Generator().manual_seed(0)
    images = [torch.poisson(100 * stairs(), generator=draw) / 100 for _ in range(4)]
    slope, error = variance_slope(images, chosen(images))
    assert slope == pytest.approx(0.01, abs=4 * error) and 0 < error < 0.001
    sentence = signal_dependence(images, chosen(images))
    assert sentence is not None
    assert sentence.startswith(f"The noise's variance grows with brightness (slope {slope:.2g} per unit of intensity, ")
    assert sentence.endswith("expect a bias, or stabilise the variance first (Anscombe).")
    falling = signal_dependence([1 - image for image in images], chosen(images))
    assert falling is not None and "falls with brightness (slope -" in falling


def test_gaussian_noise_is_not_warned_of() -> None:
    alarms, within = 0, 0
    for seed in range(8):
        draw = torch.Generator().manual_seed(seed)
        images = [stairs() + 0.1 * torch.randn(1, 256, 256, generator=draw) for _ in range(2)]
        slope, error = variance_slope(images, chosen(images))
        alarms += signal_dependence(images, chosen(images)) is not None
        within += abs(slope) < 2.5 * error
    assert alarms == 0 and within >= 7


def test_nothing_is_said_about_too_few_patches() -> None:
    images = noise(1, 32)
    patches = choose(scored(images, WaveletRule(16, 4)), 1.0, batch=1, limit=2, seed=0)
    assert variance_slope(images, patches) == (0.0, math.inf) and signal_dependence(images, patches) is None
