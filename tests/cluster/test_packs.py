"""Packs: the same names and rows as loose files, whoever else reads, writes, compacts or is killed meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.dataset as ds
import pytest

from cluster.execution import compaction
from cluster.execution.compaction import compact
from cluster.plan import DataInUse, Plan, Planner
from cluster.report.collect import collect
from cluster.report.figures import Curve
from cluster.report.html import page
from cluster.results import pack
from cluster.results.schema import DONE, TABLES
from cluster.results.store import Store
from cluster.study import Study, grid
from denoise_core.method import method_class
from tests.cluster import packs_toys
from tests.cluster.packs_toys import add, contents, filled, loose, name_of
from tests.cluster.stores_toys import curve, measured, row
from tests.s3 import BUCKET, Gate, server

small = packs_toys.small


# ---- what is read ----


def test_names_and_rows_are_the_same_before_and_after(tmp_path: Path) -> None:
    store = filled(tmp_path / "s")
    before = contents(store)
    assert compact(store, min_files=1) == "Packed 87 files of the store into 9."
    assert contents(store) == before and all(len(store.packs(table).all()) == 1 for table in TABLES)
    assert store.loose("trials") == {name_of(900), name_of(901)}  # they may be trained again
    assert compact(store, min_files=1) == "" and contents(store) == before
    assert store.has("curves", name_of(3)) and store.has("curves", name_of(900)) and not store.has("curves", "none")
    assert store.read("curves", [name_of(3)]).num_rows == 0  # it has none, and that is known


def test_rows_come_in_the_order_that_was_asked_for(tmp_path: Path) -> None:
    store = filled(tmp_path / "s")
    wanted = [name_of(number) for number in (7, 901, 2, 9, 900, 7)]
    before = store.read("trials", wanted).to_pylist()
    compact(store, min_files=1)
    assert store.read("trials", wanted).to_pylist() == before
    assert [one["trial_id"] for one in before] == list(dict.fromkeys(wanted))
    few = store.read("trials", wanted, ["seed", "trial_id"])
    assert few.column_names == ["seed", "trial_id"] and few["trial_id"].to_pylist() == list(dict.fromkeys(wanted))


def test_other_tools_read_every_row_once(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    store = filled(tmp_path / "s")
    before = {table: rows for table, (_, rows) in contents(store).items()}
    compact(store, min_files=1)
    add(store, 30, 31)  # loose beside the packs
    for table in ("trials", "measurements", "curves", "previews"):
        folder = str(tmp_path / "s" / table)
        count = len(before[table]) + store.read(table, store.loose(table)).num_rows
        count -= {"trials": 2, "curves": 2}.get(table, 0)  # those of the trials that are not done were counted before
        assert ds.dataset(folder).count_rows() == len(pd.read_parquet(folder)) == count
        assert duckdb.sql(f"select count(*) from '{folder}/**/*.parquet'").fetchall() == [(count,)]
    assert pd.read_parquet(tmp_path / "s" / "trials")["trial_id"].is_unique


def test_only_enough_files_are_packed_and_packs_stay_few(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s"))
    for number in range(48):
        store.write("trials", name_of(number), [row(name_of(number))])
        if number % 2:
            compact(store, min_files=4)
            assert len(store.loose("trials")) < 4
    assert len(store.packs("trials").all()) <= 4  # about the logarithm of 48 / 4
    assert store.names("trials") == sorted(name_of(number) for number in range(48))


def test_packs_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "LIMIT", 1000)
    monkeypatch.setattr(compaction, "LIMIT", 1000)
    store = filled(tmp_path / "s", 20)
    before = contents(store)
    compact(store, min_files=1)
    assert len(store.packs("measurements").all()) > 3 and contents(store) == before
    add(store, 50)
    compact(store, min_files=1)
    assert store.read("measurements", [f"{name_of(50)}-00000000"]).num_rows == 4


def test_what_failed_can_be_done_later(tmp_path: Path) -> None:
    store = filled(tmp_path / "s")
    compact(store, min_files=1)
    add(store, 900)
    assert store.trials([name_of(900)])[name_of(900)]["status"] == DONE
    compact(store, min_files=1)
    assert store.loose("trials") == {name_of(901)}
    assert store.trials([name_of(900)])[name_of(900)]["status"] == DONE
    assert store.read("measurements", [f"{name_of(900)}-00000001"]).num_rows == 4


def test_the_report_of_packed_trials_is_the_same_page(tmp_path: Path) -> None:
    one = Study(name="toy", question="?", method="n2c", axes=[grid("lr", [0.001, 0.002])], plot=Curve(x="lr"))
    data = [DataInUse(spec, (("train", "0"),)) for spec in one.data.specs("smoke", None)]
    plan = Plan(Planner(one, method_class("n2c").recipes["smoke"], {}, data).grid((0, 1)))
    store = Store.open(str(tmp_path / "s"))
    for place, trial in enumerate(plan.trials):
        name = trial.spec.trial_id
        evaluated = {trial.spec.evaluation_id: (measured(name, [26.0 + place, 27.0, 25.0 - place]), [])}
        store.write_trial(row(name, number=place), curve(name, {50: 24.0, 100: 25.0 + place}), evaluated)

    def shown() -> str:
        results = collect(one, plan.read(store), store, "smoke", "python toy.py", False)
        assert results.measurements["value"].size == 24 and len(results.curves) == 8
        return page(replace(results, created="now"))

    before = shown()
    compact(store, min_files=1)
    assert shown() == before and store.loose("measurements") == set()


def test_a_store_in_an_object_store_is_packed_too(gate: Gate) -> None:
    store = filled(f"s3://{BUCKET}/packs", 4)
    before = contents(store)
    assert compact(store, min_files=1)
    assert contents(store) == before and not store.files.entries("copies")
    assert store.damaged([name_of(1)], [f"{name_of(1)}-00000000"]) == []


@pytest.fixture
def gate() -> Iterator[Gate]:
    with server() as found:
        yield found


# ---- kills and others at work ----

KILLED = """
import os, signal, sys
from cluster.execution.compaction import compact
from cluster.results import pack
from cluster.results.files import Files
from cluster.results.store import Store

