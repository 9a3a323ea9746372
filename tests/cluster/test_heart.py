"""The head of the cluster is gone, or only slow."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from cluster.execution import heart
from cluster.execution.heart import while_alive


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heart, "BEAT_S", 0.05)
    monkeypatch.setattr(heart, "MISSED", 20)  # so that a busy machine takes none of these sleeps for an outage


def test_a_head_that_is_gone_is_noticed_and_a_short_silence_is_not() -> None:
    gone = threading.Event()
    head = socket.create_server(("127.0.0.1", 0))
    port = head.getsockname()[1]
    with while_alive(f"127.0.0.1:{port}", gone.set):
        time.sleep(0.5)
        head.close()
        time.sleep(0.1)  # two looks
        head = socket.create_server(("127.0.0.1", port))
        assert not gone.wait(1.2)
        head.close()
        assert gone.wait(5)


def test_nothing_is_looked_at_once_the_study_is_over() -> None:
    gone = threading.Event()
    with while_alive("127.0.0.1:1", gone.set):
        pass
    assert not gone.wait(0.5)
