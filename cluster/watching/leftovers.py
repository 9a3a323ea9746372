"""What a store can do without: found by one listing of its files, and removed.

Everything here can be made again from what stays: trials, measurements, weights and reports are no candidates at all.
Whatever somebody may be writing stays too: only what has not changed for a while goes, and what a lease protects never.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import pyarrow.fs as pafs

from cluster.execution.leases import Leases
from cluster.results.schema import DONE, PRUNED
from cluster.results.store import Store
from cluster.watching.events import trial_of, trials_by_beginning

CHECKPOINTS = "checkpoints of what is stored"
LEASES = "leases of owners that are gone"
DAMAGED = "damaged files that were set aside"
WRITING = "files that were never finished"
SCRATCH = "Ray's scratch folders"
EVENTS = "TensorBoard events of finished trainings"
JOURNALS = "Optuna's journals"
KINDS = (CHECKPOINTS, LEASES, DAMAGED, WRITING, SCRATCH, EVENTS, JOURNALS)


@dataclass(frozen=True)
class Leftover:
    """A file or folder that can go: ``path`` in the store, ``size`` in bytes, ``changed`` in seconds from 1970."""

    kind: str
    path: str
    folder: bool
    size: int = 0
    changed: float = 0.0


def leftovers(store: Store, older_than_s: float, now: float | None = None) -> list[Leftover]:
    """What can go, by kind. Owners of leases on other machines are watched for some 20 s to see that they are gone."""
    before = (time.time() if now is None else now) - older_than_s
    found = _candidates(store)
    held = _held(store, [one for one in found.values() if one.kind == LEASES], before)
    stored = set(store.names("phases"))
    rows = store.read("trials", store.names("trials"), ["trial_id", "status"]).to_pylist()
    stored |= {row["trial_id"] for row in rows if row["status"] == DONE}
    finished = trials_by_beginning(row["trial_id"] for row in rows if row["status"] in (DONE, PRUNED))
    weights = {name.removesuffix(".safetensors") for name in store.files.entries("weights")}
    kept = []
    for one in found.values():
        name = one.path.rpartition("/")[2]
        if one.kind == CHECKPOINTS:  # where the weights were lost, they are trained again from here
            goes = name in stored & weights and name not in held
        elif one.kind == LEASES:
            goes = name.removesuffix(".json") not in held
        elif one.kind == EVENTS:
            goes = one.changed < before and trial_of(name, finished) is not None
        else:
            goes = one.changed < before
        if goes:
            kept.append(one)
    gone = tuple(f"{one.path}/" for one in kept if one.folder)
    kept = [one for one in kept if not one.path.startswith(gone)]
    return sorted(kept, key=lambda one: (KINDS.index(one.kind), one.path))


def remove(store: Store, one: Leftover) -> bool:
    """Removes it; False where it has changed hands since."""
    if one.kind == LEASES:
        # taking it makes sure that nobody else does at this moment
        lease = Leases(store).take(one.path.rpartition("/")[2].removesuffix(".json"))
        if lease is not None:
            lease.give_back()
        return lease is not None
    if one.folder:
        store.files.delete_folder(one.path)
    else:
        store.files.delete(one.path)
    return not store.files.exists(one.path)


def _candidates(store: Store) -> Mapping[str, Leftover]:
    """Everything that has one of the kinds, whether or not it may go, by its path."""
    found: dict[str, Leftover] = {}
    selector = pafs.FileSelector(store.files.root, recursive=True, allow_not_found=True)
    for info in store.files.patiently(lambda: store.files.filesystem.get_file_info(selector)):
        is_file = info.type == pafs.FileType.File
        parts = info.path.removeprefix(store.files.root).strip("/").split("/")
        for kind, length in _kinds(parts):
            path = "/".join(parts[:length])
            one = found.setdefault(path, Leftover(kind, path, folder=length < len(parts) or not is_file))
            # folders of object stores have no time
            changed = max(one.changed, info.mtime_ns / 1e9 if info.mtime_ns is not None else one.changed)
            folder = one.folder or length < len(parts)
            found[path] = replace(
                one, size=one.size + (info.size or 0 if is_file else 0), changed=changed, folder=folder
            )
    return found


def _kinds(parts: list[str]) -> Iterable[tuple[str, int]]:
    """The kinds that a file, or a folder around it, has, with the length of the path of what would go."""
    for length, part in enumerate(parts, 1):
        if part.startswith(".") and (part.endswith(".writing") or part.startswith((".writing-", ".probe-"))):
            yield WRITING, length
    match parts:
        case ["checkpoints", _, inner, *_] if inner.startswith("corrupt-"):
            yield CHECKPOINTS, 2
            yield DAMAGED, 3
        case ["checkpoints", _, *_]:
            yield CHECKPOINTS, 2
        case ["leases", name] if name.endswith(".json") and not name.startswith("."):
            yield LEASES, 2
        case ["damaged", _, *_]:
            yield DAMAGED, 2
        case ["ray", _, *_]:
            yield SCRATCH, 2
        case ["tensorboard", _, _, *_]:
            yield EVENTS, 3
        case ["optuna", name] if name.endswith((".journal", ".journal.lock")) and not name.startswith("."):
            yield JOURNALS, 2


def _held(store: Store, found: Iterable[Leftover], before: float) -> set[str]:
    """The leases that are young or have a living owner."""
    held: set[str] = set()
    old: set[str] = set()
    for one in found:
        name = one.path.rpartition("/")[2].removesuffix(".json")
        (old if one.changed < before else held).add(name)
    return held | Leases(store).living(old)
