"""Settings of a training process: memory and numerics."""

from __future__ import annotations

import ctypes
import functools
import resource
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # <malloc.h>


@functools.cache
def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory instead of returning it to the kernel; True where that could be set.

    Large activations are otherwise mapped and zeroed anew at every layer: on a CPU, denoising a 321x481 photograph is
    1.5 times as fast with it (benchmarks/memory.py), and the peak stays the same. Does nothing on other C libraries.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def exact_numerics() -> None:
    """Makes CUDA repeat its results: deterministic convolutions, and fp32 that is fp32 (not TF32). The CPU is exact."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def peak_memory_mb() -> float:
    """The largest size of this process so far, in MiB: on the GPU where it used one, else resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
