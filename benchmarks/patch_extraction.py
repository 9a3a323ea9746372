"""``extract`` on whole folders against one ``pywt.dwt2`` a window, in turn on one thread.

python benchmarks/patch_extraction.py

With DENOISE_DATA, all images of its ``train400`` and ``bsd68``; without it, drawn images. They get Gaussian noise of
sigma 25, at their own size and as 512 x 512 mosaics. ``extract`` also looks for saturated pixels, which the plain loop
does not. Times are those of the processor, which other work on the machine disturbs less than the clock's. The second
part measures the memory of growing folders, each in a process of its own.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from denoise_core.images.folder import load_folder
from denoise_core.images.generated import load_generated
from denoise_core.images.image_set import ImageSet
from denoise_core.images.patches import extract
from denoise_core.images.smooth_rules import WaveletRule, plain_scores
from denoise_core.memory import keep_freed_memory
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator

ROUNDS, MOSAICS = 5, 6
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
    began = time.process_time()
    call()
    return time.process_time() - began


def compare(name: str, images: Sequence[Tensor]) -> None:
    rule, ids, pairs = WaveletRule(), [str(i) for i in range(len(images))], []

    def plain() -> Tensor:
        return torch.cat([plain_scores(rule, image).flatten() for image in images])

    def fast() -> Tensor:
        return extract(images, ids, rule, cache_parts=None).scores

    expected, found = plain(), fast()
    for _ in range(ROUNDS):
        slow = seconds(plain)
        pairs.append((slow, seconds(fast)))
    same = all(torch.equal(found <= value, expected <= value) for value in LAMBDAS)
    slow_ms, fast_ms = (statistics.median(column) / len(images) * 1e3 for column in zip(*pairs, strict=True))
    ratios = sorted(one / other for one, other in pairs)
    print(
        f"{len(images)} images of {name}, {len(found) // len(images)} windows each: plain {slow_ms:.2f} ms an image, "
        f"extract {fast_ms:.2f} ms, {statistics.median(ratios):.1f} times as fast "
        f"({ratios[0]:.1f} to {ratios[-1]:.1f}); same patches at {len(LAMBDAS)} lambdas: {same}; "
        f"largest relative difference of a score {((found - expected) / expected).abs().max().item():.1e}"
    )


def folders() -> Iterator[ImageSet]:
    data = os.environ.get("DENOISE_DATA")
    if data is None:
        yield load_generated("em_generated")
    else:
        yield from (load_folder(Path(data) / name, channels=1) for name in ("train400", "bsd68"))


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()  # as in a training
    print(f"torch {torch.__version__}, one thread, median of {ROUNDS} rounds in turn")
    noise = parse_noise("gauss25")
    for clean in folders():
        noisy = [noise(image[None], generator("benchmark", i))[0] for i, image in enumerate(clean.pixels)]
        compare(clean.name, noisy)
        compare(f"512 x 512, mosaics of {clean.name}", [mosaic(noisy, 9 * i, 512) for i in range(MOSAICS)])
    for count in (1, 10, 100, 400):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(count)], capture_output=True, text=True, check=True
        ).stdout.split()
        print(f"{count:>4} images of 512 x 512: {int(done[0]):>7,} windows, peak {float(done[1]):.0f} MiB")


if __name__ == "__main__":
    main()
