"""What a reader must know of the metrics of generated noise, wherever a section shows one."""

from __future__ import annotations

from collections.abc import Collection

from cluster.report import cells
from cluster.report.results import StudyResults
from denoise_core.diagnostics import FIGURES

AKLD = (
    "AKLD compares local variances only. It is no proper score: white noise of the right variance scores better than "
    "the true noise drawn anew, and it hardly sees correlation."
)
PGAP = "PGap is the PSNR of a denoiser trained on real pairs minus that of one trained on generated pairs."
BESIDE = ("noise_level_function", "noise_autocorrelation")
"""The diagnostics that show what AKLD does not see."""


def notes(results: StudyResults, metrics: Collection[str]) -> list[str]:
    """A few sentences on those of ``metrics`` that need any, and where the report shows what they miss."""
    found = []
    if "akld" in metrics:
        recorded = set(results.diagnostics["figure"])
        titles = [f"“{FIGURES[name].title}”" for name in BESIDE if name in recorded]
        if titles:
            beside = f"Read it with {' and '.join(titles)} in the section on the noise below."
        else:
            beside = "What would show that, the standard deviation by intensity and the autocorrelation of the noise, "
            beside += "was not recorded here."
        found.append(f"{AKLD} {beside}")
    if "pgap" in metrics:
        found.append(PGAP)
    return found


def drawn_metrics(results: StudyResults) -> tuple[str, ...]:
    """The metrics that the figures of the result show, as far as they were measured."""
    if cells.is_search(results):
        return (results.metric, *cells.further_metrics(results))
    return results.plot.metrics if results.plot.x in results.axes else ()
