"""The cache of tensors: what is found, what is computed again, what is removed, and that it never gets in the way."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from denoise_core import cache
from denoise_core.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DENOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DENOISE_CACHE_GB", raising=False)
    cache._warn_once.cache_clear()
    return tmp_path / "cache"


class Counted:
    """A computation that counts how often it runs."""

    def __init__(self, value: Tensor) -> None:
        self.value, self.runs = value, 0

    def __call__(self) -> Tensor:
        self.runs += 1
        return self.value.clone()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_a_value_is_computed_once_and_read_as_it_was(dtype: torch.dtype) -> None:
    compute = Counted((torch.arange(24).reshape(2, 3, 4) * 1.7).to(dtype))
    for _ in range(3):
        value = cache.remembered(("a", 1, b"\x00\x01"), compute)
        assert value.dtype == dtype
        assert torch.equal(value, compute.value)
        value.zero_()  # belongs to the caller
    assert compute.runs == 1


def test_every_part_counts_and_so_do_its_type_and_its_place() -> None:
    keys = [(1,), ("1",), (1.0,), (b"1",), (1, 1), ("ab", "c"), ("a", "bc"), ("abc",), ("", "abc"), (b"abc",), ()]
    for number, parts in enumerate(keys):
        assert cache.remembered(parts, lambda: torch.tensor(number)).item() == number  # noqa: B023 (called at once)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:140] + bytes([content[140] ^ 1]) + content[141:],
        lambda content: content[::-1],
    ],
    ids=["short", "half", "empty", "flipped", "noise"],
)
def test_a_damaged_file_is_computed_again(
    damage: Callable[[bytes], bytes], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compute = Counted(torch.rand(5, 5))
    cache.remembered(("a",), compute)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    for _ in range(2):
        assert torch.equal(cache.remembered(("a",), compute), compute.value)
    assert compute.runs == 2
    assert path.read_bytes() == whole
    assert "damaged" in caplog.text


def test_files_are_ordinary_numpy_files(folder: Path) -> None:
    value = cache.remembered(("a",), lambda: torch.rand(3, 2))
    (path,) = folder.iterdir()
    assert np.array_equal(np.load(path, allow_pickle=False), value.numpy())


def test_many_may_write_the_same_value_at_once(folder: Path) -> None:
    together = threading.Barrier(8)

    def compute() -> Tensor:
        together.wait(timeout=20)  # nobody has written before everybody has looked
        return torch.arange(10_000)

    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda _: cache.remembered(("a",), compute), range(8)))
    assert all(torch.equal(value, torch.arange(10_000)) for value in values)
    assert len(list(folder.iterdir())) == 1
    assert torch.equal(cache.remembered(("a",), lambda: torch.zeros(1)), torch.arange(10_000))


def test_off_neither_reads_nor_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.remembered(("a",), lambda: torch.zeros(1))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setenv("DENOISE_CACHE", "off")
    compute = Counted(torch.ones(1))
    for _ in range(2):
        assert cache.remembered(("a",), compute).item() == 1
    assert compute.runs == 2
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert not Path("off").exists()


def test_a_folder_that_cannot_be_used_is_only_a_warning_and_one_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("DENOISE_CACHE", str(tmp_path / "file"))
    compute = Counted(torch.ones(1))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert cache.remembered(("a",), compute).item() == 1
    assert compute.runs == 3
    assert len(caplog.records) == 1
    assert "DENOISE_CACHE" in caplog.text


def test_a_full_disk_keeps_nothing_and_leaves_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert cache.remembered(("a",), lambda: torch.ones(1)).item() == 1
    assert list(folder.iterdir()) == []
    assert "No space left" in caplog.text


def test_the_longest_unused_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Path] = {}
    for age, name in enumerate(["new", "used", "old", "oldest"]):
        before = set(folder.iterdir()) if folder.exists() else set()
        cache.remembered((name,), lambda: torch.zeros(1000))
        (made[name],) = set(folder.iterdir()) - before
        os.utime(made[name], (time.time() - 3600 * (age + 1),) * 2)
    os.utime(made["used"], (time.time() - 90_000,) * 2)
    cache.remembered(("used",), lambda: torch.zeros(1000))  # reading it makes it the newest
    size = made["new"].stat().st_size
    (folder / "mine.npy").write_bytes(bytes(10 * size))  # somebody else's file neither counts nor goes
    monkeypatch.setenv("DENOISE_CACHE_GB", str(3.5 * size / 2**30))
    cache.remembered(("another",), lambda: torch.zeros(1000))
    assert {name for name, path in made.items() if path.exists()} == {"new", "used"}
    assert (folder / "mine.npy").exists()
    assert len(list(folder.iterdir())) == 4


def test_a_value_larger_than_the_limit_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENOISE_CACHE_GB", "1e-6")
    assert cache.remembered(("a",), lambda: torch.zeros(1000)).numel() == 1000
    assert not folder.exists() or list(folder.iterdir()) == []


def test_leftovers_of_killed_processes_are_removed(folder: Path) -> None:
    folder.mkdir()
    old, young = folder / f".writing-{'0' * 32}", folder / f".writing-{'1' * 32}"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * cache.ASIDE_SECONDS,) * 2)
    cache.remembered(("a",), lambda: torch.zeros(1))
    assert not old.exists()
    assert young.exists()  # another process may be writing it


@pytest.mark.parametrize("size", ["0", "-1", "four", "nan"])
def test_wrong_limits(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENOISE_CACHE_GB", size)
    with pytest.raises(UserError, match="must be a number of GiB above 0"):
        cache.remembered(("a",), lambda: torch.zeros(1))


def test_the_default_folder_and_a_machine_without_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("DENOISE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    cache.remembered(("a",), lambda: torch.zeros(1))
    assert len(list((tmp_path / ".cache" / "denoise-studies").iterdir())) == 1

    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert cache.remembered(("a",), lambda: torch.ones(1)).item() == 1
    assert "DENOISE_CACHE" in caplog.text
