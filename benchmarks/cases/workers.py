"""One training shared by several workers: what a step of the same global batch costs all of them together."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from benchmarks.harness import Curve

COUNTS = (1, 2, 4, 8)
STEPS = 10
PROGRAM = """
import json, sys, time, torch
import torch.distributed as dist
from benchmarks.cases.training import OneBatch
from denoise_core.memory import keep_freed_memory, peak_memory_mb
from denoise_core.method import Recipe, create, method_class
from denoise_core.trainer import Ranks, Trainer
rank, world, steps, rendezvous = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
keep_freed_memory()
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
config = {**method_class("neighbor2neighbor").recipes["laptop"].config, "batch_size": 8}
method = create("neighbor2neighbor", config, 1, 0)
training = Trainer(method, OneBatch("cpu", batches={}), Recipe(10**6), 0, "cpu", Ranks(rank, world)).run()
next(training), next(training)
began = time.process_time()
for _ in range(steps):
    next(training)
print(json.dumps([(time.process_time() - began) / steps, peak_memory_mb()]))
"""


def curves() -> Iterator[Curve]:
    yield Curve("a step of Neighbor2Neighbor, batch 8, processor time of all workers", "workers", COUNTS, together)


def together(world: int) -> tuple[float, float]:
    """Seconds and MiB of all workers together."""
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(rank), str(world), str(STEPS), f"{folder}/rendezvous"],
                stdout=subprocess.PIPE, text=True,
            )
            for rank in range(world)
        ]  # fmt: skip
        answers = [one.communicate(timeout=600)[0] for one in workers]
    if any(one.returncode for one in workers):
        raise SystemExit("a worker failed; its message is above")
    seconds, memory = zip(*(json.loads(one) for one in answers), strict=True)
    return sum(seconds), sum(memory)
