"""Every study script, found by its place, at the smoke budget: planned, trained, stored and reported.

As its command line does it, but without Ray, which tests/studies run some of them on.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cluster.cli import run
from cluster.execution.one_training import Ended, Training
from cluster.plan import Plan
from cluster.results.store import Store
from cluster.runner import Runner
from cluster.study import Study
from denoise_core.trainer import Ranks

FOLDER = Path(__file__).resolve().parents[2] / "studies"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if "Study(" in path.read_text())
"""which_method.py and criterion_agreement.py declare none: tests/cluster/test_race.py."""


class Silent:
    def report(self, step: int, rung: int | None = None, value: float | None = None) -> str:
        return "go"


def study(script: str) -> Study:
    spec = importlib.util.spec_from_file_location(script, FOLDER / f"{script}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Study = module.study
    return found


def execute_here(self: Runner, plan: Plan) -> bool:
    """What workers do, in this process."""
    self._announce(plan)
    loaded = {one.contents: one for one in self.data}
    for task in self._tasks(plan):
        training = Training(task, self.study.name, "smoke", self.store, Ranks(), torch.device("cpu"))
        data = replace(loaded[task.spec.contents], spec=task.spec.data)
        assert training.run(data, Silent()) is Ended.DONE
        training.release()
    return True


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("every") / "store"


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_study_trains_and_reports(
    script: str, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DENOISE_DATA", raising=False)
    monkeypatch.setattr(Runner, "_train", execute_here)
    one = study(script)
    assert one.name == script
    status = run(one, ["--budget", "smoke", "--seeds", "1", "--store", str(store)])
    printed = capsys.readouterr()
    assert status == 0, printed
    check_report(Path(re.findall(r"Report: (\S+\.html)", printed.out)[-1]), script)
    rows = Store.open(str(store)).trials(Store.open(str(store)).names("trials")).values()
    assert rows and all(row["status"] == "done" for row in rows)


def check_report(report: Path, script: str) -> None:
    page = report.read_text()
    assert "smoke" in page and script in page and "plotly" in page.lower()
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)  # Plotly's own code names addresses
    assert len(markup) < len(page) / 2 and not re.findall(r"https?://|@import", markup)
