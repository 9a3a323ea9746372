"""The packs of a table: many names in one file each, so that a store of many trainings opens as fast as one of few.

``<table>/packed/<hash>.parquet`` has the columns of the loose files ``<table>/<name>.parquet`` beside it, so any tool
reads both together. On a disk every pack has a second copy in ``copies``, except those of previews, which are only
looked at: what it holds took a cluster days, and it is small beside the weights.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

from cluster.results.files import Files, StoreTrouble
from cluster.results.pack import DAMAGE, Pack, Part, content_of, digest, folder, path_of

LOOKS = 5
"""How often a folder is listed again, where a pack was merged into another between listing and reading."""
WITHOUT_COPY = ("previews",)

_opened: dict[tuple[str, str], Pack] = {}
"""The packs that this process has looked into. They never change."""


class Packs:
    """The packs of one table."""

    def __init__(self, files: Files, table: str):
        self.files, self.table = files, table

    def all(self) -> list[Pack]:
        """Those that can be opened."""
        return self.look()[0]

    def look(self) -> tuple[list[Pack], dict[str, Exception]]:
        """The packs, and what is wrong with those that cannot be opened."""
        found: list[Pack] = []
        damaged: dict[str, Exception] = {}
        for _ in range(LOOKS):
            found, damaged = [], {}
            with suppress(FileNotFoundError):  # merged into another one since it was listed
                for name in self._listed():
                    try:
                        found.append(self._open(name))
                    except (FileNotFoundError, PermissionError, StoreTrouble):
                        raise
                    except DAMAGE as error:
                        damaged[name] = error
                break
        self._forget({pack.path for pack in found})
        return found, damaged

    def names(self) -> set[str]:
        """All names that have rows here, or are known to have none."""
        return set().union(*(pack.places for pack in self.all()))

    def write(self, parts: Iterable[Part]) -> Iterator[Pack]:
        """Writes ``parts``, which are sorted by name, into as many packs as they need; each is read back before the
        next is begun. Raises OSError where one cannot be."""
        rest = iter(parts)
        for first in rest:
            content = content_of(self.table, chain([first], rest))
            yield self.store(content)

    def store(self, content: Any) -> Pack:
        """Writes the content of a pack, and its copy. Raises OSError where it does not read as it was written."""
        name = digest(content)
        self.files.write(path_of(self.table, name), content)
        if self.files.local is not None and self.table not in WITHOUT_COPY:
            self.files.write(_copy(self.table, name), content)
        if self.files.local is not None:
            for place in (folder(self.table), self.table):
                _settle(self.files.path(place))
        _opened.pop((self.files.location, path_of(self.table, name)), None)
        pack = self._open(name)
        if not pack.sound:
            raise OSError(f"{pack.path} does not read as it was written")
        return pack

    def remove(self, pack: Pack) -> None:
        """Deletes a pack whose rows are elsewhere; the copy first, so that there is none without a pack."""
        self.files.delete(_copy(self.table, pack.name))
        self.files.delete(pack.path)

    def copied(self, pack: Pack) -> bool:
        """Whether it has its second copy, or needs none."""
        needs = self.files.local is not None and self.table not in WITHOUT_COPY
        return not needs or self.files.exists(_copy(self.table, pack.name))

    def drop(self, names: Collection[str]) -> None:
        """Forgets names: their packs are written anew without them."""
        for pack in self.all() if names else ():
            if not pack.places.keys().isdisjoint(names):
                kept = [name for name in pack.names if name not in names]
                parts = (part for block in pack.blocks(kept) for part in block.parts())
                if sum(len(one.names) for one in self.write(parts)) == len(kept):  # else it is damaged: not our affair
                    self.remove(pack)

    def copy_of(self, name: str) -> bytes | None:
        """The content of a pack from its second copy, where there is one that is sound."""
        with suppress(FileNotFoundError):
            content = self.files.read(_copy(self.table, name))
            return content if digest(content) == name else None
        return None

    def _listed(self) -> list[str]:
        listed = self.files.entries(folder(self.table))
        return sorted(one.removesuffix(".parquet") for one in listed if one.endswith(".parquet"))

    def _forget(self, paths: Collection[str]) -> None:
        """Gives back what is known of packs that are gone."""
        own = [key for key in _opened if key[0] == self.files.location and key[1].startswith(f"{folder(self.table)}/")]
        for key in own:
            if key[1] not in paths:
                _opened.pop(key, None)

    def _open(self, name: str) -> Pack:
        key = self.files.location, path_of(self.table, name)
        if key not in _opened:
            _opened[key] = Pack(self.files, self.table, name)
        return _opened[key]


def _copy(table: str, name: str) -> str:
    return f"copies/{table}/{name}.parquet"


def _settle(folder: str) -> None:
    """Makes the names of new files survive a loss of power, before the old ones are deleted."""
    with suppress(OSError):  # some shared folders cannot
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
