"""SIDD in its own layout, in miniature: what is read where, and what stays on disk."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from denoise_core.errors import UserError
from denoise_core.images import mapped, sidd
from denoise_core.images.crops import CropSource, Place
from denoise_core.images.distillation import DistillationSource
from denoise_core.images.image_set import ImageSet
from denoise_core.images.mapped import MappedImages
from denoise_core.images.named import load_images
from denoise_core.images.recorded import RecordedNoiseSource
from denoise_core.images.source import SimulatedNoiseSource
from denoise_core.noise.evaluation import noisy_test_images
from denoise_core.noise.models import RECORDED, parse_noise
from denoise_core.specification import DataSpec, load_data
from tests.core import sidd_toys
from tests.core.sidd_toys import (
    CPU,
    FIRST,
    LEFTS,
    MEDIUM,
    SECOND,
    TOPS,
    Spoil,
    files,
    in_memory,
    kept,
    medium,
    picture,
    same,
    versions,
    write_medium,
    write_validation,
)

cache = sidd_toys.cache
nothing_half_written = sidd_toys.nothing_half_written


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of all pieces that are turned into floats from now on."""
    shapes: list[tuple[int, ...]] = []
    whole = mapped._tensor
    monkeypatch.setattr(mapped, "_tensor", lambda image: (shapes.append(image.shape), whole(image))[1])
    return shapes


def test_fingerprints_of_images_in_memory_are_what_they_always_were() -> None:
    clean = (torch.arange(60).reshape(3, 4, 5) / 64, torch.arange(36).reshape(3, 6, 2) / 128)
    single, pairs = ImageSet("s", ("a", "b"), clean), ImageSet("s", ("a", "b"), clean, tuple(one / 2 for one in clean))
    assert single.fingerprint == "f24170ee894a054577e17a354264f5b7de598942ae929a8baab769c5be544450"
    assert pairs.fingerprint == "f82d9dcd35e76ed21dcd0f340772ea65091cac7f892dfd1468a27efebc4a676a"
    assert (pairs.channels, pairs.shapes) == (3, [(3, 4, 5), (3, 6, 2)])


# --- SIDD-Medium ------------------------------------------------------------------------------------------------------


def test_patches_are_the_files_content_row_by_row_up_to_the_border(tmp_path: Path) -> None:
    images = medium(write_medium(tmp_path))
    assert (images.name, images.channels, len(images)) == ("sidd_medium", 3, 4 * len(TOPS) * len(LEFTS))
    assert images.shapes == [(3, 32, 32)] * len(images)
    assert images.ids[:2] == (f"{FIRST}_010_000", f"{FIRST}_010_001")
    assert images.ids[-1] == f"{SECOND}_011_008"
    assert list(images.ids) == sorted(images.ids)
    places = [(name, y, x) for one in (FIRST, SECOND) for name in ("010", "011") for y in TOPS for x in LEFTS]
    for index, (number, top, left) in enumerate(places):
        names = files(images.ids[index].rsplit("_", 2)[0], number)
        for part, name in zip(versions(images), names, strict=True):
            assert same(part[index], picture(name)[top : top + 32, left : left + 32])


def test_the_published_sizes_of_patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("DENOISE_CACHE", str(tmp_path / "cache"))
    images = medium(write_medium(tmp_path, (FIRST,), 600, 700))
    assert len(images) == 2 * 4
    assert same(images.pixels[3], picture(files(FIRST, "010")[0], 600, 700)[88:, 188:])
    assert [(sidd._starts(side)[-1], len(sidd._starts(side))) for side in (512, 513, 896, 3000)] == [
        (0, 1), (1, 2), (384, 2), (2488, 8),
    ]  # fmt: skip


