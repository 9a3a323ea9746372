"""How images are to be taken: the value that counts as 1, and parts of large images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from denoise_core.errors import UserError
from denoise_core.images.image_set import ImageSet
from denoise_core.images.named import absolute, folder_of, load_images, view_of
from denoise_core.images.view import View, cut, side_for, split_view
from denoise_core.specification import DataSpec, load_data

rng = np.random.default_rng(0)


def load(name: str, root: Path | None = None) -> ImageSet:
    return load_images(name, channels=None, data_root=root)


def write(path: Path, values: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, values, photometric="minisblack")  # three pages are no colours
    return values


def twelve_bits(*shape: int) -> np.ndarray:
    return rng.integers(0, 4096, shape, dtype=np.uint16)


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "view"),
    [
        ("my/camera", "my/camera", View()),
        ("my/camera@white=4095", "my/camera", View(4095.0)),
        ("a@parts=512", "a", View(None, 512)),
        ("a@parts=64,white=0.5", "a", View(0.5, 64)),
        ("a@b@white=1e3", "a@b", View(1000.0)),
        ("me@lab/camera", "me@lab/camera", View()),
        ("a@b", "a@b", View()),
        ("x@white=2/camera", "x@white=2/camera", View()),  # it follows the folder's own name only
        ("", "", View()),
    ],
)
def test_a_view_follows_the_name(text: str, name: str, view: View) -> None:
    assert split_view(text) == (name, view)
    assert split_view(f"{name}{view}") == (name, view)


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ("whit=4095", "did you mean 'white'"),
        ("white=4095,", "malformed at ''"),
        ("white=4095,white=2", "malformed at 'white=2'"),
        ("white=", "give the value that counts as 1"),
        ("white=0", "give the value that counts as 1"),
        ("white=-3", "give the value that counts as 1"),
        ("white=nan", "give the value that counts as 1"),
        ("white=inf", "give the value that counts as 1"),
        ("white=12bit", "give the value that counts as 1"),
        ("parts=31", "at least 32"),
        ("parts=64.5", "whole number"),
        ("parts=-64", "whole number"),
    ],
)
def test_a_malformed_view_is_refused(view: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(f"bundled_test@{view}")


def test_a_folder_that_is_called_so_is_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a@white=4095" / "x.tif", np.full((40, 40), 65535, np.uint16))
    write(tmp_path / "a" / "y.tif", np.full((40, 40), 4095, np.uint16))
    for name in ("a@white=4095", "./a@white=4095"):
        assert load(name).ids == ("x",)
        assert view_of(name, None) == View()
    assert load("a@white=4095,parts=40").ids == ("y@0,0",)
    assert load("a@white=4095", tmp_path).ids == ("x",)
    assert folder_of("a@white=4095") == Path("a@white=4095")
    assert folder_of("a@white=9[0:2]") == Path("a")


def test_paths_become_absolute_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    whole = str(tmp_path / "mine@white=4095[0:2]")
    assert absolute("mine@white=4095[0:2]") == absolute(whole) == whole
    assert absolute("frames:mine@white=9") == f"frames:{tmp_path}/mine@white=9"
    assert absolute("bundled_test@parts=64[0]") == "bundled_test@parts=64[0]"
    assert absolute("") == ""
    assert folder_of(whole) == folder_of(f"frames:{whole}") == tmp_path / "mine"
    assert view_of(whole, None) == View(4095.0)


# --- white ------------------------------------------------------------------------------------------------------------


def test_white_is_what_dividing_the_files_gives(tmp_path: Path) -> None:
    values = write(tmp_path / "camera" / "a.tif", twelve_bits(40, 50))
    write(tmp_path / "floats" / "a.tif", values.astype(np.float32) / 4095)
    write(tmp_path / "counts" / "a.tif", values.astype(np.float32))
    want = load(f"{tmp_path}/floats")
    for name in ("camera", "counts"):
        found = load(f"{tmp_path}/{name}@white=4095")
        assert found.name == f"{name}@white=4095"
        assert torch.equal(found.pixels[0], want.pixels[0])  # so trainings on copies that were divided go on
        assert found.fingerprint == want.fingerprint
    assert load(f"{tmp_path}/camera").pixels[0].max() < 0.07
    selected = load("camera@white=4095[0]", tmp_path)
    assert (selected.name, selected.ids) == ("camera@white=4095[0]", ("a",))


def test_white_holds_for_both_versions_of_pairs_and_for_all_frames(tmp_path: Path) -> None:
    clean, noisy = (write(tmp_path / "pairs" / part / "a.tif", twelve_bits(40, 40)) for part in ("gt", "noisy"))
    pairs = load(f"{tmp_path}/pairs@white=4095")
    assert pairs.noisy is not None
    np.testing.assert_allclose(pairs.pixels[0][0], clean / 4095, rtol=1e-6)
    np.testing.assert_allclose(pairs.noisy[0][0], noisy / 4095, rtol=1e-6)
    scenes = [write(tmp_path / "scenes" / f"{one}.tif", twelve_bits(3, 40, 40)) for one in "ab"]
    frames = load(f"frames:{tmp_path}/scenes@white=4095")
    assert frames.frames is not None
    for scene, first, others in zip(scenes, frames.pixels, frames.frames, strict=True):
        np.testing.assert_allclose(torch.stack([first, *others])[:, 0], scene / 4095, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "white", "said"),
    [
        (np.full((9, 9), 5000, np.uint16), 4095, "from 5000 to 5000, but values from 0 to white=4095 .* larger white"),
        (np.full((9, 9), -1, np.float32), 4095, "subtract what makes them positive"),
        (np.full((9, 9), np.nan, np.float32), 4095, "NaN"),
        (np.full((9, 9), 9, np.uint8), 4095, "uint8, so white=4095 is not allowed: give at most 255"),
        (np.full((9, 9), 9, np.int32), 4095, "type int32"),
    ],
)
def test_values_that_do_not_suit_the_white_are_refused(
    tmp_path: Path, values: np.ndarray, white: int, said: str
) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(UserError, match=said):
        load(f"{tmp_path}@white={white}")


def test_floats_of_another_range_are_told_how_to_say_it(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((9, 9), 300.0))
    with pytest.raises(UserError, match="@white=4095"):
        load(f"{tmp_path}")
    assert load(f"{tmp_path}@white=400").pixels[0].max() == 0.75


@pytest.mark.parametrize("name", ["bundled_test", "em_generated", "ct_phantom", "train400"])
def test_sets_of_known_range_take_no_white(name: str) -> None:
    with pytest.raises(UserError, match="leave @white=4095 out"):
        load(f"{name}@white=4095")


# --- parts ------------------------------------------------------------------------------------------------------------


def test_parts_are_squares_of_every_image_in_rows(tmp_path: Path) -> None:
    values = write(tmp_path / "a.tif", rng.integers(0, 256, (100, 150), dtype=np.uint8))
    other = write(tmp_path / "b.tif", rng.integers(0, 256, (64, 40), dtype=np.uint8))
    images = load(f"{tmp_path}@parts=40")
    assert images.ids == ("a@0,0", "a@0,40", "a@0,80", "a@40,0", "a@40,40", "a@40,80", "b@0,0")
    np.testing.assert_allclose(images.pixels[4][0], values[40:80, 40:80] / 255, rtol=1e-6)
    np.testing.assert_allclose(images.pixels[6][0], other[:40, :40] / 255, rtol=1e-6)
    assert images.name == f"{tmp_path.name}@parts=40"
    assert load(f"{tmp_path}@parts=40[3,-1]").ids == ("a@40,0", "b@0,0")
    assert len(set(images.digests.values())) == len(images)


def test_noisy_versions_and_frames_are_cut_at_the_same_places() -> None:
    base = torch.rand(1, 80, 80)
    pairs = cut(ImageSet("p", ("a",), (base,), (base + 1,)), 40)
    assert pairs.noisy is not None
    for clean, noisy in zip(pairs.pixels, pairs.noisy, strict=True):
        assert torch.equal(clean + 1, noisy)
    frames = cut(ImageSet("f", ("a",), (base,), frames=((base + 1, base + 2),)), 40)
    assert frames.frames is not None
    for first, others in zip(frames.pixels, frames.frames, strict=True):
        assert torch.equal(torch.stack([*others]), torch.stack([first + 1, first + 2]))


def test_images_that_are_too_small_for_parts_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", np.zeros((100, 60), np.uint8))
    with pytest.raises(UserError, match=r"a of .* 100 x 60 pixels, so it has no parts of 64 x 64"):
        load(f"{tmp_path}@parts=64")


def test_parts_of_one_image_are_learned_from_and_judged_on(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", twelve_bits(96, 96))
    name = f"{tmp_path}@white=4095,parts=48"
    data = load_data(DataSpec(train=f"{name}[0:3]", test=(f"{name}[3]",), noise="recorded", criteria=("sure",)), None)
    assert (data.train.ids, data.test[0].ids) == (("a@0,0", "a@0,48", "a@48,0"), ("a@48,48",))
    with pytest.raises(UserError, match="a@0,0"):  # the same part twice is noticed as the same image is
        load_data(DataSpec(train=f"{name}[0:3]", test=(f"{name}[0]",), noise="recorded", criteria=("sure",)), None)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("{0}", "{0}@parts=48[3]"),
        ("{0}@parts=32", "{0}@parts=48[3]"),
        ("{0}@white=4095[0]", "{0}[0]"),
        ("mine[0]", "{0}@parts=48[3]"),
        ("bundled_test[0]", "bundled_test@parts=64[3]"),
    ],
)
def test_the_same_images_in_two_ways_are_refused(tmp_path: Path, train: str, test: str) -> None:
    """A whole image has another checksum than its parts, so nothing else would notice."""
    write(tmp_path / "mine" / "a.tif", twelve_bits(96, 96))
    train, test = (one.format(tmp_path / "mine") for one in (train, test))
    with pytest.raises(UserError, match="same images taken in two ways"):
        load_data(DataSpec(train=train, test=(test,)), tmp_path)


@pytest.mark.parametrize(
    ("shapes", "count", "side"),
    [
        ([(1, 2048, 2048)], 16, 512),
        ([(1, 1000, 1400)], 12, 333),
        ([(3, 256, 256)], 4, 128),
        ([(1, 100, 100), (1, 300, 300)], 10, 100),
        ([(1, 60, 60)], 4, None),
    ],
)
def test_the_largest_side_that_gives_so_many_parts(shapes: list[tuple[int, int, int]], count: int, side: int) -> None:
    assert side_for(shapes, count) == side
    if side is not None:
        images = ImageSet("i", tuple(map(str, range(len(shapes)))), tuple(torch.zeros(shape) for shape in shapes))
        assert len(cut(images, side)) >= count
