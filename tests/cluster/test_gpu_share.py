"""How many trainings share a GPU, without one: the arithmetic, the steps that are measured, processes side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from cluster.execution import gpu_share
from cluster.execution.gpu_share import CONTEXT, MARGIN, MOST, Measured, beside_itself, share, together, try_out
from denoise_core.method import method_class
from denoise_core.specification import DataSpec, TrialSpec, load_data, specify
from tests.cluster.phases_toys import toy_data, trial

GIB = 2**30
METHOD = "neighbor2neighbor"


@pytest.mark.parametrize(
    ("peak", "total", "count"),
    [(1, 80, 16), (10, 80, 6), (20, 80, 3), (39, 80, 1), (79, 80, 1), (100, 80, 1), (1, 8, 4)],
)
def test_trainings_to_a_gpu(peak: int, total: int, count: int) -> None:
    part, sentence = share(Measured(peak * GIB, total * GIB, "a GPU"))
    assert count * part <= 1.0 < (count + 1) * part + 0.01 * count or count == 1
    assert part == 1.0 if count == 1 else round(1 / part) == count
    assert count <= MOST and (count == 1 or count * (peak * GIB * MARGIN + CONTEXT) <= total * GIB)
    assert f"{peak}.0 GiB of {total} GiB (a GPU)" in sentence


@pytest.mark.parametrize(
    ("rates", "count"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 2: 1.9, 4: 3.5, 6: 3.6}, 4),
        ({1: 1.0, 2: 1.05}, 1),
        ({1: 1.0, 2: 1.9, 4: 0.0}, 2),  # four did not run
        ({1: 1.0, 2: 1.9, 3: 2.7}, 3),
    ],
)
def test_so_many_share_it_as_gain_by_it(rates: Mapping[int, float], count: int) -> None:
    part, sentence = share(Measured(GIB, 80 * GIB, "a GPU", rates))
    assert round(1 / part) == count
    assert sentence.startswith("one training a GPU" if count == 1 else f"{count} trainings share a GPU")
    assert ("2: 1.90" in sentence) == (rates.get(2) == 1.9)


@pytest.mark.parametrize(
    ("most", "rates", "tried"),
    [
        (6, {1: 1.0, 2: 2.0, 4: 4.0, 6: 6.0}, [1, 2, 4, 6]),
        (16, {1: 1.0, 2: 2.0, 4: 2.1}, [1, 2, 4]),
        (1, {1: 1.0}, [1]),
        (4, {1: 0.0, 2: 1.0}, [1]),
    ],
)
def test_no_more_are_tried_than_gain(
    most: int, rates: Mapping[int, float], tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_share, "together", lambda spec, root, device, count: rates[count])
    assert list(beside_itself(trial(), None, "cuda", most)) == tried


def bundled(**values: int) -> TrialSpec:
    spec = DataSpec.model_validate({"train": "bundled_train", "test": ["bundled_test"], "noise": "gauss25"})
    recipe = replace(method_class(METHOD).recipes["smoke"], steps=50)
    return specify(METHOD, values, spec, load_data(spec, None).contents, recipe, 0)


def test_processes_train_at_once() -> None:
    assert together(bundled(), None, "cpu", 2) > 0


def test_what_does_not_fit_at_once_counts_as_nothing() -> None:
    assert together(bundled(batch_size=10**12), None, "cpu", 2) == 0.0  # and nobody waits for who has failed


def test_every_phase_is_tried() -> None:
    seen: list[str] = []
    try_out(trial(iterations=1), toy_data(), torch.device("cpu"), seen.append)
    assert list(dict.fromkeys(seen)) == ["gan", "g2g1"]
