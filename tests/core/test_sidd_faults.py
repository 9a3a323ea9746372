"""SIDD with bad files, and caches that cannot hold it: refused in one sentence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denoise_core.errors import UserError
from denoise_core.images import mapped
from denoise_core.images.named import load_images
from tests.core import sidd_toys
from tests.core.sidd_toys import (
    FIRST,
    MEDIUM,
    SECOND,
    Spoil,
    files,
    kept,
    medium,
    picture,
    write_medium,
    write_validation,
)

cache = sidd_toys.cache
nothing_half_written = sidd_toys.nothing_half_written


# --- bad input --------------------------------------------------------------------------------------------------------


def at(root: Path, kind: int, number: str = "010", instance: str = FIRST) -> Path:
    return root / MEDIUM / "Data" / files(instance, number)[kind]


def truncate(root: Path) -> None:
    os.truncate(at(root, 1, "011"), at(root, 1, "011").stat().st_size // 2)


def repaint(pixels: np.ndarray, kind: int = 1) -> Callable[[Path], None]:
    return lambda root: Image.fromarray(pixels).save(at(root, kind), "PNG")


def lonely(root: Path) -> None:
    for instance in (FIRST, SECOND):
        for number in ("010", "011"):
            at(root, 1, number, instance).unlink()


def both_small(root: Path) -> None:
    for kind in (0, 1):
        repaint(picture(str(kind), 31, 80), kind)(root)


def empty(root: Path) -> None:
    for file in (root / MEDIUM).glob("Data/*/*"):
        file.unlink()


def refused(sentence: str, load: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        load()
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (empty, r"is not laid out like SIDD-Medium .*, which is Data/<scene instance>/ .*0001_GT_SRGB_010\.PNG"),
        (lambda p: shutil.rmtree(p / MEDIUM / "Data"), r"SIDD_Medium_Srgb is not laid out like SIDD-Medium"),
        (lonely, rf"4 GT images of .* no NOISY .*: Data/{FIRST}/0001_GT_SRGB_010\.PNG, .*011\.PNG, .*, \.\.\.; add"),
        (lambda p: at(p, 0).unlink(), r"1 NOISY images of .* no GT partner .*: Data/.*/0001_NOISY_SRGB_010\.PNG; add"),
        (lambda p: at(p, 1).rename(at(p, 1).with_name("0002_NOISY_SRGB_010.PNG")), r"1 GT images of .* no NOISY part"),
        (repaint(picture("x", 70, 81)), rf"pair {FIRST}_010 does not match: 70 x 81 .*NOISY.*, 70 x 80 in 0001_GT_"),
        (truncate, r"cannot read the image .*0001_NOISY_SRGB_011\.PNG: it is truncated or damaged .*; download it"),
        (lambda p: at(p, 0).write_bytes(b"\x89PNG"), r"cannot read the image .*0001_GT_SRGB_010\.PNG: it is no PNG or"),
        (lambda p: at(p, 0).write_bytes(b"GIF89a" + bytes(40)), r"it is no PNG or damaged"),
        (repaint(picture("x")[..., 0]), r"0001_NOISY_SRGB_010\.PNG is no PNG of 8 bits and three colours"),
        (repaint(picture(files(FIRST, "010")[0])), r"0001_GT_SRGB_010\.PNG and .* are equal in every pixel"),
        (both_small, r"0001_GT_SRGB_010\.PNG has 31 x 80 pixels, less than a patch of 32 x 32"),
    ],
)
def test_bad_images_get_one_sentence(tmp_path: Path, cache: Path, spoil: Spoil, sentence: str) -> None:
    spoil(write_medium(tmp_path))
    refused(sentence, lambda: medium(tmp_path))
    assert not cache.exists() or kept(cache) == []


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda p: (p / "ValidationGtBlocksSrgb.mat").unlink(), r"ValidationGtBlocksSrgb\.mat is missing: SIDD's"),
        (lambda p: write_validation(p, name="blocks"), r"Gt.*\.mat holds no variable ValidationGtBlocksSrgb"),
        (lambda p: write_validation(p, change=lambda blocks: blocks[:1]), r"Gt.* uint8 of shape \(1, 3, .* not uint8"),
        (lambda p: write_validation(p, change=lambda blocks: blocks / 255), r"is float64 of shape"),
        (lambda p: os.truncate(p / "ValidationNoisyBlocksSrgb.mat", 900), r"cannot read .*Noisy.*damaged or no MAT"),
        (lambda p: (p / "ValidationGtBlocksSrgb.mat").write_bytes(b"MATLAB"), r"cannot read .*damaged or no MAT file"),
        (lambda p: write_validation(p, change=lambda blocks: blocks * 0), r"Gt.* and .*Noisy.* are equal in every"),
    ],
)
def test_bad_blocks_get_one_sentence(tmp_path: Path, spoil: Spoil, sentence: str) -> None:
    spoil(write_validation(tmp_path / "SIDD_Validation_Srgb"))
    refused(sentence, lambda: load_images("sidd_validation", channels=None, data_root=tmp_path))


def no_space(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(mapped.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]


def full_disk(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped.os, "fsync", full)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (no_space, r"cannot be kept in the cache folder .* \(not enough space\); set DENOISE_CACHE .* 0\.0 GiB free"),
        (full_disk, r"cannot be kept in the cache folder .* \(No space left on device\)"),
        (lambda monkeypatch, cache: cache.write_text("no folder"), r"cannot be kept .* can be written\."),
        (lambda monkeypatch, cache: monkeypatch.setenv("DENOISE_CACHE", "off"), r"cache, which is off: set DENOISE_"),
    ],
)
def test_a_cache_that_cannot_hold_them(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[pytest.MonkeyPatch, Path], object],
    sentence: str,
) -> None:
    write_medium(tmp_path)
    spoil(monkeypatch, cache)
    refused(sentence, lambda: medium(tmp_path))
    assert not cache.is_dir() or kept(cache) == []


@pytest.mark.parametrize("name", ["sidd_medium", "sidd_validation"])
def test_a_set_that_is_not_there_and_one_without_colour(tmp_path: Path, name: str) -> None:
    for root in (tmp_path, None):
        with pytest.raises(UserError, match=r"'SIDD_.*_Srgb', or use a folder of your own that holds the folders"):
            load_images(name, channels=None, data_root=root)
    write_medium(tmp_path)
    write_validation(tmp_path)
    with pytest.raises(UserError, match=r"\(SIDD\) are read in colour only; use --channels 3\."):
        load_images(name, channels=1, data_root=tmp_path)
