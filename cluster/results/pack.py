"""A pack: the rows of many names of a table in one Parquet file, sorted by name, each name in one row group only.

The footer says whose the rows are, with the names that have none. A pack never changes and is called after its content:
what has another hash is damaged.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.results.files import Files, StoreTrouble, first_line
from cluster.results.schema import TABLES

LIMIT = 64 * 2**20
"""Bytes of a pack: it is written from memory, and reading it all is no trouble."""
GROUP_NAMES, GROUP_ROWS, GROUP_BYTES = 256, 16_384, 16 * 2**20
"""A row group ends with the name that reaches one of these: it is what is read for a name, and lost with a byte."""
FEW_GROUPS = 4
"""Of a remote pack more row groups than these are not asked for one by one."""
INDEX = b"denoise_studies_index"
DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError)
"""What reading something that is damaged raises."""

Part = tuple[str, pa.Table]
"""A name and its rows."""
log = logging.getLogger("denoise")


class Block(NamedTuple):
    """The rows of several names, one name after the other."""

    names: Sequence[str]
    counts: npt.NDArray[np.int64]
    rows: pa.Table

    def parts(self) -> Iterator[Part]:
        """Name by name."""
        for name, start, count in zip(self.names, _sums(self.counts), self.counts, strict=False):
            yield name, self.rows.slice(start, count)


class Pack:
    """One pack, with its footer in memory. Raises FileNotFoundError, and other errors where it is damaged."""

    def __init__(self, files: Files, table: str, name: str):
        self.files, self.table, self.name = files, table, name
        self.path = path_of(table, name)
        with self._source() as source:
            self._footer = files.patiently(lambda: pq.read_metadata(source))
        index = json.loads(self._footer.metadata[INDEX])
        self.names: list[str] = index["names"]
        self.places = {name: place for place, name in enumerate(self.names)}
        self.counts = np.array(index["counts"], np.int64)
        self._starts = _sums(self.counts)
        self._groups = _sums([self._footer.row_group(one).num_rows for one in range(self._footer.num_row_groups)])
        if len(self.names) != len(self.counts) or self._starts[-1] != self._footer.num_rows:
            raise ValueError("its index does not fit its rows")

    @cached_property
    def size(self) -> int:
        """In bytes."""
        return int(self.files.patiently(lambda: self.files.filesystem.get_file_info(self.files.path(self.path)).size))

    @cached_property
    def sound(self) -> bool:
        """Whether it is as it was written, found out once in a process. Raises FileNotFoundError."""
        return digest(self.files.read(self.path)) == self.name

    def parts(self) -> Iterator[Part]:
        """Name by name, what can be read."""
        for block in self.blocks(self.names):
            yield from block.parts()

    def blocks(
        self, names: Collection[str], columns: Sequence[str] | None = None, coded: bool = False
    ) -> Iterator[Block]:
        """The rows of those of ``names`` that it holds and that can be read, by name; ``coded``: texts as dictionaries.

        Raises FileNotFoundError where it was merged into another pack.
        """
        wanted = np.array(sorted(self.places[name] for name in names if name in self.places), np.int64)
        groups = np.searchsorted(self._groups, self._starts[wanted], side="right") - 1
        by_group: dict[int, list[int]] = {}
        for group, place in zip(groups.tolist(), wanted.tolist(), strict=True):
            by_group.setdefault(min(group, len(self._groups) - 2), []).append(place)
        if not by_group:
            return
        texts = [one.name for one in TABLES[self.table] if one.type == pa.string()] if coded else []
        with self._source(whole=self.files.local is None and len(by_group) > FEW_GROUPS) as source:
            file = pq.ParquetFile(
                source, metadata=self._footer, read_dictionary=texts, page_checksum_verification=True
            )  # fmt: skip
            for group, places in by_group.items():
                try:
                    rows = self._group(file, group, columns)
                except DAMAGE as error:
                    self._refuse_trouble(error)
                    log.warning("%s of %s cannot be read (%s)", self.path, self.files.location, first_line(error))
                    continue
                counts = self.counts[places]
                if counts.sum() < rows.num_rows:
                    firsts = self._starts[places] - self._groups[group]
                    rows = rows.take(pa.array(ranges(firsts, counts)))
                yield Block([self.names[place] for place in places], counts, rows)

    def _group(self, file: pq.ParquetFile, group: int, columns: Sequence[str] | None) -> pa.Table:
        if group < 0:  # none of its names has rows
            return TABLES[self.table].empty_table()
        rows = self.files.patiently(lambda: file.read_row_group(group, columns))
        return rows.replace_schema_metadata(None)  # the index of all the pack

    def _refuse_trouble(self, error: BaseException) -> None:
        """Raises what is no damage."""
        if isinstance(error, StoreTrouble):
            raise error
        if not self.files.exists(self.path):
            raise FileNotFoundError(self.path)

    def _source(self, whole: bool = False) -> Any:
        """The file to read from, or what it holds."""
        if whole:
            return pa.BufferReader(self.files.read(self.path))
        return self.files.patiently(lambda: self.files.filesystem.open_input_file(self.files.path(self.path)))


def folder(table: str) -> str:
    """Where the packs of a table are."""
    return f"{table}/packed"


def path_of(table: str, name: str) -> str:
    """Where a pack is in the store."""
    return f"{folder(table)}/{name}.parquet"


def digest(content: Any) -> str:
    """What a pack of this content is called."""
    return hashlib.sha256(content).hexdigest()[:32]


def content_of(table: str, parts: Iterator[Part]) -> Any:
    """One pack of as many of the parts as it may hold."""
    sink = pa.BufferOutputStream()
    names: list[str] = []
    counts: list[int] = []
    with pq.ParquetWriter(sink, TABLES[table], compression="zstd", write_page_checksum=True) as writer:
        for group in _groups(parts):
            names += [name for name, _ in group]
            counts += [rows.num_rows for _, rows in group]
            rows = pa.concat_tables([rows.replace_schema_metadata(None) for _, rows in group]).cast(TABLES[table])
            if rows.num_rows:
                writer.write_table(rows, row_group_size=rows.num_rows)
            if sink.tell() > LIMIT:
                break
        writer.add_key_value_metadata({INDEX: json.dumps({"names": names, "counts": counts})})
    return sink.getvalue()


def _groups(parts: Iterator[Part]) -> Iterator[list[Part]]:
    """Parts by row group."""
    group: list[Part] = []
    count = size = 0
    for part in parts:
        group.append(part)
        count, size = count + part[1].num_rows, size + part[1].nbytes
        if len(group) >= GROUP_NAMES or count >= GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, count, size = [], 0, 0
    if group:
        yield group


def ranges(firsts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """``count`` whole numbers from each of ``firsts``, in one array."""
    firsts, counts = firsts[counts > 0], counts[counts > 0]
    steps = np.ones(counts.sum(), np.int64)
    if len(steps):
        ends = np.cumsum(counts)[:-1]
        steps[0], steps[ends] = firsts[0], np.diff(firsts) - counts[:-1] + 1
    return np.cumsum(steps, out=steps)  # in place: there may be millions


def _sums(counts: Iterable[int]) -> npt.NDArray[np.int64]:
    """0 and the sums of the first one, two, ... of ``counts``."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))]).astype(np.int64)
