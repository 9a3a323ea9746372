"""Pixel-shuffle down-sampling, Bayer groups and the guided filter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from denoise_core.images.shuffle import bayer_group, guided_filter, join, split

Array = NDArray[np.float64]


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_parts_are_strided_images_in_order(factor: int) -> None:
    images = torch.rand(3, 2, 2 * factor, 5 * factor)
    parts = split(images, factor)
    assert parts.shape == (3 * factor**2, 2, 2, 5)
    for i in range(3):
        for k in range(factor**2):
            row, column = divmod(k, factor)
            assert torch.equal(parts[i * factor**2 + k], images[i, :, row::factor, column::factor])
    assert torch.equal(join(parts, factor), images)


@pytest.mark.parametrize("size", [(13, 17), (1, 7), (4, 5), (2, 2)])
def test_other_sizes_are_padded_by_reflection_and_cropped(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    parts = split(images, 4)
    assert parts.shape == (32, 3, -(-size[0] // 4), -(-size[1] // 4))
    assert torch.equal(join(parts, 4, size), images)


def test_reflection_repeats_the_last_but_one_pixel() -> None:
    padded = join(split(torch.arange(3.0).expand(1, 1, 1, 3), 2), 2)
    assert torch.equal(padded, torch.tensor([[[[0.0, 1, 2, 1], [0, 1, 2, 1]]]]))


def test_wrong_numbers() -> None:
    with pytest.raises(ValueError, match="factor 0"):
        split(torch.rand(1, 1, 4, 4), 0)
    with pytest.raises(ValueError, match="no multiple of 2 x 2"):
        join(torch.rand(3, 1, 4, 4), 2)
    with pytest.raises(ValueError, match="make 8 x 8 pixels"):
        join(torch.rand(4, 1, 4, 4), 2, (9, 8))
    with pytest.raises(ValueError, match="sub-image 16"):
        bayer_group(16, 4)


@pytest.mark.parametrize("factor", [2, 4, 6])
def test_bayer_groups_are_the_places_on_the_sensor(factor: int) -> None:
    place = torch.tensor([[0.0, 1], [2, 3]]).repeat(factor, factor)[None, None]
    for k, part in enumerate(split(place, factor)):
        assert (part == bayer_group(k, factor)).all()


def literal_guided_filter(guide: Array, image: Array, radius: int, eps: float) -> Array:
    """Algorithm 1 of He, Sun and Tang, window by window."""
    height, width = image.shape
    slopes, offsets = np.zeros_like(image), np.zeros_like(image)

    def window(row: int, column: int) -> tuple[slice, slice]:
        return slice(max(0, row - radius), row + radius + 1), slice(max(0, column - radius), column + radius + 1)

    for row in range(height):
        for column in range(width):
            i, p = guide[window(row, column)], image[window(row, column)]
            slopes[row, column] = ((i * p).mean() - i.mean() * p.mean()) / (i.var() + eps)
            offsets[row, column] = p.mean() - slopes[row, column] * i.mean()
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            near = window(row, column)
            result[row, column] = slopes[near].mean() * guide[row, column] + offsets[near].mean()
    return result


@pytest.mark.parametrize(("radius", "eps"), [(1, 0.01), (3, 0.2), (0, 0.01)])
@pytest.mark.parametrize("size", [(9, 12), (1, 7), (2, 2)])
def test_guided_filter_is_the_papers(size: tuple[int, int], radius: int, eps: float) -> None:
    generator = np.random.default_rng(3)
    guide, image = generator.random((2, 2, *size)), generator.random((2, 2, *size))
    found = guided_filter(torch.from_numpy(guide), torch.from_numpy(image), radius, eps).numpy()
    for n in range(2):
        for channel in range(2):
            expected = literal_guided_filter(guide[n, channel], image[n, channel], radius, eps)
            np.testing.assert_allclose(found[n, channel], expected, atol=1e-12)


def test_one_guide_for_all_channels() -> None:
    guide, image = torch.rand(2, 1, 6, 7), torch.rand(2, 3, 6, 7)
    assert torch.equal(guided_filter(guide, image), guided_filter(guide.expand(2, 3, 6, 7), image))
    with pytest.raises(ValueError, match="radius 1"):
        guided_filter(torch.rand(2, 2, 6, 7), image)


def test_flat_images_stay_flat() -> None:
    flat = torch.full((1, 3, 5, 5), 0.25)
    torch.testing.assert_close(guided_filter(torch.rand(1, 3, 5, 5), flat), flat)
