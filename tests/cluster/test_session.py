"""Ray starts beside what the driver does before it needs it, and is put away whatever happens."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest

from cluster.execution import session
from cluster.execution.session import Session, starting
from denoise_core.errors import UserError

UP = Session("http://127.0.0.1:1", local=True)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to Ray, which is none."""
    done: list[str] = []
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(shutdown=lambda: done.append("shutdown")))
    return done


def test_a_cluster_of_its_own_starts_at_once_and_beside(monkeypatch: pytest.MonkeyPatch, ended: list[str]) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def connected(address: str | None) -> Session:
        begun.set()
        assert may_end.wait(10)
        return UP

    monkeypatch.setattr(session, "_connected", connected)
    with starting(None) as ray_is_up:
        assert begun.wait(10)  # nobody has asked for it yet
        may_end.set()
        assert ray_is_up() is UP and ended == []
    assert ended == ["shutdown"]


def test_somebody_elses_cluster_is_joined_only_when_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, ended: list[str]
) -> None:
    asked: list[str | None] = []
    monkeypatch.setattr(session, "_connected", lambda address: asked.append(address) or UP)
    with starting("head:6379") as ray_is_up:
        assert asked == []
        ray_is_up()
    assert asked == ["head:6379"] and ended == ["shutdown"]


def test_what_goes_wrong_meanwhile_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, ended: list[str]) -> None:
    up = threading.Event()

    def connected(address: str | None) -> Session:
        up.wait(0.3)
        ended.append("started")
        return UP

    monkeypatch.setattr(session, "_connected", connected)
    with pytest.raises(KeyboardInterrupt), starting(None):
        raise KeyboardInterrupt
    assert ended == ["started", "shutdown"]  # never while it starts


def test_why_ray_cannot_start_is_told_where_it_is_needed(monkeypatch: pytest.MonkeyPatch, ended: list[str]) -> None:
    def connected(address: str | None) -> Session:
        raise UserError("Ray could not start on this machine: no room.")

    monkeypatch.setattr(session, "_connected", connected)
    with pytest.raises(UserError, match="no room"), starting(None) as ray_is_up:
        ray_is_up()
