"""Damaged packs, and stores of other versions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from cluster.execution.compaction import compact
from cluster.results import packs
from cluster.results.schema import VERSION
from cluster.results.store import Store
from denoise_core.errors import UserError
from tests.cluster import packs_toys
from tests.cluster.packs_toys import contents, filled, name_of

small = packs_toys.small


# ---- damage ----


def pack_path(store: Store, table: str) -> Path:
    (one,) = (Path(store.location) / table / "packed").glob("*.parquet")
    return one


def harm(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start + chunk.total_compressed_size - 1] ^= 0xFF  # in a page, not in a header
    path.write_bytes(bytes(content) if damage == "flipped" else bytes(content[: len(content) // 2]))


def again(store: Store) -> Store:
    """As another process sees the store: what it knows of packs it found out itself."""
    packs._opened.clear()
    return Store(store.location)


def asked(store: Store) -> list[str]:
    return store.damaged([name_of(number) for number in range(10)], [f"{name_of(n)}-00000000" for n in range(10)])


@pytest.mark.parametrize("table", ["trials", "curves", "measurements", "phases"])
@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_a_damaged_pack_is_replaced_by_its_copy(tmp_path: Path, table: str, damage: str) -> None:
    store = filled(tmp_path / "s")
    before = contents(store)
    compact(store, min_files=1)
    harm(pack_path(store, table), damage)
    (sentence,) = asked(again(store))
    assert f"{table}/packed/" in sentence and sentence.endswith("replaced by its copy, nothing is lost.")
    assert contents(store) == before and asked(again(store)) == []
    assert len(list((tmp_path / "s" / "damaged").iterdir())) == 1


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("trials", "6 of its 10 trials could be read and are kept, the others are run again"),
        ("curves", "6 of its 10 curves could be read and are kept, the others are run again"),
        ("measurements", "16 of its 20 measurements could be read and are kept, the others are evaluated again"),
    ],
)
def test_of_a_pack_without_a_copy_what_can_be_read_is_kept(tmp_path: Path, table: str, told: str) -> None:
    store = filled(tmp_path / "s")
    compact(store, min_files=1)
    path = pack_path(store, table)
    (tmp_path / "s" / "copies" / table / path.name).write_bytes(b"PAR1")
    harm(path, "flipped")
    store = again(store)
    (sentence,) = asked(store)
    assert told in sentence
    assert len(store.trials(store.names("trials"))) == (12 if table == "measurements" else 8)
    assert len(store.names("measurements")) == (16 if table == "measurements" else 20)
    assert asked(again(store)) == []
    assert len(pd.read_parquet(tmp_path / "s" / table)) == store.read(table, store.names(table)).num_rows


def test_a_pack_that_cannot_be_opened_at_all_is_set_aside(tmp_path: Path) -> None:
    store = filled(tmp_path / "s")
    compact(store, min_files=1)
    path = pack_path(store, "measurements")
    (tmp_path / "s" / "copies" / "measurements" / path.name).unlink()
    harm(path, "truncated")
    store = again(store)
    assert store.names("measurements") == []  # and nothing raises
    (sentence,) = asked(store)
    assert "what it held is not known: what a study lacks is made again" in sentence
    assert asked(again(store)) == [] and set(store.trials(store.names("trials"))) == set(store.names("trials"))


def test_damaged_pictures_are_read_past(tmp_path: Path) -> None:
    store = filled(tmp_path / "s")
    compact(store, min_files=1)
    names = store.names("previews")
    harm(pack_path(store, "previews"), "flipped")
    store = again(store)
    assert asked(store) == [] and 0 < store.read("previews", names).num_rows < len(names)


def test_a_lost_loose_curve_of_a_packed_trial_runs_it_again(tmp_path: Path) -> None:
    store = filled(tmp_path / "s")
    compact(store, min_files=1)
    store.write("curves", name_of(1), [])  # a loose file wins, and is damaged
    (tmp_path / "s" / "curves" / f"{name_of(1)}.parquet").write_bytes(b"PAR1")
    assert len(asked(store)) == 1
    assert asked(store) == [] and name_of(1) in store.names("trials")  # the packed one is as good
    pack_path(store, "curves").unlink()
    (sentence,) = asked(again(store))
    assert sentence.startswith("10 trials") and store.loose("trials") == set(store.names("trials"))


# ---- versions ----


def test_a_store_of_the_version_before_is_opened_and_marked(tmp_path: Path) -> None:
    store = filled(tmp_path / "s")
    before = contents(store)
    store.files.write("store.json", b'{"format": "denoise-studies", "version": 3}')
    Store.existing(store.location)  # a worker changes nothing
    assert b'"version": 3' in store.files.read("store.json")
    assert contents(Store.open(store.location)) == before
    assert f'"version": {VERSION}'.encode() in store.files.read("store.json")


@pytest.mark.parametrize("version", [2, 99])
def test_other_versions_are_refused(tmp_path: Path, version: int) -> None:
    store = filled(tmp_path / "s", 1)
    store.files.write("store.json", f'{{"format": "denoise-studies", "version": {version}}}'.encode())
    for opened in (Store.open, Store.existing):
        with pytest.raises(UserError, match=f"has version {version}, this program reads version {VERSION}: use the"):
            opened(store.location)
