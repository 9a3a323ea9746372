"""Event files of TensorBoard: what a training measures, live, and what a store holds.

``<store>/tensorboard/<study>/<name>-<beginning of the trial's id>``. They are a copy for looking at: the store is the
truth, and no training fails because a point could not be written.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cluster.results.store import Store
from cluster.watching.stored import SHORT, labels, read_trials

FLUSH_S = 5.0
"""Seconds after which what was added is on the disk."""
FOLDER = "tensorboard"

log = logging.getLogger("denoise")


class Events:
    """The event file of one training. It never raises OSError: after the first, which is ``error``, it is silent."""

    def __init__(self, folder: Path, first_step: int = 0):
        """``first_step`` is the first that may be added: what an earlier file holds from there on is not shown."""
        self.error: OSError | None = None
        self._writer: Any = None
        self._folder, self._flushed = folder, time.monotonic()
        try:
            # not SummaryWriter: its thread dies of a full disk, and the training waits for its queue for ever
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog

            folder.mkdir(parents=True, exist_ok=True)
            # two files of one second would have one name; TensorBoard reads them in the order of their names
            self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}.{os.getpid()}")
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(step=first_step, wall_time=time.time(), session_log=start))
        except OSError as error:
            self._give_up(error)

    def add(self, step: int, values: Mapping[str, float], wall_time: float | None = None) -> None:
        """Adds a point to each of the named curves; ``wall_time`` is in seconds since 1970, now if not given."""
        if self._writer is None:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        moment = time.time() if wall_time is None else wall_time
        try:
            self._writer.write_event(Event(step=step, wall_time=moment, summary=Summary(value=points)))
            if time.monotonic() - self._flushed > FLUSH_S:
                self._writer.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Writes what is left."""
        try:
            if self._writer is not None:
                self._writer.close()
        except OSError as error:
            self._give_up(error)
        self._writer = None

    def _give_up(self, error: OSError) -> None:
        log.warning("no more events for TensorBoard in %s: %s", self._folder, error)
        self._writer, self.error = None, error


def events_folder(root: Path, study: str, label: str, trial_id: str) -> Path:
    """Where the events of a training lie below ``root``. The name tells people what it is, its end tells the trial."""
    text = re.sub(r"[^\w.=+-]+", "_", label.replace(" = ", "="))[:80].strip("_.-")
    return root / study / (f"{text}-{trial_id[:SHORT]}" if text else trial_id)


def trials_by_beginning(trials: Iterable[str]) -> dict[str, str]:
    """Ids by their first digits, for :func:`trial_of`."""
    return {one[:SHORT]: one for one in trials}


def trial_of(folder: str, trials: Mapping[str, str]) -> str | None:
    """Which of the trials a folder of events belongs to, by its name."""
    beginning = folder.rpartition("-")[2]
    found = trials.get(beginning[:SHORT])
    return found if found is not None and found.startswith(beginning) else None


def export(store: Store, folder: Path) -> int:
    """Writes the curves of all stored trainings below a local folder; returns how many. Raises OSError."""
    trials = read_trials(store)
    curves = store.read("curves", trials["trial_id"]).to_pandas()
    points = dict(list(curves.sort_values("step", kind="stable").groupby("trial_id", sort=False)))
    exported = 0
    for study, rows in trials.groupby("study", sort=False):
        for row, label in zip(rows.to_dict("records"), labels(rows), strict=True):
            if row["trial_id"] in points:
                one = events_folder(folder, str(study), f"{label}, seed {row['seed']}", row["trial_id"])
                _export(points[row["trial_id"]], row, one)
                exported += 1
    return exported


def _export(points: Any, row: Mapping[str, Any], folder: Path) -> None:
    """The curves of a training, as if they had been added while it ran."""
    for earlier in folder.glob("events.out.tfevents.*"):
        earlier.unlink()
    began, ended = row["started_at"].timestamp(), row["finished_at"].timestamp()
    last = max(1, int(points["step"].max()))
    events = Events(folder)
    for step, group in points.groupby("step", sort=True):
        values = dict(zip(group["name"], group["value"], strict=True))
        events.add(int(step), values, began + (ended - began) * int(step) / last)
    events.close()
    if events.error is not None:
        raise events.error
