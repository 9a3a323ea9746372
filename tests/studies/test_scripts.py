"""Every study script, found by its place, at the smoke budget: trained, stored, reported, and not trained again."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from .conftest import ROOT, Cluster

SCRIPTS = sorted(path.name for path in (ROOT / "studies").glob("*.py") if path.name != "__init__.py")


def test_there_are_scripts() -> None:
    assert "neighbor2neighbor_gamma.py" in SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_study_runs_reports_and_is_not_repeated(cluster: Cluster, script: str, tmp_path: Path) -> None:
    arguments = ("--seeds", "2", "--max-concurrent", "1", "--store", str(tmp_path / "store"))
    printed = cluster.run(script, *arguments)
    assert "done" in printed and "failed" not in printed
    report = Path(re.findall(r"Report: (\S+\.html)", printed)[-1])
    page = report.read_text()
    assert "smoke" in page and script.removesuffix(".py") in page and "plotly" in page.lower()
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)  # Plotly's own code names addresses
    assert len(markup) < len(page) / 2 and not re.findall(r"https?://|@import", markup)
    began = time.monotonic()
    again = cluster.run(script, *arguments)
    assert time.monotonic() - began < 15
    assert "nothing to train" in again
    cluster.assert_free()


def test_another_seed_trains_that_seed_only_and_a_wider_network_everything(cluster: Cluster, tmp_path: Path) -> None:
    arguments = ("neighbor2neighbor_sampler.py", "--max-concurrent", "1", "--store", str(tmp_path / "store"))
    cluster.run(*arguments, "--seeds", "1")
    printed = cluster.run(*arguments, "--seeds", "2")
    assert "4 trainings with 2 seed(s): 2 stored, 2 to train" in printed
    assert set(re.findall(r"done .*seed (\d)", printed)) == {"1"}
    assert "4 trainings with 2 seed(s): 0 stored, 4 to train" in cluster.run(
        *arguments, "--seeds", "2", "--set", "features=8", "--dry-run"
    )
