"""A store as its trials grow: listing them, planning a study against them, its report; and trainings handed out."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

from benchmarks import scheduling, store_scale
from benchmarks.harness import Curve

COUNTS = tuple(count for count in store_scale.SIZES if count <= 10_000)
KEPT = tempfile.TemporaryDirectory(prefix="denoise-benchmark-")


def curves() -> Iterator[Curve]:
    measured = {"list": "listing all trials", "plan all": "planning a study that is stored", "report": "its report"}
    for what, name in measured.items():
        yield Curve(name, "trials of 68 images", COUNTS, partial(of_store, what))
    yield Curve("handing out trainings that do nothing, by the clock, Ray's start and end with it", "trainings", COUNTS,
                handed_out)  # fmt: skip


@cache
def store(count: int) -> str:
    """A store of made-up trials, all but the newest packed; it is kept until this process ends."""
    folder = str(Path(KEPT.name) / str(count))
    store_scale.build(*store_scale.SIZES[count], folder, packed=True)
    return folder


def of_store(what: str, count: int) -> tuple[float, float]:
    found = store_scale.measured(what, *store_scale.SIZES[count], store(count))
    return found["cpu_s"], found["peak_mb"]


def handed_out(count: int) -> tuple[float, float]:
    """Memory is that of the board, which holds all trainings."""
    command = [sys.executable, scheduling.__file__, "--one", str(count), "--cpus", "4"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    one = json.loads(done.stdout.partition("RESULT ")[2])
    return one["seconds"], one["board_mb"]
