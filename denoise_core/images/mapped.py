"""8-bit images that stay where they are, usually in a memory-mapped file of the cache, and are read crop by crop.

A set that is too large for memory is written once into a folder of its own below the cache's (DENOISE_CACHE):
``clean.npy`` and ``noisy.npy``, (N, H, W, C) uint8 that NumPy maps, and ``patches.json`` with names and digests. The
folder is called after the SHA-256 of what it was made from. It does not count for DENOISE_CACHE_GB, and nothing but a
person removes it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denoise_core.cache import Part, cache_folder, content_key
from denoise_core.errors import UserError
from denoise_core.folders import place
from denoise_core.images.image_set import LazyImages, pixel_digest

Array = NDArray[np.uint8]

FORMAT = 1
"""Part of every folder's name: folders of another layout are never found."""
PARTS = ("clean", "noisy")
SIDECAR = "patches.json"
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False, repr=False)
class MappedImages(LazyImages):
    """Images of one shape in one array, ``array`` (N, H, W, C) uint8, which may be the map of a file.

    Image i is ``array[places[i]]`` divided by 255, on ``device``. ``known`` are the digests of the whole array, where
    they are known; else they are computed when they are first asked for.
    """

    array: Array
    places: Sequence[int]
    known: Sequence[str] | None = None
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> MappedImages: ...

    def __getitem__(self, index: int | slice) -> Tensor | MappedImages:
        """A whole image, or several that stay unread."""
        if isinstance(index, slice):
            return replace(self, places=self.places[index])
        return self._read(self.places[index], slice(None), slice(None))

    @property
    def shapes(self) -> Sequence[tuple[int, ...]]:
        """See :class:`LazyImages`."""
        height, width, channels = self.array.shape[1:]
        return [(channels, height, width)] * len(self)

    @cached_property
    def digests(self) -> Sequence[str]:
        """See :class:`LazyImages`: those of the same images in memory."""
        if self.known is not None:
            return [self.known[place] for place in self.places]
        with _threads() as pool:
            return list(pool.map(lambda place: pixel_digest(_tensor(self.array[place])), self.places))

    def take(self, indices: Sequence[int]) -> MappedImages:
        """See :class:`LazyImages`."""
        return replace(self, places=[self.places[index] for index in indices])

    def on(self, device: torch.device) -> MappedImages:
        """See :class:`LazyImages`."""
        return replace(self, device=device)

    def crop(self, index: int, top: int, left: int, side: int) -> Tensor:
        """See :class:`LazyImages`."""
        return self._read(self.places[index], slice(top, top + side), slice(left, left + side))

    def _read(self, place: int, rows: slice, columns: slice) -> Tensor:
        return _tensor(self.array[place, rows, columns]).to(self.device)


class MappedPairs(NamedTuple):
    """Recorded pairs as :func:`remembered_pairs` gives them."""

    ids: tuple[str, ...]
    clean: MappedImages
    noisy: MappedImages


@dataclass(frozen=True)
class Conversion:
    """What is to be written: the names of images of one ``shape`` (H, W, C), and their versions in this order.

    ``blocks`` gives a few pairs at a time, as (clean versions, noisy versions), each (H, W, C) uint8.
    """

    ids: Sequence[str]
    shape: tuple[int, int, int]
    blocks: Iterable[tuple[Sequence[Array], Sequence[Array]]]


def remembered_pairs(parts: Sequence[Part], prepare: Callable[[], Conversion]) -> MappedPairs:
    """Pairs that were written once, mapped; written now, as ``prepare`` says, where the cache does not hold them.

    ``parts`` must name everything that the pairs depend on. Of processes that ask at once, one writes and the others
    wait. What is written appears as a whole or not at all. Memory holds one block at a time.

    Raises UserError where the cache is off, cannot be written or has no space, and what ``prepare`` and its blocks do.
    """
    path = _place(parts)
    return _opened(path) or _made(path, prepare)