def test_a_path_and_a_part_of_the_set(tmp_path: Path) -> None:
    images = medium(write_medium(tmp_path))
    for path, name in ((tmp_path / MEDIUM, MEDIUM), (tmp_path / MEDIUM / "Data", "Data")):
        other = load_images(str(path), channels=None, data_root=None)
        assert (other.name, other.ids, other.fingerprint) == (name, images.ids, images.fingerprint)
    assert load_images(MEDIUM, channels=3, data_root=tmp_path).ids == images.ids
    part = load_images("sidd_medium[18:]", channels=3, data_root=tmp_path)
    assert {one[: len(SECOND)] for one in part.ids} == {SECOND}
    assert part.name == "sidd_medium[18:]"
    assert torch.equal(part.pixels[-1], images.pixels[-1])


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path, read: list[tuple[int, ...]]) -> None:
    medium(write_medium(tmp_path))
    read.clear()
    images = medium(tmp_path)
    train, validation = images.hold_out(5)
    assert (len(train), len(validation)) == (31, 5)
    assert (images.fingerprint, images.seen, train.digests, validation.channels) is not None
    source = RecordedNoiseSource(train, 0, CPU)
    assert source.check(32) == []
    source.whole("noisy")
    assert read == []
    source.batch(size=4, patch=8, seed=0, step=0, fields=("noisy", "clean"))
    assert read == [(8, 8, 3)] * 8
    assert images.pixels[0].shape == (3, 32, 32)
    assert read[8:] == [(32, 32, 3)]
    part = images.pixels[3:6]
    assert (len(part), len(read)) == (3, 9)
    assert torch.equal(part[0], images.pixels[3])
    assert torch.equal(images.pixels[-1], images.pixels[len(images) - 1])
    assert isinstance(versions(images)[0].take([0]).digests, Sequence)


