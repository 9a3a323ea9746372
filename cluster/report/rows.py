"""Rows of many names of a store as a frame that is small in memory: texts are categories from the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cluster.results.pack import ranges
from cluster.results.schema import TABLES
from cluster.results.store import Store

Places = npt.NDArray[np.signedinteger[Any]]


def stored(
    store: Store, table: str, ids: Sequence[str], columns: Sequence[str], only: tuple[str, str] | None = None
) -> pd.DataFrame:
    """``columns`` of the rows of ``ids``, in their order, with the id of each row as ``trial_id``.

    ``only`` names a column of texts and how these must begin; other rows are left out.
    """
    at = {name: place for place, name in enumerate(ids)}
    texts = {name: _Texts() for name in columns if TABLES[table].field(name).type == pa.string()}
    parts: dict[str, list[Any]] = {name: [] for name in columns}
    names: list[int] = []
    counts: list[Any] = []
    for block in store.blocks(table, ids, columns, coded=True):
        if not block.rows.num_rows:
            continue
        found = {
            name: texts[name].numbers(block.rows[name]) if name in texts else _plain(block.rows[name])
            for name in columns
        }  # fmt: skip
        count = block.counts
        if only is not None:
            kept = np.flatnonzero(texts[only[0]].begin(only[1])[found[only[0]]])
            count = np.bincount(np.repeat(np.arange(len(count)), count)[kept], minlength=len(count))
            found = {name: values[kept] for name, values in found.items()}
        for name, values in found.items():
            parts[name].append(values)
        names += [at[name] for name in block.names]
        counts.append(count)
    of, sizes = np.array(names, np.int32), np.concatenate(counts or [np.zeros(0, np.int64)])
    order = np.argsort(of)
    rows = ranges((np.cumsum(sizes) - sizes)[order], sizes[order])
    whose = np.repeat(_small(of[order]), sizes[order])
    gathered: dict[str, Any] = {"trial_id": pd.Categorical.from_codes(whose, categories=pd.Index(ids, dtype=object))}
    for name in columns:  # one at a time: their parts are given back
        values = np.concatenate(parts.pop(name) or [np.zeros(0, np.int32 if name in texts else np.float64)])[rows]
        gathered[name] = texts[name].categories(values) if name in texts else values
    return pd.DataFrame(gathered, copy=False)


def spread(column: pd.Series, places: Places) -> Any:
    """The values of ``column`` at ``places``: numbers as they are, texts as categories."""
    if pd.api.types.is_numeric_dtype(column):
        return _small(column.to_numpy())[places]
    known = column.dropna()
    if not all(isinstance(value, str) for value in known):
        return column.to_numpy(dtype=object)[places]
    codes, values = pd.factorize(column)
    return pd.Categorical.from_codes(_small(codes)[places], categories=values)


class _Texts:
    """The texts of a column as numbers, the same ones in every block; -1 for none."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def numbers(self, column: pa.ChunkedArray) -> npt.NDArray[np.signedinteger[Any]]:
        """Of a column of dictionaries."""
        parts = []
        for chunk in column.chunks:
            known = [self._known.setdefault(text, len(self._known)) for text in chunk.dictionary.to_pylist()]
            numbers = np.array([*known, -1])  # -1, as a place, is the last one
            kind = np.int16 if len(self._known) < 2**15 else np.int32
            parts.append(numbers.astype(kind)[pc.fill_null(chunk.indices, -1).to_numpy()])
        return np.concatenate(parts)

    def begin(self, start: str) -> npt.NDArray[np.bool_]:
        """Whether each text begins so, by its number."""
        return np.array([*(text.startswith(start) for text in self._known), False])

    def categories(self, numbers: npt.NDArray[np.signedinteger[Any]]) -> pd.Categorical:
        """The texts again, their categories sorted."""
        texts = sorted(self._known)
        place = {text: number for number, text in enumerate(texts)}
        sorted_numbers = _small(np.array([*(place[text] for text in self._known), -1]))
        return pd.Categorical.from_codes(sorted_numbers[numbers], categories=texts)


def _plain(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = column.to_numpy()
    return _small(values)


def _small(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Whole numbers in as few bytes as they need."""
    return np.asarray(pd.to_numeric(values, downcast="integer")) if np.issubdtype(values.dtype, np.integer) else values
