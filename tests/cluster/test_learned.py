"""What was learned of the noise: from the store's rows to lines, numbers, sentences and the page."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cluster.report.collect import _of_trainings
from cluster.report.drawing import draw_learned
from cluster.report.html import page
from cluster.report.learned import Learned, joined_name, learned, signed
from cluster.report.results import COLUMNS, StudyResults
from cluster.results.store import Evaluated, Store
from denoise_core.diagnostics import (
    EXTRACTED,
    GENERATED,
    TRUE,
    Diagnostic,
    describe_noise,
    describe_patches,
    rows,
    scalar,
)
from tests.cluster.test_report import study
from tests.cluster.test_store import measurements, trial

SIGMA = 25.0
RULES: Mapping[str, tuple[float, float, int]] = {"dwt": (25.3, 0.6, 812), "gcbd": (29.8, 6.1, 640)}


def noise(std: float, seed: int) -> torch.Tensor:
    return torch.randn(4, 1, 48, 48, generator=torch.Generator().manual_seed(seed)) * std / 255


def chain(rule: str, seed: int, std: float) -> list[Diagnostic]:
    """What one training of a chain records; the truth is the same for all."""
    mean, spread, count = RULES[rule]
    sigmas = torch.normal(mean, spread, (count,), generator=torch.Generator().manual_seed(seed)) / 255
    return [
        *describe_noise(GENERATED, noise(std + 0.2 * seed, 10 + seed), SIGMA / 255),
        *describe_noise(TRUE, noise(SIGMA, 99), SIGMA / 255),
        *describe_patches(sigmas, SIGMA / 255),
    ]


def made(
    diagnostics: Mapping[tuple[str, int], Sequence[Diagnostic]], *, noises: Sequence[str] = ("gauss25",), **changes: Any
) -> StudyResults:
    """A made-up study with these diagnostics by label and seed, in each of the noises."""
    found = [
        {**row, "label": label, "seed": seed, "noise": one}
        for one in noises
        for (label, seed), lines in diagnostics.items()
        for row in rows(f"{one}-{label}-{seed}", lines)
    ]
    return study(
        images=4, noises=noises, diagnostics=pd.DataFrame(found, columns=list(COLUMNS["diagnostics"])), **changes
    )


def chains(**changes: Any) -> StudyResults:
    """Two rules with four iterations each, which share their chain's noise generator; and a reference."""
    stds = {"dwt": 21.6, "gcbd": 28.0}
    found = {
        (f"rule = {rule}, iterations = {iteration}", seed): chain(rule, seed, stds[rule])
        for rule in RULES
        for iteration in range(4)
        for seed in range(3)
    }
    found |= {("n2c", seed): describe_noise(GENERATED, noise(24.9, 50 + seed), SIGMA / 255) for seed in range(3)}
    return made(found, **changes)


def told(results: StudyResults) -> Learned:
    plain = learned(results)
    assert plain is not None
    return plain


def test_equal_lines_are_drawn_once_under_a_joined_name() -> None:
    plain = told(chains())
    assert [figure.name for figure in plain.figures] == ["patch_sigma", "noise_histogram", "noise_autocorrelation"]
    for figure in plain.figures:
        (panel,) = figure.panels
        names = [line.label for line in panel.lines if not line.reference]
        assert names == ["rule = dwt", "rule = gcbd"]  # what all lines share is left out
        assert panel.title == "Gaussian σ = 25"
    references = [line.label for line in plain.figures[1].panels[0].lines if line.reference]
    assert references == ["N2C (clean targets)"]


def test_lines_are_means_over_seeds_with_their_span_and_a_histogram_peaks_at_one() -> None:
    patches, values, correlation = (figure.panels[0] for figure in told(chains()).figures)
    for line in values.lines:
        low, y, high = (np.array(values) for values in (line.points.low, line.points.y, line.points.high))
        assert (low <= y + 1e-12).all() and (y <= high + 1e-12).all() and len(y) == 101
    assert values.truth is not None and values.mark is None
    assert correlation.truth is not None and correlation.truth.y[0] == 1.0
    assert patches.truth is None and patches.mark == pytest.approx(SIGMA)
    assert [max(line.points.y) for line in patches.lines] == [1.0, 1.0]
    assert list(patches.lines[1].points.x) == sorted(patches.lines[1].points.x)


def test_one_line_that_differs_in_one_seed_is_another_line() -> None:
    found = {("g = 1", 0): [scalar("noise_std", GENERATED, 20)], ("g = 2", 0): [scalar("noise_std", GENERATED, 20)]}
    apart = {**found, ("g = 1", 1): [scalar("noise_std", GENERATED, 21)], ("g = 2", 1): []}
    (table,) = told(made(found)).tables
    assert [row.name for row in table.rows] == ["g = 1, 2"]
    (table,) = told(made(apart)).tables
    assert [row.name for row in table.rows] == ["g = 1", "g = 2"]


