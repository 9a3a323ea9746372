"""Damage in a store: found before a study is planned, set aside, and told in a sentence each.

Of a loose file it costs what the file holds. A pack is replaced by its second copy; where that is damaged too, what can
be read of it is kept. On an object store packs are left alone: it checks what it keeps by itself, and what cannot be
read there is more often a matter of access.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from cluster.results.files import StoreTrouble, first_line
from cluster.results.pack import DAMAGE, Pack, path_of
from cluster.results.packs import Packs

if TYPE_CHECKING:
    from cluster.results.store import Store

TRAINED_AGAIN = "the others are run again, nothing else is lost"
CONSEQUENCES = {
    "trials": TRAINED_AGAIN,
    "curves": TRAINED_AGAIN,
    "phases": TRAINED_AGAIN,
    "measurements": "the others are evaluated again from stored weights, nothing else is lost",
    "diagnostics": "reports do without the others",
    "manifests": "reports do without the others",
    "numerics": "they are measured again",
    "suggestions": "searches suggest others instead",
}
"""What becomes of names whose rows are lost, by table. Packs of previews are read past: they are pictures only."""


def damaged(store: Store, ids: Iterable[str], evaluations: Iterable[str]) -> list[str]:
    """Mends or sets aside what is damaged of these trials and evaluations: a sentence for each file."""
    trials, measured = dict.fromkeys(ids), dict.fromkeys(evaluations)
    wanted = {"trials": trials, "curves": trials, "diagnostics": trials, "measurements": measured}
    found = [sentence for table in CONSEQUENCES for sentence in _mended(store, table, wanted.get(table))]
    loose = [("trials", "curves", one) for one in _both(trials, store.loose("trials") | store.loose("curves"))]
    loose += [("measurements", "previews", one) for one in _both(measured, store.loose("measurements"))]
    with ThreadPoolExecutor(8) as pool:
        found += filter(None, pool.map(lambda one: _set_aside(store, *one), loose))
    lacking = _without_curves(store, trials)
    store.packs("trials").drop(lacking)
    if lacking and not found:
        found.append(f"{len(lacking):,} trials of {store.location} have lost their curves: they are run again.")
    return found


def _both(some: Collection[str], others: Collection[str]) -> list[str]:
    return [one for one in some if one in others]


# ---- loose files ----


def _set_aside(store: Store, first: str, second: str, name: str) -> str | None:
    """``first`` is the table that says that the thing exists, so it goes first."""
    for table in (first, second):
        try:
            store.read_loose(table, name)
        except DAMAGE as error:
            if isinstance(error, StoreTrouble):
                raise
            if isinstance(error, FileNotFoundError) and (table == first or store.has(table, name)):
                continue  # it is in a pack, or another process set it aside
            for one in dict.fromkeys((first, table)):
                with suppress(FileNotFoundError):  # another process set it aside
                    store.files.move(f"{one}/{name}.parquet", _aside(f"{one}/{name}.parquet"))
            again = "trial is run" if first == "trials" else "evaluation is made"
            return (
                f"{table}/{name}.parquet is damaged ({first_line(error)[:160]}): it was set aside in "
                f"{store.location}/damaged, its {again} again, nothing else is lost."
            )
    return None


def _aside(relative: str) -> str:
    return f"damaged/{uuid.uuid4().hex[:8]}-{relative.replace('/', '-')}.damaged"


# ---- packs ----


def _mended(store: Store, table: str, wanted: Collection[str] | None) -> Iterator[str]:
    """Mends the damaged packs of a table, as far as they hold anything that is ``wanted`` (None: all)."""
    packs = store.packs(table)
    opened, closed = packs.look()
    if store.local is None:
        return
    for name, error in closed.items():
        yield _mend(store, packs, name, None, first_line(error))
    for pack in opened:
        if wanted is None or any(name in pack.places for name in wanted):
            with suppress(FileNotFoundError):  # merged into another one meanwhile
                if not pack.sound:
                    yield _mend(store, packs, pack.name, pack, "it is not as it was written")


def _mend(store: Store, packs: Packs, name: str, pack: Pack | None, reason: str) -> str:
    """Replaces a damaged pack by its copy, or by what can be read of it."""
    path, copy = path_of(packs.table, name), packs.copy_of(name)
    aside = _aside(path)
    told = f"{path} is damaged ({reason}): it was set aside as {store.location}/{aside}"
    if pack is None and copy is None:
        with suppress(FileNotFoundError):  # another process set it aside
            store.files.move(path, aside)
        return f"{told}, and what it held is not known: what a study lacks is made again."
    store.files.write(aside, store.files.read(path))  # its place is never empty: others may be reading
    if copy is not None:
        packs.store(copy)
        return f"{told} and replaced by its copy, nothing is lost."
    assert pack is not None
    written = [one.name for one in packs.write(pack.parts())]
    if name not in written:
        packs.remove(pack)
    lost = set(pack.names) - store.present(packs.table)
    if not lost:
        return f"{told}; all that it held could be read and is kept, nothing is lost."
    return (
        f"{told}; {len(pack.names) - len(lost):,} of its {len(pack.names):,} {packs.table} could be read and are kept, "
        f"{CONSEQUENCES[packs.table]}."
    )


def _without_curves(store: Store, ids: Collection[str]) -> set[str]:
    """Packed trials whose curves were lost: they are trained again, as loose ones are."""
    packed = _both(ids, store.packs("trials").names())
    return set(packed) - store.present("curves") if packed else set()
