"""What is measured of validation images during a training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from denoise_core.evaluation import CANONICAL, middle, validation
from denoise_core.images.image_set import ImageSet
from denoise_core.method import create
from denoise_core.metrics.full_reference import psnr
from denoise_core.metrics.protocol import PROTOCOLS
from denoise_core.noise.evaluation import noisy_test_images
from denoise_core.specification import DataSpec, LoadedData, load_data

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> LoadedData:
    draw = torch.Generator().manual_seed(0)
    images = tuple(torch.rand((1, *shape), generator=draw) for shape in ((200, 120), (96, 300)))
    spec = DataSpec(train="bundled_train[0:2]", test=("bundled_test[0:1]",), noise="gauss25")
    return replace(load_data(spec, None), validation=ImageSet("two", ("a", "b"), images))


def expected(data: LoadedData, side: int | None) -> float:
    """Of a method that changes nothing, by hand."""
    assert data.validation is not None
    values = []
    for one in noisy_test_images(data.validation, data.noise):
        noisy, clean = one.noisy.double(), one.clean.double()
        if side is not None:
            height, width = (min(side, length) for length in clean.shape[-2:])
            top, left = (clean.shape[-2] - height) // 2, (clean.shape[-1] - width) // 2
            noisy, clean = (x[:, top : top + height, left : left + width] for x in (noisy, clean))
        values.append(psnr(noisy, clean, PROTOCOLS[CANONICAL].peak))
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("pixels", "side"),
    [
        (None, None),
        (200 * 120 + 96 * 300, None),  # as many as there are
        (200 * 120 + 96 * 300 - 1, 162),  # larger than the shorter sides, which are taken whole
        (20_000, 100),
        (10, 64),
    ],
)
def test_the_middle_of_each_image_counts(data: LoadedData, pixels: int | None, side: int | None) -> None:
    method = create("noisy", {}, 1, 0)
    found = validation(method, data, CPU, pixels)
    assert found == {"psnr": pytest.approx(expected(data, side), abs=1e-4)}
    assert side is None or abs(found["psnr"] - expected(data, None)) > 1e-3


def test_the_middle_of_an_odd_image() -> None:
    image = torch.arange(25.0).view(1, 5, 5)
    assert torch.equal(middle(image, 3), image[:, 1:4, 1:4])
    assert torch.equal(middle(image, 9), image) and torch.equal(middle(image, None), image)
