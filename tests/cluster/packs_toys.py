"""Stores with something in every table, for the tests of packs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.results import files, pack, packs
from cluster.results.schema import DONE, FAILED, PRUNED, TABLES
from cluster.results.store import Store
from tests.cluster.stores_toys import BEGAN, curve, measured, row

Contents = dict[str, tuple[list[str], list[dict[str, Any]]]]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several row groups from a few names on; no power is lost here, so nothing waits for the disk."""
    monkeypatch.setattr(pack, "GROUP_NAMES", 4)
    monkeypatch.setattr(files, "_flush", lambda stream: stream.flush())
    monkeypatch.setattr(packs, "_settle", lambda place: None)


def name_of(number: int) -> str:
    return f"{number * 7919 % 1000:03d}{'0' * 13}"  # not in the order in which they are written


def add(store: Store, *numbers: int, status: str = DONE) -> None:
    """Trials with two evaluations each; every third has no curve, every second has diagnostics."""
    for number in numbers:
        name = name_of(number)
        evaluations = {
            f"{name}-0000000{value}": (
                measured(name, [26.0 + number, 27.0 + value]),
                [
                    {
                        "trial_id": name,
                        "params_json": "{}",
                        "image_id": "0",
                        "kind": "clean",
                        "png": str(number).encode(),
                    }
                ],
            )
            for value in range(2)
        }
        points = curve(name, {50: 24.0, 100: 25.0 + number}) if number % 3 else []
        learned = [{"trial_id": name, "figure": "f", "series": "s", "x": 1.0, "y": float(number)}]
        trial = row(name, number=number, status=status)
        store.write_trial(trial, points, evaluations if status == DONE else {}, learned if number % 2 else [])


def filled(path: Path | str, count: int = 10) -> Store:
    """With a trial that failed, one that was pruned, and something in every table."""
    store = Store.open(str(path))
    add(store, *range(count))
    add(store, 900, status=FAILED)
    add(store, 901, status=PRUNED)
    for number in range(count):
        store.write("phases", f"phase{number}", [{"phase_id": f"phase{number}", "train_s": float(number)}])
        store.write("suggestions", f"search-{number:06d}", [{"search_id": "search", "number": number}])
    store.write("numerics", "n", [{"numerics_id": "n", "device": "a processor", "chosen_json": "{}"}])
    store.write("manifests", "m", [{"manifest_id": "m", "created_at": BEGAN, "manifest_json": "{}"}])
    return store


def contents(store: Store) -> Contents:
    """Names and rows of every table."""
    return {table: (store.names(table), store.read(table, store.names(table)).to_pylist()) for table in TABLES}


def loose(store: Store) -> int:
    return sum(len(store.loose(table)) for table in TABLES)
