"""The results store: Parquet files that any tool can read, on local disk, S3 or GCS.

``<store>/<table>/<id>.parquet``: one file a trial and table, written aside and renamed; a trial's row in ``trials`` is
written last. Measurements and previews have a file for each set of inference-time values, ``<trial>-<values>``, so that
a trained trial can be evaluated with further ones. Files are named by what they hold: writing a trial twice leaves one
copy, and two studies that need the same trial share it.
"""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.results.files import PATIENCE_S, Files, StoreTrouble, first_line
from cluster.results.schema import TABLES, VERSION
from denoise_core.errors import UserError

MARKER = "store.json"
OPENING_S = 10.0
"""How long a store is waited for when a study begins: a wrong address should not take minutes to be noticed."""
Rows = Sequence[Mapping[str, Any]]
Evaluated = tuple[Rows, Rows]
"""Measurements and previews."""


class Store:
    """A results store at a folder or a URI (``s3://bucket/path``, ``gs://...``)."""

    def __init__(self, location: str, patience_s: float = PATIENCE_S):
        self.files = Files(location, patience_s)
        self.location, self.local = self.files.location, self.files.local

    @classmethod
    def open(cls, location: str) -> Self:
        """Opens the store, or makes a new one. Raises UserError for a foreign or unwritable folder."""
        store = cls(location, OPENING_S)
        try:
            if store.files.exists(MARKER):
                version = json.loads(store.files.read(MARKER))["version"]
                if version != VERSION:
                    raise UserError(
                        f"The store {location} has version {version}, this program reads version {VERSION}: "
                        "use the program that wrote it, or another --store."
                    )
            elif store.files.entries(""):
                raise UserError(
                    f"{location} holds files but is no results store of this program: "
                    "pass --store with a new or an empty folder."
                )
            else:
                store.files.write(MARKER, json.dumps({"format": "denoise-studies", "version": VERSION}).encode())
            store._probe()
        except StoreTrouble as trouble:
            raise UserError(str(trouble)) from None
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"The store {location} cannot be used ({first_line(error)}): pass --store with a folder, or an "
                "s3:// or gs:// address, that you can write to."
            ) from None
        store.files.patience_s = PATIENCE_S
        return store

    @classmethod
    def existing(cls, location: str) -> Self:
        """The store that the driver opened, as a worker sees it. Raises UserError where it is not."""
        if "://" not in location and not Path(location, MARKER).is_file():
            raise UserError(
                f"The node {platform.node()} does not see the store {location}: "
                "pass --store with a folder that all nodes share, or an s3:// or gs:// address."
            )
        return cls(location)

    # ---- trials ----

    def write_trial(
        self,
        trial: Mapping[str, Any],
        curves: Rows,
        evaluations: Mapping[str, Evaluated],
        diagnostics: Rows = (),
    ) -> None:
        """Writes a trial's evaluations by their ids, its curves and diagnostics, and then its row in ``trials``."""
        name = str(trial["trial_id"])
        for evaluation, evaluated in evaluations.items():
            self.write_evaluation(evaluation, evaluated)
        self.write("curves", name, curves)
        if diagnostics:
            self.write("diagnostics", name, diagnostics)
        self.write("trials", name, [trial])

    def write_evaluation(self, evaluation: str, evaluated: Evaluated) -> None:
        """Writes what a trial's weights gave with one set of inference-time values: it exists with its measurements."""
        measurements, previews = evaluated
        self.write("previews", evaluation, previews)
        self.write("measurements", evaluation, measurements)

    def trials(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The rows of the trials that are stored."""
        found: dict[str, dict[str, Any]] = {}
        for rows in self.read("trials", ids).to_pylist():
            found[rows["trial_id"]] = rows
        return found

    def damaged(self, ids: Iterable[str], evaluations: Iterable[str] = ()) -> list[str]:
        """Sets aside every trial and evaluation among these with a damaged file and returns a sentence for each."""
        trials, measured = self._present("trials"), self._present("measurements")
        wanted = [("trials", "curves", one) for one in dict.fromkeys(ids) if one in trials]
        wanted += [("measurements", "previews", one) for one in dict.fromkeys(evaluations) if one in measured]
        with ThreadPoolExecutor(8) as pool:
            return [sentence for sentence in pool.map(lambda one: self._set_aside_if_damaged(*one), wanted) if sentence]

    # ---- tables ----

    def write(self, table: str, name: str, rows: Rows) -> None:
        """Writes ``<table>/<name>.parquet`` aside and renames it."""
        content = pa.Table.from_pylist([dict(row) for row in rows], schema=TABLES[table])
        sink = pa.BufferOutputStream()
        pq.write_table(content, sink, compression="zstd", write_page_checksum=True)
        self.files.write(f"{table}/{name}.parquet", sink.getvalue().to_pybytes())

    def read(self, table: str, ids: Iterable[str]) -> pa.Table:
        """The rows of the files ``ids`` that exist and can be read, in the order of ``ids``; see :meth:`damaged`."""
        present = self._present(table)
        paths = [f"{table}/{one}.parquet" for one in dict.fromkeys(ids) if one in present]
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda path: self._read_or_skip(path, table), paths)
            parts = [part for part in found if part is not None]
        return pa.concat_tables(parts) if parts else TABLES[table].empty_table()

    def has(self, table: str, name: str) -> bool:
        """Whether ``<table>/<name>.parquet`` exists."""
        return self.files.exists(f"{table}/{name}.parquet")

    def names(self, table: str) -> list[str]:
        """The names of all files of a table, sorted."""
        return sorted(self._present(table))

    # ---- private ----

    def _set_aside_if_damaged(self, first: str, second: str, name: str) -> str | None:
        """``first`` is the table that says that the thing exists, so it goes first."""
        for table in (first, second):
            try:
                self._read_file(f"{table}/{name}.parquet", table)
            except (pa.ArrowException, OSError, ValueError) as error:
                if isinstance(error, FileNotFoundError) and table == first:
                    continue  # another process set it aside
                for one in dict.fromkeys((first, table)):
                    self._move_aside(f"{one}/{name}.parquet")
                reason = str(error).splitlines()[0][:160]
                again = "trial is run" if first == "trials" else "evaluation is made"
                return (
                    f"{table}/{name}.parquet is damaged ({reason}): it was set aside in {self.location}/damaged, "
                    f"its {again} again, nothing else is lost."
                )
        return None

    def _read_or_skip(self, path: str, table: str) -> pa.Table | None:
        try:
            return self._read_file(path, table)
        except (pa.ArrowException, OSError, ValueError):
            return None

    def _move_aside(self, relative: str) -> None:
        with suppress(FileNotFoundError):  # another process set it aside
            self.files.move(relative, f"damaged/{uuid.uuid4().hex[:8]}-{relative.replace('/', '-')}.damaged")

    def _read_file(self, relative: str, table: str) -> pa.Table:
        source = pa.BufferReader(self.files.read(relative))
        read = pq.read_table(source, page_checksum_verification=True, partitioning=None)
        return read.select(TABLES[table].names).cast(TABLES[table])

    def _present(self, table: str) -> set[str]:
        return {name.removesuffix(".parquet") for name in self.files.entries(table) if name.endswith(".parquet")}

    def _probe(self) -> None:
        name = f".probe-{uuid.uuid4().hex}"
        self.files.write(name, b"probe")
        self.files.delete(name)