def test_a_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    part = medium(write_medium(tmp_path)).pixels
    assert isinstance(part, MappedImages)
    assert isinstance(part.array.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        part.array[0] = 0


def test_everything_is_as_with_the_same_images_in_memory(tmp_path: Path) -> None:
    images = medium(write_medium(tmp_path))
    plain = in_memory(images)
    assert images.fingerprint == plain.fingerprint
    assert images.seen == plain.seen
    for one, other in zip(images.hold_out(7), plain.hold_out(7), strict=True):
        assert (one.name, one.ids, one.fingerprint) == (other.name, other.ids, other.fingerprint)
    lazy, held = RecordedNoiseSource(images, 0, CPU), RecordedNoiseSource(plain, 0, CPU)
    assert lazy.identity("noisy") == held.identity("noisy")
    assert all(torch.equal(one, other) for one, other in zip(lazy.whole("noisy"), held.whole("noisy"), strict=True))
    for step in (0, 11):
        batches = [
            source.batch(size=6, patch=9, seed=1, step=step, fields=("clean", "noisy")) for source in (lazy, held)
        ]
        assert all(torch.equal(batches[0][field], batches[1][field]) for field in ("clean", "noisy"))
    for first, second in zip(noisy_test_images(images, None), noisy_test_images(plain, None), strict=True):
        assert first.image_id == second.image_id
        assert torch.equal(first.noisy - first.clean, second.noisy - second.clean)
    noise = parse_noise("gauss25")
    drawn = [
        SimulatedNoiseSource(one, noise, "fresh", 0, CPU).batch(size=3, patch=8, seed=0, step=2, fields=("noisy",))
        for one in (images, plain)
    ]
    assert torch.equal(drawn[0]["noisy"], drawn[1]["noisy"])


def test_crops_are_slices_of_the_files_and_show_the_same_place(tmp_path: Path) -> None:
    images = medium(write_medium(tmp_path))
    source = RecordedNoiseSource(images, 0, CPU)
    places: list[Place] = source._places(images, 10, 16, 3, 5)
    batch = source.batch(size=10, patch=16, seed=3, step=5, fields=("noisy", "clean"))
    for crop, (index, top, left) in enumerate(places):
        instance, number, patch = images.ids[index].rsplit("_", 2)
        row, column = divmod(int(patch), len(LEFTS))
        y, x = TOPS[row] + top, LEFTS[column] + left
        for field, name in zip(("clean", "noisy"), files(instance, number), strict=True):
            assert same(batch[field][crop], picture(name)[y : y + 16, x : x + 16])


def test_training_and_test_data_in_one_specification(tmp_path: Path) -> None:
    write_medium(tmp_path)
    write_validation(tmp_path / "SIDD_Validation_Srgb")
    given = DataSpec(train="sidd_medium[:18]", validation_set="sidd_medium[18:]", test=("sidd_validation",),
                     noise=RECORDED, noise_realisation="frozen", channels=3)  # fmt: skip
    data = load_data(given, tmp_path)
    assert (len(data.train), len(data.test[0]), len(data.contents)) == (18, 6, 3)
    batch = data.source(0, CPU).batch(size=2, patch=8, seed=0, step=0, fields=("noisy",))
    assert batch["noisy"].shape == (2, 3, 8, 8)
    itself = given.model_copy(update={"test": ("sidd_medium[3:5]",)})
    with pytest.raises(UserError, match=f"test image {FIRST}_010_003 of .* is also the training image"):
        load_data(itself, tmp_path)
    exported = tmp_path / "patches"
    exported.mkdir()
    Image.fromarray(picture(files(FIRST, "010")[0])[:32, :32]).save(exported / "mine.png")
    with pytest.raises(UserError, match=f"clean image mine of patches is also the image {FIRST}_010_000"):
        load_data(given.model_copy(update={"clean": str(exported)}), tmp_path)


def test_what_keeps_all_images_in_memory_is_refused(tmp_path: Path) -> None:
    write_medium(tmp_path)
    write_validation(tmp_path / "SIDD_Validation_Srgb")
    data = load_data(DataSpec(train="sidd_medium", test=("sidd_validation",), noise=RECORDED, channels=3), tmp_path)
    with pytest.raises(UserError, match="sub-images and labels of whole images are kept in memory"):
        DistillationSource(cast(CropSource, data.source(0, CPU)), factor=4, sub_patch=16)
    both = replace(data, spec=data.spec.model_copy(update={"transductive": True}))
    with pytest.raises(UserError, match="transductive = true keeps all images in memory"):
        both.source(0, CPU)


# --- the conversion ---------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all files that are decoded from now on."""
    names: list[str] = []
    whole = sidd._decoded
    monkeypatch.setattr(sidd, "_decoded", lambda path: (names.append(path.name), whole(path))[1])
    return names


def test_files_are_converted_once(
    tmp_path: Path, cache: Path, decoded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_medium(tmp_path)
    with caplog.at_level(logging.INFO):
        first = medium(tmp_path)
    assert "36 patches of 4 images are written into the cache, once" in caplog.text
    assert "holds 4 pairs; SIDD-Medium has 320" in caplog.text
    assert "4 of 4 images are cut into patches" in caplog.text
    assert len(decoded) == 8
    assert medium(tmp_path).fingerprint == first.fingerprint
    assert len(decoded) == 8
    (folder,) = kept(cache)
    assert sorted(one.name for one in (cache / folder).iterdir()) == ["clean.npy", "noisy.npy", "patches.json"]
    assert np.load(cache / folder / "clean.npy").shape == (36, 32, 32, 3)


def test_equal_files_elsewhere_are_the_same_images_and_a_changed_pixel_is_not(tmp_path: Path, cache: Path) -> None:
    first = medium(write_medium(tmp_path / "one"))
    shutil.copytree(tmp_path / "one", tmp_path / "copy", copy_function=shutil.copy2)
    assert medium(tmp_path / "copy").fingerprint == first.fingerprint
    assert len(kept(cache)) == 1  # dates were copied as well
    assert medium(write_medium(tmp_path / "two")).fingerprint == first.fingerprint
    assert len(kept(cache)) == 2
    file = tmp_path / "two" / MEDIUM / "Data" / files(SECOND, "011")[1]
    pixels = picture(files(SECOND, "011")[1])
    pixels[69, 79, 2] ^= 1
    Image.fromarray(pixels).save(file)
    changed = medium(tmp_path / "two")
    assert changed.fingerprint != first.fingerprint
    assert [one for one in first.ids if first.digests[one] != changed.digests[one]] == [f"{SECOND}_011_008"]


def test_a_conversion_that_was_stopped_leaves_nothing_and_begins_again(
    tmp_path: Path, cache: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_medium(tmp_path)

    def stopped(image: np.ndarray) -> list[np.ndarray]:
        if len(decoded) == 6:
            raise KeyboardInterrupt
        return whole(image)

    whole = sidd._cut
    monkeypatch.setattr(sidd, "_cut", stopped)
    with pytest.raises(KeyboardInterrupt):
        medium(tmp_path)
    assert kept(cache) == []
    monkeypatch.setattr(sidd, "_cut", whole)
    assert len(medium(tmp_path)) == 36
    assert len(decoded) == 6 + 8


def test_a_killed_conversion_is_not_taken_as_whole_and_is_cleared_away(
    tmp_path: Path, cache: Path, decoded: list[str]
) -> None:
    fingerprint = medium(write_medium(tmp_path)).fingerprint
    (folder,) = kept(cache)
    (cache / folder).rename(cache / f".{folder}-{'0' * 32}")  # whatever it holds
    (cache / "mine").mkdir()
    assert medium(tmp_path).fingerprint == fingerprint
    assert kept(cache) == ["mine", folder]
    assert len(decoded) == 16


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "patches.json").write_text("{"),
        lambda folder: (folder / "patches.json").write_text("[]"),
        lambda folder: (folder / "patches.json").unlink(),
        lambda folder: (folder / "noisy.npy").unlink(),
        lambda folder: os.truncate(folder / "noisy.npy", 5000),
        lambda folder: os.truncate(folder / "clean.npy", 0),
        lambda folder: np.save(folder / "clean.npy", np.zeros((2, 32, 32, 3), np.uint8)),
    ],
)
def test_a_damaged_conversion_is_done_again(tmp_path: Path, cache: Path, decoded: list[str], damage: Spoil) -> None:
    fingerprint = medium(write_medium(tmp_path)).fingerprint
    (folder,) = kept(cache)
    damage(cache / folder)
    for _ in range(2):
        again = medium(tmp_path)
        assert again.fingerprint == fingerprint == in_memory(again).fingerprint
    assert len(decoded) == 16