store, what, count = Store(sys.argv[1]), sys.argv[2], int(sys.argv[3])
method = getattr(Files, what)
def killing(self, path, *arguments, **options):
    global count
    if "leases" not in path:
        count -= 1
        if count < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return method(self, path, *arguments, **options)
setattr(Files, what, killing)
pack.GROUP_NAMES = 4
compact(store, min_files=1)
"""
WRITING = """
import sys
from tests.cluster.packs_toys import Store, add
for number in range(100, 160):
    add(Store(sys.argv[1]), number)
    print(number, flush=True)
"""


def process(program: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, text=True, cwd=Path(__file__).parents[2], **options)


@pytest.mark.parametrize(
    ("what", "count"),
    [
        ("write", 1),  # the first pack is written, its copy is not
        ("write", 5),
        ("delete", 3),  # of the loose files some are gone
        ("delete", 25),
    ],
)
def test_a_kill_loses_nothing_and_the_next_compaction_mends(tmp_path: Path, what: str, count: int) -> None:
    store = filled(tmp_path / "s", 6)
    compact(store, min_files=6)  # packs to be merged
    add(store, *range(20, 28))
    before = contents(store)
    killed = process(KILLED, store.location, what, count)
    assert killed.wait(60) == -signal.SIGKILL
    assert contents(store) == before
    ids = store.names("trials")
    assert store.damaged(ids, store.names("measurements")) == []
    compact(store, min_files=1)  # the lease of the dead process is no obstacle
    assert contents(store) == before and loose(store) == 5
    for table in TABLES:
        assert len(pd.read_parquet(tmp_path / "s" / table)) == len(before[table][1])
        copies = store.files.entries(f"copies/{table}")
        assert table == "previews" or len(copies) == len(store.packs(table).all())


def test_readers_miss_nothing_while_others_write_and_compact(tmp_path: Path) -> None:
    store = filled(tmp_path / "s")
    writer = process(WRITING, store.location, stdout=subprocess.PIPE)
    written: list[int] = []
    assert writer.stdout is not None
    stream = writer.stdout
    listener = threading.Thread(target=lambda: written.extend(int(line) for line in stream))
    listener.start()
    over = threading.Event()

    def keep_compacting() -> None:
        other = Store(store.location)
        while not over.is_set():
            compact(other, min_files=3)

    threads = [threading.Thread(target=keep_compacting) for _ in range(2)]
    for thread in threads:
        thread.start()
    looks, odd = 0, {name_of(number) for number in range(1, 160, 2)}
    while writer.poll() is None or looks < 5:
        expected = [name_of(number) for number in (*range(10), *written)]
        present = store.present("trials")
        assert not [name for name in expected if name not in present]
        for table in ("trials", "diagnostics"):
            found = store.read(table, expected)["trial_id"].to_pylist()
            assert found == [one for one in expected if table == "trials" or one in odd]
        looks += 1
    over.set()
    for thread in (listener, *threads):
        thread.join()
    assert len(written) == 60
    compact(store, min_files=1)
    quiet = filled(tmp_path / "quiet")
    add(quiet, *range(100, 160))
    assert contents(store) == contents(quiet)
    assert len(pd.read_parquet(tmp_path / "s" / "trials")) == 72


def test_two_compactions_at_once_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Free:
        """A lease that does not keep others away, as if each took the other for dead."""

        lost = False

        def give_back(self) -> None:
            pass

    store = filled(tmp_path / "s", 8)
    compact(store, min_files=1)
    add(store, *range(20, 40))
    before = contents(store)
    monkeypatch.setattr(compaction.Leases, "take", lambda self, name: Free())
    threads = [threading.Thread(target=compact, args=(Store(store.location), 1)) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert store.names("measurements") == before["measurements"][0]
    assert contents(store) == before
    compact(store, min_files=1)
    assert contents(store) == before and all(len(store.packs(table).all()) == 1 for table in TABLES)


def test_while_another_process_compacts_nothing_is_done(tmp_path: Path) -> None:
    store = filled(tmp_path / "s")
    lease = compaction.Leases(store).take(compaction.LEASE)
    assert lease is not None and compact(store, min_files=1) == ""
    lease.give_back()
    assert compact(store, min_files=1) != ""
