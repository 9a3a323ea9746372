"""Stores that were not trained: a few rows that look as if they had been."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.commands import main
from cluster.results.schema import DONE, FAILED, PRUNED
from cluster.results.store import Evaluated, Store

BEGAN = datetime(2026, 1, 1, 12, tzinfo=UTC)
DATA = {"train": "train_set", "test": ["test_set"], "noise": "gauss25", "window": "", "channels": 1, "repeats": 1}


def row(name: str, **values: Any) -> dict[str, Any]:
    """A trial's row; ``config`` and ``data`` as dictionaries, ``number`` says when it ended."""
    config = {"lr": 0.001, **values.pop("config", {})}
    data = {**DATA, **values.pop("data", {})}
    number = values.pop("number", 0)
    return {
        "trial_id": name,
        "group_id": f"f{name[1:]}",
        "study": "toy",
        "method": "neighbor2neighbor",
        "config_json": json.dumps(config),
        "data_json": json.dumps(data),
        "recipe_json": json.dumps({"steps": 100, "config": {}, "precision": "fp32"}),
        "seed": 0,
        "budget": "smoke",
        "status": DONE,
        "error": "",
        "log_path": "",
        "objective": 25.0,
        "steps": 100,
        "total_steps": 100,
        "parameters": 1234,
        "workers": 1,
        "device": "cpu",
        "train_s": 3600.0,
        "shared_s": 0.0,
        "eval_s": 5.0,
        "wall_s": 3610.0,
        "peak_memory_mb": 500.0,
        "attempts": 1,
        "started_at": BEGAN + timedelta(hours=number),
        "finished_at": BEGAN + timedelta(hours=number + 1),
        "manifest_id": "m",
        **values,
    }


def measured(name: str, values: Sequence[float], noisy: float = 20.0, **more: Any) -> list[dict[str, Any]]:
    """PSNR of images 0, 1, ..., denoised as given and noisy ``noisy + number``."""
    common = {
        "trial_id": name,
        "phase": "train",
        "params_json": "{}",
        "dataset": "test_set",
        "repeat": 0,
        "metric": "psnr",
        "protocol": "canonical",
        **more,
    }
    outputs = (("denoised", values), ("noisy", [noisy + number for number in range(len(values))]))
    return [
        {**common, "output": output, "image_id": str(number), "value": value}
        for output, several in outputs
        for number, value in enumerate(several)
    ]


def curve(name: str, values: Mapping[int, float], phase: str = "train") -> list[dict[str, Any]]:
    """The validation PSNR by step."""
    points = sorted(values.items())
    return [
        {"trial_id": name, "phase": phase, "step": step, "name": "validation_psnr", "value": value}
        for step, value in points
    ]


def write(store: Store, trial: Mapping[str, Any], values: Sequence[float] = (), **more: Any) -> None:
    """A trial with its curve and, where it was measured, one evaluation."""
    name = str(trial["trial_id"])
    evaluations: dict[str, Evaluated] = {f"{name}-00000000": (measured(name, values, **more), [])} if values else {}
    store.write_trial(trial, curve(name, {50: 24.0, 100: 25.0}), evaluations)


def filled(path: Path) -> Store:
    """Two settings with two seeds each, ``a...`` and ``b...``, a reference that failed, and a setting pruned."""
    store = Store.open(str(path))
    for number, (letter, gamma) in enumerate((("a", 0.0), ("b", 2.0))):
        for seed in (0, 1):
            name = f"{letter}{seed}" + "0" * 14
            one = row(name, seed=seed, config={"gamma": gamma}, number=2 * number + seed, objective=25.0 + number)
            values = [26.0 + seed + image - number * (0.5 + 0.01 * image) for image in range(4)]
            write(store, {**one, "group_id": letter * 16}, values)
    failed = row("c0" + "0" * 14, method="n2c", status=FAILED, error="RuntimeError: no", objective=None, number=4)
    write(store, failed)
    write(store, row("d0" + "0" * 14, status=PRUNED, config={"gamma": 9.0}, objective=21.0, number=5))
    return store


def answers(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and complaints of a command."""
    status = main(arguments)
    seen = capsys.readouterr()
    return status, seen.out, seen.err
