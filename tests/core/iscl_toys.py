"""Tiny ISCLs and their data, shared by the tests of ISCL."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from denoise_core.method import Context, create
from denoise_core.methods.iscl import ISCL
from denoise_core.seeding import generator

ROWS = ("A", "A+B", "A+B+C", "A+B+C+D", "A+B+C+D+E")
TINY = {
    "width": 4, "blocks": 1, "extractor_width": 4, "extractor_layers": 4, "critic_width": 4, "critic_depth": 4,
    "patch_size": 64, "batch_size": 3, "lr": 1e-3, "augmentation": "none", "lookahead": False,
}  # fmt: skip


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed, "test"))


def method(**config: Any) -> ISCL:
    made = create("iscl", {**TINY, **config}, 1, seed=3)
    assert isinstance(made, ISCL)
    return made


def context(step: int = 0, steps: int = 10) -> Context:
    return Context(0, "train", step, steps, torch.device("cpu"), 0, 1)


def batch() -> dict[str, Tensor]:
    return {"noisy": 0.5 * tensor(3, 1, 64, 64), "clean_unpaired": tensor(3, 1, 64, 64, seed=1)}


def networks(one: ISCL) -> dict[str, nn.Module]:
    names = {"F": one.denoiser, "G": one.degrader, "H": one.extractor, "DX": one.noisy_critic, "DY": one.clean_critic}
    return {name: network for name, network in names.items() if network is not None}


def copied(source: nn.Module, target: nn.Module) -> nn.Module:
    """``target`` with the parameters of ``source``, in their order."""
    pairs = zip(source.parameters(), target.parameters(), strict=True)
    with torch.no_grad():
        for ours, theirs in pairs:
            assert ours.shape == theirs.shape
            theirs.copy_(ours)
    return target


class OneBatch:
    """A source that gives the same batch at every step."""

    channels, fields = 1, frozenset(("noisy", "clean_unpaired"))

    def __init__(self, precision: torch.dtype = torch.float32):
        self._precision = precision

    def check(self, patch: int) -> list[str]:
        return []

    def batch(self, **_: Any) -> dict[str, Tensor]:
        return {name: value.to(self._precision) for name, value in batch().items()}
