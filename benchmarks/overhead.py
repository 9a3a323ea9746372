"""What Ray costs: the same trainings through Tune and Train, and in plain processes, side by side on the same cores.

    python benchmarks/overhead.py                    # 12 short trainings on two cores
    python benchmarks/overhead.py --budget laptop --steps 1000

The plain side is a pool of processes that pull the same tasks from one queue and store the same rows; it is timed with
the imports and the loading of images that both sides need. Memory is the peak of the proportional set size of all
processes of a side together (Linux).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "studies" / "neighbor2neighbor_gamma.py"


class Silent:
    """A board that nobody watches."""

    def report(self, step: int, rung: int | None = None, value: float | None = None) -> str:
        return "go"


def train_in_a_plain_process(payload: tuple[Any, str, str | None]) -> None:
    import torch

    from cluster.execution.board import Task
    from cluster.execution.one_training import Training
    from cluster.execution.training import _data
    from cluster.results.store import Store
    from denoise_core.memory import keep_freed_memory
    from denoise_core.trainer import Ranks

    spec, store, root = payload
    keep_freed_memory()
    torch.set_num_threads(1)
    training = Training(Task(spec, "", (spec.params,)), "overhead", "plain", Store(store), Ranks(), torch.device("cpu"))
    training.run(_data(spec, root), Silent())


def plain(arguments: list[str], processes: int) -> None:
    """The other side's main program: plans like the study, trains in a pool."""
    sys.path.insert(0, str(ROOT / "studies"))
    import neighbor2neighbor_gamma

    from cluster.cli import parse
    from cluster.console import Console
    from cluster.plan import estimate_seconds
    from cluster.runner import Runner

    study = neighbor2neighbor_gamma.study
    runner = Runner(study, parse(study, arguments), "", Console())
    found = runner._plan()
    seconds = estimate_seconds(found.left, runner.data, found, measure=True)
    order = sorted(found.left, key=lambda one: -seconds[one.spec.trial_id])
    root = str(runner.options.data_root) if runner.options.data_root else None
    payloads = [(one.spec, runner.options.store, root) for one in order]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for _ in pool.imap_unordered(train_in_a_plain_process, payloads, chunksize=1):
            pass


def timed(command: list[str]) -> tuple[float, float]:
    """(seconds, peak MiB of all its processes)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    with watched(process.pid) as peak:
        error = process.communicate()[1]
    if process.returncode:
        raise SystemExit(error.decode())
    return time.perf_counter() - began, peak[0]


@contextlib.contextmanager
def watched(root: int) -> Iterator[list[float]]:
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            peak[0] = max(peak[0], sum(proportional_mb(one) for one in family(root)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def family(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found, pending = [], [root]
    while pending:
        one = pending.pop()
        found.append(one)
        pending += children.get(one, [])
    return found


def proportional_mb(process: int) -> float:
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="smoke")
    parser.add_argument("--steps", default="200")
    parser.add_argument("--seeds", default="3")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--plain", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.plain is not None:
        plain(flags.plain, flags.processes)
        return
    for _ in range(flags.rounds):
        figures = {}
        for side in ("plain", "ray"):
            with tempfile.TemporaryDirectory() as folder:
                study = [
                    "--budget",
                    flags.budget,
                    "--steps",
                    flags.steps,
                    "--seeds",
                    flags.seeds,
                    "--references",
                    "none",
                ]
                study += ["--store", f"{folder}/store", "--max-concurrent", str(flags.processes)]
                own = [__file__, "--processes", str(flags.processes), "--plain"] if side == "plain" else [str(SCRIPT)]
                seconds, memory = timed([sys.executable, *own, *study])
                count = len(list(Path(folder, "store", "trials").iterdir()))
            figures[side] = {"seconds": round(seconds, 1), "peak_mb": round(memory), "trainings": count}
        extra = figures["ray"]["seconds"] - figures["plain"]["seconds"]
        figures["overhead"] = {
            "seconds": round(extra, 1),
            "seconds_per_training": round(extra / figures["ray"]["trainings"], 2),
            "ratio": round(figures["ray"]["seconds"] / figures["plain"]["seconds"], 3),
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
