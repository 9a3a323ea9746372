"""Notices that the head of the cluster is gone: Ray takes a minute or more, and then ends the process unasked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

BEAT_S = 5.0
"""Seconds between two looks, and the longest that one may take."""
MISSED = 6
"""So many looks in a row without an answer, and the head is taken to be gone."""


@contextmanager
def while_alive(address: str, gone: Callable[[], None]) -> Iterator[None]:
    """Calls ``gone`` (in a thread) when nobody listens at ``address`` (HOST:PORT) any more, until the block ends."""
    over = threading.Event()
    thread = threading.Thread(target=_look, args=(address, gone, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def _look(address: str, gone: Callable[[], None], over: threading.Event) -> None:
    host, _, port = address.rpartition(":")
    missed = 0
    while not over.wait(BEAT_S):
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=BEAT_S).close()
            missed = 0
        except OSError:
            missed += 1
        if missed >= MISSED and not over.is_set():
            gone()
            return
