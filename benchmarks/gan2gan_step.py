"""One iteration of GAN2GAN's W-GAN against a straightforward port of the same mathematics, in turn on one thread.

python benchmarks/gan2gan_step.py                    # the laptop budget's networks and those of the paper

The port (tests/core/gan2gan_reference.py) is the official code's order: it makes both fakes anew for every step of a
critic and backpropagates through everything. Both have the same networks with the same weights and get the same images;
the tests check that they agree. Ours runs in the trainer, with its draws and flips.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from denoise_core.images.source import ImageSource
from denoise_core.methods.gan2gan import GAN2GAN, SMALL, GAN2GANConfig
from denoise_core.trainer import Trainer
from tests.core import gan2gan_reference as port


class OneBatch:
    """The same batch at every step, so that only the step itself is timed."""

    channels, fields = 1, frozenset(("noisy", "smooth"))

    def __init__(self, size: int, patch: int, device: str):
        draw = torch.Generator().manual_seed(0)
        shape = (size, 1, patch, patch)
        self.noisy = torch.rand(shape, generator=draw).to(device)
        self.noise = (0.1 * torch.randn(shape, generator=draw)).to(device)

    def check(self, patch: int) -> list[str]:
        return []

    def batch(self, **_: Any) -> dict[str, Tensor]:
        return {"noisy": self.noisy, "smooth": self.noise}


class Prepared(GAN2GAN):
    """GAN2GAN whose source already holds noise."""

    def prepare(self, source: ImageSource) -> ImageSource:
        return source


def steps(config: Mapping[str, Any], device: str, layout: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    """(one iteration of ours, one of the port); ``layout``: the port, too, stores channels last."""
    torch.manual_seed(0)
    c = GAN2GANConfig(**config, iterations=0)
    method = Prepared(c, 1)
    twins = [deepcopy(one) for one in (method.generator, method.rough, method.cycle)]
    critics = [deepcopy(one) for one in (method.noise_critic, method.noisy_critic)]
    form = torch.channels_last if layout else torch.contiguous_format
    for network in (*twins, *critics):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1
        network.to(device=device, memory_format=form)  # type: ignore[call-overload]
    source = OneBatch(c.batch_size, c.patch_size, device)
    theirs = port.GanStep(*twins, *critics, critic_steps=c.critic_steps)
    recipe = replace(GAN2GAN.recipes["paper"], steps=10**6)
    running: Iterator[int] = Trainer(method, source, recipe, 0, device).run()
    noisy, noise = (one.contiguous(memory_format=form) for one in (source.noisy, source.noise))
    latent = torch.randn((c.batch_size, c.latent), device=device)
    return lambda: next(running), lambda: theirs(noisy, noise, latent)


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
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--channels-last", action="store_true", help="the port stores channels last, as ours does")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name() if flags.device == "cuda" else "CPU, one thread"
    print(f"torch {torch.__version__}, {where}, median of {flags.rounds} rounds in turn")
    for name, config, repeats in (
        ("laptop networks, batch 16", SMALL, 2),
        ("paper's networks, batch 4", {"batch_size": 4}, 1),
    ):
        ours, theirs = steps(config, flags.device, flags.channels_last)
        seconds(ours, 1, flags.device), seconds(theirs, 1, flags.device)  # warm
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
