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
    cluster.assert_free()
    if script in ("neighbor2neighbor_gamma.py", "iscl_gamma.py"):
        began = time.monotonic()
        again = cluster.run(script, *arguments)
        assert time.monotonic() - began < 15
        assert "nothing to train" in again


def test_further_values_of_what_acts_at_inference_are_evaluated_without_training(
    cluster: Cluster, tmp_path: Path
) -> None:
    arguments = ("iscl_gamma.py", "--max-concurrent", "1", "--seeds", "1", "--store", str(tmp_path / "store"))
    printed = cluster.run(*arguments, "--set", "gamma=0,1")
    assert "1 training, 2 evaluations with 1 seed: 0 stored, 1 to train" in printed
    printed = cluster.run(*arguments, "--set", "gamma=0,0.25,1", "--set", "statistics=batch")
    assert "1 training, 3 evaluations with 1 seed: 1 stored, 0 to train, 1 to evaluate" in printed
    assert "failed" not in printed
    assert "nothing to train" in cluster.run(*arguments, "--set", "gamma=0,0.25", "--set", "statistics=batch")


def test_another_seed_trains_that_seed_only_and_a_wider_network_everything(cluster: Cluster, tmp_path: Path) -> None:
    arguments = ("neighbor2neighbor_sampler.py", "--max-concurrent", "1", "--store", str(tmp_path / "store"))
    cluster.run(*arguments, "--seeds", "1")
    printed = cluster.run(*arguments, "--seeds", "2")
    assert "4 trainings with 2 seeds: 2 stored, 2 to train" in printed
    assert set(re.findall(r"done .*seed (\d)", printed)) == {"1"}
    assert "4 trainings with 2 seeds: 0 stored, 4 to train" in cluster.run(
        *arguments, "--seeds", "2", "--set", "features=8", "--dry-run"
    )
