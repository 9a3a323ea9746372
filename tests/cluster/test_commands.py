"""The command line of stores: what is listed, shown, compared and removed, and how bad input is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import commands
from cluster.commands import discovered, logs, main, show
from cluster.console import Console
from cluster.results.schema import FAILED
from cluster.results.statistics import paired_difference
from cluster.results.store import Store
from cluster.watching import stored
from denoise_core.errors import UserError
from denoise_core.specification import EVALUATION_FIELDS
from tests.cluster.stores_toys import answers, curve, filled, measured, row, write

ARGUMENTS = {
    "ls": [],
    "show": ["ab"],
    "logs": ["ab"],
    "compare": ["ab", "cd"],
    "gc": [],
    "dashboard": ["--no-open"],
}
"""The commands that look at a store, with the least that each wants."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled(tmp_path / "s")


@pytest.fixture
def place(store: Store) -> list[str]:
    return ["--store", store.location]


# ---- all commands ----


@pytest.mark.parametrize("name", sorted(discovered()))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert discovered()[name].partition("\n")[0].split()[0] in capsys.readouterr().out


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert set(ARGUMENTS) <= set(discovered()) and all(name in text for name in discovered())


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_store_that_is_not_there_is_refused_and_not_made(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    for missing in ("none", "full"):
        status, out, err = answers(capsys, name, *ARGUMENTS[name], "--store", str(tmp_path / missing))
        assert status == 2 and not out and err.count("\n") == 1
        assert f"There is no results store at {tmp_path / missing}: pass --store" in err
    assert not (tmp_path / "none").exists() and len(list((tmp_path / "full").iterdir())) == 1


@pytest.mark.parametrize("name", sorted(set(ARGUMENTS) - {"dashboard"}))
def test_an_empty_store_is_no_trouble(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store.open(str(tmp_path / "s"))
    status, out, err = answers(capsys, name, *ARGUMENTS[name], "--store", str(tmp_path / "s"))
    assert (out + err).count("\n") == 1 and status == (2 if ARGUMENTS[name] else 0)
    assert "holds no trainings yet" in out or "holds none yet" in err or "nothing to remove" in out


def test_a_store_of_another_version_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store.open(str(tmp_path / "s")).files.write("store.json", b'{"version": 99}')
    status, _, err = answers(capsys, "ls", "--store", str(tmp_path / "s"))
    assert status == 2 and "has version 99" in err
    (tmp_path / "s" / "store.json").write_text("[]")
    status, _, err = answers(capsys, "ls", "--store", str(tmp_path / "s"))
    assert status == 2 and "cannot be read" in err


def test_looking_leaves_no_trace(store: Store, place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def files() -> dict[str, int]:
        return {str(one): one.stat().st_mtime_ns for one in Path(store.location).rglob("*")}

    before = files()
    for arguments in (["ls"], ["ls", "toy"], ["show", "a0"], ["compare", "a0", "b0"], ["gc", "--dry-run"]):
        assert main([*arguments, *place]) == 0
    assert files() == before


def test_interruption_has_its_own_exit_status(monkeypatch: pytest.MonkeyPatch, place: list[str]) -> None:
    def interrupted(flags: Namespace, console: Console) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("cluster.commands.ls.run", interrupted)
    assert main(["ls", *place]) == 130


def test_commands_are_found_by_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hello.py").write_text(
        '"""Say 100% of it.\n\nMore."""\ndef configure(parser): parser.add_argument("name")\n'
        "def run(flags, console):\n    console.say(flags.name)\n    return 7\n"
    )
    (tmp_path / "_helper.py").write_text("raise RuntimeError")
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    assert answers(capsys, "hello", "you") == (7, "you\n", "")
    assert discovered()["hello"] == "Say 100% of it.\n\nMore." and "_helper" not in discovered()
    sys.modules.pop("cluster.commands.hello")


def test_listing_loads_nothing_that_is_slow(place: list[str]) -> None:
    code = (
        "import sys; from cluster.commands import main; main(sys.argv[1:]);"
        "print([one for one in ('torch', 'ray', 'plotly', 'scipy', 'optuna') if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, "ls", *place], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_names_that_are_written_twice_to_spare_loading_are_the_same() -> None:
    assert show.EVALUATION_FIELDS == EVALUATION_FIELDS


# ---- ls ----


def test_studies_are_listed_with_their_counts(place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = answers(capsys, "ls", *place)
    head, line = out.splitlines()
    assert status == 0 and head.split()[0] == "study"
    assert line.split()[:8] == ["toy", "n2c,", "neighbor2neighbor", "smoke", "4", "1", "1", "2"]
    assert line.split()[8] == "6.00"  # hours
    (listed,) = json.loads(answers(capsys, "ls", "--json", *place)[1])
    assert listed["methods"] == ["n2c", "neighbor2neighbor"] and listed["failed"] == 1
    assert listed["finished_at"].startswith("2026-01-01T18:00:00")


def test_what_another_training_did_is_counted_once(
    store: Store, place: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write(store, row("e" * 16, study="other", train_s=3600.0, shared_s=1800.0))
    listed = json.loads(answers(capsys, "ls", "--json", *place)[1])
    assert {one["study"]: one["train_hours"] for one in listed} == {"toy": 6.0, "other": 0.5}


def test_trainings_are_listed_by_what_tells_them_apart(place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = answers(capsys, "ls", "toy", *place)[1].splitlines()
    assert len(lines) == 7 and "lr" not in "".join(lines)
    assert lines[1].startswith("a0000000  neighbor2neighbor: gamma = 0     0  done      25.00 dB   1 h 0 min")
    assert "n2c" in lines[5] and "failed" in lines[5]
    one = json.loads(answers(capsys, "ls", "toy", "--json", "--status", FAILED, *place)[1])
    assert [(each["trial_id"][:2], each["objective"], each["error"]) for each in one] == [
        ("c0", None, "RuntimeError: no")
    ]
    last = answers(capsys, "ls", "toy", "--limit", "1", *place)[1]
    assert last.count("\n") == 2 and "gamma = 9" in last


def test_bad_input_of_ls(place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'toy'?" in answers(capsys, "ls", "toi", *place)[2]
    assert "at least 1" in answers(capsys, "ls", "--limit", "0", *place)[2]


def test_lines_stay_whole_however_wide(store: Store, place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write(store, row("e" * 16, study="a_study_with_a_long_name" * 8))
    assert len(answers(capsys, "ls", *place)[1].splitlines()) == 3


def test_noise_budget_and_steps_tell_trainings_apart_where_they_must(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s"))
    write(store, row("a" * 16, data={"noise": "gauss25"}, number=0))
    write(store, row("b" * 16, data={"noise": "poisson30"}, number=1))
    write(store, row("c" * 16, data={"noise": "poisson30"}, number=2, total_steps=200))
    write(store, row("d" * 16, data={"noise": "gauss25"}, number=3, budget="gpu"))
    assert stored.labels(stored.read_trials(store)) == [
        "noise = gauss25, budget = smoke",
        "noise = poisson30, steps = 100",
        "noise = poisson30, steps = 200",
        "noise = gauss25, budget = gpu",
    ]


# ---- show ----


def test_a_training_is_shown_with_its_means_beside_the_noisy_input(
    place: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = answers(capsys, "show", "a0", *place)
    assert status == 0 and out.startswith("neighbor2neighbor: gamma = 0, seed 0, of toy (smoke)")
    assert "gamma=0" in out and "noise=gauss25" in out and "1 h 0 min of training" in out
    assert "test_set (4)  noisy             21.50 dB" in out and "test_set (4)  denoised          27.50 dB" in out
    assert "RuntimeError: no" in answers(capsys, "show", "c0", *place)[1]


def test_each_evaluation_is_shown_beside_the_noise_that_it_saw(
    store: Store, place: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    store.write_trial(row("e" * 16), [], {})
    evaluations = [(1.0, "gauss25", 20.0), (0.5, "gauss25", 20.0), (0.5, "gauss50", 14.0)]
    for number, (mixed, noise, noisy) in enumerate(evaluations):
        params = json.dumps({"mix": mixed, "test_noise": noise, "same": 1})
        store.write_evaluation(
            f"{'e' * 16}-{number}", (measured("e" * 16, [30.0 + number], noisy, params_json=params), [])
        )
    lines = answers(capsys, "show", "ee", *place)[1].splitlines()[-5:]
    assert [line.split("(1)  ")[1].split("  ")[0] for line in lines] == [
        "noisy: test_noise = gauss25",
        "noisy: test_noise = gauss50",
        "denoised: mix = 0.5, test_noise = gauss25",
        "denoised: mix = 0.5, test_noise = gauss50",
        "denoised: mix = 1, test_noise = gauss25",
    ]
    assert [line.split()[-2] for line in lines] == ["20.00", "14.00", "31.00", "32.00", "30.00"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("9", "No training's id begins with '9'"),
        ("a", "a0000000 (neighbor2neighbor: gamma = 0, seed 0), a1000000 (neighbor2neighbor: gamma = 0, seed 1)"),
        ("", "begins the ids of 6 trainings"),
    ],
)
def test_an_id_that_is_none_or_several_is_refused(
    given: str, reason: str, place: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = answers(capsys, "show", given, *place)
    assert status == 2 and reason in err


def test_phases_say_who_trained_them(store: Store, place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    first, second = curve("e" * 16, {10: 20.0}, "first"), curve("e" * 16, {20: 21.0}, "second")
    own = curve("e" * 16, {30: 22.0}, "third")
    store.write_trial(row("e" * 16, shared_s=60.0), first + second + own, {})
    common = {"method": "neighbor2neighbor", "seed": 0, "study": "toy", "steps": 10, "train_s": 60.0}
    for number, (owner, points) in enumerate((("b" * 16, first), ("e" * 16, second))):
        phase = points[0]["phase"]
        record = {"phase_id": f"p{number}", "trial_id": owner, "phase": phase, "curves_json": json.dumps(points)}
        store.write("phases", f"p{number}", [{**common, **record}])
    out = answers(capsys, "show", "ee", *place)[1]
    assert "taken from bbbbbbbb" in out and "trained here, others may share it" in out
    assert "trained here, for this training alone" in out and "1 min of it by another training" in out


# ---- logs ----


def test_logs_of_stored_and_running_trainings(
    store: Store, place: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere.log").write_text("step 1 [bold] :smile:\n")
    write(store, row("e" * 16, log_path=str(tmp_path / "elsewhere.log")))
    folder = Path(store.location) / "logs"
    folder.mkdir()
    (folder / "9876543210.log").write_text("running\n")
    (folder / "9876543210-rank1.log").write_text("the other rank\n")
    (folder / ("a0" + "0" * 14 + ".log")).write_text("moved along with the store\n")
    assert answers(capsys, "logs", "ee", *place) == (0, "step 1 [bold] :smile:\n", "")
    assert answers(capsys, "logs", "98", *place) == (0, "running\n", "")
    assert answers(capsys, "logs", "a0", *place) == (0, "moved along with the store\n", "")
    status, _, err = answers(capsys, "logs", "b0", *place)
    assert status == 2 and "is not there any more" in err
    (folder / "a0beef.log").write_text("")
    assert "begins the ids of several trainings" in answers(capsys, "logs", "a0", *place)[2]


def test_logs_of_a_remote_store_lie_on_the_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store = Store.open("mock:///bucket/store")
    with pytest.raises(UserError, match=r"on its node, in ~/.denoise-studies/logs"):
        logs._path(store, "ab")
    write(store, row("e" * 16, log_path="/home/somebody/.denoise-studies/logs/e.log"))
    with pytest.raises(UserError, match=r"on the node that trained it, at /home/somebody/.denoise-studies/logs/e.log"):
        logs._path(store, "ee")


def test_a_log_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, told = tmp_path / "a.log", list[str]()
    path.write_text("one\n")
    steps = iter(["two\n", None, "anew\n"])

    def over() -> bool:
        text = next(steps, "end")
        if text == "end":
            return True
        if text is None:
            path.write_text("")
        else:
            path.open("a").write(text)
        return False

    monkeypatch.setattr(logs, "POLL_S", 0.0)
    logs.follow(path, told.append, over)
    assert told == ["one\n", "two\n", "anew\n"]


# ---- compare ----


def test_a_difference_is_paired_over_seeds_and_images(place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = answers(capsys, "compare", "a0", "b1", *place)
    first = np.array([[26.0 + seed + image for image in range(4)] for seed in (0, 1)])
    second = first - 0.5 - 0.01 * np.arange(4)
    found = paired_difference(first, second)
    assert status == 0 and not err
    assert f"A - B: {found.mean:+.2f} dB, 95% interval [{found.low:+.2f}, {found.high:+.2f}]" in out
    assert "2 seeds × 4 images: A is better." in out and "noisy input" in out and "21.50 dB" in out
    assert "neighbor2neighbor: gamma = 0" in out and "neighbor2neighbor: gamma = 2" in out
    assert "B is better" in answers(capsys, "compare", "bb", "aa", *place)[1]  # beginnings of settings


def test_what_cannot_be_told_apart_is_called_that(
    store: Store, place: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write(store, {**row("e" * 16, seed=0), "group_id": "e" * 16}, [25.0, 28.0, 27.5, 29.5])
    _, out, err = answers(capsys, "compare", "a0", "ee", *place)
    assert "1 seed × 4 images: the two cannot be told apart." in out
    assert "One seed says nothing" in err and "seeds 1" in err
    alone = answers(capsys, "compare", "a0", "b0", "--one-seed", *place)[1]
    assert "1 seed × 4 images: this training of A is better." in alone


@pytest.mark.parametrize(
    ("changes", "values", "more", "reason"),
    [
        ({"data": {"noise": "poisson30"}}, [1.0] * 4, {}, "The test noise differs, a0: gauss25, ee: poisson30"),
        ({"data": {"window": "chest"}}, [1.0] * 4, {}, "The data differ in window, a0: none, ee: chest"),
        ({}, [1.0] * 4, {"dataset": "other_set"}, "The test images differ, a0: test_set; ee: other_set"),
        ({}, [1.0] * 3, {}, "The test images differ: 3 are shared, 3 of test_set and 0 more"),
        ({}, [1.0] * 4, {"noisy": 20.1}, "The noisy inputs of a0 and ee differ though their names agree"),
        ({}, [1.0] * 4, {"protocol": "iscl"}, "ee has no psnr of its denoised images by the protocol canonical"),
        ({"seed": 7}, [1.0] * 4, {}, "no seed in common (0, 1 and 7)"),
        ({"status": FAILED}, [], {}, "ee has no finished training to compare (seed 0 failed)"),
        ({}, [1.0, 1.0, 1.0, float("nan")], {}, "cannot be compared"),
    ],
)
def test_what_was_not_measured_alike_is_not_compared(
    changes: dict[str, Any],
    values: list[float],
    more: dict[str, Any],
    reason: str,
    store: Store,
    place: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(store, row("e" * 16, **changes), values, **more)
    status, _, err = answers(capsys, "compare", "a0", "ee", *place)
    assert status == 2 and reason in err


def test_one_of_several_evaluations_is_chosen(
    store: Store, place: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    store.write_trial(row("e" * 16), [], {})
    for digits, mixed, value in (("11111111", 0.5, 26.0), ("22222222", 1.0, 27.0)):
        rows = measured("e" * 16, [value + image for image in range(4)], params_json=json.dumps({"mix": mixed}))
        store.write_evaluation(f"{'e' * 16}-{digits}", (rows, []))
    status, _, err = answers(capsys, "compare", "ee", "a0", *place)
    assert status == 2 and "ee has 2 evaluations of the same training: choose one of --set mix=0.5; --set mix=1." in err
    assert "A - B: +0.00 dB" in answers(capsys, "compare", "ee", "a0", "--set", "mix=0.50", *place)[1]
    assert "A - B: +1.00 dB" in answers(capsys, "compare", "ee", "a0", "--set", "mix=1", *place)[1]
    both = answers(capsys, "compare", "ee-2", "ee-1", *place)[1]
    assert "A - B: +1.00 dB" in both and "mix = 1" in both and "mix = 0.5" in both
    assert "was not evaluated with mix = 3" in answers(capsys, "compare", "ee", "a0", "--set", "mix=3", *place)[2]
    assert "it is not chosen at inference" in answers(capsys, "compare", "a0", "b0", "--set", "lr=3", *place)[2]
    assert "looks like --set gamma=0.5" in answers(capsys, "compare", "a0", "b0", "--set", "lr", *place)[2]
    assert "no such evaluation" in answers(capsys, "compare", "ee-9", "a0", *place)[2]


def test_sets_of_test_images_have_an_interval_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(str(tmp_path / "s"))
    for name, shift in (("a" * 16, 0.0), ("b" * 16, 1.0)):
        rows = [one for names in ("one", "two") for one in measured(name, [25.0 - shift, 26.0 - shift], dataset=names)]
        store.write_trial(row(name), [], {f"{name}-0": (rows, [])})
    out = answers(capsys, "compare", "aa", "bb", "--store", store.location)[1]
    assert out.count("A - B: +1.00 dB") == 2 and "All 2 intervals hold together" in out
