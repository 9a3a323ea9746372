"""Smooth patches by one Haar transform an image against one ``pywt.dwt2`` a window, in turn on one thread.

python benchmarks/patch_extraction.py [FOLDER OF IMAGES]

Without a folder, images are drawn. They get Gaussian noise of sigma 25, at their own size and as 512 x 512 mosaics.
The second part measures the memory of growing folders, each in a process of its own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from denoise_core.images.folder import load_folder
from denoise_core.images.generated import load_generated
from denoise_core.images.smooth_rules import WaveletRule, plain_scores
from denoise_core.memory import keep_freed_memory
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator

ROUNDS, IMAGES = 7, 6
LAMBDAS = (0.0075, 0.01, 0.015, 0.03, 0.1, 0.15, 0.42)
PROGRAM = """
import sys, torch
from denoise_core.images.patches import extract
from denoise_core.images.smooth_rules import WaveletRule
from denoise_core.memory import peak_memory_mb
torch.set_num_threads(1)
count = int(sys.argv[1])
read = (torch.rand((1, 512, 512), generator=torch.Generator().manual_seed(i)) for i in range(count))
windows = len(extract(read, [str(i) for i in range(count)], WaveletRule(), cache_parts=None))
print(windows, peak_memory_mb())
"""


def mosaic(images: Sequence[Tensor], first: int, side: int) -> Tensor:
    """Nine images, (C, side, side)."""
    tiles = [images[(first + i) % len(images)] for i in range(9)]
    edge = min(min(tile.shape[1:]) for tile in tiles)
    rows = [torch.cat([tile[:, :edge, :edge] for tile in tiles[i : i + 3]], dim=2) for i in (0, 3, 6)]
    return torch.cat(rows, dim=1)[:, :side, :side]


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def compare(name: str, images: Sequence[Tensor]) -> None:
    rule, pairs = WaveletRule(), []
    for _ in range(ROUNDS):
        slow = seconds(lambda: [plain_scores(rule, image) for image in images])
        pairs.append((slow, seconds(lambda: [rule.scores(image) for image in images])))
    fast, plain = (
        torch.cat([score(image).flatten() for image in images])
        for score in (rule.scores, lambda i: plain_scores(rule, i))
    )
    same = all(torch.equal(fast <= value, plain <= value) for value in LAMBDAS)
    slow_ms, fast_ms = (statistics.median(column) / len(images) * 1e3 for column in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    print(
        f"{name:>24}, {len(fast) // len(images)} windows: plain {slow_ms:.2f} ms, shared transform {fast_ms:.2f} ms, "
        f"{ratio:.1f} times as fast; same patches at {len(LAMBDAS)} lambdas: {same}; "
        f"largest relative difference of a score {((fast - plain) / plain).abs().max().item():.1e}"
    )


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()  # as in a training
    print(f"torch {torch.__version__}, one thread, median of {ROUNDS} rounds in turn")
    clean = load_folder(Path(sys.argv[1])) if len(sys.argv) > 1 else load_generated("em_generated")
    noise = parse_noise("gauss25")
    noisy = [noise(image[None], generator("benchmark", i))[0] for i, image in enumerate(clean.pixels[: 9 * IMAGES])]
    for name, images in (
        (clean.name, noisy[:IMAGES]),
        (f"mosaics of {clean.name}", [mosaic(noisy, 9 * i, 512) for i in range(IMAGES)]),
    ):
        compare(f"{tuple(images[0].shape)} {name}", images)
    for count in (1, 10, 100, 400):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(count)], capture_output=True, text=True, check=True
        ).stdout.split()
        print(f"{count:>4} images of 512 x 512: {int(done[0]):>7,} windows, peak {float(done[1]):.0f} MiB")


if __name__ == "__main__":
    main()
