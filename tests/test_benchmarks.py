"""The suite of benchmarks: what it compares, what it keeps, its page."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks import __main__ as suite
from benchmarks import harness, history, machine
from benchmarks.cases.training import TIMED
from benchmarks.cases.workers import together
from benchmarks.harness import Comparison, Result, compare, exponent
from benchmarks.page import growth, page
from benchmarks.study_time import figures, told
from cluster.announcement import RAY_S
from cluster.cli import run as run_study
from cluster.results.store import Store
from cluster.runner import Runner
from denoise_core.method import method_class, outline
from tests.cluster.test_every_study import execute_here, study


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "MEASURED_S", 0.01)
    monkeypatch.setattr(machine, "TRIES", 1)


def busy(turns: int) -> float:
    return sum(number**0.5 for number in range(turns))


def test_the_ratio_tells_which_is_faster() -> None:
    one = Comparison("sums", "ten times as many", lambda: (lambda: busy(200_000), lambda: busy(20_000)))
    found = compare("toy", one, rounds=5, device="cpu")
    assert found.ratio is not None and found.low is not None and found.high is not None
    assert 4 < found.ratio < 25 and found.low <= found.ratio <= found.high
    assert found.reference_ms is not None and found.ours_ms is not None and found.reference_ms > found.ours_ms
    assert found.share_of_peak is None


def test_growth_in_proportion_has_the_exponent_one() -> None:
    assert exponent([10, 100, 1000], [0.3, 3.0, 30.0]) == pytest.approx(1)
    assert exponent([10, 100], [1.0, 100.0]) == pytest.approx(2)


def test_every_group_has_cases_with_names_of_their_own() -> None:
    names = []
    for group in harness.groups():
        found = [*harness.comparisons(group, "cpu"), *harness.curves(group)]
        assert found, group
        names += [(group, one.name) for one in found]
    assert len(set(names)) == len(names)


def test_every_published_method_has_its_steps_timed() -> None:
    assert set(TIMED) == {"neighbor2neighbor", "gan2gan", "dbsn", "danet", "iscl"}
    for method, phases in TIMED.items():  # names of phases that there are
        small = method_class(method).recipes["smoke"].config
        assert set(phases) <= {phase.name for phase in outline(method, small, 1).phases()}
    names = [one.name for one in harness.comparisons("training", "cpu")]
    for method, phases in TIMED.items():
        assert all(any(name.startswith(f"{method} {phase},") for name in names) for phase in phases)


def test_every_training_step_can_be_made_and_run() -> None:
    for one in harness.comparisons("training", "cpu"):
        if "laptop" in one.name and "fp32" in one.name:
            for call in one.make():
                call()


def test_runs_are_kept_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--history", str(tmp_path / "h"), "--page", str(tmp_path / "page.html")]
    command = ["parts", "--only", "sub-sampler (4, 1", "--rounds", "2", *where]
    assert suite.main(command) == 0 and suite.main(command) == 0
    assert "times as fast" in capsys.readouterr().out
    rows = history.read(tmp_path / "h")
    assert len(rows) == 2 and rows["run"].nunique() == 2 and set(rows["group"]) == {"parts"}
    assert (rows["ratio"] > 0).all() and rows["device"].nunique() == 1
    text = (tmp_path / "page.html").read_text()
    assert "sub-sampler (4, 1, 64, 64)" in text and "boolean masks" in text
    assert suite.main(["--page-only", *where]) == 0


def test_the_page_says_which_goals_are_missed_and_how_work_grows(tmp_path: Path) -> None:
    run = history.Run("a", "2026-01-01 00:00:00", "c" * 40, False, "a machine", "2.13")
    results = [
        Result("training", "fast", "a plain way", None, 30.0, 10.0, 3.0, 2.9, 3.1, 2.5, 5, 0.7),
        Result("training", "slow", "a plain way", None, 11.0, 10.0, 1.1, 1.0, 1.2, 1.5, 5),
        *(Result("images", "reading", "images", size, ours_ms=0.1 * size, memory_mb=3.0) for size in (10, 100)),
    ]
    history.keep(tmp_path, run, results)
    rows = history.read(tmp_path)
    text = page(rows, "a machine")
    assert "1 of 2 goals are reached" in text and "1.5, missed" in text and "70 %" in text
    (line,) = growth(rows[rows["group"] == "images"])
    assert line[0] == "reading" and "exponent 1.00" in line[1] and line[3] == "3 MiB"
    assert line[2].startswith("10 to 100 images")


def test_a_study_tells_what_it_will_take_and_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Runner, "_train", execute_here)
    began, store = time.time(), tmp_path / "store"
    flags = ["--budget", "smoke", "--seeds", "2", "--references", "none", "--store", str(store)]
    assert run_study(study("neighbor2neighbor_gamma"), flags) == 0
    printed, wall = capsys.readouterr().out, time.time() - began
    assert RAY_S <= told(printed) < RAY_S + 60
    found = figures(store, printed, began, wall, cores=1)
    rows = Store.open(str(store)).trials(Store.open(str(store)).names("trials")).values()
    assert found["trainings"] == len(rows) > 1
    assert found["ratio"] == pytest.approx(wall / sum(one["train_s"] for one in rows), rel=0.01)
    parts = found["start"] + found["evaluation"] + found["between"] + found["end"]
    assert parts == pytest.approx(wall - sum(one["train_s"] for one in rows), abs=0.4)


def test_workers_that_share_a_training_are_measured_together() -> None:
    (one, of_one), (two, of_two) = together(1), together(2)
    assert 0.5 * one < two < 10 * one and 1.2 * of_one < of_two < 3 * of_one


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["nothing"], "no group nothing: use"), (["--rounds", "0"], "at least 1"), (["--page-only"], "holds no results")],
)
def test_bad_input(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        suite.main([*arguments, "--history", str(tmp_path)])
    assert said in capsys.readouterr().err
