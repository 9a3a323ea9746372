"""Denoising a photograph with and without glibc returning freed memory, in processes of their own, in turn.

python benchmarks/memory.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys

ROUNDS = 7
PROGRAM = """
import sys, time, torch
from denoise_core.memory import keep_freed_memory, peak_memory_mb
from denoise_core.networks.unet import UNet
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    keep_freed_memory()
network, image = UNet(1, 24).to(memory_format=torch.channels_last), torch.rand(1, 1, 352, 512)
with torch.inference_mode():
    network(image), network(image)
    began = time.perf_counter()
    for _ in range(5):
        network(image)
print((time.perf_counter() - began) / 5, peak_memory_mb())
"""


def measure(mode: str) -> tuple[float, float]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory


def main() -> None:
    pairs = [(measure("return"), measure("keep")) for _ in range(ROUNDS)]
    for index, name in enumerate(("returned", "kept")):
        times, memories = zip(*(pair[index] for pair in pairs), strict=True)
        print(f"{name:>9}: {statistics.median(times) * 1e3:.0f} ms, peak {statistics.median(memories):.0f} MiB")
    print(f"ratio {statistics.median(one[0] / other[0] for one, other in pairs):.2f}")


if __name__ == "__main__":
    main()
