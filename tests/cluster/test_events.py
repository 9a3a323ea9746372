"""TensorBoard's event files: what was added can be read, and nothing that happens to them fails a training."""

from __future__ import annotations

import errno
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from cluster.results.store import Store
from cluster.watching import events
from cluster.watching.events import Events, events_folder, export, trial_of, trials_by_beginning
from tests.cluster.stores_toys import BEGAN, curve, filled, row


def records(path: Path) -> Iterator[bytes]:
    """The records of a file: length, its checksum, content, its checksum."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert struct.unpack("<I", content[8:12])[0] == masked_crc32c(content[:8])
        body = content[12 : 12 + length]
        assert struct.unpack("<I", content[12 + length : 16 + length])[0] == masked_crc32c(body)
        yield body
        content = content[16 + length :]


def read(folder: Path) -> list[Any]:
    """The events of a folder, in order, without the line that names the format of each file."""
    found = [Event.FromString(body) for path in sorted(folder.iterdir()) for body in records(path)]
    return [one for one in found if not one.file_version]


def points(folder: Path) -> list[tuple[int, str, float]]:
    """What TensorBoard shows: a start hides what was written before it from its step on."""
    shown: list[tuple[int, str, float]] = []
    for event in read(folder):
        if event.session_log.status == SessionLog.START:
            shown = [one for one in shown if one[0] < event.step]
        shown += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return shown


def test_what_is_added_can_be_read(tmp_path: Path) -> None:
    one = Events(tmp_path / "a" / "b")
    one.add(1, {"loss": 0.5, "validation_psnr": 20.0})
    one.add(2, {"loss": 0.25}, wall_time=1000.0)
    one.close()
    assert points(tmp_path / "a" / "b") == [(1, "loss", 0.5), (1, "validation_psnr", 20.0), (2, "loss", 0.25)]
    assert read(tmp_path / "a" / "b")[-1].wall_time == 1000.0


def test_a_training_that_goes_on_hides_what_it_does_again(tmp_path: Path) -> None:
    killed = Events(tmp_path)
    for step in (10, 20, 30):
        killed.add(step, {"loss": float(step)})
    killed.close()
    again = Events(tmp_path, first_step=21)  # the checkpoint was of step 20
    again.add(30, {"loss": -30.0})
    again.close()
    assert len(list(tmp_path.iterdir())) == 2  # in one second, too
    assert points(tmp_path) == [(10, "loss", 10.0), (20, "loss", 20.0), (30, "loss", -30.0)]


def test_points_are_on_the_disk_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "FLUSH_S", 0.0)
    one = Events(tmp_path)
    one.add(1, {"loss": 0.5})
    assert points(tmp_path) == [(1, "loss", 0.5)]
    one.close()


@pytest.mark.parametrize("when", ["open", "add", "flush", "close"])
def test_a_full_disk_is_said_once_and_fails_nothing(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(events, "FLUSH_S", 0.0)
    if when == "open":
        (tmp_path / "runs").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "denoise"):
        one = Events(tmp_path / "runs")
        if when != "open":
            monkeypatch.setattr(EventsWriter, {"add": "write_event", "flush": "flush", "close": "close"}[when], full)
        for step in range(20):
            one.add(step, {"loss": 1.0})
        one.close()
        one.close()
        one.add(21, {"loss": 1.0})
    assert len([record for record in caplog.records if record.name == "denoise"]) == 1


def test_a_folder_that_cannot_be_made_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, "denoise"):
        Events(tmp_path / "file" / "run").add(1, {"loss": 1.0})
    assert "no more events for TensorBoard" in caplog.text


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("gamma = 2, lr = 0.001, seed 0", "gamma=2_lr=0.001_seed_0-01234567"),
        ("", "0123456789abcdef"),
        ("../../etc: σ = 25", "etc_σ=25-01234567"),
        ("long " * 50, f"{('long_' * 16).strip('_')}-01234567"),
    ],
)
def test_the_folder_names_the_training(label: str, name: str, tmp_path: Path) -> None:
    trial = "0123456789abcdef"
    folder = events_folder(tmp_path, "toy", label, trial)
    assert folder.parent == tmp_path / "toy" and folder.name == name
    known = trials_by_beginning([trial, "f" * 16])
    assert trial_of(folder.name, known) == trial
    assert trial_of("by_hand", known) is None and trial_of("gamma=2-012345", known) is None


def test_a_store_is_exported_and_exported_again(tmp_path: Path) -> None:
    store = filled(tmp_path / "s")
    for _ in range(2):
        assert export(store, tmp_path / "events") == 6
        found = {one.name: points(one) for one in (tmp_path / "events" / "toy").iterdir()}
        assert found["neighbor2neighbor_gamma=0_seed_1-a1000000"] == [
            (50, "validation_psnr", 24.0),
            (100, "validation_psnr", 25.0),
        ]
        assert len(found) == 6 and "n2c_seed_0-c0000000" in found
    first = read(tmp_path / "events" / "toy" / "neighbor2neighbor_gamma=0_seed_0-a0000000")
    assert first[-1].wall_time == BEGAN.timestamp() + 3600  # when the training ended


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s"))
    store.write_trial(row("a" * 16), curve("a" * 16, {1: 2.0}), {})
    store.write_trial(row("b" * 16), [], {})
    assert export(store, tmp_path / "events") == 1
    (folder,) = (tmp_path / "events" / "toy").iterdir()
    (folder / "notes.txt").write_text("mine")
    export(store, tmp_path / "events")
    assert sorted(one.name[:5] for one in folder.iterdir()) == ["event", "notes"]
