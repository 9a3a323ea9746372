"""Reports of methods that generate noise: metrics of it, two objectives, pictures of noise, an axis up to infinity."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cluster.report import cells, figures, measures
from cluster.report.collect import _first_measured
from cluster.report.controls import Control
from cluster.report.drawing import draw_axis, draw_images, draw_learning, draw_search
from cluster.report.figures import Bars, Curve
from cluster.report.html import page
from cluster.report.noise_notes import AKLD, PGAP
from cluster.report.papers import PaperTable
from cluster.report.results import COLUMNS, StudyResults
from cluster.report.tables import comparison_tables, costs
from cluster.report.verdict import judge
from denoise_core.errors import UserError
from tests.cluster.test_report import KODAK, NOISY, png, search, study

PSNRS: Mapping[Any, float] = {5.0: 0.0, 10.0: -0.2, 50.0: -0.4, "inf": -0.6}
AKLDS: Mapping[Any, float] = {5.0: 0.200, 10.0: 0.100, 50.0: 0.300, "inf": 0.050}
BOTH = Curve(x="tau", metrics=("psnr", "akld", "pgap"))
PAPER = """
paper = "toy"
title = "Toy"
citation = "A. Uthor, 2020"
year = 2020
[[table]]
id = "table1"
caption = "Toys"
protocol = "neighbor2neighbor"
metrics = ["psnr", "akld", "pgap"]
across = "tau"
columns = [5, 10, 50, "inf"]
fixed = { method = "neighbor2neighbor", dataset = "kodak24" }
rows = [ { noise = "gauss25", cells = ["39.0/0.25/1.5", "38.5/0.15/-0.5", "38.0/0.40/1", "37.0/0.10/-"] } ]
"""


def generating(
    *,
    psnrs: Mapping[Any, float] = PSNRS,
    aklds: Mapping[Any, float] = AKLDS,
    pgaps: Mapping[Any, float] | None = None,
    akld_spread: float = 0.002,
    **changes: Any,
) -> StudyResults:
    """A made-up study over ``tau`` whose cells generate noise; its references do not."""
    made = study(**{
        "effects": psnrs, "axis": "tau", "default": 10.0, "plot": BOTH, "paper": None, "spread": 0.005, **changes
    })  # fmt: skip
    draw = np.random.default_rng(3)
    rows, curves = made.measurements, made.curves
    ours = rows[(rows["role"] == "cell") & (rows["output"] == "denoised") & (rows["metric"] == "psnr")]
    more = []
    for metric, values, spread in (("akld", aklds, akld_spread), ("pgap", pgaps or {}, 0.01)):
        part = ours[ours["tau"].isin(list(values))]
        luck = {trial: draw.normal(0, spread) for trial in part["trial_id"].unique()}
        means = np.array([values[tau] for tau in part["tau"]]) + part["trial_id"].map(luck).astype(float)
        measured = means + draw.normal(0, spread, len(part))
        more.append(part.assign(output="generated", metric=metric, value=measured))
    by_label = {f"tau = {cells.value_text(tau)}": value for tau, value in aklds.items()}
    of_cells = curves[curves["label"].isin(list(by_label))]
    values = of_cells["label"].map(by_label) + 5 / of_cells["step"] + 0.001 * of_cells["seed"]
    validated = of_cells.assign(name="validation_akld", value=values)
    return dataclasses.replace(
        made,
        measurements=pd.concat([rows, *more], ignore_index=True),
        curves=pd.concat([curves, validated], ignore_index=True),
    )


def paper(folder: Path) -> PaperTable:
    (folder / "toy.toml").write_text(PAPER, encoding="utf-8")
    return PaperTable("toy", "table1", folder)


def akld_of(results: StudyResults) -> StudyResults:
    others = [metric for metric in results.plot.metrics if metric != "akld"]
    return dataclasses.replace(
        results, metric="akld", plot=dataclasses.replace(results.plot, metrics=("akld", *others))
    )


def bare(text: str) -> str:
    """What a reader sees of a page."""
    return re.sub(r"<script.*?</script>|<style.*?</style>", "", text, flags=re.DOTALL).replace("\u00a0", " ")


# --- directions and wording -------------------------------------------------------------------------------------------


def test_less_is_better_where_the_metric_says_so() -> None:
    results = generating()
    lower = cells.grid(results, KODAK, metric="akld")
    assert [cell[0] for cell in lower.ranked()] == ["inf", 10.0, 5.0, 50.0]
    assert lower.cells[(5.0,)].shape == (3, 20) and lower.noisy is None and not lower.references
    assert [cell[0] for cell in cells.grid(results, KODAK).ranked()] == [5.0, 10.0, 50.0, "inf"]
    assert [cells.of_noise(results, metric) for metric in ("psnr", "ssim", "akld", "pgap")] == [
        False,
        False,
        True,
        False,
    ]


def test_a_further_metric_has_its_own_sentence_beside_the_unchanged_verdict() -> None:
    plain, results = judge(study(effects=PSNRS, axis="tau", default=10.0, paper=None, spread=0.005)), generating()
    verdict = judge(results)
    assert verdict.headline == plain.headline and verdict.comparisons == plain.comparisons
    assert "tau = 5 beats the next best, tau = 10 by 0." in verdict.headline
    (more,) = set(verdict.sentences) - set(plain.sentences)
    assert set(plain.sentences) <= set(verdict.sentences)
    assert re.fullmatch(
        r"AKLD at tau = inf is lower than at the next best, tau = 10 by 0\.0[45]\d "
        r"\(95 % interval \[0\.0[234]\d, 0\.0[56]\d\], 3 seeds × 20 images, paired\)\.",
        more,
    )


def test_an_interval_that_crosses_zero_is_no_conclusion_in_any_metric() -> None:
    same = dict.fromkeys(PSNRS, 0.2)
    results = generating(aklds=same, akld_spread=0.02)
    (sentence,) = [one for one in judge(results).sentences if "AKLD" in one]
    assert sentence.startswith("No difference in AKLD is conclusive: even tau = ") and "lower" not in sentence
    two = generating(psnrs={5.0: 0.0, 10.0: -0.3}, aklds={5.0: 0.2, 10.0: 0.2}, akld_spread=0.02)
    (sentence,) = [one for one in judge(two).sentences if "AKLD" in one]
    found = re.fullmatch(
        r"In AKLD, tau = (\S+) and tau = (\S+) cannot be told apart with 3 seeds × 20 images \(difference "
        r"(-0\.\d{3}), interval \[(-0\.\d{3}), (0\.\d{3})\].*\)\.",
        sentence,
    )
    assert found is not None  # the first minus the second, below zero as the first is the lower one
    grid = cells.grid(two, KODAK, metric="akld")
    first, second = (grid.mean((float(found[place]),)) for place in (1, 2))
    assert float(found[3]) == pytest.approx(first - second, abs=5e-4) and first < second


def test_a_near_tie_is_named_beside_the_win() -> None:
    results = generating(aklds={5.0: 0.3, 10.0: 0.2, 50.0: 0.2, "inf": 0.4})
    (sentence,) = [one for one in judge(results).sentences if "AKLD" in one]
    assert re.match(r"AKLD at tau = (10|50) is lower than at tau = inf by 0\.\d{3} \(", sentence)
    assert re.search(r", but cannot be told apart from that at tau = (10|50)\.$", sentence)


def test_intervals_hold_together_over_the_comparisons_of_their_metric() -> None:
    for metric, count in (("psnr", 3), ("akld", 2)):  # one cell generates nothing
        results = dataclasses.replace(generating(aklds={k: v for k, v in AKLDS.items() if k != 50.0}), metric=metric)
        items = judge(results).comparisons
        assert len(items) == count and [item.interval.level for item in items] == pytest.approx(
            [1 - 0.05 / count] * count
        )
        assert all(item.interval.conclusive == (item.interval.low > 0) for item in items)


def test_the_verdict_of_a_study_of_noise_names_its_metric(tmp_path: Path) -> None:
    verdict = judge(akld_of(generating(paper=paper(tmp_path))))
    assert re.match(
        r"AKLD at tau = inf is lower than at the next best, tau = 10 by 0\.0[45]\d \(95 % ", verdict.headline
    )
    assert "; the paper reports -0.050)" in verdict.headline  # 0.10 - 0.15, ours minus theirs as printed
    assert any("the order is the paper's: inf < 10 < 5 < 50" in one for one in verdict.sentences)
    # PSNR comes after it, with the noisy input, which has no noise metric
    of_psnr = [one for one in verdict.sentences if "noisy input" in one or "N2C" in one]
    assert of_psnr and all(" dB" in one and "in PSNR" in one for one in of_psnr)
    assert "dB" not in verdict.headline and "beats" not in str(verdict)
    several = judge(akld_of(generating(noises=("gauss25", "poisson30"))))
    best = "tau = inf has the best mean AKLD in both settings; it is lower than at tau = 50 in both, by "
    assert re.match(rf"{best}0\.2\d\d to 0\.2\d\d \(", several.headline)


def test_the_first_metric_with_values_is_the_verdicts() -> None:
    rows = generating().measurements
    assert _first_measured(Curve(x="tau", metrics=("akld", "psnr")), rows) == "akld"
    assert _first_measured(Curve(x="tau", metrics=("pgap", "psnr")), rows) == "psnr"
    assert _first_measured(Curve(x="tau", metrics=("pgap", "akld")), rows.head(0)) == "pgap"


def test_controls_have_the_digits_of_the_metric() -> None:
    control = Control("tau", 10.0, {}, "without noise")
    results = dataclasses.replace(generating(default=5.0), control=control)
    (one,) = [one for one in judge(akld_of(results)).sentences if one.startswith("Of the ")]
    assert re.match(
        r"Of the \+0\.000 \[.*\] of tau = 5 over tau = 5, -0\.\d{3} \[-0\.\d{3}, -0\.\d{3}\] come with", one
    )


def test_bounds_and_names_are_those_of_the_metrics(tmp_path: Path) -> None:
    assert (measures.head("psnr"), measures.head("ssim")) == ("PSNR (dB)", "SSIM")
    assert measures.head("akld") == "AKLD, lower is better" and measures.head("pgap") == "PGap (dB), lower is better"
    assert measures.head("lpips") == "LPIPS" and measures.sign("lpips") == 1
    assert paper(tmp_path).load().find(tau="inf")[0].values == {"psnr": 37.0, "akld": 0.10}
    (tmp_path / "other.toml").write_text(PAPER.replace("39.0/0.25", "39.0/25"), encoding="utf-8")
    with pytest.raises(UserError, match="a akld of 25 is outside 0 to 4"):
        PaperTable("other", "table1", tmp_path).load()


# --- figures ----------------------------------------------------------------------------------------------------------


def test_infinity_is_the_last_category(tmp_path: Path) -> None:
    psnr, akld = figures.axis_figures(generating(paper=paper(tmp_path)))
    assert psnr.categorical and psnr.joined and not psnr.logarithmic
    for figure in (psnr, akld):
        assert figure.panels[0].lines[0].ours.x == ("5", "10", "50", "∞")
        assert list(draw_axis(figure).layout.xaxis.categoryarray) == ["5", "10", "50", "∞"]
    assert psnr.panels[0].lines[0].paper.x == ("5", "10", "50", "∞")
    assert akld.panels[0].lines[0].paper.y == pytest.approx((0.10, 0.0, 0.25, -0.05))
    wide = {float(2**k): 0.0 for k in range(10)}
    (many,) = figures.axis_figures(study(effects={**wide, "inf": 0.1}, axis="tau", plot=Curve(x="tau"), paper=None))
    assert many.categorical and many.panels[0].lines[0].ours.x[-2:] == ("512", "∞")
    named = study(effects={1.0: 0.0, "mean": 0.1}, axis="tau", plot=Curve(x="tau"), paper=None)
    assert not figures.axis_figures(named)[0].joined  # a name among numbers is no number
    lacking = study(
        effects={1.0: 0.0, 2.0: 0.0, "inf": 0.0}, axis="tau", plot=Curve(x="tau"), paper=None, images=4,
        noises=("gauss25", "poisson30"),
    )  # fmt: skip
    rows = lacking.measurements
    lost = (rows["noise"] == "gauss25") & (rows["tau"] == 2.0)
    (figure,) = figures.axis_figures(dataclasses.replace(lacking, measurements=rows[~lost]))
    assert figure.panels[0].lines[0].ours.x == ("1", "∞")
    assert list(draw_axis(figure).layout.xaxis.categoryarray)[-1] == "∞"  # what only the next noise has is before it


def test_a_figure_for_each_metric_that_was_measured() -> None:
    drawn = figures.axis_figures(generating())
    assert [figure.metric for figure in drawn] == ["psnr", "akld"]  # no PGap was
    assert drawn[0].panels[0].noisy == pytest.approx(NOISY, abs=0.1) and len(drawn[0].panels[0].references) == 2
    assert drawn[1].panels[0].noisy is None and drawn[1].panels[0].references == ()
    titles = [draw_axis(figure).layout.yaxis.title.text for figure in drawn]
    assert titles == ["PSNR (dB)", "AKLD, lower is better"]
    gaps = figures.axis_figures(generating(pgaps=dict.fromkeys(PSNRS, 0.5)))
    assert draw_axis(gaps[2]).layout.yaxis.title.text == "PGap (dB), lower is better"


def test_learning_curves_of_both_metrics() -> None:
    psnr, akld = figures.learning_figures(generating())
    assert (psnr.metric, akld.metric) == ("psnr", "akld")
    canvas = draw_learning(akld)
    assert canvas.layout.yaxis.title.text == "validation AKLD, lower is better"
    assert "dB" not in " ".join(str(trace.hovertemplate) for trace in canvas.data)


def test_the_worst_image_is_the_one_with_the_highest_akld() -> None:
    (figure,) = figures.image_figures(akld_of(generating()))
    assert (figure.first, figure.second) == ("tau = inf", "tau = 10")
    assert list(figure.difference) == sorted(figure.difference, reverse=True) and max(figure.difference) < 0
    (bars,) = draw_images(figure).data
    assert len(set(bars.marker.color)) == 1 and bars.marker.color[0].startswith("rgba")  # all are improvements


def suggested() -> StudyResults:
    """A search of 14 suggestions over numbers and infinity, two of them stopped early; more noise is worse PSNR."""
    values: list[Any] = [*(float(k) for k in range(1, 14)), "inf"]
    psnrs = {value: -0.1 * place for place, value in enumerate(values)}
    aklds = {value: 0.5 - 0.03 * min(place, 9) for place, value in enumerate(values)}
    stopped = {(2.0, seed): "pruned" for seed in range(2)} | {(3.0, seed): "pruned" for seed in range(2)}
    return generating(
        psnrs=psnrs, aklds=aklds, statuses=stopped, seeds=(0, 1), references=False, images=4, pareto=("psnr", "akld")
    )


def test_a_search_shows_both_metrics_and_its_best_is_the_lowest_akld() -> None:
    psnr, akld = figures.search_figures(suggested())
    assert (psnr.metric, akld.metric, akld.measured) == ("psnr", "akld", "validation")
    known = [v for v, stopped in zip(akld.values, akld.pruned, strict=True) if not stopped]
    assert akld.best_so_far[-1] == min(known) and list(akld.best_so_far) == sorted(akld.best_so_far, reverse=True)
    assert sum(akld.pruned) == 2 and akld.axes["tau"][-1] == "∞"
    canvas = draw_search(akld)
    assert canvas.layout.xaxis.type == "category" and canvas.layout.xaxis.categoryarray[-2:] == ("13", "∞")
    assert canvas.layout.yaxis.title.text == "validation AKLD, lower is better"


# --- tables and pages -------------------------------------------------------------------------------------------------


def test_the_table_has_the_metrics_in_order_and_marks_the_best_of_each(tmp_path: Path) -> None:
    results = generating(paper=paper(tmp_path), pgaps=dict.fromkeys(PSNRS, 0.5))
    plain = comparison_tables(results, "neighbor2neighbor")[0]
    assert plain.metrics == ("psnr", "ssim", "akld", "pgap")
    rows = {row.name: row for row in plain.rows}
    assert [name for name, row in rows.items() if row.best] == ["tau = 5"]
    assert [name for name, row in rows.items() if row.numbers.get("akld") and row.numbers["akld"].best] == ["tau = inf"]
    assert rows["tau = inf"].numbers["akld"].paper == 0.10 and rows["noisy input"].numbers["akld"].ours is None
    assert "akld" not in rows["N2C (clean targets)"].numbers
    assert [plain.compared(metric) for metric in plain.metrics] == [True, False, True, True]  # it prints no SSIM
    (few,) = comparison_tables(study(effects=PSNRS, axis="tau", paper=results.paper, images=4), "neighbor2neighbor")
    assert few.metrics == ("psnr", "ssim") and few.compared("ssim")  # as ever
    of_noise = comparison_tables(akld_of(results), "neighbor2neighbor")[0]
    assert of_noise.metrics[0] == "akld" and of_noise.paper_dataset == "kodak24"
    assert not any(row.numbers["psnr"].best for row in of_noise.rows)  # its PSNR was not compared
    text = bare(page(results))
    assert "AKLD, lower is better</th>" in text and "PGap (dB), lower is better</th>" in text
    assert re.search(r"<b>0\.0\d\d</b> <small>± 0\.\d{3}</small>", text) and "<td>0.100</td>" in text
    assert all(item.gain is None for item in costs(akld_of(results)))


def test_a_page_of_a_study_of_noise() -> None:
    text = bare(page(generating(pgaps=dict.fromkeys(PSNRS, 0.5), pareto=("psnr", "akld"))))
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles[:2] == ["Result", "PSNR against AKLD"] and "<h3>Kodak24, AKLD</h3>" in text
    assert text.count(AKLD) == 2 and text.count(PGAP) == 1  # once in each section that shows it
    assert "was not recorded here" in text
    assert "better is down and to the right" in text
    assert "Mean validation AKLD over the seeds" in text
    reversed_axes = bare(page(generating(pareto=("akld", "psnr"))))
    assert "AKLD against PSNR" in reversed_axes and "better is up and to the left" in reversed_axes


def test_the_images_on_which_the_best_is_worse_are_those_of_higher_akld() -> None:
    aklds = {5.0: 0.2, 10.0: 0.21, 50.0: 0.4, "inf": 0.5}
    results = akld_of(generating(aklds=aklds, akld_spread=0.01))
    (figure,) = figures.image_figures(results)
    lost = sum(value > 0 for value in figure.difference)
    assert 0 < lost < 10 and figure.difference[0] > 0
    text = bare(page(results))
    worst = f"worst: {figure.images[0]} (+{figure.difference[0]:.3f})"
    assert f"{figure.first} is worse on {lost} of 20 images; {worst}" in text
    (bars,) = draw_images(figure).data
    assert [colour.startswith("rgba") for colour in bars.marker.color] == [False] * lost + [True] * (20 - lost)


def test_the_note_on_akld_points_to_what_was_recorded() -> None:
    lines = pd.DataFrame(
        [("a", "tau = 5", 0, "gauss25", name, "generated", 1.0, 1.0) for name in ("noise_autocorrelation",)],
        columns=list(COLUMNS["diagnostics"]),
    )
    text = bare(page(dataclasses.replace(generating(), diagnostics=lines)))
    assert f"{AKLD} Read it with “Correlation of the noise between pixels” in the section on the noise below." in text
    table_only = bare(page(generating(plot=Curve(x="tau"))))  # its figures do not show AKLD, its table does
    assert table_only.count(AKLD) == 1


@pytest.mark.parametrize("make", [lambda: akld_of(generating()), suggested, lambda: akld_of(suggested())])
def test_no_decibels_are_claimed_of_akld(make: Callable[[], StudyResults]) -> None:
    results = make()
    text = bare(page(results))
    assert "nan" not in text.lower().split()
    if results.metric == "akld":
        limits = text[text.index("What this budget cannot resolve") :]
        assert re.search(r"differences below about 0\.\d+ are lost in", limits)
        assert "PSNR of the whole image below" in text  # what is denoised is still told in PSNR


NOISES = ("generated", "noise", "generated noise")


def with_noise(results: StudyResults) -> StudyResults:
    """Pictures of noise for the cells; each label's has its own shade."""
    ours = results.previews[(results.previews["kind"] == "denoised") & results.previews["label"].str.startswith("tau")]
    more = [
        ours.assign(kind=kind, png=[png(shade=10 * place + len(label)) for label in ours["label"]])
        for place, kind in enumerate(NOISES)
    ]
    return dataclasses.replace(results, previews=pd.concat([results.previews, *more], ignore_index=True))


