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
    arguments = ("--seeds", "2", "--store", str(tmp_path / "store"))
    printed = cluster.run(script, *arguments)
    assert "done" in printed and "failed" not in printed
    report = Path(re.findall(r"Report: (\S+\.html)", printed)[-1])
    page = report.read_text()
    assert "smoke" in page and script.removesuffix(".py") in page and "plotly" in page.lower()
    assert not re.findall(r'(?:src|href)="https?://', page)
    began = time.monotonic()
    again = cluster.run(script, *arguments)
    assert time.monotonic() - began < 15
    assert "nothing to train" in again
    stored = len(list((tmp_path / "store" / "trials").iterdir()))
    more = cluster.run(script, "--seeds", "3", "--store", str(tmp_path / "store"))
    trained = re.findall(r"done .*seed (\d)", more)
    assert set(trained) == {"2"} and len(trained) * 2 == stored
    assert f"{stored * 3 // 2} trainings with 3 seed(s): {stored} stored, {stored // 2} to train" in more
    cluster.assert_free()
