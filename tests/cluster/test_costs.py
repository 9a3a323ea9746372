"""What the estimate of a training counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cluster import costs
from cluster.execution.one_training import RUNGS, validated_pixels
from denoise_core.method import method_class
from denoise_core.specification import DataSpec, load_data, specify


@pytest.mark.parametrize(("method", "phases"), [("neighbor2neighbor", 1), ("dbsn", 3)])
@pytest.mark.parametrize("steps", [40, 4000])
def test_test_and_validation_images_are_counted(
    method: str, phases: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "_seconds_of_a_pixel", lambda method, data: (4e-7, 6e-7))
    monkeypatch.setattr(costs, "_seconds_of_a_step", lambda trainer, index, limit: 0.5)
    clean = {"clean": "bundled_train[4:6]"} if method == "dbsn" else {}
    data = DataSpec(train="bundled_train[0:4]", test=("bundled_test[0:2]",), validation=2, repeats=3, **clean)  # type: ignore[arg-type]
    loaded = load_data(data, None)
    recipe = replace(method_class(method).recipes["smoke"], steps=steps)
    spec = specify(method, {}, data, loaded.contents, recipe, 0)
    found = costs.measured(spec, loaded, evaluations=2)
    assert found is not None
    tested, shown = 2 * 256 * 256 * 3 * 2, min(2 * 512 * 512, validated_pixels(recipe))
    assert found[1] == pytest.approx(1e-6 * (tested + shown * (len(RUNGS) + phases - 1)))
    assert sum(found[0].values()) == pytest.approx(0.5 * spec.steps)
    (alone,) = [costs.measured(spec, replace(loaded, validation=None), evaluations=2)]
    assert alone is not None and alone[1] == pytest.approx(1e-6 * tested)


@pytest.mark.parametrize(
    ("name", "whole", "part"),  # denoised pixels of 256 x 256, and of a middle of 64 x 64
    [
        ("sure", (1 + 2 * 2) * 256**2, (1 + 2 * 32) * 64**2),  # a direction for every 2**17 pixels
        ("pair_risk", 256**2, 64**2),
        ("neighbour_risk", 256**2, 64**2),  # four of a quarter
    ],
)
def test_criteria_are_counted(name: str, whole: int, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "_seconds_of_a_pixel", lambda method, data: (1.0, 0.0))
    monkeypatch.setattr(costs, "_seconds_of_a_step", lambda trainer, index, limit: 0.0)
    monkeypatch.setattr(costs, "CLOCK", lambda: 0.0)
    asked = DataSpec(train="bundled_test[0:3]", test=("bundled_test[3:6]",), validation=1, criteria=(name,))
    spare = replace(loaded := load_data(asked, None), spec=asked.model_copy(update={"criteria": ()}))
    recipe = replace(method_class("neighbor2neighbor").recipes["smoke"], steps=4)
    spec = specify("neighbor2neighbor", {}, asked, loaded.contents, recipe, 0)
    with_it, without = (costs.measured(spec, one, evaluations=2) for one in (loaded, spare))
    assert with_it is not None and without is not None
    assert with_it[1] - without[1] == 2 * 3 * whole + whole + (len(RUNGS) - 1) * part


def test_a_measured_image_is_denoised_and_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataSpec(train="bundled_train[0:2]", test=("bundled_test[0:1]",))
    loaded = load_data(data, None)
    recipe = method_class("neighbor2neighbor").recipes["smoke"]
    found = costs.measured(specify("neighbor2neighbor", {}, data, loaded.contents, recipe, 0), loaded, evaluations=1)
    assert found is not None and 1e-4 < found[1] < 60


def test_nothing_is_compiled_for_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(self: torch.nn.Module) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    data = DataSpec(train="bundled_train[0:2]", test=("bundled_test[0:1]",))
    loaded = load_data(data, None)
    recipe = replace(method_class("neighbor2neighbor").recipes["smoke"], compile=True)
    spec = specify("neighbor2neighbor", {}, data, loaded.contents, recipe, 0)
    assert costs.measured(spec, loaded, evaluations=1) is not None
