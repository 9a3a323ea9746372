"""Folders of images as they grow: reading them, and extracting the noise of their smooth patches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.cases.inference import of_program
from benchmarks.harness import Curve

COUNTS = (10, 100, 1_000, 10_000)
READING = """
import sys, tempfile, time
import numpy as np
from pathlib import Path
from PIL import Image
from denoise_core.images.folder import load_folder
from denoise_core.memory import peak_memory_mb
with tempfile.TemporaryDirectory() as name:
    random, count = np.random.default_rng(0), int(sys.argv[1])
    some = [Image.fromarray(random.integers(0, 256, (128, 128), dtype=np.uint8)) for _ in range(16)]
    for at in range(count):
        some[at % 16].save(Path(name) / f"{at:05d}.png")
    before, began = peak_memory_mb(), time.process_time()
    load_folder(Path(name), channels=1)
    print(time.process_time() - began, peak_memory_mb() - before)
"""
EXTRACTING = """
import sys, time, torch
from denoise_core.images.patches import extract
from denoise_core.images.smooth_rules import WaveletRule
from denoise_core.memory import peak_memory_mb
torch.set_num_threads(1)
count = int(sys.argv[1])
some = [torch.rand((1, 192, 192), generator=torch.Generator().manual_seed(at)) for at in range(16)]
before, began = peak_memory_mb(), time.process_time()
extract((some[at % 16] for at in range(count)), [str(at) for at in range(count)], WaveletRule(), cache_parts=None)
print(time.process_time() - began, peak_memory_mb() - before)
"""


def curves() -> Iterator[Curve]:
    yield Curve("reading a folder of PNG files", "images of 128 x 128", COUNTS, partial(of_program, READING))
    yield Curve("smooth patches", "images of 192 x 192", COUNTS, partial(of_program, EXTRACTING))
