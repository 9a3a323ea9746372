"""Remove from a store what is no longer needed and can be made again.

That is: checkpoints of phases and trainings that are stored, and, where nothing has changed for --older-than hours,
leases whose owner is gone, damaged files that were set aside, files that were never finished, Ray's scratch folders,
TensorBoard events of finished trainings and Optuna's journals. Trials, measurements, weights and reports stay. At the
end small files are packed, so that a store of many trainings opens quickly.
"""

from __future__ import annotations

import argparse

from cluster.console import Console
from cluster.execution.compaction import compact
from cluster.results.files import megabytes
from cluster.watching.aligned import say_table
from cluster.watching.leftovers import KINDS, leftovers, remove
from cluster.watching.stored import add_store, existing_store
from denoise_core.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    add_store(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would go, remove nothing")
    parser.add_argument(
        "--older-than", type=float, default=24.0, metavar="HOURS", help="leave what changed since (default: 24)"
    )


def run(flags: argparse.Namespace, console: Console) -> int:
    """Removes; the exit status is 0, or 1 where something could not be removed. Raises UserError."""
    if flags.older_than < 0:
        raise UserError(f"--older-than {flags.older_than:g} is not allowed: give a number of hours, 0 or more.")
    store = existing_store(flags.store)
    found = leftovers(store, flags.older_than * 3600)
    rows = []
    for kind in KINDS:
        some = [one for one in found if one.kind == kind]
        if some:
            rows.append((kind, str(len(some)), megabytes(sum(one.size for one in some))))
    if rows:
        rows.append(("total", str(len(found)), megabytes(sum(one.size for one in found))))
        say_table(console, ("what", "count", "size"), rows, right="count, size")
    if flags.dry_run:
        console.say("Nothing was removed (--dry-run)." if found else "There is nothing to remove.")
        return 0
    left = [one for one in found if not remove(store, one)]
    freed = sum(one.size for one in found) - sum(one.size for one in left)
    removed = len(found) - len(left)
    console.say(f"Removed {removed}, {megabytes(freed)} are free." if found else "There is nothing to remove.")
    if answer := compact(store):
        console.say(answer)
    if left:
        console.warn(f"{len(left)} could not be removed, such as {left[0].path}: they are in use, or not yours.")
    return 1 if left else 0
