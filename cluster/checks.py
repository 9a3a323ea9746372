"""What can be said of planned trainings before any of them begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from cluster.plan import PlannedTrial
from denoise_core.assumptions import correlation_warning, measured_correlation, takes_pixels_as_independent
from denoise_core.method import method_class, outline
from denoise_core.noise.estimate import Correlation
from denoise_core.noise.evaluation import recorded
from denoise_core.noise.models import RECORDED
from denoise_core.specification import LoadedData, TrialSpec
from denoise_core.trainer import Trainer


def check_trials(
    trials: Sequence[PlannedTrial], data: Sequence[LoadedData], first_seed: int, workers: int
) -> list[str]:
    """Builds each distinct training without memory for its weights: warnings. Raises UserError for what cannot be
    trained by so many ``workers``, or tested. The noise of each data is measured once, where a method minds."""
    loaded = {one.contents: one for one in data}
    measured: dict[object, Correlation] = {}
    warnings: dict[str, None] = {}
    built: set[str] = set()
    for trial in trials:
        spec = trial.spec
        if spec.seed != first_seed and not method_class(spec.method).assumes.given:
            continue  # only what is found in given images differs from seed to seed
        if (shape := _shape(spec)) in built:
            continue
        built.add(shape)
        method = outline(spec.method, spec.config, spec.data.channels)
        images = replace(loaded[spec.contents], spec=spec.data)
        if spec.data.test_noise == RECORDED:  # may be the value of an axis
            for one in images.test:
                recorded(one)
        found = Trainer.check(method, images.source(spec.seed, torch.device("cpu")), workers)
        if takes_pixels_as_independent(method):
            seen = (spec.contents, spec.data.noise, spec.data.noise_realisation, spec.data.transductive)
            if seen not in measured:
                measured[seen] = measured_correlation(images)
            doubt = correlation_warning(method, measured[seen])
            found += [doubt] if doubt else []
        warnings |= dict.fromkeys(found)
    return list(warnings)


def _shape(spec: TrialSpec) -> str:
    """What networks, phases and images depend on: of a real number such as a weight or a rate only whether it is zero.

    A sweep of a hundred weights is checked with two of them; each value by itself was when it was specified.
    """

    def kind(value: Any) -> Any:
        return value != 0 if isinstance(value, float) else value

    config = {name: kind(value) for name, value in spec.config.items()}
    return repr((spec.method, config, spec.data, spec.contents, spec.seed))
