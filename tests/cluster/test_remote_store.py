"""The store on S3: the same promises, outages waited for, credentials nowhere."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cluster.execution import leases
from cluster.execution.checkpoints import CheckpointFolder
from cluster.execution.leases import Leases
from cluster.execution.one_training import Ended
from cluster.results import files
from cluster.results.files import StoreTrouble
from cluster.results.store import Store
from denoise_core.checkpoint import Checkpoint
from denoise_core.errors import UserError
from tests.cluster.phases_toys import Listener, measured, toy_data, training, trial
from tests.s3 import BUCKET, SECRET, Gate, server


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    with server() as found:
        yield found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PAUSES_S", (0.1, 0.2))


@pytest.fixture
def store(gate: Gate, request: pytest.FixtureRequest) -> Store:
    return Store.open(f"s3://{BUCKET}/{abs(hash(request.node.name))}")


def test_files_come_back_and_folders_are_told_apart(store: Store) -> None:
    store.files.write("a/one", b"1")
    store.files.write("a/.hidden", b"2")
    assert store.files.read("a/one") == b"1" and store.files.entries("a") == ["one"]
    assert store.files.exists("a") and not store.files.exists("b") and store.files.entries("b") == []
    store.files.move("a/one", "damaged/one")
    assert store.files.entries("a") == [] and store.files.read("damaged/one") == b"1"
    store.files.delete("damaged/one")
    store.files.delete("damaged/one")
    with pytest.raises(FileNotFoundError):
        store.files.read("damaged/one")


def test_a_training_ends_in_the_same_bits_as_on_a_disk(store: Store, tmp_path: Path) -> None:
    local, spec = Store.open(str(tmp_path / "store")), trial(iterations=1)
    for place in (local, store):
        one = training(spec, place)
        assert one.run(toy_data(), Listener()) is Ended.DONE
        one.release()
    assert measured(store, spec) == measured(local, spec) != []
    assert store.files.entries("checkpoints") == [] and store.files.entries("leases") == []
    assert sorted(store.files.entries("weights")) == sorted(
        path.name for path in (tmp_path / "store/weights").iterdir()
    )


def test_an_outage_is_waited_for(store: Store, gate: Gate) -> None:
    folder = CheckpointFolder(store, "x")
    kept = Checkpoint(7, {"w": torch.arange(4.0)}, {"optimizers": {}})
    with gate.shut(1.5):
        began = time.monotonic()
        folder.save(kept, {"note": "so far"})
        assert time.monotonic() - began > 1.0 and gate.refused
    found = folder.load()
    assert found is not None and found.step == 7 and found.state["run"] == {"note": "so far"}
    with gate.shut(1.0):
        assert store.trials(["nothing"]) == {} and store.names("trials") == []


def test_an_outage_that_does_not_end_is_told(store: Store, gate: Gate) -> None:
    store.files.patience_s = 0.5
    with (
        gate.shut(60),
        pytest.raises(StoreTrouble, match=r"did not answer for .* s \(.*NETWORK_CONNECTION.*\): see that"),
    ):
        store.files.write("a", b"")
    store.files.write("a", b"")


def test_a_writer_meets_an_older_checkpoint_only_until_the_new_one_is_whole(store: Store) -> None:
    folder = CheckpointFolder(store, "x")
    for step in (1, 2):
        folder.save(Checkpoint(step, {"w": torch.ones(2)}, {}), {})
    assert store.files.entries("checkpoints/x") == ["step-000000002"]
    store.files.delete(
        "checkpoints/x/step-000000002/meta.json"
    )  # as if the writer had been killed before the last file
    folder.save(Checkpoint(1, {"w": torch.ones(2)}, {}), {})
    store.files.write("checkpoints/x/step-000000009/state.pt", b"half")
    found = folder.load()
    assert found is not None and found.step == 1


def test_a_whole_checkpoint_is_not_written_anew_and_a_damaged_one_is(store: Store) -> None:
    folder = CheckpointFolder(store, "x")
    for seconds in (1, 2, 3):
        folder.save(Checkpoint(5, {"w": torch.ones(2)}, {}), {"seconds": seconds})
        found = folder.load()
        assert found is not None and found.state["run"] == {"seconds": 1 if seconds < 3 else 3}
        if seconds == 2:
            store.files.write("checkpoints/x/step-000000005/state.pt", b"half")
            assert folder.load() is None


def test_a_lease_outlives_an_outage_that_nobody_sees_through(
    store: Store, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 0.1)
    monkeypatch.setattr(leases, "EXPIRY_S", 1.0)
    monkeypatch.setattr(leases, "SETTLE_S", 0.1)
    monkeypatch.setattr(leases, "BLIND_S", 0.3)
    monkeypatch.setattr(leases, "_node", iter(["here", *["there"] * 1000]).__next__)  # as if on another machine
    lease = Leases(store).take("phase")
    assert lease is not None
    other = Leases(store)
    assert other.held("phase")
    with gate.shut(3.0):
        assert other.held("phase"), "the owner could not write either, so its silence says nothing"
    time.sleep(0.6)
    assert other.held("phase") and not lease.lost
    lease.give_back()
    assert not other.held("phase")


@pytest.mark.parametrize("address", ["s3://missing/store", f"s3://{BUCKET}"])
def test_a_bucket_that_cannot_be_used(gate: Gate, address: str) -> None:
    gate.read_only = address.endswith(BUCKET)
    try:
        with pytest.raises(UserError, match=r"cannot be used \(.*(NO_SUCH_BUCKET|ACCESS_DENIED).*\): pass --store"):
            Store.open(address + "/x" if gate.read_only else address)
    finally:
        gate.read_only = False


@pytest.mark.parametrize("address", ["s3://key:secret@bucket/x", "s3://bucket/x?secret_key=a", "gs://token@bucket/x"])
def test_credentials_in_an_address_are_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(UserError, match="leave credentials out of it") as caught:
        Store.open(address)
    assert "secret@" not in str(caught.value) and "bucket/x" not in str(caught.value)


def test_nothing_that_is_sent_holds_the_secret(store: Store) -> None:
    sent = pickle.dumps(store.location)
    assert SECRET.encode() not in sent and b"test" not in sent.replace(b"denoise", b"")


def test_two_writers_of_one_file_leave_one_of_them(store: Store) -> None:
    contents = [bytes([value]) * 2**20 for value in range(4)]
    threads = [threading.Thread(target=store.files.write, args=("same", one)) for one in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.files.read("same") in contents
