"""Which precision ``--precision auto`` takes, and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster import precision
from cluster.cli import run
from cluster.results.store import Store
from cluster.runner import Runner
from denoise_core.method import method_class
from tests.cluster.test_every_study import execute_here, study

METHOD = "neighbor2neighbor"
SHORT = ("--budget", "smoke", "--seeds", "1", "--set", "gamma=0", "--references", "none")


def answer(store: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert run(study(f"{METHOD}_gamma"), [*SHORT, "--store", str(store), *flags]) == 0
    printed = capsys.readouterr().out
    return next((line for line in printed.splitlines() if line.startswith("Precision")), "")


def faster_by(gain: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(spec: Any, data: Any, evaluations: int) -> tuple[dict[str, float], float]:
        return {"train": 1.0 if spec.recipe.precision == "fp32" else 1 / gain}, 0.0

    monkeypatch.setattr(precision, "measured", measured)
    monkeypatch.delenv("DENOISE_DATA", raising=False)


@pytest.mark.parametrize(("gain", "chosen"), [(2.0, "bf16"), (1.1, "fp32"), (0.5, "fp32")])
def test_half_precision_is_taken_where_it_gains(
    gain: float, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faster_by(gain, monkeypatch)
    monkeypatch.setattr(method_class(METHOD), "half_precision", True)
    said = answer(tmp_path / "s", capsys, "--precision", "auto", "--dry-run")
    assert said == f"Precision: {chosen}; half precision is {gain:.2f} times as fast as single on this machine."
    assert answer(tmp_path / "s", capsys, "--dry-run") == ""  # who does not ask is told nothing


def test_it_is_not_taken_where_nobody_has_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faster_by(9.0, monkeypatch)
    monkeypatch.setattr(method_class(METHOD), "half_precision", False)
    assert "fp32, since nobody has shown" in answer(tmp_path / "s", capsys, "--precision", "auto", "--dry-run")
    assert "as the budget has it" in answer(tmp_path / "s", capsys, "--precision", "auto", "--dry-run",
                                            "--gpus-per-trial", "1")  # fmt: skip


@pytest.mark.parametrize("first", ["fp32", "bf16"])
def test_what_is_stored_decides_first(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faster_by(9.0 if first == "fp32" else 0.1, monkeypatch)
    monkeypatch.setattr(method_class(METHOD), "half_precision", True)
    monkeypatch.setattr(Runner, "_train", execute_here)
    answer(tmp_path / "s", capsys, "--precision", first)
    assert answer(tmp_path / "s", capsys, "--precision", "auto") == (
        f"Precision: {first}, as in what is stored of this study."
    )
    store = Store.open(str(tmp_path / "s"))
    (row,) = store.trials(store.names("trials")).values()  # nothing was trained again
    assert json.loads(row["recipe_json"])["precision"] == first


def test_what_cannot_be_measured_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faster_by(9.0, monkeypatch)
    monkeypatch.setattr(method_class(METHOD), "half_precision", True)
    monkeypatch.setattr(precision, "measured", lambda *args, **kwargs: None)
    assert answer(tmp_path / "s", capsys, "--precision", "auto", "--dry-run").startswith("Precision: fp32;")