def _place(parts: Sequence[Part]) -> Path:
    folder = cache_folder()
    if folder is None:
        raise UserError(
            "these images are too many to hold in memory and are kept as patches in the cache, which is off: set "
            "DENOISE_CACHE to a folder with much free space."
        )
    return folder / f"patches-{content_key(('patches', FORMAT, *parts))}"


def _opened(path: Path) -> MappedPairs | None:
    """The pairs in ``path``, or None where there are none that can be used."""
    try:
        told: dict[str, list[str]] = json.loads((path / SIDECAR).read_text())
        arrays = [np.load(path / f"{part}.npy", mmap_mode="r", allow_pickle=False) for part in PARTS]
        if any(len(told[name]) != len(array) for array in arrays for name in ("ids", *PARTS)):
            raise ValueError("its files do not belong together")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
        logging.getLogger(__name__).warning("the patches in %s are damaged (%s) and are written again", path, error)
        return None
    places = range(len(told["ids"]))
    clean, noisy = (
        MappedImages(np.asarray(array), places, told[part]) for part, array in zip(PARTS, arrays, strict=True)
    )
    return MappedPairs(tuple(told["ids"]), clean, noisy)


def _made(path: Path, prepare: Callable[[], Conversion]) -> MappedPairs:
    need = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path) as locked:
            if (found := _opened(path)) is not None:  # by the process that this one waited for
                return found
            if locked:  # so whatever lies there half-written belongs to a process that was killed
                for left in path.parent.glob(f".{path.name}-*"):
                    shutil.rmtree(left, ignore_errors=True)
            conversion = prepare()
            need = 2 * len(conversion.ids) * math.prod(conversion.shape)
            if shutil.disk_usage(path.parent).free < need:
                raise OSError("not enough space")
            _write(path, conversion)
            found = _opened(path)
    except OSError as error:
        size = f" and has {need / 2**30:.1f} GiB free" if need else ""
        raise UserError(
            f"the patches cannot be kept in the cache folder {path.parent} ({error.strerror or error}); set "
            f"DENOISE_CACHE to a folder that can be written{size}."
        ) from error
    if found is None:
        raise UserError(f"the patches that were just written to {path} cannot be read; remove them and try again.")
    return found


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Keeps other processes from writing ``path``; False where the folder knows no locks."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:  # not "-": it is no half-written folder
        locked = True
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logging.getLogger(__name__).warning("waiting for another process that writes %s", path)
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            locked = False
        yield locked


def _write(path: Path, conversion: Conversion) -> None:
    """Aside first. Plain writes, no map: on a full disk they raise, where a map would end the process."""
    aside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    aside.mkdir()
    try:
        told: dict[str, list[str]] = {"ids": list(conversion.ids), **{part: [] for part in PARTS}}
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(conversion.ids), *conversion.shape)}
        with _threads() as pool, ExitStack() as stack:
            files = {part: stack.enter_context((aside / f"{part}.npy").open("wb")) for part in PARTS}
            for file in files.values():
                np.lib.format.write_array_header_1_0(file, header)
            for block in conversion.blocks:
                for part, images in zip(PARTS, block, strict=True):
                    told[part] += pool.map(_digest, images)
                    for image in images:
                        files[part].write(image.tobytes())
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())  # so that a full network folder says so now
        (aside / SIDECAR).write_text(json.dumps(told))
        # where there are no locks, another may have been first
        place(aside, path, lambda there: _opened(there) is not None)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _digest(image: Array) -> str:
    return pixel_digest(_tensor(image))


def _tensor(image: NDArray[Any]) -> Tensor:
    """(H, W, C) uint8 as (C, H, W) float32 in [0, 1], as every other file is read."""
    scaled = image.astype(np.float32) / np.float32(255)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))


def _threads() -> ThreadPoolExecutor:
    """Hashing and decoding release the GIL."""
    return ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
