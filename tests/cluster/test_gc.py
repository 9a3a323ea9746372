"""What is removed from a store, and what never is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from cluster.commands import gc
from cluster.execution import leases
from cluster.execution.compaction import compact
from cluster.execution.leases import Leases
from cluster.results.store import Store
from cluster.watching.leftovers import leftovers, remove
from tests.cluster.stores_toys import answers, filled, row, write

DAY_S = 24 * 3600


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times of leases, shorter, in the relations that they have."""
    for name in ("EXPIRY_S", "BLIND_S", "WATCH_S"):
        monkeypatch.setattr(leases, name, getattr(leases, name) / 16)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled(tmp_path / "s")


@pytest.fixture
def place(store: Store) -> list[str]:
    return ["--store", store.location]


OLD, NEW = 30.0, 1.0
FILES: list[tuple[str, float, bool]] = [
    # path, age in hours, whether it goes
    ("checkpoints/phase1/step-000000001/meta.json", NEW, True),
    ("checkpoints/phase1/.writing-12/state.pt", OLD, True),
    ("checkpoints/phase2/step-000000001/meta.json", OLD, False),  # its weights are lost
    ("checkpoints/phase3/step-000000001/meta.json", OLD, False),  # not stored
    ("checkpoints/phase3/corrupt-step-000000001-ab/meta.json", OLD, True),
    ("checkpoints/phase3/.writing-12/state.pt", OLD, True),
    ("checkpoints/phase3/.writing-34/state.pt", NEW, False),
    ("checkpoints/phase4/step-000000001/meta.json", OLD, False),  # somebody trains it again
    ("checkpoints/a000000000000000/step-000000001/meta.json", OLD, True),
    ("checkpoints/c000000000000000/step-000000001/meta.json", OLD, False),  # failed: goes on from here
    ("damaged/ab-trials-x.parquet.damaged", OLD, True),
    ("damaged/cd-trials-x.parquet.damaged", NEW, False),
    ("trials/.x.parquet.ab.writing", OLD, True),
    ("trials/.x.parquet.cd.writing", NEW, False),
    (".probe-12", OLD, True),
    ("ray/ab/tune/state.json", OLD, True),
    ("ray/cd/tune/state.json", OLD, False),  # another of its files is young
    ("ray/cd/tune/other.json", NEW, False),
    ("tensorboard/toy/gamma=0-a0000000/events.out.tfevents.1", OLD, True),
    ("tensorboard/toy/gamma=2-b0000000/events.out.tfevents.1", NEW, False),
    ("tensorboard/toy/d000000000000000/events.out.tfevents.1", OLD, True),  # pruned
    ("tensorboard/toy/c000000000000000/events.out.tfevents.1", OLD, False),  # failed
    ("tensorboard/toy/gamma=5-99999999/events.out.tfevents.1", OLD, False),  # running
    ("tensorboard/toy/named_by_hand/events.out.tfevents.1", OLD, False),
    ("optuna/toy-12.journal", OLD, True),
    ("optuna/toy-34.journal", NEW, False),
    ("optuna/notes.txt", OLD, False),
    ("leases/broken.json", OLD, True),
    ("leases/young.json", NEW, False),
    ("weights/phase1.safetensors", OLD, False),
    ("weights/phase4.safetensors", OLD, False),
    ("weights/a000000000000000.safetensors", OLD, False),
    ("weights/c000000000000000.safetensors", OLD, False),
    ("reports/toy-smoke-grid-ab.html", OLD, False),
    ("logs/a000000000000000.log", OLD, False),
    ("mine/thesis.tex", OLD, False),
]


def with_leftovers(store: Store) -> None:
    for phase in ("phase1", "phase2", "phase4"):
        store.write("phases", phase, [{"phase_id": phase, "curves_json": "[]"}])
    for path, age, _ in FILES:
        store.files.write(path, b"{")
        if store.local is not None:
            moment = time.time() - age * 3600
            for one in (store.local / path, *(store.local / path).parents[: len(Path(path).parts) - 1]):
                os.utime(one, (moment, moment))


