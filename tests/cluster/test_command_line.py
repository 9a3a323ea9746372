"""Bad input through the whole command line: one sentence with the remedy, exit status 2, nothing trained."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cluster.cli import parse, run
from cluster.ending import BAD_INPUT
from cluster.report.figures import Curve
from cluster.results.store import Store
from cluster.study import Study, grid, joint, uniform
from denoise_core.errors import UserError

STUDY = Study(
    name="test_gamma",
    question="Does it say what is wrong?",
    method="neighbor2neighbor",
    axes=[grid("gamma", [0, 2])],
    plot=Curve(x="gamma"),
)


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.delenv("DENOISE_DATA", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def calling(*arguments: str, study: Study = STUDY) -> tuple[int, str, str]:
        store = () if "--store" in arguments else ("--store", str(tmp_path / "store"))
        status = run(study, ["--budget", "smoke", *store, *arguments])
        printed = capsys.readouterr()
        return status, printed.out, " ".join(printed.err.split())

    return calling


def images(folder: Path, **files: np.ndarray) -> Path:
    folder.mkdir()
    for name, pixels in files.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


GRAY, COLOUR = np.zeros((80, 80), np.uint8), np.zeros((80, 80, 3), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "gama=2"], "neighbor2neighbor has no parameter 'gama': did you mean 'gamma'?"),
        (["--set", "gamma=-1"], "gamma = -1 is not allowed: input should be greater than or equal to 0"),
        (["--set", "gamma=x"], "gamma = 'x' is not allowed: input should be a valid number"),
        (["--set", "features"], "--set features is not understood: it looks like --set gamma=2"),
        (["--set", "features=4,8"], "--set features has 2 values, but features is no axis of this study: give one"),
        (["--seeds", "0"], "--seeds 0 is not allowed: give a whole number of at least 1"),
        (["--cpus-per-trial", "0"], "--cpus-per-trial 0 is not allowed: give a positive number"),
        (["--noise", "gaus25"], "gauss25"),
        (["--train", "train40"], "train400"),
        (["--train", "train400"], "DENOISE_DATA"),
        (["--budget", "paper"], "DENOISE_DATA"),
        (["--data-root", "/nowhere/at/all"], "The data root /nowhere/at/all is not a folder"),
        (["--workers-per-trial", "3"], "A batch of 2 cannot be divided among 3 workers: change the batch size"),
        (["--search", "optuna", "--set", "validation=0"], "none are: add --set validation=12"),
        (["--address", "127.0.0.1"], "--address 127.0.0.1 is no address of a Ray cluster: it looks like HOST:6379"),
        (["--set", "noise_realisation=fresh,frozen"], "noise_realisation is no axis of this study: give one"),
        (["--test", "bundled_test", "--test", "bundled_test"], "Two test sets are called bundled_test"),
        (["--test", "bundled_train"], "is also the training image"),
        (["--set", "patch_size=1024"], "less than the patch of 1024 x 1024"),
    ],
)
def test_bad_input_is_one_sentence(call: Callable[..., Any], arguments: list[str], sentence: str) -> None:
    status, out, err = call(*arguments)
    assert status == BAD_INPUT
    assert err.startswith("error: ") and sentence in err
    assert "Traceback" not in out + err and "done" not in out


def test_an_address_that_does_not_answer(call: Callable[..., Any]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    status, _, err = call("--address", address)
    assert status == BAD_INPUT
    assert f"No Ray cluster answers at {address}" in err and "leave it out to use this machine" in err


def test_folders_that_cannot_be_trained_on(call: Callable[..., Any], tmp_path: Path) -> None:
    truncated = images(tmp_path / "truncated", a=GRAY)
    content = (truncated / "a.png").read_bytes()
    (truncated / "a.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    images(tmp_path / "small", a=GRAY, tiny=GRAY[:40, :40])
    images(tmp_path / "mixed", a=GRAY, b=COLOUR)
    expected = {"truncated": "a.png", "text": "a.png", "empty": "no images", "missing": "missing", "small": "tiny"}
    expected["mixed"] = "--channels"
    for name, sentence in expected.items():
        status, _, err = call("--train", str(tmp_path / name))
        assert status == BAD_INPUT and sentence in err, (name, err)


def test_a_foreign_store_and_damaged_files_are_told(call: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letter.txt").write_text("dear")
    status, _, err = call("--store", str(tmp_path / "foreign"))
    assert status == BAD_INPUT and "holds files but is no results store" in err
    store = Store.open(str(tmp_path / "store"))
    call("--dry-run")
    assert store.names("trials") == []


def test_a_dry_run_shows_the_plan_and_trains_nothing(call: Callable[..., Any], tmp_path: Path) -> None:
    status, out, _ = call("--dry-run", "--seeds", "2")
    assert status == 0
    assert "4 trainings with 2 seeds: 0 stored, 4 to train" in out and "Estimated:" in out
    assert not (tmp_path / "store" / "trials").exists()


def test_a_report_of_nothing_says_so(call: Callable[..., Any], tmp_path: Path) -> None:
    status, out, _ = call("--report-only")
    assert status == 0 and "Nothing can be said yet" in out
    assert len(list((tmp_path / "store" / "reports").glob("*.html"))) == 1


def test_an_axis_without_values_wants_a_search(call: Callable[..., Any]) -> None:
    status, _, err = call(study=replace(STUDY, axes=[uniform("gamma", 0, 20)]))
    assert status == BAD_INPUT and "add --search optuna, or give values with --set gamma=1,2,3" in err


def test_set_replaces_the_values_of_an_axis(call: Callable[..., Any]) -> None:
    _, out, _ = call("--dry-run", "--set", "gamma=1,2,3", "--seeds", "1")
    assert "3 trainings with 1 seed" in out


def test_joint_axes_move_together() -> None:
    study = replace(STUDY, axes=[joint(("gamma", "ramp"), [(2, True), (1, False)]), grid("features", [4, 8])])
    assert len(study.cells()) == 4 and {"gamma": 1, "ramp": False, "features": 8} in study.cells()


def test_defaults_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    options = parse(STUDY, [])
    assert (options.budget, options.seeds, options.workers, options.cpus, options.gpus) == (
        "laptop",
        (0, 1, 2),
        1,
        1,
        0,
    )
    on_gpus = parse(STUDY, ["--gpus-per-trial", "0.5", "--workers-per-trial", "2"])
    assert (on_gpus.budget, on_gpus.gpus, on_gpus.cpus) == ("gpu", 0.5, 2)
    with pytest.raises(UserError, match="--gpus-per-trial -1 is not allowed"):
        parse(STUDY, ["--gpus-per-trial", "-1"])


def test_a_name_in_the_message_of_a_plan_is_not_markup(call: Callable[..., Any]) -> None:
    _, out, _ = call("--dry-run", "--seeds", "1")
    assert "bundled_train[:-2]" in out and json.dumps(out)


def test_the_same_value_twice_is_one_setting(call: Callable[..., Any]) -> None:
    _, out, _ = call("--dry-run", "--set", "gamma=2,2.0", "--seeds", "1")
    assert "1 training with 1 seed" in out


@pytest.mark.parametrize(("flags", "count"), [((), 3), (("--references", "all"), 4), (("--references", "none"), 2)])
def test_a_small_budget_trains_the_first_reference_only(
    call: Callable[..., Any], flags: tuple[str, ...], count: int
) -> None:
    _, out, _ = call("--dry-run", "--seeds", "1", *flags, study=replace(STUDY, references=["n2c", "n2n"]))
    assert f"{count} trainings with 1 seed" in out
