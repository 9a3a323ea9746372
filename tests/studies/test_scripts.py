"""Study scripts at the smoke budget on a cluster: trained, stored, reported, and not trained again."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cluster.test_every_study import check_report

from .conftest import ROOT, Cluster

SCRIPTS = sorted(path.name for path in (ROOT / "studies").glob("gan2gan_*.py"))[:2]
"""Two whose phases they share. tests/cluster/test_every_study.py runs all studies, without Ray."""


def test_studies_share_report_and_leave_the_cluster_free(cluster: Cluster, tmp_path: Path) -> None:
    """Two at a time and in one store, as two users of a cluster would; then one of them once more."""
    store = tmp_path / "store"
    one = ("--seeds", "1", "--max-concurrent", "1", "--store", str(store))
    started = {script: cluster.start(script, *one) for script in SCRIPTS}
    for script, process in started.items():
        printed = process.communicate(timeout=240)[0]
        assert process.returncode == 0, printed
        assert ("done" in printed or "nothing to train" in printed) and "failed" not in printed
        check_report(Path(re.findall(r"Report: (\S+\.html)", printed)[-1]), Path(script).stem)
    cluster.assert_free()

    logs = [log.read_text() for log in store.glob("logs/*.log")]
    trained = [found for text in logs for found in re.findall(r"trains (gan|g2g\d|n2c|n2n\d) \((\w+)\)", text)]
    assert trained and len({phase_id for _, phase_id in trained}) == len(trained), trained
    assert any("takes over gan" in text for text in logs)

    rows = {path: path.stat().st_mtime_ns for path in (store / "trials").iterdir()}
    assert "nothing to train" in cluster.run(SCRIPTS[0], *one)
    assert {path: path.stat().st_mtime_ns for path in (store / "trials").iterdir()} == rows
