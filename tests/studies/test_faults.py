"""Whatever dies, the same command goes on, repeats nothing that is finished, and every value is the same."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest

from cluster.cli import run
from cluster.execution.suggestions import STARTUP
from cluster.runner import Runner
from tests.cluster.test_every_study import execute_here, study

from .conftest import ROOT, Cluster, environment
from .hosts import Hosts

SCRIPT = "neighbor2neighbor_gamma.py"
LONG = ("--steps", "200", "--seeds", "2", "--set", "gamma=0,2,8", "--references", "none")
COUNT = 6

FAILING = """
from cluster.report.figures import Curve
from cluster.study import Study, joint
study = Study(
    name="failing", question="What do failures cost?", method="neighbor2neighbor", plot=Curve(x="gamma"),
    axes=[joint(("gamma", "features"), [(2, 4), (1e300, 4), (2, 1000000)])],
)
if __name__ == "__main__":
    study.main()
"""


def values(store: Path) -> pd.DataFrame:
    rows = pd.read_parquet(store / "measurements")
    return rows.sort_values(list(rows.columns)).reset_index(drop=True)


def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    """Waits until ``ready``, reading on so that the pipe does not fill."""
    assert process.stdout is not None
    threading.Thread(target=process.stdout.read, daemon=True).start()
    for _ in range(2400):
        if ready() or process.poll() is not None:
            break
        time.sleep(0.1)
    assert process.poll() is None, "the study ended before it could be disturbed"


def finished(store: Path) -> int:
    folder = store / "trials"
    return len(list(folder.glob("*.parquet"))) if folder.exists() else 0


def workers(store: Path) -> dict[str, int]:
    """The process that last began each training."""
    found = {path.stem: re.findall(r"process (\d+) on", path.read_text()) for path in (store / "logs").glob("*.log")}
    return {trial: int(processes[-1]) for trial, processes in found.items() if processes}


def running_worker(store: Path, before: dict[str, int]) -> int:
    """The process of a training that began after ``before`` was taken and is not stored yet, 0 where there is none.

    The workers of a driver that was killed may live a little longer than what they held, so that they do not count.
    """
    for trial, process in workers(store).items():
        if process != before.get(trial) and not (store / "trials" / f"{trial}.parquet").exists():
            return process
    return 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same trainings one after the other in this process, without Ray."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DENOISE_DATA", raising=False)
        patch.setattr(Runner, "_train", execute_here)
        assert run(study(Path(SCRIPT).stem), ["--budget", "smoke", *LONG, "--store", str(store)]) == 0
    return store


@pytest.mark.timeout(600)
def test_ctrl_c_kill_9_of_a_worker_and_of_the_driver(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = (*LONG, "--store", str(store))

    process = cluster.start(SCRIPT, *command)
    wait_for(process, lambda: finished(store) >= 1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    after_interruption = {path: path.stat().st_mtime_ns for path in (store / "trials").iterdir()}
    assert 1 <= len(after_interruption) < COUNT
    saved = list((store / "checkpoints").glob("*/step-*"))
    assert saved, "a training that is stopped saves where it is"
    cluster.assert_free()

    process = cluster.start(SCRIPT, *command)
    wait_for(process, lambda: finished(store) > len(after_interruption))
    process.kill()
    process.wait()
    cluster.assert_free()

    before = workers(store)
    process = cluster.start(SCRIPT, *command)
    wait_for(process, lambda: bool(running_worker(store, before)))
    os.kill(running_worker(store, before), signal.SIGKILL)
    assert process.wait(timeout=240) == 0

    assert finished(store) == COUNT
    for path, written in after_interruption.items():
        assert path.stat().st_mtime_ns == written, "a finished trial was trained again"
    pd.testing.assert_frame_equal(values(store), values(undisturbed), check_exact=True)
    assert pd.read_parquet(store / "trials")["attempts"].max() == 2
    assert not list((store / "checkpoints").glob("*"))
    cluster.assert_free()


@pytest.mark.timeout(600)
def test_a_node_that_leaves_and_is_unplugged(undisturbed: Path, tmp_path: Path) -> None:
    if reason := Hosts.why_not():
        pytest.skip(reason)
    store = tmp_path / "store"
    command = [sys.executable, str(ROOT / "studies" / SCRIPT), "--budget", "smoke", *LONG, "--store", str(store)]
    # sockets need short paths
    with tempfile.TemporaryDirectory(prefix="h-", dir="/tmp") as folder, Hosts(Path(folder) / "h", 2) as hosts:
        hosts.start_head()
        for node in (1, 2):
            hosts.start_node(node)
        hosts.wait_for_nodes(3)
        command += ["--address", hosts.head_address]

        process = hosts.run(0, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_for(process, lambda: finished(store) >= 1)
        hosts.drain_node(1, 10)
        wait_for(process, lambda: finished(store) >= 3)
        hosts.kill_node(1)
        hosts.start_node(1)
        assert process.wait(timeout=300) == 0
        hosts.assert_free()
    pd.testing.assert_frame_equal(values(store), values(undisturbed), check_exact=True)
    rows = pd.read_parquet(store / "trials")
    assert len(rows) == COUNT and set(rows["status"]) == {"done"}
    assert not list((store / "checkpoints").glob("*")) and not list((store / "leases").glob("*.json"))


def test_two_workers_give_the_result_of_one(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    one = ("--steps", "200", "--seeds", "1", "--set", "gamma=0", "--references", "none", "--store", str(store))
    cluster.run(SCRIPT, *one, "--workers-per-trial", "2", "--cpus-per-trial", "2")
    assert pd.read_parquet(store / "trials")["workers"].tolist() == [2]
    keys = ["trial_id", "dataset", "image_id", "output", "metric", "protocol"]
    both = values(undisturbed).merge(values(store), on=keys, suffixes=("_one", "_two"))
    assert len(both) == len(values(store)) > 0
    # 200 steps amplify the different order of additions; tests/core/test_trainer.py compares the weights
    assert (both["value_one"] - both["value_two"]).abs().max() < 0.2
    cluster.assert_free()


def test_failures_are_recorded_and_the_study_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    script, store = tmp_path / "failing.py", tmp_path / "store"
    script.write_text(FAILING)
    printed = cluster.run(script, "--seeds", "1", "--store", str(store), expect=1)
    rows = pd.read_parquet(store / "trials").set_index("status")
    assert sorted(rows.index) == ["done", "failed", "failed"]
    errors = " ".join(rows.loc["failed", "error"])
    assert "became inf at step" in errors and "memory" in errors
    for path in rows.loc["failed", "log_path"]:
        assert "Traceback" in Path(path).read_text() and path in printed
    page = next((store / "reports").glob("*.html")).read_text()
    assert "became inf at step" in page and rows.loc["failed", "log_path"].iloc[0] in page
    cluster.assert_free()


def test_a_search_prunes_is_continued_and_leaves_nothing_behind(cluster: Cluster, tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = ("--search", "optuna", "--seeds", "2", "--steps", "20", "--max-concurrent", "1", "--store", str(store))
    cluster.run(SCRIPT, *command, "--trials", "10")
    cluster.assert_free()
    first = searched(store)
    assert len(first) == 10 and set(first["state"]) == {"COMPLETE", "PRUNED"}
    assert (first["state"] == "COMPLETE").sum() >= STARTUP
    stored = {path: path.stat().st_mtime_ns for path in (store / "trials").iterdir()}
    pruned = pd.read_parquet(store / "trials").query("status == 'pruned'")
    assert len(pruned) == (first["state"] == "PRUNED").sum() and (pruned["steps"] < 20).all()

    printed = cluster.run(SCRIPT, *command, "--trials", "12")
    assert "12 suggestions" in printed
    second = searched(store)
    assert len(second) == 12
    pd.testing.assert_frame_equal(second.head(10), first)
    assert all(path.stat().st_mtime_ns == written for path, written in stored.items())


def searched(store: Path) -> pd.DataFrame:
    """What Optuna itself holds, in the order of the suggestions."""
    journal = next((store / "optuna").glob("*.journal"))
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    study: Any = optuna.load_study(study_name=None, storage=storage)
    rows = [
        {"number": one.user_attrs["number"], "state": one.state.name, **one.params, "value": one.value}
        for one in study.trials
    ]
    return pd.DataFrame(rows).sort_values("number").reset_index(drop=True)


def test_a_cluster_that_wants_a_token(cluster: Cluster, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "studies" / SCRIPT), "--budget", "smoke", "--address", cluster.address]
    without = {**environment(), "RAY_AUTH_MODE": "disabled", "HOME": str(tmp_path)}
    without.pop("RAY_AUTH_TOKEN")
    done = subprocess.run(
        [*command, "--store", str(tmp_path / "s")], capture_output=True, text=True, env=without, timeout=120
    )
    assert done.returncode == 2 and done.stderr.startswith("error: The Ray cluster at"), done.stderr
    assert "set RAY_AUTH_MODE=token" in done.stderr and done.stderr.count("\n") == 1
