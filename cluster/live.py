"""The report of a study that is running: written anew now and then, so that an open page shows how it goes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.console import Console

EVERY_S = 60.0
"""Seconds between two versions at least."""
SHARE = 0.05
"""The most of one core's time that writing them may take from the trainings beside it."""
LOOK_S = 2.0


class LiveReport:
    """Calls ``write`` in a thread of its own whenever ``count`` has changed, as seldom as EVERY_S and SHARE ask."""

    def __init__(self, write: Callable[[], Path], count: Callable[[], int], console: Console):
        self._write, self._count, self._console = write, count, console
        self._over = threading.Event()
        self._shown = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keeps the report up to date until the block ends; the last version is the caller's to write."""
        thread = threading.Thread(target=self._keep, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _keep(self) -> None:
        seen, rests_until = self._asked(), time.monotonic() + EVERY_S
        while not self._over.wait(min(LOOK_S, EVERY_S)):
            if time.monotonic() < rests_until or (count := self._asked()) == seen:
                continue
            began = time.monotonic()
            try:
                path = self._write()
            except Exception as error:  # the study is worth more than a look at it
                logging.getLogger("denoise").warning("no report while the study runs: %s", error)
                return
            seen, took = count, time.monotonic() - began
            rests_until = time.monotonic() + max(EVERY_S, took / SHARE)
            if not self._shown:
                self._shown = True
                self._console.say(f"Report while it runs (it reloads by itself): {path}", style="dim")

    def _asked(self) -> int:
        try:
            return self._count()
        except OSError:  # the store is away: as if nothing had changed
            return -1
