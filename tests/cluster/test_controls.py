"""Equal-step controls: how much of a gain is only training time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from cluster.report.cells import Grid, Setting
from cluster.report.controls import Control, controlled, sentences
from cluster.report.results import StudyResults

AXES = ("iterations", "estimate")
CONTROL = Control("estimate", "first", {"iterations": 1}, "on the first estimates")


def results(control: Control | None = CONTROL) -> StudyResults:
    default = {"iterations": 3, "estimate": "previous"}
    return cast(StudyResults, SimpleNamespace(axes=AXES, default=default, control=control, metric="psnr"))


def grid(means: dict[tuple[int, str], float], noise: float = 0.02) -> Grid:
    draw = np.random.default_rng(0)
    cells: dict[Any, Any] = {cell: mean + noise * draw.standard_normal((3, 20)) for cell, mean in means.items()}
    images = tuple(str(number) for number in range(20))
    return Grid(Setting("gauss25", "toy"), (0, 1, 2), images, cells, {}, None, {})


def test_a_gain_is_divided_into_training_time_and_the_rest() -> None:
    made = grid({(0, "previous"): 20, (1, "previous"): 25, (2, "previous"): 26.2, (2, "first"): 25.4, (3, "first"): 25})
    (one,) = controlled(results(), made)  # the second control has nothing to stand beside
    assert (one.cell, one.control, one.base) == ((2, "previous"), (2, "first"), (1, "previous"))
    assert one.whole.mean == pytest.approx(1.2, abs=0.02)
    assert one.by_steps.mean == pytest.approx(0.4, abs=0.02)
    assert one.rest.mean == pytest.approx(0.8, abs=0.02) and one.rest.conclusive
    (sentence,) = sentences(results(), made)
    assert "Of the +1.2" in sentence and "+0.39" in sentence and "is what the iteration itself adds" in sentence


def test_no_conclusion_from_a_rest_whose_interval_crosses_zero() -> None:
    made = grid({(1, "previous"): 25, (2, "previous"): 26.2, (2, "first"): 26.19}, noise=0.3)
    (sentence,) = sentences(results(), made)
    assert "cannot be told from zero: it may all be training time" in sentence


@pytest.mark.parametrize("control", [None, Control("gamma", 1, {}, "")])
def test_studies_without_controls_say_nothing(control: Control | None) -> None:
    assert sentences(results(control), grid({(1, "previous"): 25, (2, "first"): 26})) == []


def test_without_the_common_beginning_there_is_nothing_to_divide() -> None:
    assert controlled(results(), grid({(2, "previous"): 26, (2, "first"): 25})) == []
