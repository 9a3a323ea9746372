"""The results store: Parquet files that any tool can read, on local disk, S3 or GCS.

``<store>/<table>/<id>.parquet``: one file a trial and table, written aside and renamed; a trial's row in ``trials`` is
written last. Measurements and previews have a file for each set of inference-time values, ``<trial>-<values>``, so that
a trained trial can be evaluated with further ones. Files are named by what they hold: writing a trial twice leaves one
copy, and two studies that need the same trial share it.

Of what cannot change any more many files are packed into one, ``<store>/<table>/packed/<hash>.parquet``; see
:mod:`cluster.results.packs`. A name that is both loose and packed, as while it is being packed, is read from the loose
file.
"""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.results.damage import damaged
from cluster.results.files import PATIENCE_S, Files, StoreTrouble, first_line
from cluster.results.pack import DAMAGE, Block, ranges
from cluster.results.packs import LOOKS, Packs
from cluster.results.schema import TABLES, UPGRADED, VERSION
from denoise_core.errors import UserError

MARKER = "store.json"
OPENING_S = 10.0
"""How long a store is waited for when a study begins: a wrong address should not take minutes to be noticed."""
FEW_ROWS = 16
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
                if store.version() in UPGRADED:
                    store._mark()
            elif store.files.entries(""):
                raise UserError(
                    f"{location} holds files but is no results store of this program: "
                    "pass --store with a new or an empty folder."
                )
            else:
                store._mark()
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
        missing = UserError(
            f"The node {platform.node()} does not see the store {location}: "
            "pass --store with a folder that all nodes share, or an s3:// or gs:// address."
        )
        if "://" not in location and not Path(location, MARKER).is_file():
            raise missing  # looking into it would make the folder
        store = cls(location)
        try:
            store.version()
        except FileNotFoundError:
            raise missing from None
        return store

    def version(self) -> int:
        """The version of its layout. Raises UserError for one that this program cannot read."""
        version = json.loads(self.files.read(MARKER))["version"]
        if version != VERSION and version not in UPGRADED:
            raise UserError(
                f"The store {self.location} has version {version}, this program reads version {VERSION}: "
                "use the program that wrote it, or another --store."
            )
        return int(version)

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

    def trials(self, ids: Iterable[str], columns: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """The rows of the trials that are stored, with all columns or these."""
        names = [*dict.fromkeys(("trial_id", *columns))] if columns else ()
        return {row["trial_id"]: row for row in self.read("trials", ids, names).to_pylist()}

    def damaged(self, ids: Iterable[str], evaluations: Iterable[str] = ()) -> list[str]:
        """Sets aside or mends what is damaged of these trials and evaluations: a sentence for each file."""
        return damaged(self, ids, evaluations)

    # ---- tables ----

    def write(self, table: str, name: str, rows: Rows) -> None:
        """Writes ``<table>/<name>.parquet`` aside and renames it."""
        content = pa.Table.from_pylist([dict(row) for row in rows], schema=TABLES[table])
        sink = pa.BufferOutputStream()
        # of a few rows, dictionaries, statistics and frames of zstd would be most of the file, and of the time
        compression = "zstd" if content.num_rows > FEW_ROWS else "none"
        small: dict[str, Any] = {"use_dictionary": False, "write_statistics": False, "compression": compression}
        pq.write_table(content, sink, write_page_checksum=True, **small)
        self.files.write(f"{table}/{name}.parquet", sink.getvalue().to_pybytes())

    def read(self, table: str, ids: Iterable[str], columns: Sequence[str] = ()) -> pa.Table:
        """The rows of the names ``ids`` that exist and can be read, in the order of ``ids``; see :meth:`damaged`."""
        wanted, schema = list(dict.fromkeys(ids)), _schema(table, columns)
        blocks = list(self.blocks(table, wanted, schema.names))
        if not blocks:
            return schema.empty_table()
        rows = pa.concat_tables([block.rows.select(schema.names).cast(schema) for block in blocks])
        places = {name: place for place, name in enumerate(chain.from_iterable(block.names for block in blocks))}
        order = np.array([places[name] for name in wanted if name in places])
        if (order == np.arange(len(order))).all():
            return rows
        counts = np.concatenate([block.counts for block in blocks])
        return rows.take(pa.array(ranges((np.cumsum(counts) - counts)[order], counts[order])))

    def blocks(
        self, table: str, ids: Iterable[str], columns: Sequence[str] = (), coded: bool = False
    ) -> Iterator[Block]:
        """The rows of the names ``ids`` as they are found, each name once; ``coded`` keeps texts as dictionaries.

        What is being packed meanwhile is looked for again where it then is.
        """
        left = dict.fromkeys(ids)
        names = list(columns) or TABLES[table].names
        for _ in range(LOOKS):
            loose, moved = self.loose(table), False
            wanted = [one for one in left if one in loose]
            with ThreadPoolExecutor(8) as pool:
                tried = pool.map(lambda one: self._tried(table, one, names, coded), wanted)
                for name, rows in zip(wanted, tried, strict=True):
                    moved |= isinstance(rows, FileNotFoundError)
                    if isinstance(rows, pa.Table):
                        del left[name]
                        yield Block([name], np.array([rows.num_rows]), rows)
            for pack in self.packs(table).all() if left else ():
                try:
                    for block in pack.blocks(left, names, coded):
                        for name in block.names:
                            del left[name]
                        yield block
                except FileNotFoundError:
                    moved = True
            if not moved:
                return

    def has(self, table: str, name: str) -> bool:
        """Whether a table has rows of this name, or is known to have none."""
        return self.files.exists(_path(table, name)) or any(name in pack.places for pack in self.packs(table).all())

    def names(self, table: str) -> list[str]:
        """All names of a table, sorted."""
        return sorted(self.present(table))

    def present(self, table: str) -> set[str]:
        """All names of a table."""
        loose = self.loose(table)  # first: what is packed after this look is seen by the next
        return loose | self.packs(table).names()

    def loose(self, table: str) -> set[str]:
        """The names that have a file of their own."""
        return {name.removesuffix(".parquet") for name in self.files.entries(table) if name.endswith(".parquet")}

    def packs(self, table: str) -> Packs:
        """The packs of a table."""
        return Packs(self.files, table)

    def read_loose(self, table: str, name: str, columns: Sequence[str] = (), coded: bool = False) -> pa.Table:
        """The rows of a name that has a file of its own. Raises FileNotFoundError, and others where it is damaged."""
        schema = _schema(table, columns)
        texts = [one.name for one in schema if one.type == pa.string()] if coded else []
        source = pa.BufferReader(self.files.read(_path(table, name)))
        file = pq.ParquetFile(source, read_dictionary=texts, page_checksum_verification=True)
        rows = file.read(schema.names, use_threads=False).select(schema.names)
        return rows if coded or rows.schema.equals(schema) else rows.cast(schema)

    # ---- private ----

    def _tried(self, table: str, name: str, columns: Sequence[str], coded: bool) -> pa.Table | Exception:
        """The rows of a name that had a file of its own, or why they cannot be read."""
        try:
            return self.read_loose(table, name, columns, coded)
        except StoreTrouble:
            raise
        except DAMAGE as error:
            return error

    def _mark(self) -> None:
        self.files.write(MARKER, json.dumps({"format": "denoise-studies", "version": VERSION}).encode())

    def _probe(self) -> None:
        name = f".probe-{uuid.uuid4().hex}"
        self.files.write(name, b"probe")
        self.files.delete(name)


def _path(table: str, name: str) -> str:
    return f"{table}/{name}.parquet"


def _schema(table: str, columns: Collection[str]) -> pa.Schema:
    """The columns of a table, or some of them."""
    schema = TABLES[table]
    return pa.schema([schema.field(name) for name in columns], metadata=schema.metadata) if columns else schema
