from __future__ import annotations

import dataclasses
import math
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cluster.costs import makespan
from cluster.report import cells, figures
from cluster.report.cells import Setting
from cluster.report.figures import Bars, Curve
from cluster.report.html import page, render
from cluster.report.html_parts import CROPS
from cluster.report.papers import PaperTable
from cluster.report.results import COLUMNS, StudyResults
from cluster.report.tables import comparison_tables, costs
from cluster.report.verdict import judge

KODAK = Setting("gauss25", "kodak24")
EFFECTS = {0.0: -0.30, 2.0: 0.0, 8.0: -0.06, 20.0: -0.13}  # dB against gamma = 2
NOISY = 20.2


@dataclasses.dataclass(frozen=True)
class Deviation:
    topic: str = "gamma ramp"
    paper: str = "gradually increased"
    code: str = "linear in the epoch"
    ours: str = "linear in the step"


def png(size: int = 8, shade: int = 128) -> bytes:
    """A grey square."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = b"".join(b"\0" + bytes([shade]) * size for _ in range(size))
    header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def study(
    *,
    effects: Mapping[Any, float] = EFFECTS,
    axis: str = "gamma",
    default: Any = 2.0,
    seeds: Sequence[int] = (0, 1, 2),
    images: int = 20,
    noises: Sequence[str] = ("gauss25",),
    spread: float = 0.02,
    references: bool = True,
    statuses: Mapping[tuple[Any, int], str] | None = None,
    **changes: Any,
) -> StudyResults:
    """A made-up study: image effects of 1.5 dB, seed effects of ``spread``, a little noise in each value."""
    generator = np.random.default_rng(7)
    trials: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    previews: list[dict[str, Any]] = []
    members = [("cell", value, f"{axis} = {cells.value_text(value)}") for value in effects]
    members += [("reference", None, "n2c"), ("reference", None, "n2n")] if references else []
    for noise in noises:
        content = generator.normal(0, 1.5, images)
        for role, value, label in members:
            for seed in seeds:
                effect = effects[value] if role == "cell" else 0.35 if label == "n2c" else 0.33
                level = 29.6 + effect + generator.normal(0, spread)
                status = (statuses or {}).get((value, seed), "done")
                shared = {
                    "trial_id": f"{noise}-{label}-{seed}", "role": role, "label": label, "seed": seed, "noise": noise,
                    "method": "neighbor2neighbor" if role == "cell" else label, axis: value,
                }  # fmt: skip
                failed = status == "failed"
                trials.append(shared | {
                    "training_id": shared["trial_id"], "training_label": label,
                    "status": status, "error": "loss became nan at step 210" if failed else None,
                    "log_path": f"logs/{noise}-{seed}.txt" if failed else None, "train_s": 61.0 + seed,
                    "shared_s": 0.0, "eval_s": 4.0,
                    "wall_s": 66.0, "steps": 1500, "parameters": 314_000, "device": "CPU, 2 cores",
                })  # fmt: skip
                if status == "missing":
                    continue
                steps = range(100, 1501, 100) if status == "done" else range(100, 401, 100)
                curves += [
                    {k: shared[k] for k in ("trial_id", "label", "seed", "noise")}
                    | {"step": s, "name": "validation_psnr", "value": level + 0.3 - 6 * math.exp(-s / 250)}
                    for s in steps
                ]
                if status != "done":
                    continue
                for image in range(images):
                    at = shared | {"dataset": "kodak24", "image_id": f"kodim{image + 1:02d}", "repeat": 0}
                    got = level + content[image] + generator.normal(0, 0.04)
                    base = NOISY + 0.05 * content[image]
                    for protocol, shift in (("canonical", 0.0), ("neighbor2neighbor", -0.02)):
                        for output, decibel in (("denoised", got), ("noisy", base)):
                            at |= {"output": output, "protocol": protocol}
                            rows.append(at | {"metric": "psnr", "value": decibel + shift})
                            rows.append(at | {"metric": "ssim", "value": 0.85 + 0.02 * (decibel - 29)})
                kept = ("trial_id", "label", "seed", "noise")
                previews += [
                    {k: shared[k] for k in kept}
                    | {"dataset": "kodak24", "image_id": "kodim01", "kind": k, "png": png()}
                    for k in ("clean", "noisy", "denoised")
                ]
    built = StudyResults(
        name="neighbor2neighbor_gamma", question="How strongly should the two sub-images be tied?", budget="laptop",
        axes=(axis,), plot=Curve(x=axis), paper=PaperTable("neighbor2neighbor", "table3"),
        paper_protocol="neighbor2neighbor", deviations=(Deviation(),), default={axis: default},
        trials=pd.DataFrame(trials, columns=[*COLUMNS["trials"], axis]),
        measurements=pd.DataFrame(rows, columns=[*COLUMNS["measurements"], axis]),
        curves=pd.DataFrame(curves, columns=list(COLUMNS["curves"])),
        previews=pd.DataFrame(previews, columns=list(COLUMNS["previews"])),
        like_for_like=("trained on 400 images of CBSD400, not on ImageNet",), manifests=({"revision": "abc123"},),
        command="python studies/neighbor2neighbor_gamma.py --budget laptop", created="2026-01-01 12:00",
    )  # fmt: skip
    return dataclasses.replace(built, **changes)


def search() -> StudyResults:
    """30 suggestions of a made-up search, a third of them pruned."""
    values = [float(10 ** (-1 + 2.5 * ((k * 0.618) % 1))) for k in range(30)]
    effects = {value: -0.2 * (math.log10(value) - 0.4) ** 2 for value in values}
    statuses = {(value, 0): "pruned" for value in values[2::3]}
    return study(effects=effects, seeds=(0,), references=False, statuses=statuses, images=6)


# --- the verdict ------------------------------------------------------------------------------------------------------


def test_a_clear_win_is_stated_with_interval_counts_and_the_papers_value() -> None:
    verdict = judge(study(effects={0.0: -0.3, 2.0: 0.0}, spread=0.005))
    pattern = (
        r"gamma = 2 beats gamma = 0 by 0\.[23]\d dB \(95 % interval \[0\.\d\d, 0\.\d\d\], "
        r"3 seeds × 20 images, paired; the paper reports \+0\.31\)\."
    )
    assert re.fullmatch(pattern, verdict.headline)
    assert any(sentence.startswith("gamma = 2 gains ") for sentence in verdict.sentences)
    assert any("below N2C" in sentence for sentence in verdict.sentences)
    assert any("the order is the paper's: 2 > 0" in sentence for sentence in verdict.sentences)
    assert str(verdict).startswith(verdict.headline)


def test_an_interval_that_crosses_zero_never_becomes_a_conclusion() -> None:
    verdict = judge(study(effects={0.0: 0.0, 2.0: 0.0}, spread=0.1))
    assert "cannot be told apart with 3 seeds × 20 images (difference" in verdict.headline
    assert "beats" not in str(verdict)
    assert any("would show it" in s or "take the two as equal" in s for s in verdict.sentences)


@pytest.mark.parametrize("spread", [0.005, 0.05, 0.2])
def test_beats_is_said_of_exactly_the_conclusive_comparisons(spread: float) -> None:
    verdict = judge(study(spread=spread))
    beaten = next((s for s in verdict.sentences if " beats " in s), "")
    for item in verdict.comparisons:
        named = f"gamma = {item.other[0]:g} by" in beaten
        assert named == item.interval.conclusive == (item.interval.low > 0)
        assert item.interval.level == pytest.approx(1 - 0.05 / 3)


def test_winner_with_a_near_tie_says_both() -> None:
    headline = judge(study()).headline
    assert "gamma = 2 beats gamma = 0 by" in headline
    assert headline.endswith("It cannot be told apart from gamma = 8.")


def test_one_seed_does_not_cover_the_luck_of_training() -> None:
    verdict = judge(study(seeds=(0,)))
    assert verdict.headline.endswith("With one seed, the luck of training is not covered.")
    assert any("luck of training is not covered" in sentence for sentence in verdict.sentences)
    assert not verdict.comparisons[0].interval.seeds_resampled


def test_pairs_only_over_seeds_that_every_cell_has() -> None:
    verdict = judge(study(statuses={(0.0, 1): "failed", (20.0, 2): "missing"}))
    assert all(item.interval.seeds == 1 for item in verdict.comparisons)
    assert any("left out: 1 and 2" in sentence for sentence in verdict.sentences)
    assert any("1 failed and 1 not run yet" in sentence for sentence in verdict.sentences)


def test_a_cell_without_any_training_is_named_and_the_others_are_judged() -> None:
    verdict = judge(study(statuses={(20.0, seed): "failed" for seed in range(3)}))
    assert len(verdict.comparisons) == 2
    assert any("not judged: gamma = 20" in sentence for sentence in verdict.sentences)


def test_nothing_finished_says_so() -> None:
    verdict = judge(study(statuses={(v, s): "missing" for v in (*EFFECTS, None) for s in range(3)}))
    assert verdict.headline.startswith("Nothing can be said yet")
    assert not verdict.comparisons


def test_several_settings_are_summed_up_and_then_told_one_by_one() -> None:
    verdict = judge(study(noises=("gauss25", "poisson30")))
    assert "gamma = 2 has the best mean in both settings; it beats gamma = 0 in both, by" in verdict.headline
    assert [title for title, _ in verdict.details] == ["Gaussian σ = 25, Kodak24", "Poisson λ = 30, Kodak24", ""]


def test_the_papers_order_is_set_beside_another_one() -> None:
    verdict = judge(study(effects={0.0: 0.3, 2.0: 0.0, 8.0: -0.2, 20.0: -0.4}))
    assert any("the paper's order is 2 > 8 > 20 > 0; ours is 0 > 2 > 8 > 20" in s for s in verdict.sentences)


def test_a_denoiser_worse_than_its_input_is_not_called_a_gain() -> None:
    verdict = judge(study(effects={0.0: -15.0, 2.0: -14.0}))
    assert any("LOSES" in sentence for sentence in verdict.sentences)


# --- figures and tables as data -----------------------------------------------------------------------------------


def test_the_main_figure_holds_means_seeds_references_and_the_papers_changes() -> None:
    (figure,) = figures.axis_figures(study())
    (panel,) = figure.panels
    (line,) = panel.lines
    grid = cells.grid(study(), KODAK)
    assert line.ours.x == ("0", "2", "8", "20") and figure.categorical and figure.joined
    assert line.ours.y == pytest.approx([grid.mean(cell) for cell in grid.cells])
    assert all(low < y < high for low, y, high in zip(line.ours.low, line.ours.y, line.ours.high, strict=True))
    assert len(line.seeds) == 3 and panel.noisy == pytest.approx(NOISY, abs=0.1)
    assert [name for name, _ in panel.references] == ["N2C (clean targets)", "N2N (noisy pairs)"]
    assert line.paper.y == pytest.approx((-0.31, 0.0, -0.06, -0.13))
    assert (line.change.low[1], line.change.y[1], line.change.high[1]) == (0, 0, 0)


def test_many_numeric_values_get_a_true_axis_and_names_get_none() -> None:
    many = study(effects={float(3**k): 0.01 * k for k in range(-4, 6)}, default=1.0)
    (figure,) = figures.axis_figures(many)
    assert not figure.categorical and figure.logarithmic
    named = study(
        effects={"fix-location": -0.03, "random": 0.0}, axis="sampler", default="random", plot=Bars(x="sampler"),
        paper=PaperTable("neighbor2neighbor", "table4"),
    )  # fmt: skip
    (figure,) = figures.axis_figures(named)
    assert not figure.joined and figure.panels[0].lines[0].paper.y == pytest.approx((-0.03, 0.0))


def test_image_differences_are_sorted_and_those_of_the_best_two() -> None:
    (figure,) = figures.image_figures(study())
    assert {figure.first, figure.second} == {"gamma = 2", "gamma = 8"}
    assert list(figure.difference) == sorted(figure.difference) and len(figure.images) == 20


def test_learning_curves_keep_references_apart() -> None:
    figure = figures.learning_figure(study())
    assert figure is not None
    ((_, ours, references),) = figure.panels
    assert [line.name for line in ours] == ["gamma = 0", "gamma = 2", "gamma = 8", "gamma = 20"]
    assert len(references) == 2 and ours[0].x[:2] == (100, 200)


def test_a_search_shows_every_suggestion_and_the_best_of_the_finished_ones() -> None:
    results = search()
    assert figures.axis_figures(results) == []
    (figure,) = figures.search_figures(results)
    assert len(figure.values) == 30 and sum(figure.pruned) == 10
    finished = [v for v, stopped in zip(figure.values, figure.pruned, strict=True) if not stopped]
    assert figure.best_so_far[-1] == max(finished)
    assert list(figure.best_so_far) == sorted(figure.best_so_far)


def test_tables_pair_with_the_paper_and_bold_only_what_is_conclusive() -> None:
    (plain,) = comparison_tables(study(), "neighbor2neighbor")
    rows = {row.name: row for row in plain.rows}
    assert rows["gamma = 2"].numbers["psnr"].paper == 32.08 and rows["gamma = 2"].numbers["ssim"].paper == 0.879
    assert rows["N2C (clean targets)"].numbers["psnr"].paper == 32.43  # from the paper's main table
    assert rows["noisy input"].numbers["psnr"].paper is None
    assert not any(row.best for row in plain.rows)  # gamma = 8 is too close
    (clear,) = comparison_tables(study(effects={0.0: -0.3, 2.0: 0.0}), "neighbor2neighbor")
    assert [row.name for row in clear.rows if row.best] == ["gamma = 2"]


def test_the_papers_value_of_another_test_set_is_named_as_such() -> None:
    results = study()
    moved = dataclasses.replace(results, measurements=results.measurements.assign(dataset="cbsd68"))
    (plain,) = comparison_tables(moved, "neighbor2neighbor")
    assert plain.paper_dataset == "kodak24" and plain.setting.dataset == "cbsd68"
    text = page(moved)
    assert "paper (Kodak24)" in text and "The paper's images are others" in text.replace("&#x27;", "'")
    assert "paper (Kodak24)" not in page(results)
    assert "the paper reports +0.31 on Kodak24" in judge(moved).headline


def test_costs_count_finished_trainings() -> None:
    found = {item.name: item for item in costs(study(statuses={(0.0, 1): "failed"}))}
    assert found["gamma = 0"].trainings == 2 and found["gamma = 2"].total_s == pytest.approx(62 * 3 + 12)
    assert found["gamma = 2"].seconds_per_gain == pytest.approx(62 / 9.0, rel=0.1)


def test_repeats_of_an_image_are_no_further_images() -> None:
    results = study()
    twice = pd.concat([results.measurements, results.measurements.assign(repeat=1)])
    assert cells.grid(dataclasses.replace(results, measurements=twice), KODAK).cells[(2.0,)].shape == (3, 20)


def test_names_for_people() -> None:
    assert cells.noise_name("gauss5_50") == "Gaussian σ 5–50" and cells.noise_name("mixture_a") == "mixture_a"
    assert [cells.noise_name(noise) for noise in ("mixa15", "mixb50", "corr25", "corrn2.5", "corr")] == [
        "mixture A, s = 15", "mixture B, s = 50", "correlated, σ = 25", "correlated (normalised), σ = 2.5", "corr"
    ]  # fmt: skip
    assert cells.value_text(2.0) == "2" and cells.value_text(0.0031416) == "0.00314"


def test_a_table_without_its_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks: gamma"):
        dataclasses.replace(study(), trials=study().trials.drop(columns="gamma"))


# --- the page ---------------------------------------------------------------------------------------------------------

EDGES = {
    "whole": lambda: study(noises=("gauss25", "poisson30")),
    "no paper": lambda: study(paper=None, paper_protocol="", like_for_like=()),
    "no references": lambda: study(references=False),
    "one seed": lambda: study(seeds=(0,)),
    "one cell": lambda: study(effects={2.0: 0.0}),
    "nothing finished": lambda: study(statuses={(v, s): "missing" for v in (*EFFECTS, None) for s in range(3)}),
    "no previews or curves": lambda: study(
        previews=pd.DataFrame(columns=list(COLUMNS["previews"])), curves=pd.DataFrame(columns=list(COLUMNS["curves"]))
    ),
    "some failed": lambda: study(statuses={(0.0, 1): "failed"}),
    "no trials": lambda: study(effects={}, references=False),
    "search": search,
}


@pytest.mark.parametrize("edge", EDGES)
def test_every_report_is_one_file_that_fetches_nothing(edge: str) -> None:
    results = EDGES[edge]()
    text = page(results)
    ours = re.sub(r"<script>/\*\*.*?</script>", "", text, count=1, flags=re.DOTALL)  # without plotly.js itself
    assert len(ours) < 1_500_000 < len(text)
    assert not re.search(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", ours)
    assert "@import" not in ours and "<link" not in ours and "url(" not in ours
    assert "default-src 'none'" in text and text.count("Content-Security-Policy") >= 1
    assert "nan" not in re.sub(r"<script.*?</script>|nan at step", "", ours, flags=re.DOTALL).lower().split()
    assert judge(results).headline.replace("'", "&#x27;") in text.replace("\u00a0", " ")


def test_the_order_of_a_full_report() -> None:
    text = page(study(statuses={(0.0, 1): "failed"}))
    titles = [re.sub("&.*?;", "'", title) for title in re.findall(r"<h2>(.*?)</h2>", text)]
    assert titles == [
        "Result", "Ours and the paper's, measured by the protocol “neighbor2neighbor”", "Look at it", "Learning curves",
        "Image by image: the two best", "What it cost", "Like for like?", "What this budget cannot resolve",
        "Where paper, code and this run differ", "Failed trainings", "Code, packages, hardware, data", "Run it again",
    ]  # fmt: skip
    assert "loss became nan at step 210" in text and "logs/gauss25-1.txt" in text
    assert "data:image/png;base64," in text and "--budget laptop" in text


def test_every_text_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    results = study(
        question=evil, command=evil, budget=evil, like_for_like=(evil,), deviations=(Deviation(topic=evil),),
        manifests=({evil: evil},), created=evil,
    )  # fmt: skip
    trials = results.trials.assign(error=evil, status="failed", label=evil, log_path=evil, device=evil)
    assert evil not in page(dataclasses.replace(results, trials=trials))


def test_render_writes_the_page_and_nothing_else(tmp_path: Path) -> None:
    path = render(study(images=4), tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_of_many_cells_the_ends_and_every_reference_are_shown_and_the_papers_setting_is_judged() -> None:
    many = {gamma / 10: -2.0 * abs(gamma / 10 - 0.3) for gamma in range(11)}
    results = study(effects=many, default=0.5)
    text = page(results)
    captions = re.findall(r"<figcaption>(.*?)(?:<br>|</figcaption>)", text)
    assert captions[:3] == ["clean", "noisy", "gamma = 0"]
    assert "gamma = 1" in captions and len([one for one in captions if one.startswith("gamma")]) == CROPS
    assert len(captions) == 2 + CROPS + 2  # both references
    sentences = " ".join(judge(results).sentences)
    assert "The paper's setting, gamma = 0.5, is below gamma = 0.3 (" in sentences
    assert "the paper's changes are on the same axis" not in text  # its table has none of these cells
    near = study(effects={**many, 0.5: -0.001, 0.3: 0.0}, default=0.5)
    told = " ".join(judge(near).sentences)
    assert "gamma = 0.3 and gamma = 0.5 cannot be told apart" in told or "gamma = 0.5 and gamma = 0.3 cannot" in told
    assert "The paper's setting" not in told  # the list of ties has said it


def test_a_figure_for_each_metric_that_the_plot_names() -> None:
    results = study(plot=Curve(x="gamma", metrics=("psnr", "ssim")))
    drawn = figures.axis_figures(results)
    assert [figure.metric for figure in drawn] == ["psnr", "ssim"]
    assert max(drawn[1].panels[0].lines[0].ours.y) < 1.5 < min(drawn[0].panels[0].lines[0].ours.y)
    assert "SSIM" in page(results)


def test_makespan_fills_lanes_with_the_longest_first() -> None:
    assert makespan([5, 3, 3], 2) == 6
    assert makespan([50, 50, 50, 1, 1], 2) == 100
