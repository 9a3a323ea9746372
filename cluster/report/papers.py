"""The numbers that the papers print, read from ``studies/papers/<paper>.toml`` (the format is explained there).

>>> table = PaperTable("neighbor2neighbor", "table3")
>>> table.lookup(noise="gauss25", gamma=2).psnr
32.08
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from cluster.report import measures
from denoise_core.errors import UserError, nearest

Key = str | int | float | bool
DESCRIPTIVE = frozenset({"cells", "note", "protocol"})  # what a row says beside its keys


@dataclass(frozen=True)
class PaperValue:
    """One printed cell: the keys that address it (``noise``, ``dataset``, ``method``, ...) and its numbers."""

    keys: Mapping[str, Key]
    values: Mapping[str, float]  # by metric; a number that is not printed is absent
    protocol: str
    note: str = ""

    @property
    def psnr(self) -> float | None:
        """In dB."""
        return self.values.get("psnr")

    @property
    def ssim(self) -> float | None:
        """Between 0 and 1."""
        return self.values.get("ssim")


@dataclass(frozen=True)
class Table:
    """One printed table, all its cells."""

    id: str
    caption: str
    training: str
    note: str
    values: tuple[PaperValue, ...]

    @property
    def keys(self) -> frozenset[str]:
        """Every key that addresses a value of this table."""
        return frozenset(key for value in self.values for key in value.keys)

    def find(self, **keys: Key) -> tuple[PaperValue, ...]:
        """All values whose keys agree with every given one."""
        return tuple(v for v in self.values if all(v.keys.get(name) == wanted for name, wanted in keys.items()))


@dataclass(frozen=True)
class Paper:
    """One paper's file."""

    name: str
    title: str
    citation: str
    year: int
    tables: Mapping[str, Table]


@dataclass(frozen=True)
class PaperTable:
    """A table named in a study script; ``where`` picks the values with these keys, where it prints more than one set.

    ``also`` names tables that go on where this one ends, such as those of other kinds of noise.

    ``folder`` overrides the ``studies/papers`` folder beside the package.
    """

    paper: str
    table: str
    folder: Path | None = field(default=None, compare=False)
    where: Mapping[str, Key] = field(default_factory=dict)
    also: tuple[str, ...] = ()

    def source(self) -> Paper:
        """The whole paper.

        Raises:
            UserError: There is no such paper, or its file holds a mistake.
        """
        return read_paper(self.paper, self.folder or papers_folder())

    def load(self) -> Table:
        """The table's rows.

        Raises:
            UserError: There is no such paper or table, or the paper's file holds a mistake.
        """
        tables = self.source().tables
        for name in (self.table, *self.also):
            if name not in tables:
                raise UserError(f"The paper '{self.paper}' has no table '{name}': {nearest(name, tables)}.")
        table = tables[self.table]
        table = replace(table, values=(*table.values, *(one for name in self.also for one in tables[name].values)))
        return replace(table, values=table.find(**self.where)) if self.where else table

    def lookup(self, **keys: Key) -> PaperValue | None:
        """The value with these keys; None when the paper does not print it.

        Raises:
            UserError: A key is unknown to the table, or several values fit.
        """
        table = self.load()
        for name in keys:
            if name not in table.keys:
                hint = nearest(name, table.keys)
                raise UserError(f"The values of {self.paper}, {self.table} have no key '{name}': {hint}.")
        found = table.find(**keys)
        if len(found) > 1:
            more = sorted({name for value in found for name in value.keys} - set(keys))
            raise UserError(
                f"{len(found)} values of {self.paper}, {self.table} fit {dict(keys)}; add one of: {', '.join(more)}."
            )
        return found[0] if found else None

    def lookup_anywhere(self, **keys: Key) -> PaperValue | None:
        """The value with these keys in this table or, failing that, in the paper's others; None where several fit.

        The references (``n2c``, ``n2n``) of an ablation are usually printed in the paper's main table.
        """
        self.load()  # an unknown table is an error even where another one would answer
        tables = sorted(self.source().tables.values(), key=lambda table: table.id != self.table)
        found = next((values for table in tables if (values := table.find(**keys))), ())
        return found[0] if len(found) == 1 else None


def papers_folder() -> Path:
    """``studies/papers`` of the checkout that this package is part of."""
    return Path(__file__).resolve().parents[2] / "studies" / "papers"


@lru_cache(maxsize=32)
def read_paper(name: str, folder: Path) -> Paper:
    """Read and check one paper's file.

    Raises:
        UserError: The file is missing or a number, key or row in it is malformed.
    """
    path = folder / f"{name}.toml"
    if not path.is_file():
        known = [file.stem for file in folder.glob("*.toml")]
        raise UserError(f"There are no numbers for the paper '{name}': {nearest(name, known)}.")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        tables = [_table(block, path.name) for block in raw["table"]]
        return Paper(name, raw["title"], raw["citation"], int(raw["year"]), {table.id: table for table in tables})
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path.name} is not valid TOML: {error}.") from error
    except KeyError as error:
        raise UserError(f"{path.name} lacks the entry {error}.") from error


def _table(block: Mapping[str, Any], file: str) -> Table:
    values: list[PaperValue] = []
    for row in block["rows"]:
        where = f"{file}, {block['id']}, row {row}"
        if len(row["cells"]) != len(block["columns"]):
            raise UserError(f"{where}: it has {len(row['cells'])} cells for {len(block['columns'])} columns.")
        shared = {**block.get("fixed", {}), **{key: value for key, value in row.items() if key not in DESCRIPTIVE}}
        for column, cell in zip(block["columns"], row["cells"], strict=True):
            numbers = _numbers(cell, block["metrics"], where)
            if numbers:
                keys = {**shared, block["across"]: column}
                protocol = row.get("protocol", block["protocol"])
                values.append(PaperValue(keys, numbers, protocol, row.get("note", "")))
    return Table(block["id"], block["caption"], block.get("training", ""), block.get("note", ""), tuple(values))


def _numbers(cell: str, metrics: list[str], where: str) -> dict[str, float]:
    """``"32.08/0.879"`` as ``{"psnr": 32.08, "ssim": 0.879}``; a lone ``-`` is an empty cell."""
    if cell.strip() == "-":
        return {}
    parts = [part.strip() for part in cell.split("/")]
    if len(parts) != len(metrics):
        raise UserError(f"{where}: the cell '{cell}' should hold {'/'.join(metrics)}.")
    return {metric: _number(part, metric, where) for metric, part in zip(metrics, parts, strict=True) if part != "-"}


def _number(text: str, metric: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{where}: '{text}' is not a number.") from None
    kind = measures.kind(metric)
    if not kind.low <= value <= kind.high:  # also refuses nan
        raise UserError(f"{where}: a {metric} of {text} is outside {kind.low:g} to {kind.high:g}.")
    return value
