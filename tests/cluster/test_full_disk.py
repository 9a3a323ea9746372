"""A disk that fills up: nothing recorded is lost, the message says what is needed, the same command goes on."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.execution import one_training
from cluster.execution.one_training import Ended
from cluster.results import files
from cluster.results.files import StoreTrouble
from cluster.results.store import Store
from tests.cluster.phases_toys import Listener, measured, row, toy_data, training, trial


class Disk:
    """A small disk of its own, which can be filled and freed."""

    def __init__(self, path: Path):
        self.path, self._ballast = path, path / "ballast"

    def fill(self) -> None:
        """Leaves nothing."""
        with self._ballast.open("ab", buffering=0) as stream:
            size = 2**16
            while size:
                try:
                    stream.write(bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    size //= 2

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield Disk(path)
    subprocess.run(["umount", "-l", str(path)], check=True)


class Filling(Listener):
    """Fills the disk at one step and frees it at another."""

    def __init__(self, disk: Disk, full: int, free: int | None = None):
        super().__init__()
        self.disk, self.full, self.free = disk, full, free

    def report(self, step: int, rung: int | None = None, value: float | None = None) -> str:
        if step == self.full:
            self.disk.fill()
        if step == self.free:
            self.disk.free()
        return super().report(step, rung, value)


def test_results_that_do_not_fit(disk: Disk, tmp_path: Path) -> None:
    whole, store = Store.open(str(tmp_path / "whole")), Store.open(str(disk.path / "store"))
    first, second = trial(seed=0, iterations=0), trial(seed=1, iterations=0)
    for spec in (first, second):
        training(spec, whole).run(toy_data(), Listener())
    training(first, store).run(toy_data(), Listener())
    before = {path: path.read_bytes() for path in sorted(disk.path.rglob("*.*")) if path.is_file()}

    one = training(second, store)
    with pytest.raises(StoreTrouble) as caught:
        one.run(toy_data(), Filling(disk, full=second.steps))
    one.release()
    told = str(caught.value)
    assert str(store.location) in told and " MB, and " in told and "the same command goes on" in told, told
    assert store.trials([second.trial_id]) == {}
    for path, content in before.items():
        assert path.read_bytes() == content
    assert not list(disk.path.rglob("*.writing")), "half a file was left behind"

    disk.free()
    one = training(second, store)
    assert one.run(toy_data(), Listener()) is Ended.DONE
    one.release()
    for spec in (first, second):
        assert measured(store, spec) == measured(whole, spec) != []


def test_a_checkpoint_that_does_not_fit_ends_nothing(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_training, "CHECKPOINT_S", 0.0)
    monkeypatch.setattr(one_training, "REPORT_S", 0.0)
    store, spec = Store.open(str(disk.path / "store")), trial(iterations=0, steps=12)
    one, line = training(spec, store), Filling(disk, full=4, free=10)
    assert one.run(toy_data(), line) is Ended.DONE
    one.release()
    assert len(set(line.notes)) >= 1 and "The disk is full: " in line.notes[0] and "step-00000" in line.notes[0]
    assert row(store, spec)["steps"] == spec.steps and not list(disk.path.rglob(".writing-*"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_path_and_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    store = Store.open(str(tmp_path / "store"))
    store.files.write("a/one", b"old")

    def full(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "_flush", full)
    with pytest.raises(StoreTrouble, match=r"The disk is full: .*/a/one needs 3\.0 MB, and .*/a has .* left"):
        store.files.write("a/one", bytes(3_000_000))
    assert (tmp_path / "store/a/one").read_bytes() == b"old" and len(list((tmp_path / "store/a").iterdir())) == 1


def test_a_shared_folder_whose_server_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, tries = Store.open(str(tmp_path / "store")), []
    monkeypatch.setattr(files, "PAUSES_S", (0.01,))

    def away(stream: Any) -> None:
        tries.append(stream)
        if len(tries) < 4:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(files, "_flush", away)
    store.files.write("a", b"1")
    assert len(tries) == 4 and store.files.read("a") == b"1"
