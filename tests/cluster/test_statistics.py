from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cluster.results.statistics import Interval, bonferroni, mean_interval, needed, paired_difference


def sample(generator: np.random.Generator, seeds: int, images: int, over: tuple[float, float, float]) -> np.ndarray:
    """Seed effects, image effects and a rest of these deviations, all of mean zero."""
    effects = (generator.normal(0, d, s) for d, s in zip(over, ((seeds, 1), (1, images), (seeds, images)), strict=True))
    return np.asarray(sum(effects))


@pytest.mark.parametrize("images", [100, 300])
def test_one_seed_is_the_usual_bootstrap_over_images(images: int) -> None:
    values = np.random.default_rng(3).gamma(2.0, 0.1, (1, images))  # skewed: a percentile interval is not symmetric
    ours = mean_interval(values)
    theirs = stats.bootstrap(
        (values[0],), np.mean, n_resamples=10_000, method="percentile", random_state=np.random.default_rng(0)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.04 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.04 * width)
    assert not ours.seeds_resampled and (ours.seeds, ours.images) == (1, images)


@pytest.mark.parametrize(
    ("seeds", "images", "over"),
    [(3, 20, (0.3, 0.3, 0.3)), (3, 60, (0.05, 0.5, 0.2)), (5, 20, (1.0, 0.3, 0.3)), (1, 30, (0.0, 1.0, 0.3))],
)
def test_coverage_is_kept_even_with_three_seeds(seeds: int, images: int, over: tuple[float, float, float]) -> None:
    generator = np.random.default_rng(11)
    found = [mean_interval(sample(generator, seeds, images, over), resamples=1000) for _ in range(200)]
    assert np.mean([interval.low <= 0 <= interval.high for interval in found]) >= 0.92


def test_a_plain_bootstrap_of_three_seeds_would_be_too_sure() -> None:
    values = np.array([[0.0], [1.0], [2.0]])
    low, high = stats.t.interval(0.95, 2, loc=1, scale=1 / np.sqrt(3))
    ours = mean_interval(values)
    assert ours.low == pytest.approx(low, rel=0.2) and ours.high == pytest.approx(high, rel=0.2)
    assert ours.low < 0  # the range of the three values, which a plain bootstrap cannot leave


def test_pairing_removes_what_the_images_have_in_common() -> None:
    generator = np.random.default_rng(5)
    content = generator.normal(30, 2, (1, 40))
    a = content + 0.1 + generator.normal(0, 0.02, (3, 40))
    b = content + generator.normal(0, 0.02, (3, 40))
    paired, alone = paired_difference(a, b), mean_interval(a)
    assert paired.conclusive and paired.mean == pytest.approx(0.1, abs=0.02)
    assert paired.half_width < alone.half_width / 10


def test_zero_inside_is_not_conclusive() -> None:
    def interval(low: float, high: float) -> Interval:
        return Interval((low + high) / 2, low, high, 0.95, 3, 20)

    assert not interval(-0.01, 0.2).conclusive and not interval(-0.2, 0.01).conclusive
    assert not interval(0.0, 0.2).conclusive
    assert interval(0.01, 0.2).conclusive and interval(-0.2, -0.01).conclusive


def test_equal_input_equal_answer() -> None:
    values = np.random.default_rng(1).normal(size=(3, 20))
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values, seed=1) != mean_interval(values)
    assert paired_difference(values, values).half_width == 0


def test_a_wider_level_and_more_comparisons_widen() -> None:
    values = np.random.default_rng(1).normal(size=(5, 50))
    assert bonferroni(0.95, 1) == bonferroni(0.95, 0) == pytest.approx(0.95)
    assert bonferroni(0.95, 5) == pytest.approx(0.99)
    assert mean_interval(values, level=bonferroni(0.95, 5)).half_width > mean_interval(values).half_width


def test_bad_input_is_refused() -> None:
    for values in (np.zeros(3), np.zeros((0, 3)), np.array([[np.nan, 1.0]])):
        with pytest.raises(ValueError, match="seeds, images"):
            mean_interval(values)
    with pytest.raises(ValueError, match="one shape"):
        paired_difference(np.zeros((2, 3)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="level"):
        mean_interval(np.zeros((2, 3)), level=95)


def test_needed_sizes_would_resolve_the_difference() -> None:
    generator = np.random.default_rng(2)
    small = np.array([[0.0], [0.05], [0.1]]) + generator.normal(0, 0.02, (1, 20))
    seeds, images = needed(small) or (0, 0)
    assert 3 < seeds < 60 and images == 20
    few_images = 0.05 + sample(generator, 1, 20, (0.0, 0.3, 0.01))
    assert (needed(few_images) or (0, 0))[1] > 20
    assert needed(np.array([[1.0, -1.0, 1.0, -1.0]])) is None
