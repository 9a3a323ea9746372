"""A report that goes by a criterion without clean images: estimates are called so, beside true PSNR."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from cluster.report.figures import Curve
from cluster.report.results import StudyResults
from cluster.report.verdict import judge
from tests.cluster.test_report import study


def by(criterion: str) -> StudyResults:
    """The made-up study with estimates that favour gamma = 0, where the truth favours gamma = 2."""
    results = study(effects={0.0: -0.3, 2.0: 0.0}, spread=0.005)
    rows = results.measurements
    estimates = rows[(rows["metric"] == "psnr") & (rows["protocol"] == "canonical")].assign(metric=criterion)
    estimates["value"] += estimates["gamma"].map({0.0: 1.0}).fillna(0.0)
    plot = Curve(x="gamma", metrics=(criterion, "psnr"))
    return replace(results, measurements=pd.concat([rows, estimates]), plot=plot, metric=criterion)


@pytest.mark.parametrize(
    ("criterion", "title"), [("sure", "PSNR by SURE"), ("thinning", "PSNR by photon thinning"), ("upsnr", "uPSNR")]
)
def test_estimates_and_truth_are_told_apart_in_every_sentence(criterion: str, title: str) -> None:
    verdict = judge(by(criterion))
    assert verdict.headline.startswith(f"{title} at gamma = 0 is higher than at gamma = 2 by 0.")
    said = verdict.sentences
    assert any(one.startswith("PSNR at gamma = 2 is higher than at gamma = 0 by 0.") for one in said)
    assert any(one.startswith("gamma = 0 gains ") and f"over the noisy input in {title} (" in one for one in said)
    assert any(one.startswith("gamma = 2 gains ") and "over the noisy input in PSNR (" in one for one in said)
    assert any(one.startswith(f"In this report {title} is an estimate without clean images") for one in said)
    assert not any(" beats " in one for one in (verdict.headline, *said))


def test_true_psnr_alone_needs_no_name() -> None:
    verdict = judge(study(effects={0.0: -0.3, 2.0: 0.0}, spread=0.005))
    assert verdict.headline.startswith("gamma = 2 beats gamma = 0 by")
    assert not any("estimate" in one for one in verdict.sentences)
