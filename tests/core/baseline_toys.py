"""Pictures, sources and tiny methods for the tests of baselines."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from denoise_core.images.image_set import ImageSet
from denoise_core.images.source import SimulatedNoiseSource
from denoise_core.method import Context, create, methods
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator

CPU = torch.device("cpu")
Array = NDArray[np.float64]
HAS_BM3D = importlib.util.find_spec("bm3d") is not None
needs_bm3d = pytest.mark.skipif(not HAS_BM3D, reason="the package bm3d is not installed")
CLASSICAL = ["non_local_means", "total_variation", "wavelets", pytest.param("bm3d", marks=needs_bm3d)]
FITTED = ["deep_image_prior", "self2self"]


def smooth(side: int = 96, channels: int = 1) -> Tensor:
    """A picture (1, C, H, W) of slow waves and an edge, in [0.2, 0.8]."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    waves = 0.15 * torch.sin(rows / 9) * torch.cos(columns / 7) + 0.3 * (rows + columns > side) + 0.35
    return torch.stack([waves * (1 - 0.1 * one) for one in range(channels)])[None]


def with_noise(clean: Tensor, sigma: float = 25 / 255) -> Tensor:
    return clean + sigma * torch.randn(clean.shape, generator=generator("noise"))


def source(noise: str = "gauss25", sides: tuple[int, ...] = (96, 96)) -> SimulatedNoiseSource:
    images = ImageSet("smooth", tuple(map(str, range(len(sides)))), tuple(smooth(side)[0] for side in sides))
    return SimulatedNoiseSource(images, parse_noise(noise), "frozen", 7, CPU)


def tiny(name: str, channels: int = 1, **values: Any) -> Any:
    return create(name, {**methods()[name].recipes["smoke"].config, **values}, channels, 7)


def context(step: int = 0, seed: int = 7) -> Context:
    return Context(seed, "train", step, 100, CPU, 0, 1)


def loss_of(method: Any, noisy: Tensor, step: int = 0) -> Tensor:
    (update,) = method.updates("train", {"noisy": noisy}, context(step))
    result: Tensor = update.loss
    return result


class Probe(nn.Module):
    """Stands for a network: keeps its inputs; what it gives is its input times a number."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor, self.inputs = factor, list[Tensor]()

    def forward(self, images: Tensor) -> Tensor:
        self.inputs.append(images.detach().clone())
        return self.factor * images
