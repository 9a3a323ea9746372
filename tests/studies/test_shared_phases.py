"""Two drivers, as two users of a cluster would start them, whose studies need the same W-GAN: the first is killed."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

from cluster.results.store import Store
from tests.cluster.test_every_study import check_report
from tests.studies.conftest import Cluster

ONE_SEED = ("--seeds", "1", "--max-concurrent", "1", "--references", "none")


def logged(store: Path, pattern: str) -> list[str]:
    """All matches in the logs of the trainings."""
    return [found for log in sorted((store / "logs").glob("*.log")) for found in re.findall(pattern, log.read_text())]


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    for _ in range(int(seconds / 0.2)):
        if what():
            return
        time.sleep(0.2)
    raise AssertionError("it did not happen")


def phases(store: Path) -> list[str]:
    opened = Store.open(str(store))
    return [row["phase"] for row in opened.read("phases", opened.names("phases")).to_pylist()]


def test_the_other_study_goes_on_where_the_first_was_killed(cluster: Cluster, tmp_path: Path) -> None:
    store = tmp_path / "store"
    arguments = (*ONE_SEED, "--store", str(store), "--steps", "800", "--set", "denoiser_steps=0.01")
    first = cluster.start("gan2gan_pairs.py", *arguments, "--set", "iterations=1", "--set", "pair=two")
    wait_for(lambda: logged(store, r"trains (gan) \("))
    second = cluster.start("gan2gan_pairs.py", *arguments, "--set", "iterations=1", "--set", "pair=estimate")
    time.sleep(12)  # long enough to plan and to find the W-GAN in the first one's work
    assert phases(store) == [], "the machine is too fast for this test: give more steps"
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=60)
    printed = second.communicate(timeout=240)[0]
    assert second.returncode == 0, printed
    assert sorted(phases(store)) == ["g2g1", "gan"]
    assert logged(store, r"trains (gan) \(") == ["gan", "gan"]  # by the first, and once more after its death
    assert "done" in printed and "failed" not in printed
    check_report(Path(re.findall(r"Report: (\S+\.html)", printed)[-1]), "gan2gan_pairs")
    cluster.assert_free()
