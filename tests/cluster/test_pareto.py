"""Two metrics that pull against one another: domination, the front of a grid and of a search, what is said of it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cluster.report import cells
from cluster.report.drawing_pareto import draw_pareto
from cluster.report.papers import PaperTable
from cluster.report.pareto import ParetoPanel, Point, Value, _panel, _with_front, dominates, pareto
from cluster.report.results import COLUMNS, StudyResults
from tests.cluster.test_generation_report import PAPER, PSNRS, generating, paper, suggested
from tests.cluster.test_report import KODAK


def point(x: float, y: float, **changes: Any) -> Point:
    return Point("", "", Value(x), Value(y), **changes)


@pytest.mark.parametrize(
    ("metrics", "better"),
    [
        (("psnr", "akld"), point(31, 0.1)),
        (("akld", "psnr"), point(29, 0.3)),
        (("psnr", "ssim"), point(31, 0.3)),
        (("akld", "pgap"), point(29, 0.1)),
    ],
)
def test_domination_follows_the_directions(metrics: tuple[str, str], better: Point) -> None:
    here = point(30, 0.2)
    assert dominates(better, here, metrics) and not dominates(here, better, metrics)
    assert not dominates(here, here, metrics)  # nothing beats its equal
    half = point(better.x.mean, here.y.mean)
    assert dominates(half, here, metrics) and dominates(better, half, metrics)
    apart = point(better.x.mean, 2 * here.y.mean - better.y.mean)  # better in one, worse in the other
    assert not dominates(apart, here, metrics) and not dominates(here, apart, metrics)


def test_what_was_stopped_early_neither_is_on_a_front_nor_keeps_others_off_it() -> None:
    metrics = ("psnr", "akld")
    ahead, behind = _with_front([point(31, 0.1, finished=False), point(30, 0.2)], metrics)
    assert not ahead.front and behind.front
    first, last = _with_front([point(31, 0.1), point(32, 0.05, finished=False)], metrics)
    assert first.front and not last.front


def panel_of(results: StudyResults) -> ParetoPanel:
    plain = pareto(results)
    assert plain is not None
    (panel,) = plain.panels
    return panel


def test_the_front_of_a_grid() -> None:
    results = generating(pareto=("psnr", "akld"))
    panel = panel_of(results)
    assert [one.name for one in panel.points] == ["tau = 5", "tau = 10", "tau = 50", "tau = inf"]
    assert [one.name for one in panel.front] == ["tau = inf", "tau = 10", "tau = 5"]  # by PSNR; 50 is worse in both
    for metric, values in (("psnr", [one.x for one in panel.points]), ("akld", [one.y for one in panel.points])):
        grid = cells.grid(results, KODAK, metric=metric)
        assert [value.mean for value in values] == pytest.approx([grid.mean(cell) for cell in grid.cells])
        for value, cell in zip(values, grid.cells, strict=True):
            seeds = grid.cells[cell].mean(axis=1)
            assert value.interval is not None and value.interval[0] < min(seeds) <= max(seeds) < value.interval[1]
    assert panel.sentence == (
        "By the means, the front of PSNR and AKLD is tau = inf, tau = 10 and tau = 5; for every other setting, one of "
        "these is at least as good in both."
    )
    assert panel.title == "Gaussian σ = 25, Kodak24" and not panel.paper
    assert [one.short for one in panel.front] == ["tau = ∞", "tau = 10", "tau = 5"]
    assert pareto(generating()) is None  # no study but one that declares it
    assert pareto(generating(pareto=("psnr", "pgap"))) is None  # never measured


def told(*points: tuple[str, float, float, float]) -> str:
    """The sentence on points of (name, PSNR, AKLD, relative width of their intervals)."""
    made = [
        Point(name, name, Value(x, (x - width, x + width)), Value(y, (y - width / 10, y + width / 10)))
        for name, x, y, width in points
    ]
    metrics = ("psnr", "akld")
    return _panel("", _with_front(made, metrics), metrics).sentence


def test_what_the_intervals_leave_open_is_said() -> None:
    clear = [("a", 30.0, 0.3, 0.1), ("b", 29.0, 0.2, 0.1), ("c", 28.0, 0.1, 0.1), ("d", 27.5, 0.5, 0.1)]
    assert told(*clear) == (
        "By the means, the front of PSNR and AKLD is c, b and a; for every other setting, one of these is at least as "
        "good in both."
    )
    near = told(*clear, ("e", 30.1, 0.301, 0.1))  # a little better than a in PSNR, a little worse in AKLD
    assert near.endswith(
        "On the front these cannot be told apart, as their intervals overlap in both metrics: a and e."
    )
    assert "told apart" not in told(*clear, ("e", 30.1, 0.36, 0.1))  # they overlap in PSNR only
    off = told(*clear, ("e", 29.95, 0.301, 0.1), ("f", 29.95, 0.33, 0.1))  # behind a: within both, within one
    assert off.endswith("Off the front by less than the intervals: e.") and "told apart" not in off
    assert told(*clear[:1], *clear[3:]).startswith("By the means, a is at least as good as every other setting in both")
    assert told(*clear[:3]).startswith("By the means, every setting is on the front of PSNR and AKLD")
    assert told(clear[0]) == "Only a has finished; there is nothing to compare it with yet."
    crowd = told(*((str(place), 30 + place / 100, 0.1 + place / 1000, 1.0) for place in range(4)))
    assert crowd.endswith("0 and 1; 0 and 2; 0 and 3; 1 and 2; 2 further pairs.")
    single = panel_of(generating(seeds=(0,), pareto=("psnr", "akld")))
    assert all(one.x.interval is None for one in single.points)
    assert single.sentence.endswith("another seed may change which settings are on it.")


def test_the_papers_points_stand_beside_where_it_prints_both(tmp_path: Path) -> None:
    results = generating(paper=paper(tmp_path), pareto=("psnr", "akld"))
    panel = panel_of(results)
    assert [(one.name, one.x.mean, one.y.mean) for one in panel.paper] == [
        ("tau = 5", 39.0, 0.25), ("tau = 10", 38.5, 0.15), ("tau = 50", 38.0, 0.40), ("tau = inf", 37.0, 0.10),
    ]  # fmt: skip
    plain = pareto(results)
    assert plain is not None
    hollow = [trace for trace in draw_pareto(plain).data if trace.name == "paper"]
    assert [trace.marker.symbol for trace in hollow] == ["diamond-open"] and hollow[0].xaxis == "x2"
    gap = generating(paper=paper(tmp_path), pgaps=dict.fromkeys(PSNRS, 0.5), pareto=("psnr", "pgap"))
    assert [one.name for one in panel_of(gap).paper] == ["tau = 5", "tau = 10", "tau = 50"]  # inf has no PGap
    apart = '{ noise = "gauss25", dataset = "kodak24", cells = ["39/-/-", "38/-/-", "-", "-"] }, '
    apart += '{ noise = "gauss25", dataset = "bsd68", cells = ["-/0.2/-", "-/0.1/-", "-", "-"] }'
    text = re.sub(r"rows = .*", f"rows = [ {apart} ]", PAPER.replace(', dataset = "kodak24"', ""))
    (tmp_path / "apart.toml").write_text(text, encoding="utf-8")
    two_sets = generating(paper=PaperTable("apart", "table1", tmp_path), pareto=("psnr", "akld"))
    assert panel_of(two_sets).paper == ()  # its PSNR and its AKLD are of other images
    none = generating(paper=PaperTable("neighbor2neighbor", "table3"), pareto=("psnr", "akld"))
    assert panel_of(none).paper == () and panel_of(none).paper_dataset == ""


def test_of_a_search_every_suggestion_is_a_point_and_what_was_stopped_is_on_no_front() -> None:
    results = suggested()
    plain = pareto(results)
    assert plain is not None and plain.validation
    (panel,) = plain.panels
    assert len(panel.points) == 14 and [one.name for one in panel.points if not one.finished] == ["tau = 2", "tau = 3"]
    last = results.curves[results.curves["step"] == 1500]
    for one in panel.points:
        if one.finished:
            of_this = last[last["label"] == one.name].groupby("name")["value"].mean()
            assert (one.x.mean, one.y.mean) == pytest.approx((of_this["validation_psnr"], of_this["validation_akld"]))
            assert one.x.interval is not None
    front = {one.name for one in panel.front}
    assert "tau = 1" in front and "tau = 10" in front and not front & {"tau = 2", "tau = 3", "tau = 12"}
    assert all(dominates(one, other, ("psnr", "akld")) is False for one in panel.front for other in panel.front)
    untried = dataclasses.replace(results, curves=pd.DataFrame(columns=list(COLUMNS["curves"])))
    tested = pareto(untried)  # without curves, from the test images
    assert tested is not None and not tested.validation and len(tested.panels[0].points) == 12
