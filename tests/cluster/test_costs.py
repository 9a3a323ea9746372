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
    monkeypatch.setattr(costs, "_seconds_of_a_pixel", lambda method, data: 1e-6)
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
