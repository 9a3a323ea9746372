"""What to record to know more, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.race.entrants import Entrant
from cluster.race.rounds import Lap
from cluster.race.standing import Standing, images_needed
from cluster.report.html_parts import duration
from denoise_core.noise.report import NoiseReport

CLIPPED = 0.01
"""Part of clipped pixels from which on exposure matters."""


def unranked(trained: Sequence[Entrant]) -> str:
    """The verdict where no criterion can be trusted, on the methods that were trained."""
    if not trained:
        return "No method can be recommended: none whose assumptions hold could be trained on these images."
    names = ", ".join(one.label for one in trained)
    return (
        f"No ranking without clean images is reliable here, so none is given. {names} were trained, since their "
        "assumptions hold: look at what each removed before you trust one."
    )


def advice(found: Standing | None, laps: Sequence[Lap], report: NoiseReport, frames: int) -> list[str]:
    """What would make the answer surer, the most telling first."""
    advised = []
    if frames < 3:
        advised.append(
            "Record each of 3 to 5 scenes 5 to 10 times, without anything moving. Repeated frames judge every method "
            "without an assumption but a zero mean, give the noise's level exactly and show whether it is zero-mean; "
            "denoise-studies noise FOLDER --repeats measures them."
        )
    if found is not None and found.tied:
        needed = images_needed(found.tied[0], laps[-1], found.best.entrant)
        if needed is None:
            advised.append(
                f"{found.best.entrant.label} and {found.tied[0].entrant.label} are the same for all that matters: take "
                "the cheaper one."
            )
        else:
            advised.append(
                f"About {needed} images to judge on would tell {found.best.entrant.label} from "
                f"{found.tied[0].entrant.label}, where {found.images} do not."
            )
    if max(report.clipped_low, report.clipped_high) > CLIPPED:
        share = max(report.clipped_low, report.clipped_high)
        advised.append(f"{share:.1%} of the pixels are clipped: noise there is not zero-mean; change the exposure.")
    if report.jpeg:
        advised.append("The images were compressed as JPEG: record without, since it correlates the noise.")
    if not report.pixel_independent:
        advised.append(
            "Neighbouring pixels' noise is correlated: raw images, before demosaicking, sharpening or scaling, often "
            "have independent noise, which more methods and criteria can use."
        )
    return advised


def costs(laps: Sequence[Lap], seconds: float, budget: str) -> str:
    """What was done in which time."""
    rounds = ", ".join(f"{len(lap.trials)} with {100 * lap.part:.0f} % of the steps" for lap in laps)
    return f"{duration(seconds)} in all, with the {budget} budget's networks; rounds: {rounds}."