@pytest.mark.parametrize("locks", [True, False])
def test_many_may_ask_at_once(
    tmp_path: Path, cache: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    write_medium(tmp_path)
    if not locks:

        def unknown(*_: object) -> None:
            raise OSError(37, "No locks available")

        monkeypatch.setattr(mapped.fcntl, "flock", unknown)
    together = threading.Barrier(4)

    def ask(_: int) -> str:
        together.wait(timeout=20)
        return in_memory(medium(tmp_path)).fingerprint

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(ask, range(4)))) == 1
    assert len(kept(cache)) == 1
    if locks:
        assert len(decoded) == 8


@pytest.mark.parametrize("damaged", [False, True])
def test_another_process_may_be_first_where_there_are_no_locks(
    tmp_path: Path, cache: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    """At the worst moment: after every question and just before the rename."""
    fingerprint = medium(write_medium(tmp_path)).fingerprint
    (folder,) = kept(cache)
    shutil.move(cache / folder, tmp_path / "other")
    if damaged:
        (tmp_path / "other" / "noisy.npy").unlink()
    rename = os.replace

    def late(source: Path, target: Path) -> None:
        if not target.exists() and source.parent == cache:
            shutil.copytree(tmp_path / "other", target)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", late)
        if damaged:  # again and again: it gives up with a sentence
            with pytest.raises(UserError, match="cannot be kept in the cache folder"):
                medium(tmp_path)
        else:
            assert in_memory(medium(tmp_path)).fingerprint == fingerprint
    again = medium(tmp_path)
    assert again.fingerprint == fingerprint == in_memory(again).fingerprint
    assert kept(cache) == [folder]


# --- validation blocks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["SIDD_Validation_Srgb", "SIDD_Validation_sRGB", "."])
def test_validation_blocks(tmp_path: Path, cache: Path, place: str) -> None:
    write_validation(tmp_path / place)
    images = load_images("sidd_validation", channels=3, data_root=tmp_path)
    assert (images.name, images.channels) == ("sidd_validation", 3)
    assert images.ids == ("00_00", "00_01", "00_02", "01_00", "01_01", "01_02")
    assert images.shapes == [(3, 16, 16)] * 6
    for part, kind in zip(versions(images), ("Gt", "Noisy"), strict=True):
        blocks = np.random.default_rng(len(kind)).integers(0, 256, (2, 3, 16, 16, 3), dtype=np.uint8)
        assert all(same(part[3 * one + two], blocks[one, two]) for one in range(2) for two in range(3))
    assert images.fingerprint == in_memory(images).fingerprint
    assert images.subset([4, 1], "some").digests["00_01"] == images.digests["00_01"]
    assert load_images(str(tmp_path / place), channels=None, data_root=None).fingerprint == images.fingerprint
    assert not cache.exists()
    batch = RecordedNoiseSource(images, 0, CPU).batch(size=7, patch=8, seed=0, step=0, fields=("noisy", "clean"))
    assert batch["noisy"].shape == (7, 3, 8, 8)
