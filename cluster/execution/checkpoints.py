"""A phase's checkpoints and last weights in the store, on a local disk or in an object store."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cluster.results.files import explained
from cluster.results.store import Store
from denoise_core import checkpoint as checkpoints

log = logging.getLogger("denoise")


class CheckpointFolder:
    """Checkpoints under ``<store>/checkpoints/<name>/step-...``, last weights in ``<store>/weights/<name>``.

    ``name`` is a phase's id; that of a training that shares no phase is the trial's.
    """

    def __init__(self, store: Store, name: str):
        self.store, self.name = store, name
        self._local = store.local / "checkpoints" / name if store.local is not None else None

    def save(self, checkpoint: checkpoints.Checkpoint, extra: Mapping[str, Any]) -> None:
        """Saves; ``extra`` (plain numbers, text, lists) goes along. Older ones are removed afterwards."""
        whole = checkpoints.Checkpoint(checkpoint.step, checkpoint.weights, {**checkpoint.state, "run": dict(extra)})
        if self._local is not None:
            need = sum(value.numel() * value.element_size() for value in whole.weights.values())
            with explained(self._local / f"step-{whole.step:09d}", 3 * need):  # weights and the optimizers' moments
                checkpoints.save(self._local, whole)
            return
        older = self._remote_steps()
        same = f"step-{whole.step:09d}"
        if same in older and self._read_remote(same) is not None:
            return  # of the same step, so it is the same: while it was written anew, there would be none
        with tempfile.TemporaryDirectory() as folder:
            path = checkpoints.save(Path(folder), whole)
            # META last: a checkpoint without it does not exist
            for name in (checkpoints.WEIGHTS, checkpoints.STATE, checkpoints.META):
                self.store.files.write(f"{self._folder}/{path.name}/{name}", (path / name).read_bytes())
        for one in older:
            if one != path.name:
                self.store.files.delete_folder(f"{self._folder}/{one}")

    def load(self) -> checkpoints.Checkpoint | None:
        """The newest checkpoint that is whole; damaged ones are set aside and logged."""
        if self._local is None:
            return self._load_remote()
        while (path := checkpoints.latest(self._local)) is not None:
            try:
                return checkpoints.load(path)
            except checkpoints.CorruptCheckpoint as error:
                with contextlib.suppress(FileNotFoundError):  # another process may have replaced it
                    aside = checkpoints.set_aside(path)
                    log.warning("the checkpoint is damaged (%s): set aside as %s", error, aside)
        return None

    def keep_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Keeps what a phase ended with, for the phases after it, for export and for further inference-time values."""
        content = save({name: value.detach().cpu().contiguous() for name, value in weights.items()})
        self.store.files.write(f"weights/{self.name}.safetensors", content)

    def kept_weights(self) -> dict[str, Tensor] | None:
        """The last weights of a finished phase; None where they are missing or damaged."""
        try:
            return load(self.store.files.read(f"weights/{self.name}.safetensors"))
        except (FileNotFoundError, SafetensorError) as error:
            log.warning("the weights %s cannot be used (%s): it is trained again", self.name, error)
            return None

    def remove(self) -> None:
        """Removes the checkpoints of a trial that is stored. What cannot be removed does no harm."""
        self.store.files.delete_folder(self._folder)

    @property
    def _folder(self) -> str:
        return f"checkpoints/{self.name}"

    def _remote_steps(self) -> list[str]:
        return sorted(self.store.files.entries(self._folder))

    def _load_remote(self) -> checkpoints.Checkpoint | None:
        return next(filter(None, map(self._read_remote, reversed(self._remote_steps()))), None)

    def _read_remote(self, step: str) -> checkpoints.Checkpoint | None:
        """None where it is not whole."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                for name in (checkpoints.WEIGHTS, checkpoints.STATE, checkpoints.META):
                    content = self.store.files.read(f"{self._folder}/{step}/{name}")
                    (Path(folder) / name).write_bytes(content)
                return checkpoints.load(Path(folder))
            except (FileNotFoundError, checkpoints.CorruptCheckpoint) as error:
                log.warning("the checkpoint %s is not whole (%s): another one is taken or written", step, error)
                return None


def checkpoint_faults(store: Store, ids: Sequence[str]) -> list[str]:
    """Sets aside the damaged checkpoints of unfinished trials and returns a sentence for each."""
    if store.local is None:
        return []  # a worker notices it when it reads
    faults = []
    for one in ids:
        path = checkpoints.latest(store.local / "checkpoints" / one)
        if path is None:
            continue
        try:
            checkpoints.load(path)
        except checkpoints.CorruptCheckpoint as error:
            with contextlib.suppress(FileNotFoundError):  # another process may have replaced it
                checkpoints.set_aside(path)
                faults.append(
                    f"The checkpoint {one} is damaged ({error}): it was set aside, the training starts anew, "
                    "nothing else is lost."
                )
    return faults