def files(store: Store) -> set[str]:
    found = store.files.filesystem.get_file_info(pafs.FileSelector(store.files.root, recursive=True))
    kinds = [one for one in found if one.type == pafs.FileType.File]
    return {one.path.removeprefix(store.files.root).strip("/") for one in kinds} - {"leases/.lock"}


def test_gc_removes_exactly_what_it_may(store: Store, place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with_leftovers(store)
    lease = Leases(store).take("phase4")
    assert lease is not None
    before, kept = files(store), {path for path, _, goes in FILES if not goes}
    status, out, _ = answers(capsys, "gc", "--dry-run", *place)
    assert status == 0 and "Nothing was removed" in out and files(store) == before
    status, out, err = answers(capsys, "gc", *place)
    assert status == 0 and not err and "Removed 12" in out
    assert before - files(store) == {path for path, _, _ in FILES} - kept
    assert "nothing to remove" in answers(capsys, "gc", *place)[1]
    lease.give_back()


def test_gc_of_a_remote_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "SETTLE_S", 0.0)
    store = Store.open("mock:///bucket/store")
    with_leftovers(store)
    write(store, row("a" + "0" * 15))
    assert {one.kind for one in leftovers(store, DAY_S)} == {"checkpoints of what is stored"}  # all files are young
    found = leftovers(store, DAY_S, now=time.time() + 2 * DAY_S)
    assert all(remove(store, one) for one in found)
    left = files(store) - {"store.json"}
    assert {path.partition("/")[0] for path in left} == {
        "checkpoints", "curves", "logs", "mine", "optuna", "phases", "reports", "tensorboard", "trials", "weights",
    }  # fmt: skip
    assert "optuna/notes.txt" in left and "checkpoints/phase3/step-000000001/meta.json" in left


OWNER = """
import platform, sys, time
platform.node = lambda: sys.argv[2]
from cluster.execution import leases
from cluster.results.store import Store
leases.BEAT_S = 0.1
lease = leases.Leases(Store(sys.argv[1])).take(sys.argv[3])
print("taken", flush=True)
time.sleep(60)
"""


def test_gc_watches_owners_on_other_machines(store: Store) -> None:
    for name in ("dead", "alive"):
        command = [sys.executable, "-c", OWNER, store.location, "elsewhere", name]
        owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert owner.stdout is not None and owner.stdout.readline() == "taken\n"
        if name == "dead":
            owner.kill()
            owner.wait()
    try:
        found = leftovers(store, 0.0, now=time.time() + 60)
        assert [one.path for one in found] == ["leases/dead.json"]
        assert remove(store, found[0]) and store.files.entries("leases") == ["alive.json"]
    finally:
        owner.kill()
        owner.wait()


def test_gc_leaves_a_lease_that_was_taken_meanwhile(store: Store) -> None:
    store.files.write("leases/a.json", b"null")
    (found,) = leftovers(store, 0.0, now=time.time() + 60)
    lease = Leases(store).take("a")
    assert lease is not None and not remove(store, found) and store.files.exists("leases/a.json")
    lease.give_back()


def test_gc_packs_the_store_where_that_can_be_done(
    store: Store, place: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gc, "compact", lambda store: compact(store, min_files=4))
    shown = [answers(capsys, *command, *place) for command in (["ls", "toy"], ["show", "a0"], ["compare", "a0", "b0"])]
    assert "Packed" not in answers(capsys, "gc", "--dry-run", *place)[1]
    assert "Packed" in answers(capsys, "gc", *place)[1]
    assert len(store.loose("trials")) == 2  # what failed or was pruned
    again = [answers(capsys, *command, *place) for command in (["ls", "toy"], ["show", "a0"], ["compare", "a0", "b0"])]
    assert again == shown


def test_gc_says_what_it_could_not_remove(
    store: Store, place: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_leftovers(store)
    monkeypatch.setattr(gc, "remove", lambda store, one: False)
    status, _, err = answers(capsys, "gc", *place)
    assert status == 1 and "could not be removed" in err
    assert "0 or more" in answers(capsys, "gc", "--older-than", "-1", *place)[2]


def test_flags_are_those_of_the_parser() -> None:
    parser = ArgumentParser()
    gc.configure(parser)
    assert vars(parser.parse_args([])) == {"store": "results", "dry_run": False, "older_than": 24.0}
