"""Reading images, named sets and training batches."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from denoise_core.errors import UserError
from denoise_core.images import folder as folder_module
from denoise_core.images.bundled import load_bundled
from denoise_core.images.folder import load_folder
from denoise_core.images.image_set import ImageSet
from denoise_core.images.named import KNOWN, load_images
from denoise_core.images.source import ImageSource, Realisation, SimulatedNoiseSource
from denoise_core.noise.models import parse_noise

CPU = torch.device("cpu")
rng = np.random.default_rng(0)
GRAY = rng.integers(0, 256, (20, 30), dtype=np.uint8)
RGB = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)


def numbered(count: int, height: int = 16, width: int = 20) -> ImageSet:
    """Image k holds the values (k * 1000 + row * 20 + column) / 1e5: a crop tells where it comes from."""
    base = torch.arange(height * width, dtype=torch.float32).view(1, height, width)
    return ImageSet(
        "numbered", tuple(f"im{k}" for k in range(count)), tuple((base + 1000 * k) / 1e5 for k in range(count))
    )


# --- ImageSet ---------------------------------------------------------------------------------------------------------


def test_hold_out_is_evenly_spaced_disjoint_and_complete() -> None:
    images = numbered(10)
    train, validation = images.hold_out(2)
    assert validation.ids == ("im2", "im7")
    assert sorted(train.ids + validation.ids) == sorted(images.ids)
    assert (train.name, validation.name) == ("numbered[:-2]", "numbered[-2:]")
    for total in range(2, 40):
        for count in range(1, total):
            parts = numbered(total, 2, 2).hold_out(count)
            assert (len(parts[0]), len(parts[1])) == (total - count, count)
    with pytest.raises(UserError, match=r"cannot hold out 10 of the 10 images .* from 1 to 9"):
        images.hold_out(10)


def test_fingerprint_sees_pixels_ids_and_order_but_not_the_name() -> None:
    images = numbered(3)
    assert images.fingerprint == numbered(3).subset([0, 1, 2], "other").fingerprint
    changed = list(images.pixels)
    changed[1] = changed[1].clone()
    changed[1][0, 5, 5] += 1e-6
    others = [
        ImageSet("n", images.ids, tuple(changed)),
        ImageSet("n", ("im0", "im1", "imX"), images.pixels),
        images.subset([1, 0, 2], "n"),
        ImageSet("n", images.ids, tuple(image.reshape(1, 20, 16) for image in images.pixels)),
    ]
    assert len({images.fingerprint, *(other.fingerprint for other in others)}) == 5


# --- folders ----------------------------------------------------------------------------------------------------------


def test_every_kind_of_file_keeps_its_values(tmp_path: Path) -> None:
    deep = rng.integers(0, 65536, (20, 30), dtype=np.uint16)
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    Image.fromarray(deep).save(tmp_path / "b.PNG")
    tifffile.imwrite(tmp_path / "c.tif", deep.astype(">u2"), byteorder=">")
    tifffile.imwrite(tmp_path / "d.tiff", (GRAY / 255).astype(np.float32))
    np.save(tmp_path / "e.npy", GRAY / 255.0)
    tifffile.imwrite(tmp_path / "f.tif", np.stack([GRAY, GRAY[::-1]]), photometric="minisblack")
    np.save(tmp_path / "g.npy", np.stack([deep, deep[::-1]]))
    (tmp_path / "notes.txt").write_text("ignored")
    (tmp_path / ".hidden.png").write_bytes(b"ignored")
    images = load_folder(tmp_path)
    assert images.ids == ("a", "b", "c", "d", "e", "f#000", "f#001", "g#000", "g#001")
    expected = [GRAY / 255, deep / 65535, deep / 65535, GRAY / 255, GRAY / 255]
    expected += [GRAY / 255, GRAY[::-1] / 255, deep / 65535, deep[::-1] / 65535]
    for image, values in zip(images.pixels, expected, strict=True):
        assert image.dtype == torch.float32
        np.testing.assert_allclose(image.numpy()[0], values, atol=1e-7)


def test_colour_files_and_conversions(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    Image.fromarray(np.dstack([RGB, np.full((20, 30), 255, np.uint8)])).save(tmp_path / "b.png")
    tifffile.imwrite(tmp_path / "c.tif", RGB, photometric="rgb")
    tifffile.imwrite(tmp_path / "d.tif", RGB.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.save(tmp_path / "e.npy", RGB)
    for image in load_folder(tmp_path).pixels:
        np.testing.assert_allclose(image.numpy(), RGB.transpose(2, 0, 1) / 255, atol=1e-7)
    gray = load_folder(tmp_path, channels=1).pixels[0]
    np.testing.assert_allclose(gray.numpy()[0], RGB @ [0.2989, 0.5870, 0.1140] / 255, atol=1e-6)


def test_gray_is_repeated_for_three_channels_and_jpeg_is_read(tmp_path: Path) -> None:
    smooth = np.tile(np.arange(0, 240, 8, dtype=np.uint8), (20, 1))
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=100)
    image = load_folder(tmp_path, channels=3).pixels[0]
    assert image.shape == (3, 20, 30)
    np.testing.assert_allclose(image.numpy(), np.stack([smooth / 255] * 3), atol=2 / 255)


def test_palette_image_becomes_colour(tmp_path: Path) -> None:
    Image.fromarray(RGB).quantize(16).save(tmp_path / "a.png")
    assert load_folder(tmp_path).channels == 3


def write_truncated(path: Path) -> None:
    Image.fromarray(RGB).save(path / "a.png")
    (path / "a.png").write_bytes((path / "a.png").read_bytes()[:900])


def write_truncated_tiff(path: Path) -> None:
    tifffile.imwrite(path / "a.tif", GRAY)
    (path / "a.tif").write_bytes((path / "a.tif").read_bytes()[:-100])


def write_16_bit_colour_png(path: Path) -> None:
    Image.fromarray(RGB).save(path / "a.png")
    data = bytearray((path / "a.png").read_bytes())
    data[24] = 16
    (path / "a.png").write_bytes(bytes(data))


def write_mixture(path: Path) -> None:
    Image.fromarray(GRAY).save(path / "gray.png")
    Image.fromarray(RGB).save(path / "colour.png")


def write_twins(path: Path) -> None:
    Image.fromarray(GRAY).save(path / "a.png")
    tifffile.imwrite(path / "a.tif", GRAY)


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda p: None, r"holds no images; it must directly contain files that end in \.png, \.jpg"),
        (lambda p: p.rmdir(), r"does not exist or is not a folder; give the path"),
        (write_truncated, r"cannot read the image .*a\.png: it is damaged"),
        (lambda p: (p / "a.png").write_bytes(b""), r"cannot read the image .*a\.png"),
        (lambda p: (p / "a.tif").write_bytes(b"II*\0garbage"), r"cannot read the image .*a\.tif"),
        (lambda p: (p / "a.npy").write_bytes(b"garbage"), r"cannot read the image .*a\.npy"),
        (lambda p: (p / "a.jpg").write_bytes(b"\xff\xd8garbage"), r"cannot read the image .*a\.jpg"),
        (write_truncated_tiff, r"cannot read the image .*a\.tif"),
        (lambda p: Image.fromarray(GRAY > 9).save(p / "a.png"), r"a\.png has pixels of type bool"),
        (write_mixture, r"mixes gray images \(such as gray\) and colour images \(such as colour\); .*--channels 1"),
        (write_twins, r"a\.png and a\.tif in .* would both be called 'a'; rename or remove one"),
        (lambda p: np.save(p / "a.npy", np.array([[0.5, np.nan]])), r"a\.npy holds NaN or infinite pixels"),
        (lambda p: np.save(p / "a.npy", np.array([[0.0, 1.5]])), r"float pixels from 0 to 1\.5, .*divide all images"),
        (lambda p: np.save(p / "a.npy", np.array([[-0.5, 1]])), r"float pixels from -0\.5 to 1"),
        (lambda p: np.save(p / "a.npy", GRAY > 9), r"pixels of type bool; save it as unsigned 8-bit"),
        (lambda p: np.save(p / "a.npy", GRAY.astype(np.int16)), r"pixels of type int16"),
        (lambda p: np.save(p / "a.npy", GRAY.astype(np.uint32)), r"pixels of type uint32"),
        (lambda p: np.save(p / "a.npy", GRAY[0]), r"has the shape \(30,\); an NPY file must hold"),
        (lambda p: np.save(p / "a.npy", GRAY[:0]), r"holds no pixels"),
        (lambda p: np.save(p / "a.npy", np.array([[{}]], dtype=object)), r"cannot read the image .*a\.npy"),
        (lambda p: Image.fromarray(np.dstack([RGB, GRAY])).save(p / "a.png"), r"alpha\) channel that is not constant"),
        (lambda p: Image.fromarray(RGB).convert("CMYK").save(p / "a.jpg"), r"colour mode CMYK; convert it"),
        (write_16_bit_colour_png, r"16-bit PNG with colour or alpha, .* save it as TIFF"),
        (lambda p: tifffile.imwrite(p / "a.tif", GRAY, photometric="miniswhite"), r"is a MINISWHITE TIFF"),
    ],
)
def test_bad_folders_get_one_sentence(tmp_path: Path, write: Callable[[Path], None], sentence: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        load_folder(folder)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".npy"])
def test_huge_images_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, GRAY)
    else:
        Image.fromarray(GRAY).save(path)
    load_folder(tmp_path)
    monkeypatch.setattr(folder_module, "MAX_PIXELS", 599)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(UserError, match="20 x 30 pixels, more than the limit of 599; cut it"):
        load_folder(tmp_path)


def test_the_limit_is_ours_and_not_that_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert len(load_folder(tmp_path)) == 1


# --- bundled and named sets -------------------------------------------------------------------------------------------


def test_bundled_sets_are_disjoint_small_and_deterministic() -> None:
    for channels in (1, 3):
        train, test = load_bundled("bundled_train", channels), load_bundled("bundled_test", channels)
        assert train.channels == test.channels == channels
        assert not set(train.ids) & set(test.ids)
        assert all(max(image.shape[1:]) <= 256 for image in test.pixels)
        assert all(0 <= image.min() < image.max() <= 1 for image in train.pixels + test.pixels)
    assert (len(load_bundled("bundled_train")), len(load_bundled("bundled_test"))) == (8, 6)
    assert load_bundled("bundled_test").ids == (
        "astronaut",
        "camera",
        "chelsea",
        "coffee",
        "coins",
        "motorcycle_left",
    )
    assert load_bundled("bundled_test").fingerprint == load_bundled("bundled_test").fingerprint
    colour = load_bundled("bundled_test", 3).pixels[0]
    assert not torch.equal(colour[0], colour[1]), "astronaut must be in true colour"


def test_names_paths_and_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    Image.fromarray(GRAY).save(tmp_path / "mine" / "a.png")
    assert load_images("bundled_test", channels=None, data_root=None).channels == 1
    assert load_images("mine", channels=None, data_root=tmp_path).ids == ("a",)
    assert load_images(str(tmp_path / "mine"), channels=3, data_root=None).channels == 3
    monkeypatch.chdir(tmp_path)
    assert load_images("mine", channels=None, data_root=None).name == "mine"


def test_set14_skips_its_gray_file_in_colour_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "set14").mkdir()
    Image.fromarray(GRAY).save(tmp_path / "set14" / "bridge.png")
    for name in ("man", "zebra"):
        Image.fromarray(RGB).save(tmp_path / "set14" / f"{name}.png")
    with caplog.at_level("INFO"):
        assert load_images("set14", channels=None, data_root=tmp_path).ids == ("man", "zebra")
    assert "set14: skipped in colour because gray: bridge.png" in caplog.text
    assert load_images("set14", channels=1, data_root=tmp_path).ids == ("bridge", "man", "zebra")
    twelve = load_images("set14_rgb12", channels=None, data_root=tmp_path)
    assert (twelve.name, twelve.ids) == ("set14_rgb12", ("zebra",))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("bsd86", "unknown image set 'bsd86': did you mean 'bsd68'"),
        ("", "unknown image set ''"),
        ("kodak24", "'kodak24' was not found in .* set DENOISE_DATA or --data-root to the folder that contains"),
        ("no/such/folder", "the image folder no/such/folder does not exist"),
    ],
)
def test_wrong_names(tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_images(name, channels=None, data_root=tmp_path)


def test_other_wrong_requests(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs the data folder, which is not set: set DENOISE_DATA"):
        load_images("bsd68", channels=None, data_root=None)
    (tmp_path / "bsd68").mkdir()
    with pytest.raises(UserError, match="'bsd68' is gray and has no colour version"):
        load_images("bsd68", channels=3, data_root=tmp_path)
    with pytest.raises(UserError, match="1 or 3 channels, not 2"):
        load_images("bundled_test", channels=2, data_root=None)


@pytest.mark.parametrize(("name", "count"), [("bsd68", 68), ("set14", 13), ("set14_rgb12", 12), ("em_isbi2012", 30)])
def test_real_sets(data_root: Path, name: str, count: int) -> None:
    if not (data_root / (KNOWN[name].folder or name)).is_dir():
        pytest.skip(f"the data pack has no {name}")
    images = load_images(name, channels=None, data_root=data_root)
    assert (len(images), images.channels) == (count, KNOWN[name].channels)


def test_gray_conversion_reproduces_bsd68_to_rounding(data_root: Path) -> None:
    if not (data_root / "cbsd68").is_dir():
        pytest.skip("the data pack has no cbsd68")
    gray = load_images("bsd68", channels=None, data_root=data_root)
    colour = load_images("cbsd68", channels=1, data_root=data_root)
    published = gray.pixels[gray.ids.index("test019")]
    ours = colour.pixels[colour.ids.index("145086")]  # its colour original
    assert (published - ours).abs().max() < 0.53 / 255


# --- batches ----------------------------------------------------------------------------------------------------------


def source(images: ImageSet, realisation: Realisation = "fresh", noise: str = "gauss25") -> SimulatedNoiseSource:
    return SimulatedNoiseSource(images, parse_noise(noise), realisation, seed=3, device=CPU)


def places(clean: torch.Tensor) -> list[tuple[int, int, int]]:
    """(image, top, left) of crops of the numbered images."""
    codes = [round(crop.item() * 1e5) for crop in clean[:, 0, 0, 0]]
    return [(code // 1000, code % 1000 // 20, code % 20) for code in codes]


def test_batch_has_the_asked_fields_and_repeats_exactly() -> None:
    images: ImageSource = source(numbered(5))
    first = images.batch(size=3, patch=8, seed=1, step=7, fields=("noisy", "noisy2", "clean"))
    assert list(first) == ["noisy", "noisy2", "clean"]
    assert all(tensor.shape == (3, 1, 8, 8) and tensor.dtype == torch.float32 for tensor in first.values())
    images.batch(size=4, patch=6, seed=9, step=0, fields=("clean",))  # nothing in between may matter
    again = source(numbered(5)).batch(size=3, patch=8, seed=1, step=7, fields=("noisy2", "noisy", "clean"))
    assert all(torch.equal(first[field], again[field]) for field in first)
    only = images.batch(size=3, patch=8, seed=1, step=7, fields=("noisy",))
    assert list(only) == ["noisy"]
    assert torch.equal(only["noisy"], first["noisy"])
    for seed, step in ((2, 7), (1, 8)):
        assert not torch.equal(
            images.batch(size=3, patch=8, seed=seed, step=step, fields=("noisy",))["noisy"], first["noisy"]
        )
    noise = {field: first[field] - first["clean"] for field in ("noisy", "noisy2")}
    correlation = torch.corrcoef(torch.stack([noise["noisy"].flatten(), noise["noisy2"].flatten()]))[0, 1]
    assert abs(correlation) < 0.3  # 192 independent values: 4 standard errors


@pytest.mark.parametrize(("total", "size"), [(7, 3), (6, 3), (2, 5)])
def test_every_epoch_takes_every_image_once(total: int, size: int) -> None:
    images = source(numbered(total, 16, 20))
    steps = 3 * total
    order = [
        place[0]
        for step in range(steps)
        for place in places(images.batch(size=size, patch=4, seed=0, step=step, fields=("clean",))["clean"])
    ]
    epochs = [order[i : i + total] for i in range(0, len(order), total)]
    assert all(sorted(epoch) == list(range(total)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1, "the order must change between the epochs"


def test_crop_positions_are_uniform_and_inclusive() -> None:
    images = source(numbered(1, 6, 20))
    clean = images.batch(size=3000, patch=4, seed=0, step=0, fields=("clean",))["clean"]
    tops = np.bincount([top for _, top, _ in places(clean)])
    lefts = np.bincount([left for _, _, left in places(clean)])
    assert (len(tops), len(lefts)) == (3, 17)
    assert np.abs(tops / 1000 - 1).max() < 0.15  # standard error 2.6 %
    assert lefts.min() > 100  # expected 176, standard error 13


def test_fresh_noise_changes_and_frozen_noise_stays() -> None:
    image = ImageSet("one", ("a",), (torch.full((1, 8, 8), 0.5),))
    for realisation, same in (("fresh", False), ("frozen", True)):
        images = source(image, realisation)  # type: ignore[arg-type]
        draws = [images.batch(size=1, patch=8, seed=0, step=step, fields=("noisy", "noisy2")) for step in (0, 1)]
        assert torch.equal(draws[0]["noisy"], draws[1]["noisy"]) is same
        assert not torch.equal(draws[0]["noisy"], draws[0]["noisy2"])


def test_frozen_crops_are_cut_from_one_realisation_of_their_own_image() -> None:
    images = source(numbered(3), "frozen")
    whole = torch.stack([images._frozen("noisy")[k] for k in range(3)])
    batch = images.batch(size=9, patch=4, seed=5, step=2, fields=("clean", "noisy"))
    for (index, top, left), crop in zip(places(batch["clean"]), batch["noisy"], strict=True):
        assert torch.equal(crop, whole[index, :, top : top + 4, left : left + 4])
    # The realisation belongs to the image, not to its place in the set.
    other = source(numbered(3).subset([2, 0], "part"), "frozen")
    assert torch.equal(other._frozen("noisy")[0], whole[2])


def test_ranged_noise_draws_a_level_per_crop_or_per_image() -> None:
    flat = ImageSet("flat", ("a", "b"), (torch.full((1, 64, 64), 0.5),) * 2)
    fresh = source(flat, "fresh", "gauss5_50").batch(size=8, patch=64, seed=0, step=0, fields=("noisy",))["noisy"]
    assert len({round(level, 2) for level in (255 * fresh).std(dim=(1, 2, 3)).tolist()}) == 8
    frozen = source(flat, "frozen", "gauss5_50").batch(size=8, patch=64, seed=0, step=0, fields=("noisy",))["noisy"]
    assert len({round(level, 2) for level in (255 * frozen).std(dim=(1, 2, 3)).tolist()}) == 2


def test_batch_errors() -> None:
    images = source(numbered(2, 16, 20))
    images.check(16)
    message = (
        "the image im0 of numbered has 16 x 20 pixels, less than the patch of 17 x 17; choose a patch of at most 16"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        images.check(17)
    with pytest.raises(UserError, match="no field 'noisy3': did you mean"):
        images.batch(size=1, patch=4, seed=0, step=0, fields=("noisy3",))


def test_a_set_that_does_not_fit_in_memory_is_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(60):
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / f"{index}.png")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr("denoise_core.images.folder.MEMORY_SHARE", 55 * 4 * 32 * 32 / memory)
    with pytest.raises(UserError, match=r"would take about .* GiB in memory, more than .* use fewer"):
        load_folder(tmp_path)
