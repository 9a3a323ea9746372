"""Whose turn it is to train something that several trainings need: a lease in the store, kept alive by its owner.

A lease is a small file ``leases/<id>.json`` that names its owner and counts its heartbeats. An owner that dies stops
counting; whoever has seen the same count for ``EXPIRY_S`` of its own clock may take the lease over, so clocks need not
agree. On the owner's own machine a dead process is noticed at once. In a local folder a lock makes taking a lease
exclusive; in an object store, which has no locks, a taker looks again after ``SETTLE_S`` and yields to a later writer.
Two trainings of the same thing would be wasteful, never wrong: they end in the same bits.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.results.store import Store

BEAT_S = 3.0
"""Seconds between an owner's heartbeats."""
EXPIRY_S = 20.0
"""An owner that is silent for so long is taken to be dead."""
BLIND_S = 10.0
"""Of the time between two looks at a lease no more than this counts as the silence of its owner."""
SETTLE_S = 1.0
WATCH_S = 0.5
UNKNOWN = "?"
"""The owner of a lease that cannot be read, who is waited for like any other."""

log = logging.getLogger("denoise")


@dataclass
class _Seen:
    """A heartbeat, and when, on this process's clock, it was first and last seen."""

    owner: str
    beat: int | bytes
    since: float
    looked: float


class Leases:
    """The leases of a store as one process sees them."""

    def __init__(self, store: Store):
        self.store = store
        self._seen: dict[str, _Seen] = {}

    def held(self, name: str) -> bool:
        """Whether a living owner holds the lease ``name``."""
        content = self._read(name)
        return content is not None and self._alive(name, content)

    def take(self, name: str) -> Lease | None:
        """The lease, kept alive until it is given back; None while another owner holds it."""
        lease = Lease(self, name)
        if self.living([name]):
            return None
        with self._exclusive() as locked:
            if self.held(name):
                return None
            lease.write()
        if not locked:
            time.sleep(SETTLE_S)
            content = self._read(name)
            if content is not None and content["owner"] != lease.owner:
                return None
        lease.start()
        return lease

    def living(self, names: Iterable[str]) -> set[str]:
        """The leases whose owners live; owners on other machines are watched until that is known."""
        undecided, living = {name: set[tuple[str, int | bytes]]() for name in names}, set[str]()
        while undecided:
            for name, beats in list(undecided.items()):
                content = self._read(name)
                if content is None or not self._alive(name, content):
                    del undecided[name]
                    continue
                beats.add((content["owner"], content["beat"]))
                if content["node"] == _node() or len(beats) > 1:
                    del undecided[name]
                    living.add(name)
            if undecided:
                time.sleep(WATCH_S)
        return living

    def _alive(self, name: str, content: dict[str, Any]) -> bool:
        if content["node"] == _node() and not _running(content["pid"], content["started"]):
            return False
        seen, now = self._seen.get(name), time.monotonic()
        if seen is None or (seen.owner, seen.beat) != (content["owner"], content["beat"]):
            self._seen[name] = _Seen(content["owner"], content["beat"], now, now)
            return True
        # who did not look for a while, perhaps because the store was away, cannot tell how long an owner was silent
        seen.since += max(0.0, now - seen.looked - BLIND_S)
        seen.looked = now
        return now - seen.since < EXPIRY_S

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            content = self.store.files.read(_path(name))
        except FileNotFoundError:
            return None
        try:
            return dict(json.loads(content))
        except (TypeError, ValueError):  # not whole, as a shared folder may show it while its owner writes it
            return {"owner": UNKNOWN, "beat": content, "node": UNKNOWN}

    @contextmanager
    def _exclusive(self) -> Iterator[bool]:
        """Keeps others from the leases; False where the store has no locks."""
        if self.store.local is None:
            yield False
            return
        folder = self.store.local / "leases"
        folder.mkdir(exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                locked = True
            except OSError:  # some shared folders know no locks
                locked = False
            yield locked


class Lease:
    """A lease that this process holds. A thread writes its heartbeats, so they end with the process."""

    def __init__(self, leases: Leases, name: str):
        self.leases, self.name, self.owner = leases, name, uuid.uuid4().hex
        self.lost = False
        """Whether another took it over, since this process was silent for too long."""
        self._beat = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, daemon=True)

    def start(self) -> None:
        """Begins the heartbeats."""
        self._thread.start()

    def give_back(self) -> None:
        """Ends the heartbeats and removes the lease, unless another has taken it over."""
        self._over.set()
        self._thread.join()
        with suppress(OSError), self.leases._exclusive():
            content = self.leases._read(self.name)
            if content is not None and content["owner"] in (self.owner, UNKNOWN):
                self.leases.store.files.delete(_path(self.name))

    def write(self) -> None:
        """A heartbeat."""
        self._beat += 1
        content = {"owner": self.owner, "beat": self._beat, "node": _node(), "pid": os.getpid()}
        content["started"] = _started(os.getpid())
        self.leases.store.files.write(_path(self.name), json.dumps(content).encode(), durable=False)

    def _keep_alive(self) -> None:
        while not self._over.wait(BEAT_S):
            try:
                with self.leases._exclusive():
                    content = self.leases._read(self.name)
                    if content is not None and content["owner"] not in (self.owner, UNKNOWN):
                        # silent for too long, or too late
                        log.warning("the lease of %s was taken over by another process", self.name)
                        self.lost = True
                        return
                    self.write()
            except OSError as error:  # the store may come back; if not, another may take over
                log.warning("the lease of %s could not be renewed: %s", self.name, error)


def _path(name: str) -> str:
    return f"leases/{name}.json"


def _node() -> str:
    return platform.node()


def _running(pid: int, started: str) -> bool:
    return bool(started) and _started(pid) == started


def _started(pid: int) -> str:
    """When a process of this machine began, in the kernel's ticks; empty where there is no such process.

    A process id alone may have been given to another process since.
    """
    if not Path("/proc/self/stat").exists():  # macOS
        try:
            os.kill(pid, 0)
            return "running"
        except ProcessLookupError:
            return ""
        except PermissionError:
            return "running"
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in ("Z", "X") else fields[19]  # dead, but nobody has asked for its status yet
    except (OSError, IndexError):
        return ""
