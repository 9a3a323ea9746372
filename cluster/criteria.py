"""Studies without clean images: which criterion their images license, and the study that is judged by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cluster.console import Console
from cluster.plan import change
from cluster.report.figures import Bars
from cluster.study import Study
from denoise_core.errors import UserError
from denoise_core.scenes import chosen, scenes
from denoise_core.specification import LoadedData


def asked(name: str) -> dict[str, tuple[str, ...]]:
    """The fields of a DataSpec whose images are read before anything is known of their noise."""
    return {"criteria": (name,)}


def licensed(loaded: Sequence[LoadedData], name: str, console: Console) -> list[LoadedData]:
    """The same data with the criterion that ``name`` (or auto) stands for. Says which and why.

    Raises UserError where it is refused, where none is reliable, and where ``auto`` finds another one for other noise.
    """
    choices = [chosen(name, scenes(one.test[0], one.spec.test_noise or one.spec.noise)) for one in loaded]
    found = {choice.criterion.name for choice in choices}
    if len(found) > 1:
        raise UserError(
            f"The noises of this study license different criteria ({', '.join(sorted(found))}), whose values cannot be "
            "compared: give one --noise, or name the --criterion."
        )
    console.say(str(choices[0]))
    return [replace(one, spec=change(one.spec, {"criteria": tuple(found)})) for one in loaded]


def judged_by(study: Study, name: str) -> Study:
    """The study whose report and search go by this criterion, with PSNR beside it where there is one."""
    plot = study.plot or Bars(study.axes[0].names[0])
    metrics = tuple(dict.fromkeys((name, *plot.metrics)))
    return replace(study, plot=replace(plot, metrics=metrics), objectives=(name,))
