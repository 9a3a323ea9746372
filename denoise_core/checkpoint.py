"""Checkpoints: weights in safetensors, the rest in a file that loads with ``weights_only=True``.

A checkpoint is a folder ``step-000001234`` that is written aside, flushed and renamed, so it exists only when it is
whole; ``meta.json`` carries the SHA-256 of both files, so damage is noticed when it is read.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from denoise_core.folders import place

FORMAT = 1
WEIGHTS, STATE, META = "weights.safetensors", "state.pt", "meta.json"


class CorruptCheckpoint(Exception):
    """A checkpoint that cannot be used; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a training needs to go on: the step that it is at, weights and buffers, optimizers' state."""

    step: int
    weights: dict[str, Tensor]
    state: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes ``folder/step-...`` and removes older ones. Returns its path. Raises OSError, and then nothing is left."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{checkpoint.step:09d}"
    aside = folder / f".writing-{uuid.uuid4().hex}"
    aside.mkdir()
    try:
        # written here and not by the libraries, whose errors of a full disk are no OSError
        # safetensors wants contiguous memory; channels_last weights are not
        weights = {name: value.detach().cpu().contiguous() for name, value in checkpoint.weights.items()}
        (aside / WEIGHTS).write_bytes(to_bytes(weights))
        state = io.BytesIO()
        torch.save(checkpoint.state, state)
        (aside / STATE).write_bytes(state.getbuffer())
        digests = {name: _digest(aside / name) for name in (WEIGHTS, STATE)}
        (aside / META).write_text(json.dumps({"format": FORMAT, "step": checkpoint.step, "sha256": digests}))
        for name in (WEIGHTS, STATE, META):
            _flush(aside / name)
        place(aside, target, _is_whole)  # what lies there is of the same step, so it is the same
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for older in _found(folder):
        if older != target:
            shutil.rmtree(older, ignore_errors=True)
    return target


def latest(folder: Path) -> Path | None:
    """The newest checkpoint in ``folder``, or None."""
    found = _found(folder)
    return found[-1] if found else None


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint. Raises CorruptCheckpoint."""
    try:
        meta = json.loads((path / META).read_text())
        if meta["format"] != FORMAT:
            raise CorruptCheckpoint(f"format {meta['format']} is not {FORMAT}")
        for name, digest in meta["sha256"].items():
            if _digest(path / name) != digest:
                raise CorruptCheckpoint(f"{name} does not match its checksum")
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
        return Checkpoint(int(meta["step"]), load_file(path / WEIGHTS), state)
    except CorruptCheckpoint:
        raise
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise CorruptCheckpoint(f"{type(error).__name__}: {error}") from error


def set_aside(path: Path) -> Path:
    """Renames a corrupt checkpoint so that it is not found again, and returns its new path."""
    aside = path.with_name(f"corrupt-{path.name}-{uuid.uuid4().hex[:8]}")
    os.replace(path, aside)
    return aside


def _is_whole(path: Path) -> bool:
    try:
        load(path)
    except CorruptCheckpoint:
        return False
    return True


def _found(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.exists() else []


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
