"""Study scripts at the smoke budget on a cluster: trained, stored, reported, and not trained again."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.cluster.test_every_study import check_report

from .conftest import ROOT, Cluster

SCRIPTS = sorted(path.name for path in (ROOT / "studies").glob("*.py") if path.name != "__init__.py")


def pairs() -> list[list[str]]:
    """Two of GAN2GAN, whose phases they share, and one of each other method; test_every_study runs all of them."""
    by_method: dict[str, list[str]] = {}
    for script in SCRIPTS:
        found = re.findall(r'method="(\w+)"', (ROOT / "studies" / script).read_text())
        by_method.setdefault(found[0], []).append(script)
    shared = by_method.pop("gan2gan")[:2]
    others = [scripts[0] for scripts in by_method.values() if len(scripts) > 1]
    return [shared, *(others[at : at + 2] for at in range(0, len(others), 2))]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scripts") / "store"


def test_there_are_scripts() -> None:
    assert "neighbor2neighbor_gamma.py" in SCRIPTS


@pytest.mark.parametrize("scripts", pairs(), ids=" ".join)
def test_studies_run_report_and_leave_the_cluster_free(cluster: Cluster, scripts: list[str], store: Path) -> None:
    """Two at a time and in one store, as two users of a cluster would."""
    one = ("--seeds", "1", "--max-concurrent", "1", "--store", str(store))
    started = {script: cluster.start(script, *one) for script in scripts}
    for script, process in started.items():
        printed = process.communicate(timeout=240)[0]
        assert process.returncode == 0, printed
        assert ("done" in printed or "nothing to train" in printed) and "failed" not in printed
        check_report(Path(re.findall(r"Report: (\S+\.html)", printed)[-1]), Path(script).stem)
    cluster.assert_free()


def test_no_phase_was_trained_twice(store: Path) -> None:
    """Of the scripts above, the studies of GAN2GAN need the same W-GAN, and some of them at the same time."""
    logs = [log.read_text() for log in store.glob("logs/*.log")]
    trained = [found for text in logs for found in re.findall(r"trains (gan|g2g\d|n2c|n2n\d) \((\w+)\)", text)]
    if not trained:
        pytest.skip("the scripts were not run")
    assert len({phase_id for _, phase_id in trained}) == len(trained), trained
    assert any("takes over gan" in text for text in logs)


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
