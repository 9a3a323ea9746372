"""The store: whole trials only, damage set aside, readable by any tool."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.dataset as ds
import pytest
import torch

from cluster.execution.board import Task
from cluster.execution.one_training import Training
from cluster.results.schema import DONE, TABLES
from cluster.results.store import Store
from denoise_core.errors import UserError
from denoise_core.method import methods
from denoise_core.specification import DataSpec, specify
from denoise_core.trainer import Ranks


def trial(name: str, **values: Any) -> dict[str, Any]:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return {"trial_id": name, "status": DONE, "seed": 0, "started_at": now, "finished_at": now, **values}


def measurements(name: str, count: int = 4) -> list[dict[str, Any]]:
    row = {
        "trial_id": name,
        "dataset": "d",
        "repeat": 0,
        "output": "denoised",
        "metric": "psnr",
        "protocol": "canonical",
    }
    return [{**row, "image_id": str(one), "value": 20.0 + one} for one in range(count)]


def filled(path: Path, *names: str) -> Store:
    store = Store.open(str(path))
    for name in names:
        store.write_trial(trial(name), [], {name: (measurements(name), [])})
    return store


def test_rows_come_back_with_their_types(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", "a", "b")
    assert set(store.trials(["a", "b", "missing"])) == {"a", "b"}
    assert store.trials(["a"])["a"]["finished_at"] == datetime(2026, 1, 1, tzinfo=UTC)
    values = store.read("measurements", ["b"]).to_pylist()
    assert [row["value"] for row in values] == [20.0, 21.0, 22.0, 23.0]
    assert store.read("curves", ["nothing"]).schema.names == TABLES["curves"].names


def test_plain_pyarrow_pandas_and_duckdb_open_it(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    filled(tmp_path / "s", "a", "b")
    (tmp_path / "s" / "measurements" / ".c.parquet.123.writing").write_bytes(b"half a file")
    folder = str(tmp_path / "s" / "measurements")
    assert ds.dataset(folder).count_rows() == 8
    assert len(pd.read_parquet(folder)) == 8
    query = f"select trial_id, avg(value) from '{folder}/*.parquet' group by 1 order by 1"
    assert duckdb.sql(query).fetchall() == [("a", 21.5), ("b", 21.5)]


def test_a_trial_exists_only_once_all_its_rows_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path / "s")
    written: list[str] = []
    write = Store.write

    def killed_before_the_last(self: Store, table: str, name: str, rows: Any) -> None:
        if table == "trials":
            raise KeyboardInterrupt
        written.append(table)
        write(self, table, name, rows)

    monkeypatch.setattr(Store, "write", killed_before_the_last)
    with pytest.raises(KeyboardInterrupt):
        store.write_trial(trial("a"), [], {"a": (measurements("a"), [])})
    assert written == ["previews", "measurements", "curves"] and store.trials(["a"]) == {}


def test_writing_a_trial_twice_leaves_one_copy(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", "a", "a")
    assert store.read("measurements", ["a"]).num_rows == 4


@pytest.mark.parametrize("table", ["trials", "measurements"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_damage_costs_one_trial_and_is_reported(tmp_path: Path, table: str, damage: str) -> None:
    store = filled(tmp_path / "s", "a", "b")
    path = tmp_path / "s" / table / "a.parquet"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 4] ^= 0xFF
    path.write_bytes({"truncated": bytes(content[:-20]), "flipped": bytes(content), "empty": b""}[damage])
    sentences = store.damaged(["a", "b"], ["a", "b"])
    assert len(sentences) == 1
    again = {"trials": "its trial is run again", "measurements": "its evaluation is made again"}[table]
    assert f"{table}/a.parquet is damaged" in sentences[0] and again in sentences[0]
    assert store.names(table) == ["b"]  # the other table keeps what it had: only the damaged thing is lost
    assert any((tmp_path / "s" / "damaged").iterdir())
    assert store.damaged(["a", "b"], ["a", "b"]) == []


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="holds files but is no results store"):
        Store.open(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_an_unwritable_folder_and_a_bad_address_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file: pass --store with a folder"):
        Store.open(str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be used .*pass --store with a folder that you can write to"):
        Store.open(str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="cannot be used"):
        Store.open("nonsense://bucket/store")
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(UserError, match="cannot be used"):
            Store.open(str(tmp_path / "locked"))


def test_another_version_is_refused(tmp_path: Path) -> None:
    store = filled(tmp_path / "s")
    store.files.write("store.json", b'{"format": "denoise-studies", "version": 99}')
    with pytest.raises(UserError, match="has version 99, this program reads version 4"):
        Store.open(str(tmp_path / "s"))


def test_a_trial_without_its_curves_is_run_again(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", "a", "b")
    (tmp_path / "s" / "curves" / "a.parquet").unlink()
    assert len(store.damaged(["a", "b"], ["a", "b"])) == 1 and set(store.trials(["a", "b"])) == {"b"}


def test_measurements_without_previews_are_made_again(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", "a", "b")
    (tmp_path / "s" / "previews" / "a.parquet").unlink()
    assert len(store.damaged(["a", "b"], ["a", "b"])) == 1 and store.names("measurements") == ["b"]
    assert set(store.trials(["a", "b"])) == {"a", "b"}


def test_a_damaged_file_of_another_study_disturbs_nobody(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", "a", "b")
    (tmp_path / "s" / "trials" / "a.parquet").write_bytes(b"PAR1")
    assert store.read("trials", store.names("trials"))["trial_id"].to_pylist() == ["b"]


def test_a_worker_that_does_not_see_the_store_makes_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not see the store .* pass --store with a folder that all nodes share"):
        Store.existing(str(tmp_path / "s"))
    assert not (tmp_path / "s").exists()
    filled(tmp_path / "s")
    Store.existing(str(tmp_path / "s"))


def test_a_failure_never_replaces_a_finished_trial(tmp_path: Path) -> None:
    recipe = methods()["n2c"].recipes["smoke"]
    spec = specify("n2c", {}, DataSpec(), (), recipe, 0)
    store = filled(tmp_path / "s", spec.trial_id)
    training = Training(Task(spec, "", (spec.params,)), "study", "smoke", store, Ranks(), torch.device("cpu"))
    training.store_failure("too late")
    assert store.trials([spec.trial_id])[spec.trial_id]["status"] == DONE
    assert store.read("measurements", [spec.trial_id]).num_rows == 4
