"""One training step of ISCL against a straightforward port of the same mathematics, in turn on one thread.

python benchmarks/iscl_step.py                       # the laptop budget's networks and those of the paper

The port (tests/core/iscl_reference.py) evaluates every network where an equation names it and computes the two parts
of the normalisation apart. Both start from the same weights and get the same batch; the tests check that they agree.
Lookahead, averaging and augmentation, which the port lacks, are switched on for ours.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from denoise_core.method import create
from denoise_core.methods.iscl import ISCL
from denoise_core.trainer import Trainer
from tests.core import iscl_reference as port


class OneBatch:
    """The same batch at every step, so that only the step itself is timed."""

    channels, fields = 1, frozenset(("noisy", "clean_unpaired"))

    def __init__(self, size: int, patch: int, device: str):
        draw = torch.Generator().manual_seed(0)
        shape = (size, 1, patch, patch)
        self.noisy, self.clean = (torch.rand(shape, generator=draw).to(device) for _ in range(2))

    def check(self, patch: int) -> None: ...

    def batch(self, **_: Any) -> dict[str, Tensor]:
        return {"noisy": self.noisy, "clean_unpaired": self.clean}


def copied(source: nn.Module, target: nn.Module) -> nn.Module:
    with torch.no_grad():
        for ours, theirs in zip(source.parameters(), target.parameters(), strict=True):
            theirs.copy_(ours)
    return target


def steps(config: dict[str, Any], device: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """(one step of ours, one step of the port)."""
    recipe = replace(ISCL.recipes["paper"], steps=10**6)
    method = create("iscl", config, 1, 0)
    assert isinstance(method, ISCL)
    c = method.config
    twins = [
        copied(method.denoiser, port.Generator(1, c.width, c.blocks)),
        copied(method.degrader, port.Generator(1, c.width, c.blocks)),
        copied(method.extractor, port.Extractor(1, c.extractor_width, c.extractor_layers)),  # type: ignore[arg-type]
        copied(method.noisy_critic, port.Critic(1, c.critic_width)),
        copied(method.clean_critic, port.Critic(1, c.critic_width)),
    ]
    source = OneBatch(c.batch_size, c.patch_size, device)
    theirs = port.ReferenceStep(*(twin.to(device) for twin in twins), lr=c.lr)
    running: Iterator[int] = Trainer(method, source, recipe, 0, device).run()
    return lambda: next(running), lambda: theirs(2 * source.noisy - 1, 2 * source.clean - 1)


def seconds(call: Callable[[], object], repeats: int, device: str) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=9)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name() if flags.device == "cuda" else "CPU, one thread"
    print(f"torch {torch.__version__}, {where}, median of {flags.rounds} rounds in turn")
    # the port's critics have the paper's depth: patches of 64, narrow networks for the small size
    small = {"width": 8, "blocks": 2, "extractor_width": 16, "extractor_layers": 8, "critic_width": 8, "batch_size": 4}
    for name, config, repeats in (
        ("small networks, batch 4", small, 3),
        ("paper's networks, batch 8", {"batch_size": 8}, 1),
    ):
        ours, theirs = steps(config, flags.device)
        seconds(ours, 2, flags.device), seconds(theirs, 2, flags.device)  # warm
        pairs = [
            (seconds(theirs, repeats, flags.device), seconds(ours, repeats, flags.device)) for _ in range(flags.rounds)
        ]
        slow, fast = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
        ratios = sorted(mine / other for other, mine in pairs)
        middle = ratios[len(ratios) // 2]
        print(
            f"{name:>26}: port {slow:.0f} ms, ours {fast:.0f} ms, "
            f"{middle:.2f} of it [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
        )


if __name__ == "__main__":
    main()
