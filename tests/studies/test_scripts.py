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


@pytest.mark.parametrize("scripts", [SCRIPTS[at : at + 2] for at in range(0, len(SCRIPTS), 2)], ids=" ".join)
def test_studies_run_report_and_leave_the_cluster_free(cluster: Cluster, scripts: list[str], tmp_path: Path) -> None:
    """Two at a time, as two users of a cluster would."""
    one = ("--seeds", "1", "--max-concurrent", "1", "--store")
    started = {script: cluster.start(script, *one, str(tmp_path / script)) for script in scripts}
    for script, process in started.items():
        printed = process.communicate(timeout=240)[0]
        assert process.returncode == 0, printed
        assert "done" in printed and "failed" not in printed
        check_report(Path(re.findall(r"Report: (\S+\.html)", printed)[-1]), script)
    cluster.assert_free()


def check_report(report: Path, script: str) -> None:
    page = report.read_text()
    assert "smoke" in page and script.removesuffix(".py") in page and "plotly" in page.lower()
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)  # Plotly's own code names addresses
    assert len(markup) < len(page) / 2 and not re.findall(r"https?://|@import", markup)


def test_what_is_stored_is_not_trained_again(cluster: Cluster, tmp_path: Path) -> None:
    """The same command, another seed with another value of gamma (which acts at inference only), another network."""
    arguments = ("iscl_gamma.py", "--max-concurrent", "1", "--store", str(tmp_path / "store"))
    printed = cluster.run(*arguments, "--seeds", "1", "--set", "gamma=0,1")
    assert "1 training, 2 evaluations with 1 seed: 0 stored, 1 to train" in printed
    began = time.monotonic()
    assert "nothing to train" in cluster.run(*arguments, "--seeds", "1", "--set", "gamma=0,1")
    assert time.monotonic() - began < 15
    printed = cluster.run(*arguments, "--seeds", "2", "--set", "gamma=0,0.25,1")
    assert "2 trainings, 6 evaluations with 2 seeds: 1 stored, 1 to train, 1 to evaluate from stored" in printed
    assert "failed" not in printed
    printed = cluster.run(*arguments, "--seeds", "2", "--set", "width=3", "--dry-run")
    assert "2 trainings, 22 evaluations with 2 seeds: 0 stored, 2 to train" in printed
