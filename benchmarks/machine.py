"""The machine that a benchmark runs on, and the most that its convolutions reach."""

from __future__ import annotations

import functools
import platform
import subprocess
import time
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[1]
WIDTH, SIDE, BATCH, TRIES = 256, 56, 4, 12
ENOUGH_S = 1.0
"""After so many seconds, and two tries, it is not tried again: some processors take seconds for one in bf16."""


@functools.cache
def peak(precision: str, device: str) -> float:
    """FLOP/s of a 3x3 convolution of many channels, forward, the best of some tries in either memory layout.

    What a network can be compared with: the libraries' matrix products reach less on some processors.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for layout in (torch.contiguous_format, torch.channels_last):
        shape = (BATCH if device == "cpu" else 64, WIDTH, SIDE, SIDE)
        image = torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=layout)
        weight = torch.randn((WIDTH, WIDTH, 3, 3), device=device, dtype=dtype).contiguous(memory_format=layout)
        work = 2 * image.numel() * WIDTH * 9
        with torch.inference_mode():
            began = time.perf_counter()
            for number in range(TRIES):
                if number < 2 or time.perf_counter() - began < ENOUGH_S:
                    best = max(best, work / _seconds(image, weight, device))
    return best


def _seconds(image: torch.Tensor, weight: torch.Tensor, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        began = time.perf_counter()
        F.conv2d(image, weight, padding=1)
        torch.cuda.synchronize()
        return time.perf_counter() - began
    began = time.process_time()
    F.conv2d(image, weight, padding=1)
    return time.process_time() - began


def describe(device: str) -> str:
    """Name of the GPU, or of the processor with its number of cores."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{_processor()}, {torch.get_num_threads()} thread"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> tuple[str, bool]:
    """The revision of the code, and whether it has changes that are not committed."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "", False
    return head.stdout.strip(), bool(changed.stdout.strip())
