"""Denoising: in half precision and other layouts against single precision as PyTorch has it; growing images."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.harness import Call, Comparison, Curve
from denoise_core.inference import denoise_image
from denoise_core.networks.unet import UNet

SIDE = 512
PROGRAM = """
import math, sys, time, torch
from denoise_core.inference import denoise_image
from denoise_core.memory import keep_freed_memory, peak_memory_mb
from denoise_core.networks.unet import UNet
torch.set_num_threads(1)
keep_freed_memory()
network = UNet(1, 16, depth=3).eval().to(memory_format=torch.channels_last)
side = math.isqrt(int(sys.argv[1]))
image = torch.rand(1, side, side)
denoise_image(network, image[:, :256, :256])
before, began = peak_memory_mb(), time.process_time()
denoise_image(network, image, halo=network.reach)
print(time.process_time() - began, peak_memory_mb() - 2 * image.numel() * 4 / 2**20)
"""


def comparisons(device: str) -> Iterator[Comparison]:
    plain = "contiguous, fp32"
    for precision in ("fp32", "bf16"):
        yield Comparison(
            f"U-Net of 48 features on {SIDE} x {SIDE}, channels last, {precision}", plain,
            partial(network, precision, device), flops=True, precision=precision,
        )  # fmt: skip


def network(precision: str, device: str) -> tuple[Call, Call]:
    torch.manual_seed(0)
    theirs = UNet(1).to(device)
    ours = UNet(1).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.rand(1, SIDE, SIDE, device=device)

    def half() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return denoise_image(ours, image)

    return lambda: denoise_image(theirs, image), half


def curves() -> Iterator[Curve]:
    yield Curve(
        "one image through a U-Net, in tiles from 4 million pixels on", "pixels", [4**power for power in range(8, 15)],
        partial(of_program, PROGRAM),
    )  # fmt: skip


def of_program(program: str, size: int) -> tuple[float, float]:
    """(seconds, MiB) that a program prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", program, str(size)], capture_output=True, text=True, check=True)
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory
