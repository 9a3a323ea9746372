"""A small cache on disk for tensors that are slow to compute and depend on nothing but known inputs.

The folder is ``DENOISE_CACHE`` (default ``~/.cache/denoise-studies``; ``off`` switches the cache off) and holds at most
``DENOISE_CACHE_GB`` GiB (default 4); what was unused for longest goes first. A file is called after the SHA-256 of what
its value depends on, so nothing in it is ever out of date, and any file may be deleted at any time. The cache never
makes a computation fail: what cannot be read is computed, what cannot be written is not kept.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import re
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from denoise_core.errors import UserError

Part = bytes | str | int | float

FORMAT = 1
"""Part of every key: files of another layout are never found."""

DIGEST_BYTES = 32
ENTRY = re.compile(r"[0-9a-f]{64}\.npy")
ASIDE = re.compile(r"\.writing-[0-9a-f]{32}")
ASIDE_SECONDS = 3600
"""A file that was written aside and is older than this belongs to a process that was killed."""


def remembered(parts: Sequence[Part], compute: Callable[[], Tensor]) -> Tensor:
    """The value of ``compute``, taken from the cache where it holds the value of these ``parts``.

    ``parts`` must name everything that the value depends on, the version of the algorithm included. ``compute`` returns
    a CPU tensor of a type that NumPy has; the result has the same values, shape and type whether it was computed or
    read, and belongs to the caller alone. Processes may ask for the same value at once: each computes it, one file
    stays. Raises UserError for a ``DENOISE_CACHE_GB`` that is no number above 0.
    """
    folder, limit = cache_folder(), _limit()
    if folder is None:
        return compute()
    path = folder / f"{content_key(parts)}.npy"
    value = _read(path)
    if value is None:
        value = compute()
        _write(path, value, limit)
    return value


def cache_folder() -> Path | None:
    """Where remembered results lie, as DENOISE_CACHE says; None where it is off."""
    named = os.environ.get("DENOISE_CACHE", "")
    if named.lower() == "off":
        return None
    try:
        return Path(named or "~/.cache/denoise-studies").expanduser()
    except RuntimeError as error:  # no home folder, as in some containers
        _warn_once(f"{error}; set DENOISE_CACHE to a folder")
        return None


def _limit() -> float:
    """The most bytes that the folder may hold."""
    text = os.environ.get("DENOISE_CACHE_GB") or "4"
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise UserError(
            f"DENOISE_CACHE_GB is {text!r}; it must be a number of GiB above 0 (DENOISE_CACHE=off: no cache at all)."
        )
    return limit * 2**30


def content_key(parts: Sequence[Part]) -> str:
    """SHA-256 (hex) over everything that a remembered result depends on."""
    digest = hashlib.sha256(f"denoise-studies cache {FORMAT}".encode())
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(f"\x1f{type(part).__name__}:{len(data)}:".encode())  # the length: no two lists read alike
        digest.update(data)
    return digest.hexdigest()


def _read(path: Path) -> Tensor | None:
    """The value in ``path``, or None where there is none that can be used."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        logging.getLogger(__name__).warning("the cache file %s is damaged; its value is computed again", path)
        return None
    with suppress(OSError):  # only its place in the order of removal
        os.utime(path)
    value: Tensor = torch.from_numpy(np.load(io.BytesIO(body), allow_pickle=False))
    return value


def _write(path: Path, value: Tensor, limit: float) -> None:
    buffer = io.BytesIO()
    np.save(buffer, value.numpy(), allow_pickle=False)
    body = buffer.getvalue()
    if len(body) + DIGEST_BYTES > limit:
        return
    aside = path.with_name(f".writing-{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # The checksum comes last: NumPy ignores it, so the file is an ordinary .npy for everybody else.
            aside.write_bytes(body + hashlib.sha256(body).digest())
            os.replace(aside, path)
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
        _remove_oldest(path.parent, limit)
    except OSError as error:
        _warn_once(f"{error}; set DENOISE_CACHE to a folder that can be written, or to off")


def _remove_oldest(folder: Path, limit: float) -> None:
    """Removes entries, the one unused for longest first, until the rest takes ``limit`` bytes or less.

    Only files that this module wrote are touched: a person may have named a folder that holds other things.
    """
    entries: list[tuple[float, int, Path]] = []
    with os.scandir(folder) as found:
        for item in found:
            with suppress(OSError):  # another process may have removed it
                if ENTRY.fullmatch(item.name):
                    entries.append((item.stat().st_mtime, item.stat().st_size, Path(item.path)))
                elif ASIDE.fullmatch(item.name) and item.stat().st_mtime < time.time() - ASIDE_SECONDS:
                    os.unlink(item.path)
    excess = sum(size for _, size, _ in entries) - limit
    for _, size, path in sorted(entries):
        if excess <= 0:
            return
        with suppress(OSError):
            path.unlink()
        excess -= size


@cache  # once for each reason and process
def _warn_once(reason: str) -> None:
    logging.getLogger(__name__).warning("values are computed and not kept in the cache: %s", reason)
