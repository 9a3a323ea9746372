"""Trainings by the trainer against the published order of evaluation: the same weights after some steps."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from denoise_core.method import Context, create, method_class
from denoise_core.seeding import generator
from denoise_core.trainer import Trainer
from tests.core.published_steps import published

DBSN: Mapping[str, Any] = {"lr_schedule": "step", "noise_start": "official"}
CASES: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("neighbor2neighbor", "train"): {"lr_schedule": "step", "gamma": 2.0},
    ("dbsn", "mu"): DBSN,
    ("dbsn", "joint"): DBSN,
    ("dbsn", "student"): DBSN,
    ("danet", "plain"): {"lr_schedule": "step", "augmentation": "none"},
    ("danet", "game"): {"lr_schedule": "step", "augmentation": "none", "init": "default", "alpha": 0.3},
}
STEPS = 4


class OneBatch:
    """The same images at every step."""

    channels, fields = 1, frozenset(("noisy", "clean", "clean_unpaired"))

    def check(self, patch: int) -> list[str]:
        return []

    def batch(self, *, size: int, patch: int, fields: tuple[str, ...], **_: Any) -> dict[str, Tensor]:
        shape = (size, 1, patch, patch)
        return {name: torch.rand(shape, generator=generator(name), dtype=torch.double) for name in fields}


@pytest.mark.parametrize(("name", "phase"), CASES, ids=[" ".join(case) for case in CASES])
def test_training_equals_the_published_step(name: str, phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = method_class(name)
    monkeypatch.setattr(kind, "prepare", lambda self, source: source)
    recipe = replace(kind.recipes["smoke"], steps=1000)
    one = create(name, {**recipe.config, **CASES[name, phase]}, 1, 0).double()
    trainer = Trainer(one, OneBatch(), recipe, seed=0)  # type: ignore[arg-type]
    for stretch in trainer.stretches:
        if stretch.phase.name == phase:
            break
        trainer.start_after(stretch.phase.name, trainer.kept(stretch.phase.name))
    twin = deepcopy(one)
    step = published(twin, phase)
    assert step is not None
    begun = deepcopy(one.state_dict())
    places = {"size": stretch.phase.batch, "patch": stretch.phase.patch, "fields": stretch.phase.needs}
    for number, _ in zip(range(STEPS), trainer.run(), strict=False):
        context = Context(0, phase, number, stretch.last - stretch.first, torch.device("cpu"), 0, 1)
        step(OneBatch().batch(**places), context)
    trained = twin.state_dict()
    assert any(not torch.equal(value, trained[key]) for key, value in begun.items())
    for key, value in one.state_dict().items():
        assert torch.allclose(value, trained[key], rtol=1e-8, atol=1e-10), key
