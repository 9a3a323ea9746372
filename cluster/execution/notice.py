"""SIGTERM in a worker: a notice, not an end. Clouds and batch systems send it before they take a machine away."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable
from typing import Any

_told: list[Callable[[], Any]] = []
"""Who wants to know. Ray uses a process for one group of workers, so there is one at most."""


def when_told_to_end(tell: Callable[[], Any]) -> None:
    """Calls ``tell`` (in a thread of its own) when this process gets SIGTERM, which then no longer ends it.

    A training function runs in a thread, and Python sets signal handlers in the main thread only: the main thread is
    asked to do it, and does as soon as it next runs Python, within a second under Ray Train's health checks.
    """
    _told[:] = [tell]
    if threading.current_thread() is threading.main_thread():
        _install()
    else:
        ctypes.pythonapi.Py_AddPendingCall(_pending, None)


def _install() -> None:
    signal.signal(signal.SIGTERM, _handle)


def _handle(number: int, frame: Any) -> None:
    for tell in _told:
        threading.Thread(target=tell, daemon=True).start()


def _asked(argument: Any) -> int:
    try:
        _install()
    except ValueError:  # no main thread after all: SIGTERM ends the process, and the board hears of its death
        return 0
    return 0


_pending = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(_asked)  # kept: it must outlive the call
