"""The results store: Parquet files that any tool can read, on local disk, S3 or GCS.

``<store>/<table>/<id>.parquet``: one file a trial and table, written aside and renamed; a trial's row in ``trials`` is
written last. Measurements and previews have a file for each set of inference-time values, ``<trial>-<values>``, so that
a trained trial can be evaluated with further ones. Files are named by what they hold: writing a trial twice leaves one
copy, and two studies that need the same trial share it.
"""

from __future__ import annotations

import json
import platform
import posixpath
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cluster.results.schema import TABLES, VERSION
from denoise_core.errors import UserError

MARKER = "store.json"
Rows = Sequence[Mapping[str, Any]]
Evaluated = tuple[Rows, Rows]
"""Measurements and previews."""


class Store:
    """A results store at a folder or a URI (``s3://bucket/path``, ``gs://...``)."""

    def __init__(self, location: str):
        self.filesystem, self.root = _resolve(location)
        # workers may run in another folder: a local store is named by its absolute path
        self.location = location if "://" in location else self.root

    @classmethod
    def open(cls, location: str) -> Self:
        """Opens the store, or makes a new one. Raises UserError for a foreign or unwritable folder."""
        store = cls(location)
        try:
            if store._exists(MARKER):
                version = json.loads(store.read_bytes(MARKER))["version"]
                if version != VERSION:
                    raise UserError(
                        f"The store {location} has version {version}, this program reads version {VERSION}: "
                        "use the program that wrote it, or another --store."
                    )
            elif store._entries(""):
                raise UserError(
                    f"{location} holds files but is no results store of this program: "
                    "pass --store with a new or an empty folder."
                )
            else:
                store.write_bytes(MARKER, json.dumps({"format": "denoise-studies", "version": VERSION}).encode())
            store._probe()
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"The store {location} cannot be used ({error}): pass --store with a folder that you can write to."
            ) from None
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

    @property
    def local(self) -> Path | None:
        """The store's folder where it is on a local disk, else None."""
        return Path(self.root) if isinstance(self.filesystem, pafs.LocalFileSystem) else None

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
        self.write_bytes(f"{table}/{name}.parquet", sink.getvalue().to_pybytes())

    def read(self, table: str, ids: Iterable[str]) -> pa.Table:
        """The rows of the files ``ids`` that exist and can be read, in the order of ``ids``; see :meth:`damaged`."""
        present = self._present(table)
        paths = [self._path(f"{table}/{one}.parquet") for one in dict.fromkeys(ids) if one in present]
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda path: self._read_or_skip(path, table), paths)
            parts = [part for part in found if part is not None]
        return pa.concat_tables(parts) if parts else TABLES[table].empty_table()

    def has(self, table: str, name: str) -> bool:
        """Whether ``<table>/<name>.parquet`` exists."""
        return self._exists(f"{table}/{name}.parquet")

    def names(self, table: str) -> list[str]:
        """The names of all files of a table, sorted."""
        return sorted(self._present(table))

    def write_bytes(self, relative: str, content: bytes) -> None:
        """Writes a file aside and renames it. Hidden names keep readers from seeing the part that is being written."""
        path = self._path(relative)
        folder, name = posixpath.split(path)
        self.filesystem.create_dir(folder, recursive=True)
        if not isinstance(self.filesystem, pafs.LocalFileSystem):
            with self.filesystem.open_output_stream(path) as stream:  # an object appears only when it is whole
                stream.write(content)
            return
        aside = posixpath.join(folder, f".{name}.{uuid.uuid4().hex}.writing")
        with self.filesystem.open_output_stream(aside) as stream:
            stream.write(content)
        self.filesystem.move(aside, path)

    def read_bytes(self, relative: str) -> bytes:
        """A whole file."""
        with self.filesystem.open_input_stream(self._path(relative)) as stream:
            return bytes(stream.read())

    # ---- private ----

    def _set_aside_if_damaged(self, first: str, second: str, name: str) -> str | None:
        """``first`` is the table that says that the thing exists, so it goes first."""
        for table in (first, second):
            try:
                self._read_file(self._path(f"{table}/{name}.parquet"), table)
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
        if self._exists(relative):
            target = self._path(f"damaged/{uuid.uuid4().hex[:8]}-{relative.replace('/', '-')}.damaged")
            self.filesystem.create_dir(posixpath.dirname(target), recursive=True)
            self.filesystem.move(self._path(relative), target)

    def _read_file(self, path: str, table: str) -> pa.Table:
        read = pq.read_table(path, filesystem=self.filesystem, page_checksum_verification=True, partitioning=None)
        return read.select(TABLES[table].names).cast(TABLES[table])

    def _present(self, table: str) -> set[str]:
        return {name.removesuffix(".parquet") for name in self._entries(table) if name.endswith(".parquet")}

    def _entries(self, relative: str) -> list[str]:
        selector = pafs.FileSelector(self._path(relative), allow_not_found=True)
        return [one.base_name for one in self.filesystem.get_file_info(selector) if not one.base_name.startswith(".")]

    def _exists(self, relative: str) -> bool:
        return bool(self.filesystem.get_file_info(self._path(relative)).type != pafs.FileType.NotFound)

    def _path(self, relative: str) -> str:
        return posixpath.join(self.root, relative) if relative else self.root

    def _probe(self) -> None:
        name = f".probe-{uuid.uuid4().hex}"
        self.write_bytes(name, b"")
        self.filesystem.delete_file(self._path(name))


def _resolve(location: str) -> tuple[pafs.FileSystem, str]:
    try:
        if "://" in location:
            filesystem, root = pafs.FileSystem.from_uri(location)
            return filesystem, root.rstrip("/")
        path = Path(location).expanduser().absolute()
        if path.exists() and not path.is_dir():
            raise UserError(f"The store {location} is a file: pass --store with a folder.")
        path.mkdir(parents=True, exist_ok=True)
        return pafs.LocalFileSystem(), str(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(
            f"The store {location} cannot be used ({error}): pass --store with a folder that you can write to."
        ) from None