def test_joined_names() -> None:
    assert joined_name(["gamma = 2"]) == "gamma = 2" and joined_name(["n2c"]) == "n2c"
    assert joined_name(["a = 0, b = x", "a = 1, b = x"]) == "b = x, a = 0, 1"
    assert joined_name(["a = 0, b = x", "a = 1, b = y"]) == "a = 0, b = x; a = 1, b = y"  # not every combination
    assert joined_name(["a = 0, b = x", "a = 0, b = y", "a = 1, b = x", "a = 1, b = y"]) == "a = 0, 1, b = x, y"
    assert joined_name(["p = (1, 2)", "p = (1, 3)"]) == "p = (1, 2), (1, 3)"
    assert joined_name(["a = 0", "N2C"]) == "a = 0; N2C"


def test_numbers_are_means_over_seeds_with_the_truth_last() -> None:
    (table,) = told(chains()).tables
    assert table.heads[:2] == ("noise σ", "correlation at lag 1") and table.heads[-1] == "patches"
    assert [row.role for row in table.rows] == ["cell", "cell", "reference", "true"]
    std = table.rows[0].numbers[0]
    assert std is not None and std.value == pytest.approx(21.8, abs=0.3) and std.spread is not None
    assert std.relative == pytest.approx(-0.128, abs=0.02)
    assert [number is None for number in table.rows[2].numbers] == [False, False, True, True, True]
    truth = table.rows[-1]
    assert [number and round(number.value) for number in truth.numbers] == [25, 0, 25, None, None]
    (single,) = told(made({("g = 1", 0): [scalar("noise_std", GENERATED, 20)]})).tables
    (number,) = single.rows[0].numbers
    assert number is not None and number.spread is None and number.relative is None  # one seed, no truth


def test_sentences_of_one_chain_and_of_two_rules() -> None:
    facts = [scalar("noise_std", GENERATED, 21.7), scalar("noise_lag1", GENERATED, 0.04)]
    truth = [scalar("noise_std", TRUE, 25.0), scalar("noise_lag1", TRUE, -0.001)]
    one = told(made({(f"iterations = {n}", 0): [*facts, *truth] for n in range(4)}))
    assert [line.name for line in one.tables[0].rows] == ["iterations = 0, 1, 2, 3", "true"]
    assert one.sentences == (
        "Generated noise has a standard deviation of 21.7 (13 % below the true 25.0) "
        "and a lag-1 correlation of 0.04 (true 0.00).",
    )
    known = {
        (f"rule = {rule}", 0): [
            scalar("patch_sigma_mean", EXTRACTED, mean),
            scalar("patch_sigma_spread", EXTRACTED, spread),
            scalar("patch_count", EXTRACTED, count),
            scalar("patch_sigma_mean", TRUE, 25.0),
        ]
        for rule, (mean, spread, count) in RULES.items()
    }
    assert told(made(known)).sentences == (
        "Standard deviation of the extracted patches: rule = dwt: mean 25.3, spread 0.6 over 812 patches; "
        "rule = gcbd: mean 29.8, spread 6.1 over 640 patches; true 25.0.",
    )
    without = told(made({("a = 1", 0): [scalar("noise_std", GENERATED, 25.02), scalar("patch_count", EXTRACTED, 0)]}))
    assert without.sentences == (
        "Generated noise has a standard deviation of 25.0.",
        "Standard deviation of the extracted patches: none found.",
    )


def test_several_noises_are_named_and_of_many_cells_the_ends() -> None:
    found = {
        (f"g = {n}", 0): [scalar("noise_std", GENERATED, 20 + n), scalar("noise_std", TRUE, 25.0)] for n in range(9)
    }
    assert told(made(found, noises=("gauss25", "poisson30"))).sentences == (
        "Gaussian σ = 25: over 9 settings the standard deviation of generated noise is "
        "20.0 (g = 0) to 28.0 (g = 8); true 25.0.",
        "Poisson λ = 30: over 9 settings the standard deviation of generated noise is "
        "20.0 (g = 0) to 28.0 (g = 8); true 25.0.",
    )


