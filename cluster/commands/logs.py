"""Print the log of a training, finished or not.

ID is the beginning of the training's id as ``denoise-studies ls STUDY`` shows it. A training that is still running has
its log already, whose name is its id.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from cluster.console import Console
from cluster.results.store import Store
from cluster.watching.stored import CANDIDATES, add_store, existing_store, find_trial, read_trials
from denoise_core.errors import UserError

POLL_S = 0.5


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument("id", metavar="ID", help="the beginning of a training's id")
    add_store(parser)
    parser.add_argument("--follow", action="store_true", help="go on printing what is added, until Ctrl-C")


def run(flags: argparse.Namespace, console: Console) -> int:
    """Prints; the exit status is 0. Raises UserError."""
    path = _path(existing_store(flags.store), flags.id)
    follow(path, lambda text: console.out.out(text, end="", highlight=False), lambda: not flags.follow)
    return 0


def follow(path: Path, tell: Callable[[str], None], over: Callable[[], bool]) -> None:
    """Tells what a file holds, then what is added to it, until ``over``. A file that begins anew is told anew."""
    with path.open(errors="replace") as stream:
        while True:
            if path.exists() and path.stat().st_size < stream.tell():
                stream.seek(0)
            if text := stream.read():
                tell(text)
            if over():
                return
            time.sleep(POLL_S)


def _path(store: Store, given: str) -> Path:
    """The log of a training that runs, or that the store holds. Raises UserError."""
    folder = (store.local or Path.home() / ".denoise-studies") / "logs"
    trials = read_trials(store)
    rows = trials[trials["trial_id"].str.startswith(given)]
    logs = {one.stem for one in folder.glob("*.log") if one.stem.startswith(given)}
    # those of other ranks are named after the first one's
    running = {one for one in logs if "-rank" not in one} - set(rows["trial_id"])
    if rows.empty and not running and store.local is None:
        raise UserError(
            f"The store has no training '{given}', and this machine no log of it: a training that is running keeps its "
            "log on its node, in ~/.denoise-studies/logs."
        )
    if not running:
        name = find_trial(trials, given)
        recorded = Path(str(rows["log_path"].iloc[0]) or folder / f"{name}.log")
        return _existing(recorded if recorded.is_file() else folder / f"{name}.log", recorded, store)
    if len(running) + len(rows) > 1:
        names = ", ".join(sorted({*running, *rows["trial_id"]})[:CANDIDATES])
        raise UserError(f"'{given}' begins the ids of several trainings: give more digits of one of {names}.")
    return folder / f"{running.pop()}.log"


def _existing(path: Path, recorded: Path, store: Store) -> Path:
    if path.is_file():
        return path
    if store.local is None:
        raise UserError(
            f"The log is not on this machine: with a store in {store.location.partition('://')[0]} each node keeps its "
            f"own logs, so look on the node that trained it, at {recorded}."
        )
    raise UserError(
        f"The log {recorded} is not there any more: it was deleted, or lies on another machine or disk that this one "
        "does not see; look there, or read the error in `denoise-studies show`."
    )
