"""GAN2GAN made tiny, and what trains it without Ray: for the tests of phases that trainings share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from cluster.execution.board import Task
from cluster.execution.one_training import Training
from cluster.results.store import Store
from denoise_core.images.image_set import ImageSet
from denoise_core.method import Recipe, methods
from denoise_core.specification import DataSpec, LoadedData, TrialSpec, specify
from denoise_core.trainer import Ranks

METHOD = "gan2gan"
TINY: Mapping[str, Any] = {
    "generator_width": 4, "latent": 8, "critic_width": 2, "rough_depth": 2, "cycle_depth": 2, "rough_width": 2,
    "denoiser_depth": 2, "denoiser_width": 2, "denoiser_batch_size": 2, "denoiser_steps": 1.25, "batch_size": 4,
    "patch_size": 32, "window_size": 32, "window_stride": 16, "patch_lambda": "auto", "critic_steps": 1,
}  # fmt: skip
GAN_STEPS, DENOISER_STEPS = 3, 4
"""Steps of each phase of :func:`trial`."""


def recipe(steps: int = GAN_STEPS, method: str = METHOD) -> Recipe:
    kind = methods()[method]
    config = {**kind.recipes["smoke"].config, **TINY}
    known = {name: value for name, value in config.items() if name in kind.Config.model_fields}
    return replace(kind.recipes["smoke"], steps=steps, config=known)


@cache
def images(name: str = "toys", count: int = 2, seed: int = 1) -> ImageSet:
    """Smooth gray images of 64 x 64 pixels."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0.3, 0.7, 64)
    slopes = torch.rand(count, 2, generator=generator)
    pixels = tuple((a * ramp[:, None] + b * ramp[None, :])[None] / 2 + 0.2 for a, b in slopes.tolist())
    return ImageSet(name, tuple(f"{name}-{index}" for index in range(count)), pixels)


@cache
def toy_data(noise: str = "gauss25", test_seed: int = 3, validation_seed: int = 2) -> LoadedData:
    spec = DataSpec.model_validate({"noise": noise, "noise_realisation": "frozen", "validation": 1})
    return LoadedData(
        spec, images(), images("validation", 1, seed=validation_seed), (images("test", 1, seed=test_seed),)
    )


def trial(
    seed: int = 0, *, method: str = METHOD, data: LoadedData | None = None, steps: int = GAN_STEPS, **values: Any
) -> TrialSpec:
    data = data or toy_data()
    return specify(method, values, data.spec, data.contents, recipe(steps, method), seed)


def ids(spec: TrialSpec) -> list[str]:
    return [link.phase_id for link in spec.links]


def task(spec: TrialSpec) -> Task:
    return Task(spec, str(spec.config["iterations"]), (spec.params,))


def training(spec: TrialSpec, store: Store, study: str = "toy") -> Training:
    return Training(task(spec), study, "smoke", store, Ranks(), torch.device("cpu"))


class Listener:
    """A line to no board: says ``go`` unless told otherwise, and keeps what it heard."""

    def __init__(self, orders: Mapping[int, str] | None = None):
        self.orders = orders or {}
        self.heard: list[tuple[int, int | None]] = []
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def report(self, step: int, rung: int | None = None, value: float | None = None) -> str:
        self.heard.append((step, rung))
        return self.orders.get(step, "go")


def measured(store: Store, spec: TrialSpec) -> list[dict[str, Any]]:
    """All measurements of a trial, which are the same bits where the weights are."""
    return store.read("measurements", [spec.evaluation_id]).to_pylist()  # type: ignore[no-any-return]


def row(store: Store, spec: TrialSpec) -> dict[str, Any]:
    return store.trials([spec.trial_id])[spec.trial_id]


def curves(store: Store, spec: TrialSpec, name: str = "validation_psnr") -> list[tuple[str, int, float]]:
    rows: Sequence[Mapping[str, Any]] = store.read("curves", [spec.trial_id]).to_pylist()
    return [(one["phase"], one["step"], one["value"]) for one in rows if one["name"] == name]
