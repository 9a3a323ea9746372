"""Recorded and transductive images through the command line, a training and its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.cli import parse, run
from cluster.console import Console
from cluster.ending import BAD_INPUT
from cluster.execution.one_training import Ended, Training
from cluster.plan import task_of
from cluster.report.collect import TRANSDUCTIVE
from cluster.results.store import Store
from cluster.runner import Runner
from cluster.study import Study, grid
from denoise_core.trainer import Ranks
from tests.core.test_recorded import write_pairs

STUDY = Study(name="toy", question="?", method="neighbor2neighbor", axes=[grid("gamma", [2])])


class Silent:
    def report(self, step: int, rung: int | None = None, value: float | None = None) -> str:
        return "go"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The arguments of a call on recorded pairs, with others."""
    monkeypatch.delenv("DENOISE_DATA", raising=False)
    train, test = write_pairs(tmp_path / "train", "abcd"), write_pairs(tmp_path / "test", "ef")
    usual = ["--budget", "smoke", "--store", str(tmp_path / "store"), "--seeds", "1", "--noise", "recorded"]
    usual += ["--references", "none", "--test", str(test)]
    return lambda *others, train=train: [*usual, "--train", str(train), *others]


def test_recorded_pairs_simply_work(call: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(STUDY, call("--dry-run")) == 0
    assert "images train[:-1] (3), test test (2); noise recorded." in capsys.readouterr().out


def test_single_noisy_images_train_without_validation(call: Callable[..., list[str]], tmp_path: Path) -> None:
    arguments = call(train=tmp_path / "train" / "noisy")
    runner = Runner(STUDY, parse(STUDY, arguments), "toy", Console())
    (trial,) = runner.planner.grid((0,))
    training = Training(task_of([trial]), "toy", "smoke", runner.store, Ranks(), torch.device("cpu"))
    assert training.run(runner.data[0], Silent()) is Ended.DONE  # type: ignore[arg-type]
    store = Store.open(str(tmp_path / "store"))
    rows = store.read("measurements", [trial.spec.evaluation_id]).to_pylist()
    assert {row["image_id"] for row in rows} == {"e", "f"}
    assert not [row for row in store.read("curves", [trial.spec.trial_id]).to_pylist() if "validation" in row["name"]]


def test_a_search_over_single_noisy_images_asks_for_pairs(
    call: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = call("--search", "optuna", train=tmp_path / "train" / "noisy")
    assert run(STUDY, arguments) == BAD_INPUT
    said = " ".join(capsys.readouterr().err.split())
    assert "none are: add --criterion auto, or pairs with --set validation_set=..." in said


@pytest.mark.parametrize("setting", ["transductive=true", "transductive=false"])
def test_a_transductive_study_says_so(
    call: Callable[..., list[str]], tmp_path: Path, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train = tmp_path / ("test" if setting.endswith("true") else "train")
    assert run(STUDY, call("--report-only", "--set", setting, train=train)) == 0
    (page,) = (tmp_path / "store" / "reports").glob("*.html")
    printed = " ".join("".join(capsys.readouterr()).split())
    assert [TRANSDUCTIVE in text for text in (page.read_text(), printed)] == [setting.endswith("true")] * 2


def test_correlated_noise_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[Any]) -> None:
    arguments = ["--budget", "smoke", "--store", str(tmp_path / "store"), "--seeds", "2", "--dry-run"]
    for noise, count in (("film", 1), ("gauss25", 0)):
        axes = [grid("gamma", [0, 2])]
        study = Study(name="toy", question="?", method="neighbor2neighbor", axes=axes)
        assert run(study, [*arguments, "--noise", noise, "--references", "none"]) == 0
        printed = " ".join("".join(capsys.readouterr()).split())
        assert printed.count("neighbor2neighbor takes it as independent from pixel to pixel") == count