def test_pictures_of_noise_stand_below_those_of_the_images() -> None:
    plain, noisy = page(generating()), page(with_noise(generating()))
    names = re.compile(r"<figcaption>(.*?)(?:<br>|</figcaption>)")
    first = names.findall(plain)
    assert "real noise" not in first and "around middle gray" not in plain
    second = names.findall(noisy)
    assert second[: len(first)] == first and second.count("real noise") == 1
    assert second[len(first) :] == ["real noise", *(f"generated, tau = {tau}" for tau in ("5", "10", "50", "inf"))]
    assert "black and white are three standard deviations of the real noise" in noisy
    assert re.search(r"<figcaption>generated, tau = inf<br><small>AKLD 0\.0\d\d</small>", noisy)
    assert len(re.findall(r"<span></span><figure>", noisy)) == 0  # two rows of images: nothing to stand under
    few = page(with_noise(generating(psnrs={5.0: 0.0, "inf": -0.6}, references=False)))
    assert len(re.findall(r"<span></span><figure>", few)) == 1


def test_metrics_that_were_not_measured_change_nothing() -> None:
    plain = study(noises=("gauss25", "poisson30"), images=6)
    declared = dataclasses.replace(
        plain, plot=Curve(x="gamma", metrics=("psnr", "akld", "pgap")), pareto=("psnr", "akld")
    )
    assert page(declared) == page(plain)
    bars = study(
        effects={"fix-location": -0.03, "random": 0.0}, axis="sampler", default="random", plot=Bars(x="sampler"),
        paper=PaperTable("neighbor2neighbor", "table4"), images=6,
    )  # fmt: skip
    more = dataclasses.replace(bars, plot=Bars(x="sampler", metrics=("psnr", "pgap")), pareto=("psnr", "pgap"))
    assert page(more) == page(bars)


def test_reports_of_denoisers_are_as_they_were() -> None:
    text = page(study(images=6))
    shown = bare(text)
    for unit in (">PSNR (dB)</th>", ">SSIM</th>", "<th>gain over noisy</th><th>per dB</th>", " dB are lost in 3 seeds"):
        assert unit in shown
    assert "Mean validation PSNR over the seeds; the shade spans them." in shown
    assert "The same crop of each; PSNR of the whole image below, of the training shown.</p>" in shown
    assert re.search(r"<small>\d\d\.\d\d dB</small>", shown)
    assert re.search(r"worst: kodim\d\d \([+-]\d\.\d\d dB\)", shown)
    for title in ('"PSNR (dB)"', '"change against\\u003cbr\\u003egamma = 2 (dB)"', '"validation PSNR (dB)"'):
        assert f'"text":{title}' in text
    assert re.search(r"noisy input \d\d\.\d\d dB", text) and "better is" not in shown and "AKLD" not in text
    searched = page(search())
    assert '"text":"validation PSNR (dB)"' in searched and "%{y:.2f} dB" in searched