def test_lines_with_other_places_are_put_on_one_axis() -> None:
    levels = {("g = 1", seed): [Diagnostic("noise_level_function", "estimated", x, x)] for seed, x in enumerate(
        [(0.0, 10.0, 20.0), (5.0, 10.0, 15.0)]
    )}  # fmt: skip
    (line,) = told(made(levels)).figures[0].panels[0].lines
    assert line.points.x == (0.0, 10.0, 20.0) and line.points.y == (0.0, 10.0, 20.0)
    bins = {("g = 1", seed): [Diagnostic("patch_sigma", EXTRACTED, x, (0.0, 1.0))] for seed, x in enumerate(
        [(1.0, 2.0), (2.0, 3.0)]
    )}  # fmt: skip
    (line,) = told(made(bins)).figures[0].panels[0].lines
    assert line.points.x == (1.0, 2.0, 3.0) and line.points.y == (0.0, 1.0, 1.0)
    sigmas = torch.normal(SIGMA, 2.0, (4000,), generator=torch.Generator().manual_seed(0)) / 255
    grids = {("g = 1", seed): describe_patches(sigmas, true / 255) for seed, true in enumerate((25.0, 25.2))}
    (line,) = told(made(grids)).figures[0].panels[0].lines  # bins that differ a little make no comb
    assert max(line.points.low, default=0) > 0.9 and len(line.points.x) < 60


def test_what_is_not_a_number_or_not_known_is_left_out() -> None:
    assert learned(study(images=2)) is None
    assert (
        learned(made({("g = 1", 0): [scalar("noise_std", GENERATED, np.nan), scalar("shoe_size", TRUE, 43)]})) is None
    )
    assert signed(-0.001) == "0.00" and signed(-0.5) == "-0.50" and signed(1234.5, 0) == "1,234"


@pytest.mark.parametrize("noises", [("gauss25",), ("gauss25", "poisson30")])
def test_the_page_has_a_section_after_the_crops(noises: Sequence[str]) -> None:
    text = page(chains(noises=noises))
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles[titles.index("Look at it") + 1] == "What was learned of the noise"
    assert 'id="learned-patch_sigma"' in text
    shown = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "tandard deviation of the extracted patches: rule" in shown and "<td>true</td>" in shown
    assert re.search(r"<td>21\.\d\d ± \d\.\d\d \(-1\d %\)</td>", shown)
    assert "What was learned of the noise" not in page(study(images=4))


def test_many_cells_are_a_crowd_without_names() -> None:
    found = {(f"g = {n}", 0): describe_noise(GENERATED, noise(20 + n, n), SIGMA / 255) for n in range(14)}
    plain = told(made(found))
    traces = draw_learned(plain.figures[0]).data
    assert len(traces) == 14 and not any(trace.showlegend for trace in traces)
    assert plain.sentences[0].startswith("Over 14 settings")


def test_the_store_keeps_what_there_is_and_the_report_finds_it(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s"))
    found = chain("dwt", 0, 21.6)
    evaluated: dict[str, Evaluated] = {"a": (measurements("a"), [])}
    store.write_trial(trial("a"), [], evaluated, rows("a", found))
    store.write_trial(trial("b"), [], {"b": (measurements("b"), [])})
    assert store.names("diagnostics") == ["a"]
    table = store.read("diagnostics", ["a", "b"]).to_pandas()
    back = {
        (figure, series): (tuple(group["x"]), tuple(group["y"]))
        for (figure, series), group in table.groupby(["figure", "series"])
    }
    assert back == {(one.figure, one.series): (one.x, one.y) for one in found}
    planned = [
        {"trial_id": f"a-{gamma}", "training_id": "a", "training_label": "rule = dwt", "seed": 0,
         "training_noise": "gauss25", "label": f"rule = dwt, gamma = {gamma}"}
        for gamma in (0, 1)
    ]  # fmt: skip
    frame = _of_trainings(store, "diagnostics", ["a"], pd.DataFrame(planned))
    assert tuple(frame.columns) == COLUMNS["diagnostics"] and len(frame) == len(table)
    assert set(frame["label"]) == {"rule = dwt"} and set(frame["trial_id"]) == {"a-0"}
    assert told(dataclasses.replace(study(images=2), diagnostics=frame)).figures


def test_diagnostics_are_written_before_the_trial_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(Store, "write", lambda self, table, name, rows: written.append(table))
    Store.open(str(tmp_path / "s")).write_trial(trial("a"), [], {}, rows("a", [scalar("noise_std", TRUE, 25)]))
    assert written == ["curves", "diagnostics", "trials"]


def test_extracted_noise_stands_beside_the_generated_noise_of_a_cell() -> None:
    lines = [line for series in (GENERATED, EXTRACTED) for line in describe_noise(series, noise(25, 1), SIGMA / 255)]
    plain = told(made({(f"iterations = {n}", 0): lines for n in range(2)}))
    assert plain.tables[0].heads[:2] == ("noise σ, generated", "noise σ, extracted")
    assert [text.split(" noise")[0] for text in plain.sentences] == ["Generated", "Extracted"]
    traces = draw_learned(plain.figures[0]).data
    assert [trace.name for trace in traces] == ["iterations = 0, 1, generated", "iterations = 0, 1, extracted"]
    assert traces[0].line.color == traces[1].line.color and traces[0].line.dash != traces[1].line.dash
