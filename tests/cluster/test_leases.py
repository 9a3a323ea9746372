"""Whose turn it is: takers in threads, dead and foreign processes, stores with and without locks."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.execution import leases
from cluster.execution.leases import Lease, Leases
from cluster.results.store import Store

EXPIRY_S = 1.2


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 0.05)
    monkeypatch.setattr(leases, "EXPIRY_S", EXPIRY_S)
    monkeypatch.setattr(leases, "SETTLE_S", 0.1)
    monkeypatch.setattr(leases, "WATCH_S", 0.1)


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """On a local disk, and in a filesystem without locks and renaming."""
    found = Store.open("mock:///bucket/store" if request.param == "remote" else str(tmp_path / "store"))
    assert (found.local is None) == (request.param == "remote")
    return found


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def files(store: Store) -> list[str]:
    return sorted(one for one in store.files.entries("leases") if one.endswith(".json"))


def until(condition: Callable[[], bool], limit_s: float = 10.0) -> float:
    """Seconds until the condition holds."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit_s
        time.sleep(0.02)
    return time.monotonic() - started


def at_once(takers: int, take: Callable[[], Lease | None]) -> list[Lease]:
    """Calls ``take`` in many threads at the same moment: the leases that were got."""
    barrier, got = threading.Barrier(takers), list[Lease | None]()

    def one() -> None:
        barrier.wait()
        got.append(take())

    threads = [threading.Thread(target=one) for _ in range(takers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == takers
    return [lease for lease in got if lease is not None]


OWNER = """
import platform, sys, time
location, name, node, beat = sys.argv[1:]
if node:
    platform.node = lambda: node
from cluster.execution import leases
from cluster.results.store import Store
leases.BEAT_S = float(beat)
print(leases.Leases(Store.existing(location)).take(name) is not None, flush=True)
time.sleep(600)
"""


@contextmanager
def owner(store: Store, name: str = "a", *, node: str = "", beat: float = 0.05) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lease, on this machine or one that seems to be another."""
    command = [sys.executable, "-c", OWNER, store.location, name, node, str(beat)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout is not None and process.stdout.readline().strip() == "True"
            yield process
        finally:
            process.kill()


def test_one_of_two_takers_gets_a_lease_and_the_other_when_it_was_given_back(store: Store) -> None:
    first, second = Leases(store), Leases(store)
    lease = first.take("a")
    assert lease is not None and first.held("a") and second.held("a")
    assert second.take("a") is None and first.take("a") is None
    other = second.take("b")
    assert other is not None and files(store) == ["a.json", "b.json"]
    lease.give_back()
    assert not second.held("a") and files(store) == ["b.json"]
    again = second.take("a")
    assert again is not None and first.take("a") is None
    for one in (again, other):
        one.give_back()
    assert files(store) == []


def test_heartbeats_keep_a_lease_alive_and_end_with_it(store: Store) -> None:
    lease, other = Leases(store).take("a"), Leases(store)
    assert lease is not None
    started = time.monotonic()
    while time.monotonic() - started < 1.25 * EXPIRY_S:
        assert other.held("a") and other.take("a") is None
        time.sleep(0.05)
    lease.give_back()
    time.sleep(0.2)  # several beats
    assert files(store) == []


@pytest.mark.parametrize("round_", range(2))
def test_exactly_one_of_eight_takers_gets_a_lease(store: Store, round_: int) -> None:
    got = at_once(8, lambda: Leases(store).take("a"))
    assert len(got) == 1 and Leases(store).held("a")
    got[0].give_back()
    assert files(store) == []


def test_the_lease_of_a_killed_process_is_free_at_once_and_for_one_only(local: Store) -> None:
    seen = Leases(local)
    with owner(local) as process:
        assert seen.held("a") and seen.take("a") is None
        process.kill()
        process.wait()
        assert not seen.held("a")
        got = at_once(8, lambda: Leases(local).take("a"))
    assert len(got) == 1
    got[0].give_back()


def test_a_process_number_that_was_given_anew_is_not_the_owner(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Leases(local).take("a")
    assert lease is not None and Leases(local).held("a")
    monkeypatch.setattr(leases, "_started", lambda pid: "another process")
    assert not Leases(local).held("a")
    lease.give_back()


def test_the_lease_of_another_machine_is_held_while_its_heart_beats_and_a_while_after(local: Store) -> None:
    seen = Leases(local)
    with owner(local, node="another machine") as process:
        started = time.monotonic()
        while time.monotonic() - started < 1.25 * EXPIRY_S:
            assert seen.held("a") and seen.take("a") is None
            time.sleep(0.05)
        process.kill()
        process.wait()
        assert seen.held("a") and Leases(local).held("a")  # nobody can know yet
        waited = until(lambda: not seen.held("a"))
        assert waited > EXPIRY_S / 2
        assert Leases(local).held("a")  # who has not watched for so long cannot know
        lease = seen.take("a")
    assert lease is not None
    lease.give_back()
    assert files(local) == []


def test_a_silent_owner_loses_its_lease_and_leaves_that_of_its_successor_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 60.0)
    silent = Leases(store).take("a")
    monkeypatch.setattr(leases, "BEAT_S", 0.05)
    other = Leases(store)
    assert silent is not None and other.take("a") is None
    until(lambda: not other.held("a"))
    successor = other.take("a")
    assert successor is not None
    silent.give_back()
    assert files(store) == ["a.json"] and Leases(store).take("a") is None
    successor.give_back()
    assert files(store) == []


def test_an_owner_that_wakes_up_does_not_take_its_lease_back(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 2.5)  # as if it had been suspended
    asleep = Leases(local).take("a")
    monkeypatch.setattr(leases, "BEAT_S", 0.05)
    other = Leases(local)
    until(lambda: not other.held("a"))
    successor = other.take("a")
    assert asleep is not None and successor is not None
    until(lambda: asleep._beat > 1 or not asleep._thread.is_alive())  # it has woken up
    owners = set()
    for _ in range(20):
        owners.add((other._read("a") or {}).get("owner"))
        time.sleep(0.02)
    assert owners == {successor.owner}
    asleep.give_back()
    assert files(local) == ["a.json"] and Leases(local).held("a")
    successor.give_back()
    assert files(local) == []


def test_of_takers_in_a_store_without_locks_the_last_writer_gets_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open("mock:///bucket/store")
    first, second = Leases(store), Leases(store)
    monkeypatch.setattr(Leases, "held", lambda self, name: False)  # both looked before either wrote
    monkeypatch.setattr(Leases, "living", lambda self, names: set())
    found: list[Lease | None] = []
    thread = threading.Thread(target=lambda: found.append(first.take("a")))
    thread.start()
    time.sleep(0.05)
    late = second.take("a")
    thread.join()
    assert found == [None] and late is not None
    late.give_back()
    assert files(store) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"null"])
def test_a_damaged_lease_is_free_when_nobody_has_mended_it_for_a_while(content: bytes, store: Store) -> None:
    store.files.write("leases/a.json", content)
    assert Leases(store).held("a"), "its owner may be writing it"
    lease = Leases(store).take("a")
    assert lease is not None and Leases(store).held("a")
    lease.give_back()


def test_an_owner_mends_its_lease(store: Store) -> None:
    lease, other = Leases(store).take("a"), Leases(store)
    assert lease is not None
    for _ in range(5):
        store.files.write("leases/a.json", b"")
        assert other.held("a")
        until(lambda: store.files.read("leases/a.json") != b"")
    assert not lease.lost
    lease.give_back()
    assert files(store) == []


def test_a_lease_that_somebody_removed_is_given_back_without_a_word(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    lease = Leases(store).take("a")
    assert lease is not None
    lease._over.set()  # no heartbeat writes it again
    lease._thread.join()
    store.files.delete("leases/a.json")
    lease.give_back()
    assert files(store) == [] and caplog.records == []


def test_who_wants_the_lease_of_a_lost_machine_watches_it_and_gets_it(local: Store) -> None:
    """As each training does, with nothing known of the lease: a new ``Leases`` sees it for the first time."""
    with owner(local, node="another machine") as process:
        until(lambda: files(local) == ["a.json"])
        began = time.monotonic()
        assert Leases(local).take("a") is None  # it beats
        assert time.monotonic() - began < EXPIRY_S
        process.kill()
        process.wait()
        got = Leases(local).take("a")
        assert got is not None and time.monotonic() - began < 4 * EXPIRY_S
        got.give_back()
