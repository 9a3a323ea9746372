"""Neighbor2Neighbor's sub-sampler against boolean-mask indexing, the same pairs, in turn on one thread.

python benchmarks/sub_sampler.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_core.method import Context
from denoise_core.methods.neighbor2neighbor import draw_choices, sub_images

ROUNDS, REPEATS = 15, 20


def masked(image: Tensor, choices: Tensor) -> tuple[Tensor, Tensor]:
    """Marks one pixel of each cell in a mask over all pixels and indexes with it, channel by channel."""
    count, channels, height, width = image.shape
    outputs = []
    for which in range(2):
        mask = F.one_hot(choices[:, which].flatten(), 4).bool().flatten()
        picked = torch.zeros(count, channels, height // 2, width // 2)
        for channel in range(channels):
            cells = F.pixel_unshuffle(image[:, channel : channel + 1], 2).permute(0, 2, 3, 1).reshape(-1)
            picked[:, channel] = cells[mask].view(count, height // 2, width // 2)
        outputs.append(picked)
    return outputs[0], outputs[1]


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(REPEATS):
        call()
    return (time.perf_counter() - began) / REPEATS


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, median of {ROUNDS} rounds in turn")
    for shape in ((4, 3, 256, 256), (4, 1, 64, 64), (16, 3, 128, 128)):
        image = torch.rand(shape)
        choices = draw_choices("random", True, image, Context(0, "train", 0, 1, torch.device("cpu"), 0, 1))
        for ours, theirs in zip(sub_images(image, choices), masked(image, choices), strict=True):
            assert torch.equal(ours, theirs)
        pairs = [
            (seconds(lambda i=image, c=choices: masked(i, c)), seconds(lambda i=image, c=choices: sub_images(i, c)))
            for _ in range(ROUNDS)
        ]
        slow, fast = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
        ratio = statistics.median(one / other for one, other in pairs)
        print(f"{shape!s:>18}: boolean mask {slow:.2f} ms, gather {fast:.2f} ms, {ratio:.1f} times as fast")


if __name__ == "__main__":
    main()
