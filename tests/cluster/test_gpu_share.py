"""How many trainings share a GPU, without one: the arithmetic, and the steps that are measured."""

from __future__ import annotations

import pytest
import torch

from cluster.execution.gpu_share import CONTEXT, MARGIN, MOST, Measured, share, try_out
from tests.cluster.phases_toys import toy_data, trial

GIB = 2**30


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


def test_every_phase_is_tried() -> None:
    seen: list[str] = []
    try_out(trial(iterations=1), toy_data(), torch.device("cpu"), seen.append)
    assert list(dict.fromkeys(seen)) == ["gan", "g2g1"]
