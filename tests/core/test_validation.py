"""What is measured of validation images during a training, and how many images go through a network at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from denoise_core import evaluation
from denoise_core.evaluation import CANONICAL, denoise, evaluate, middle, validation
from denoise_core.images.image_set import ImageSet
from denoise_core.method import create, methods
from denoise_core.metrics.clean_free import criterion
from denoise_core.metrics.facts import Scene
from denoise_core.metrics.full_reference import psnr
from denoise_core.metrics.protocol import PROTOCOLS
from denoise_core.noise.evaluation import NoisyTestImage, noisy_test_images
from denoise_core.scenes import scenes
from denoise_core.specification import DataSpec, LoadedData, load_data
from denoise_core.trainer import Ranks

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


@pytest.mark.parametrize("name", ["sure", "pair_risk", "neighbour_risk", "whiteness"])
def test_criteria_see_the_middle_before_the_last_time(name: str) -> None:
    """With what is known of the noise from whole images."""
    spec = DataSpec(train="bundled_test[0:3]", test=("bundled_test[3:4]",), noise="gauss25", validation=2)
    data = load_data(spec.model_copy(update={"criteria": (name,)}), None)
    assert data.validation is not None
    method, seen = create("wavelets", {}, 1, 0), scenes(data.validation, "gauss25")
    for last, side in ((True, None), (False, 100)):
        found = validation(method, data, CPU, 2 * 100 * 100, last=last)
        values = []
        for scene in seen.all:
            part = Scene(scene.image_id, tuple(middle(frame, side) for frame in scene.frames))
            facts = seen.facts(criterion(name))
            values.append(criterion(name).decibels(lambda noisy: denoise(method, noisy, CPU), part, facts))
        assert found[name] == pytest.approx(sum(values) / 2)
        assert found["psnr"] == validation(method, data, CPU, 2 * 100 * 100)["psnr"]


def test_the_middle_of_an_odd_image() -> None:
    image = torch.arange(25.0).view(1, 5, 5)
    assert torch.equal(middle(image, 3), image[:, 1:4, 1:4])
    assert torch.equal(middle(image, 9), image) and torch.equal(middle(image, None), image)


def test_images_of_one_size_go_through_a_network_together(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DataSpec(train="bundled_train[0:2]", test=("bundled_test[0:5]",), noise="gauss25", repeats=2)
    data, method = load_data(spec, None), create("n2c", {"features": 4, "depth": 2}, 1, 0)
    seen: list[int] = []

    def counted(noisy: torch.Tensor) -> torch.Tensor:
        seen.append(len(noisy))
        return type(method).denoise(method, noisy)

    monkeypatch.setattr(method, "denoise", counted)
    alone = evaluate(method, data, CPU, Ranks(), {})
    assert seen == [1] * 10
    monkeypatch.setitem(evaluation.TOGETHER, "cpu", 4 * 256 * 256)
    seen.clear()
    together = evaluate(method, data, CPU, Ranks(), {})
    assert seen == [4, 4, 2]
    for one, other in zip(alone.measurements, together.measurements, strict=True):
        assert replace(one, value=0) == replace(other, value=0)
        assert one.value == pytest.approx(other.value, abs=1e-4)
    assert [one.png for one in alone.previews] == [one.png for one in together.previews]


def test_images_of_other_sizes_and_moments_of_whole_images_go_alone() -> None:
    shapes = [(1, 8, 8), (1, 8, 8), (1, 8, 8), (1, 8, 4), (1, 8, 8)]
    inputs = [NoisyTestImage(str(at), 0, torch.zeros(shape), torch.zeros(shape)) for at, shape in enumerate(shapes)]
    ids = [[one.image_id for one in group] for group in evaluation._groups(iter(inputs), 2 * 64)]
    assert ids == [["0", "1"], ["2"], ["3"], ["4"]]
    cuda = torch.device("cuda")
    for name, kind in methods().items():
        method = create(name, kind.recipes["smoke"].config, 1, 0)
        alone = evaluation._together(method, cuda) == 1
        assert alone == (method.whole_images or method.learns_at_inference or not method.denoises), name
    assert evaluation._together(create("iscl", methods()["iscl"].recipes["smoke"].config, 1, 0), cuda) == 1
