"""The step of DANet's critic against separate passes, in turn on one thread.

python benchmarks/danet_step.py                    # the laptop budget's critic and the published one

Separate: three forward passes, of real pairs and both kinds of fakes, and two gradient penalties through autograd
(create_graph), as the official code has them. Ours: one pass for all scores, one for both penalties, whose input
gradient is written out. Both are forward and backward in the critic's weights, from the same pairs; the losses are
printed, the tests compare them and their gradients.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from denoise_core.methods.danet import critic_terms
from denoise_core.methods.danet_config import SMALL, DANetConfig
from denoise_core.networks.danet import PairCritic

WEIGHTS = (0.5, 0.5)


def separate(critic: PairCritic, real: Tensor, fakes: list[Tensor], mix: list[Tensor], penalty: float) -> Tensor:
    real_score, *fake_scores = (critic(one).mean() for one in (real, *fakes))
    loss = torch.zeros((), device=real.device)
    for weight, score, fake, share in zip(WEIGHTS, fake_scores, fakes, mix, strict=True):
        point = (share * real + (1 - share) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(point).sum(), point, create_graph=True)
        norms = (gradient.square().sum(dim=(1, 2, 3)) + 1e-12).sqrt()
        loss = loss + weight * (score - real_score) + penalty * weight * (norms - 1).square().mean()
    return loss


def ours(critic: PairCritic, real: Tensor, fakes: list[Tensor], mix: list[Tensor], penalty: float) -> Tensor:
    distance, squares = critic_terms(critic, real, fakes, WEIGHTS, mix)
    return distance + penalty * squares


def steps(config: DANetConfig, device: str) -> tuple[Callable[[], float], Callable[[], float]]:
    torch.manual_seed(0)
    critic = PairCritic(3, config.critic_width, config.patch_size)
    critic.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    shape = (config.batch_size, 6, config.patch_size, config.patch_size)
    real, *fakes = (torch.rand(shape, device=device).to(memory_format=torch.channels_last) for _ in range(3))
    mix = [torch.rand((config.batch_size, 1, 1, 1), device=device) for _ in fakes]

    def step(loss: Callable[..., Tensor]) -> float:
        critic.zero_grad(set_to_none=True)
        value = loss(critic, real, fakes, mix, config.penalty)
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    return lambda: step(separate), lambda: step(ours)


def seconds(call: Callable[[], float], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        call()  # its result is read, which waits for a GPU
    return (time.perf_counter() - began) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=9)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name() if flags.device == "cuda" else "CPU, one thread"
    print(f"torch {torch.__version__}, {where}, median of {flags.rounds} rounds in turn")
    cases = {"laptop critic": (SMALL, 5), "published critic, batch 2": ({"batch_size": 2}, 1)}
    if flags.device == "cuda":
        cases["published critic, batch 16"] = ({}, 5)
    for name, (values, repeats) in cases.items():
        naive, fused = steps(DANetConfig(**values), flags.device)
        first, second = naive(), fused()
        pairs = [(seconds(naive, repeats), seconds(fused, repeats)) for _ in range(flags.rounds)]
        slow, fast = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
        ratios = sorted(mine / other for other, mine in pairs)
        print(
            f"{name:>26}: losses {first:.6f} and {second:.6f}; separate {slow:.1f} ms, ours {fast:.1f} ms, "
            f"{statistics.median(ratios):.2f} of it [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
        )


if __name__ == "__main__":
    main()
