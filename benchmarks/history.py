"""Results of all runs as Parquet, one file a run, so that ours can be followed from commit to commit."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.harness import Result
from benchmarks.machine import commit, describe

SCHEMA = pa.schema([
    ("run", pa.string()), ("time", pa.string()), ("commit", pa.string()), ("changed", pa.bool_()),
    ("device", pa.string()), ("torch", pa.string()), ("group", pa.string()), ("name", pa.string()),
    ("reference", pa.string()), ("size", pa.int64()), ("reference_ms", pa.float64()), ("ours_ms", pa.float64()),
    ("ratio", pa.float64()), ("low", pa.float64()), ("high", pa.float64()), ("goal", pa.float64()),
    ("rounds", pa.int64()), ("share_of_peak", pa.float64()), ("memory_mb", pa.float64()),
])  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What all results of a run have in common; ``changed``: with changes that no commit has."""

    run: str
    time: str
    commit: str
    changed: bool
    device: str
    torch: str

    @classmethod
    def now(cls, device: str) -> Run:
        """That which begins."""
        revision, changed = commit()
        time = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        return cls(uuid.uuid4().hex, time, revision, changed, describe(device), torch.__version__)


def keep(folder: Path, run: Run, results: Sequence[Result]) -> Path:
    """Writes a run's file, aside and renamed, in place of what it held before."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [{**asdict(run), **asdict(one)} for one in results]
    path = folder / f"{run.time[:10]}-{run.commit[:12] or 'unknown'}-{run.run[:8]}.parquet"
    aside = path.with_name(f".{path.name}")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), aside)
    aside.replace(path)
    return path


def read(folder: Path) -> pd.DataFrame:
    """All results, oldest first."""
    tables = [pq.read_table(path, schema=SCHEMA) for path in sorted(folder.glob("*.parquet"))]
    if not tables:
        return pa.Table.from_pylist([], SCHEMA).to_pandas()
    return pa.concat_tables(tables).to_pandas().sort_values("time", kind="stable").reset_index(drop=True)
