"""A disk that fills up: nothing recorded is lost, the message says what is needed, the same command goes on."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import commands
from cluster.agreement.command import main as agreement
from cluster.cli import run
from cluster.commands import ls
from cluster.console import Console
from cluster.ending import BAD_INPUT, ended
from cluster.execution import one_training
from cluster.execution.one_training import Ended
from cluster.race.command import main as race
from cluster.report.document import write
from cluster.results import files
from cluster.results.files import StoreTrouble
from cluster.results.store import Store
from tests.cluster.phases_toys import Listener, measured, row, toy_data, training, trial
from tests.cluster.test_every_study import study


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


# ---- what the driver writes itself ----


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_page_that_does_not_fit_leaves_the_old_one_and_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = write(tmp_path / "reports" / "a.html", "old")
    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(StoreTrouble, match=r"The disk is full: .*a\.html needs 2\.0 MB, and .*reports has .* left"):
        write(page, "x" * 2_000_000)
    assert page.read_text() == "old" and list(page.parent.iterdir()) == [page]


COMMANDS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "study": (lambda arguments: run(study("neighbor2neighbor_gamma"), arguments), []),
    "race": (race, ["--noisy", "bundled_test"]),
    "agreement": (agreement, []),
    "commands": (commands.main, ["ls"]),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (StoreTrouble("The disk is full: x needs 2 MB."), "error: The disk is full: x needs 2 MB."),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "error: /x/y cannot be used (No space left on"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            "error: /x cannot be used (Permission denied): free",
        ),
    ],
)
def test_every_command_says_in_a_sentence_what_a_person_can_mend(
    name: str, error: OSError, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def trouble(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Store, "open", trouble)
    monkeypatch.setattr(ls, "existing_store", trouble)
    main, arguments = COMMANDS[name]
    assert main(arguments) == BAD_INPUT
    said = capsys.readouterr().err
    assert " ".join(said.split()).startswith(sentence) and said.count("error:") == 1


def test_other_errors_of_the_system_are_not_hidden() -> None:
    def work() -> int:
        raise ConnectionResetError(errno.ECONNRESET, "a bug or not, its traceback says where")

    with pytest.raises(ConnectionResetError):
        ended(work, Console())
