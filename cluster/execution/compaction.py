"""Packs what cannot change any more: many small files of a store become a few packs (:mod:`cluster.results.packs`).

That is everything of trials that are done, and phases, suggestions and manifests; trials that failed or were pruned
stay loose, as they may be trained again. A pack is written and read back before the first loose file goes: a kill
leaves both at worst, and the next compaction takes the loose file away. Whoever writes a name that is packed writes the
same again, so nothing is lost however writers, readers and even two compactions meet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from heapq import merge
from itertools import chain, combinations

from cluster.execution.leases import Lease, Leases
from cluster.results.files import StoreTrouble
from cluster.results.pack import DAMAGE, LIMIT, Pack, Part
from cluster.results.schema import DONE, TABLES
from cluster.results.store import Store

MIN_FILES = 256
"""So many loose files of a table are worth a pack: fewer are read in a moment."""
MANY_FILES = 10_000
"""Packing more takes long enough to say so before."""
LEASE = "compaction"
OF_TRIALS = ("trials", "curves", "diagnostics", "measurements", "previews")
"""Tables with names of trials, or of evaluations, which begin with the trial's."""
GROWTH = 2
"""A pack is merged with what comes if it has at most so many times its names. How many packs there are, beside one for
each LIMIT, and how often a row is written anew then grow as the logarithm of what there is."""
AT_ONCE = 256


def compact(store: Store, min_files: int = MIN_FILES, say: Callable[[str], None] | None = None) -> str:
    """Packs the tables that have at least ``min_files`` loose files to pack, and ends what an interrupted compaction
    left: a sentence, empty where there was nothing to do or another process is at it. ``say`` hears of it before, where
    it takes a while. Raises StoreTrouble."""
    if not any(_worthwhile(store, table, min_files) for table in TABLES):
        return ""
    lease = Leases(store).take(LEASE)
    if lease is None:
        return ""
    try:
        count = sum(len(store.loose(table)) for table in TABLES)
        if say is not None and count >= MANY_FILES:
            say(f"Packing the {count:,} files of the store: the first time this takes a while.")
        return _packed(store, lease, min_files)
    finally:
        lease.give_back()


def _packed(store: Store, lease: Lease, min_files: int) -> str:
    done = _done(store)
    files = count = 0
    for table in TABLES:
        if lease.lost:  # this process stood still; the other one goes on
            break
        ready = {one for one in store.loose(table) if table not in OF_TRIALS or one.partition("-")[0] in done}
        with suppress(FileNotFoundError):  # another process took packs away that were to be merged, so it goes on
            written, gone = _Compaction(store, table).run(ready, min_files)
            files, count = files + gone, count + written
    return f"Packed {files:,} files of the store into {count:,}." if files else ""


def _worthwhile(store: Store, table: str, min_files: int) -> bool:
    """Whether there may be anything to do: many loose files, or some that are packed already."""
    loose = store.loose(table)
    packs = store.packs(table).all()
    again = any(one in pack.places for pack in packs for one in loose)
    return len(loose) >= min_files or again or sum(len(pack.names) for pack in packs) > len(_union(packs))


def _done(store: Store) -> set[str]:
    """The trials that cannot change any more."""
    rows = store.read("trials", store.loose("trials"), ["trial_id", "status"]).to_pylist()
    return store.packs("trials").names() | {row["trial_id"] for row in rows if row["status"] == DONE}


class _Compaction:
    """The compaction of one table."""

    def __init__(self, store: Store, table: str):
        self.store, self.table, self.packs = store, table, store.packs(table)

    def run(self, ready: Collection[str], min_files: int) -> tuple[int, int]:
        """Packs the loose files of the names ``ready``, if there are enough: how many packs were written, and how many
        loose files are gone."""
        held = self.packs.all()
        self._copy(held)
        again = self._packed_already(held)
        self._delete(again)
        new = sorted(set(ready) - again)
        new = new if len(new) >= min_files else []
        held, overlapping = self._without_covered(held)
        if not new and not overlapping:
            return 0, len(again)
        merged = [*overlapping, *self._small([one for one in held if one not in overlapping], len(new))]
        parts = merge(self._loose(new), *(pack.parts() for pack in merged), key=lambda part: part[0])
        written = list(self.packs.write(_once(parts)))
        names = _union(written)
        self._delete(names.intersection(new))
        for pack in merged:
            if names.issuperset(pack.places) and all(pack.name != one.name for one in written):
                self.packs.remove(pack)
        return len(written), len(again) + len(names.intersection(new))

    def _copy(self, held: Sequence[Pack]) -> None:
        """Gives packs their second copy, where a process ended before it did."""
        for pack in held:
            if not self.packs.copied(pack) and _sound(pack):
                self.packs.store(self.store.files.read(pack.path))

    def _packed_already(self, held: Sequence[Pack]) -> set[str]:
        """Names that are loose and packed, as an interrupted compaction leaves them."""
        loose, found = self.store.loose(self.table), set()
        for pack in held:
            if (some := loose & pack.places.keys()) and _sound(pack):
                found |= some
        return found

    def _without_covered(self, held: Sequence[Pack]) -> tuple[list[Pack], list[Pack]]:
        """Removes packs whose names are all in others, as an interrupted compaction leaves them; the rest, and those of
        it that share some names."""
        kept: list[Pack] = []
        # two processes must not take each other's packs away: both go by the same order
        for pack in sorted(held, key=lambda one: (-len(one.names), one.name)):
            sharing = [one for one in kept if not one.places.keys().isdisjoint(pack.places)]
            if _union(sharing).issuperset(pack.places) and all(map(_sound, sharing)):
                self.packs.remove(pack)
            else:
                kept.append(pack)
        pairs = [(a, b) for a, b in combinations(kept, 2) if not a.places.keys().isdisjoint(b.places)]
        return kept, list(dict.fromkeys(chain.from_iterable(pairs)))

    def _small(self, held: Sequence[Pack], count: int) -> list[Pack]:
        """The packs that are merged with ``count`` new names."""
        taken = []
        for pack in sorted(held, key=lambda one: len(one.names)):
            if len(pack.names) <= GROWTH * count and pack.size < LIMIT / 2:
                taken.append(pack)
                count += len(pack.names)
        return taken

    def _loose(self, names: Sequence[str]) -> Iterator[Part]:
        """What can be read of loose files; the rest stays as it is."""
        with ThreadPoolExecutor(8) as pool:
            for first in range(0, len(names), AT_ONCE):
                for name, rows in pool.map(self._read, names[first : first + AT_ONCE]):
                    if rows is not None:
                        yield name, rows

    def _read(self, name: str) -> Part:
        try:
            return name, self.store.read_loose(self.table, name)
        except StoreTrouble:
            raise
        except DAMAGE:
            return name, None

    def _delete(self, names: Collection[str]) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda one: self.store.files.delete(f"{self.table}/{one}.parquet"), names))


def _sound(pack: Pack) -> bool:
    try:
        return pack.sound
    except FileNotFoundError:  # merged into another one meanwhile
        return False


def _once(parts: Iterator[Part]) -> Iterator[Part]:
    """Each name once."""
    last = None
    for name, rows in parts:
        if name != last:
            yield name, rows
        last = name


def _union(packs: Collection[Pack]) -> set[str]:
    return set().union(*(pack.places for pack in packs))
