"""Models in a file: what is kept, what is refused, and arrays of every type and shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from denoise_core.errors import UserError
from denoise_core.inference import denoise_image
from denoise_core.method import Method, create, method_class
from denoise_core.model import KEY, Model, ModelInfo, ValueRange, load, save_model, values_of
from denoise_core.noise.models import parse_noise

FULL = ModelInfo(
    data={"train": "bundled_train", "noise": "gauss25"}, contents=(("train bundled_train", "ab" * 32),),
    trial_id="0123456789abcdef", seed=3, values=ValueRange(8, 1.0),
)  # fmt: skip


def method(name: str = "dncnn_b", channels: int = 1, **values: Any) -> Method:
    small = (
        {"denoiser_depth": 3, "denoiser_width": 4} if name == "dncnn_b" else method_class(name).recipes["smoke"].config
    )
    return create(name, {**small, **values}, channels, 0).eval()


def model(channels: int = 1, info: ModelInfo = FULL) -> Model:
    return Model(method(channels=channels), info)


def random(shape: tuple[int, ...], dtype: str, high: float) -> NDArray[Any]:
    return (np.random.default_rng(0).random(shape) * high).astype(dtype)


def expected(used: Model, image: NDArray[Any]) -> NDArray[Any]:
    """(H, W) in [0, 1] -> the same, by the method itself."""
    noisy = torch.from_numpy(image.astype(np.float32))[None]
    return denoise_image(used.method.denoise, noisy)[0].numpy()


@pytest.mark.parametrize("name", ["neighbor2neighbor", "gan2gan", "dbsn", "danet", "iscl", "affine_match"])
def test_a_file_gives_the_same_model_back(name: str, tmp_path: Path) -> None:
    trained = method(name)
    for phase in trained.phases():
        trained.enter(phase.name)
    with torch.no_grad():
        for one in (*trained.parameters(), *(one for one in trained.buffers() if one.is_floating_point())):
            one.add_(0.01 * torch.rand(one.shape, generator=torch.Generator().manual_seed(1)).to(one.dtype))
    path = tmp_path / "one.safetensors"
    save_model(path, trained, FULL)
    read = load(path)
    assert read.info == FULL
    assert (read.method.name, read.method.config, read.method.channels) == (name, trained.config, 1)
    image = random((37, 53), "float32", 1)
    np.testing.assert_array_equal(read.denoise(image), Model(trained, FULL).denoise(image))
    assert [one.name for one in tmp_path.iterdir()] == ["one.safetensors"]  # nothing is left beside it


def test_the_header_tells_what_it_is_without_running_anything(tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", method("neighbor2neighbor"), FULL)
    with safe_open(tmp_path / "m.safetensors", "pt") as content:  # type: ignore[no-untyped-call]
        header = json.loads(content.metadata()[KEY])
    assert header["method"] == "neighbor2neighbor"
    assert header["data"]["noise"] == "gauss25"
    assert "CVPR 2021" in header["citation"]["text"]
    assert header["licence"] == "CC-BY-4.0"


@pytest.mark.parametrize(
    ("dtype", "full"), [("uint8", 255), ("uint16", 65535), (">u2", 65535), ("float64", 1), ("float16", 1)]
)
def test_type_shape_and_range_stay(dtype: str, full: int) -> None:
    used = model(info=ModelInfo())
    array = random((37, 53), dtype, full)
    result = used.denoise(array)
    assert result.shape == array.shape and result.dtype == array.dtype
    want = expected(used, array.astype(np.float64) / full) * full
    tolerance = 0.51 if full > 1 else 1e-3
    np.testing.assert_allclose(result.astype(np.float64), want, atol=tolerance)


def test_white_sets_the_scale() -> None:
    used = model(info=ModelInfo(values=ValueRange(8, 1.0)))
    array = random((64, 64), "uint16", 4095)
    with pytest.raises(UserError, match=r"another range.*--white"):
        used.denoise(array)
    want = expected(used, array / np.float32(4095)) * 4095
    np.testing.assert_allclose(used.denoise(array, white=4095).astype(float), want, atol=0.51)


def test_twelve_bits_in_sixteen_are_right_for_a_model_that_was_trained_on_such() -> None:
    array = random((64, 64), "uint16", 4095)
    trained = values_of([torch.from_numpy(array / np.float32(65535))[None]], None)
    assert trained.bits == 16
    used = model(info=ModelInfo(values=trained))
    np.testing.assert_allclose(used.denoise(array), expected(used, array / np.float32(65535)) * 65535, atol=0.51)
    with pytest.raises(UserError, match="another range"):
        used.denoise(random((64, 64), "uint8", 255))
    dark = random((64, 64), "uint16", 100)  # of the same kind: it may be dark
    with pytest.warns(UserWarning, match=r"only, where training saw up to 40\d\d: .*4095 for 12 bits in 16.*white="):
        used.denoise(dark)


def test_the_range_of_training_images_has_their_noise() -> None:
    images = [torch.full((1, 64, 64), 128 / 255), torch.zeros(1, 64, 64)]
    clean, noisy = values_of(images, None), values_of(images, parse_noise("gauss25"))
    assert (clean.bits, noisy.bits) == (8, 8)
    assert clean.high == pytest.approx(128 / 255)
    assert 0.7 < noisy.high < 0.95  # three deviations above
    assert values_of([torch.rand(1, 9, 9)], None).bits == 0


@pytest.mark.parametrize(
    ("axes", "shape", "pages"),
    [
        ("YX", (20, 30), 1),
        ("TYX", (3, 20, 30), 3),
        ("YXZ", (20, 30, 2), 2),
        ("TZYX", (2, 3, 20, 30), 6),
        ("CYX", (1, 20, 30), 1),
    ],
)
def test_stacks_are_denoised_plane_by_plane(axes: str, shape: tuple[int, ...], pages: int) -> None:
    used, array = model(), random(shape, "float32", 1)
    result = used.denoise(array, axes)
    back = [axes.index(one) for one in (*(one for one in axes if one not in "YX"), "Y", "X")]
    planes, found = (one.transpose(back).reshape(pages, 20, 30) for one in (array, result))
    for plane, other in zip(planes, found, strict=True):
        np.testing.assert_allclose(other, expected(used, plane), atol=1e-6)


@pytest.mark.parametrize(
    ("axes", "shape"), [("YXC", (20, 30, 3)), ("CYX", (3, 20, 30)), ("TYXS", (2, 20, 30, 3)), ("YCX", (20, 3, 30))]
)
def test_colour_axes_may_be_anywhere(axes: str, shape: tuple[int, ...]) -> None:
    used, array = model(channels=3), random(shape, "float32", 1)
    result = used.denoise(array, axes)
    letters = axes.replace("S", "C")
    order = [letters.index(one) for one in ("T" * ("T" in letters) + "CYX")]
    noisy = torch.from_numpy(array.transpose(order).reshape(-1, 3, 20, 30).copy())
    want = denoise_image(used.method.denoise, noisy).numpy()
    np.testing.assert_allclose(result.transpose(order).reshape(want.shape), want, atol=1e-6)


def test_tiles_give_what_the_whole_image_gives() -> None:
    used, array = model(), random((400, 700), "uint8", 255)
    np.testing.assert_array_equal(used.denoise(array, max_pixels=330 * 330), used.denoise(array))
    # its network looks at few pixels, so small tiles have room for what they overlap by
    np.testing.assert_array_equal(used.denoise(array, max_pixels=100 * 100), used.denoise(array))


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        ((5, 20, 30), None, "unclear.*TYX or ZYX"),
        ((20, 30, 3), None, "unclear.*YXC"),
        ((2, 5, 20, 30), None, "TZYX"),
        ((5, 20, 30), "QYX", "unclear"),
        ((5, 20, 30), "YX", "do not describe"),
        ((20, 30), "TX", "do not describe"),
        ((3, 20, 30), "CYX", r"3 channel\(s\), the model takes 1.*--axes TYX"),
        ((0, 30), "YX", "no pixels"),
    ],
)
def test_unclear_axes_and_other_channels_are_refused(shape: tuple[int, ...], axes: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model().denoise(np.zeros(shape, "uint8"), axes)


def test_gray_images_are_refused_by_a_colour_model() -> None:
    with pytest.raises(UserError, match="has 1 channel"):
        model(channels=3).denoise(np.zeros((20, 30), "uint8"))


@pytest.mark.parametrize(
    ("change", "message"),
    [(np.nan, "NaN"), (np.inf, "infinite"), (1.5, "float values from.*--white"), (-0.1, "float values from")],
)
def test_floats_that_are_no_image_are_refused(change: float, message: str) -> None:
    array = random((50, 60), "float32", 1)
    array[40, 50] = change
    with pytest.raises(UserError, match=message):
        model().denoise(array)


def test_other_types_and_whites_are_refused() -> None:
    with pytest.raises(UserError, match="int32"):
        model().denoise(np.zeros((9, 9), "int32"))
    with pytest.raises(UserError, match="at most 255"):
        model().denoise(np.zeros((9, 9), "uint8"), white=256)


def test_a_window_is_undone_and_keeps_what_it_does_not_show() -> None:
    used = model(info=ModelInfo(data={"window": "abdomen"}))
    hu = np.tile(np.linspace(-800, 1200, 64), (64, 1))
    array = (hu + 1024).round().astype("uint16")
    result = used.denoise(array).astype(int) - 1024
    outside = (hu < -161) | (hu > 241)
    np.testing.assert_array_equal(result[outside], array.astype(int)[outside] - 1024)
    want = expected(used, np.clip((array - 1024.0 + 160) / 400, 0, 1)) * 400 - 160
    inside = (hu > -159) & (hu < 239)
    np.testing.assert_allclose(result[inside], want[inside], atol=0.6)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(UserError, match="no model file"):
        load(path)
    save_model(path, method(), FULL)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        load(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="not those that were written"):
        load(path)
    path.write_bytes(whole)
    save_file(load_file(path), tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match="not what they are of"):
        load(tmp_path / "bare.safetensors")
    monkeypatch.setattr(method_class("dncnn_b"), "version", 99)
    with pytest.raises(UserError, match="version 1 of dncnn_b, this program has version 99"):
        load(path)


def test_parameters_of_inference_alone_may_change() -> None:
    used = Model(method("iscl"), ModelInfo())
    image = random((32, 32), "float32", 1)
    used.set_parameters({"gamma": 1.0})
    first = used.denoise(image)
    used.set_parameters({"gamma": 0.0})
    assert np.abs(first - used.denoise(image)).max() > 1e-3
    with pytest.raises(UserError, match=r"acts at inference: .*Known: .*gamma"):
        used.set_parameters({"lr": 0.1})


def test_a_method_that_only_generates_noise_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only generates noise"):
        save_model(tmp_path / "m.safetensors", method("fitted_noise"), FULL)
    assert list(tmp_path.iterdir()) == []
