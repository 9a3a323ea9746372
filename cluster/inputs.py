"""The images and the noise that a study is asked for, read and checked before anything else happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cluster.cli import Options
from cluster.console import Console
from cluster.criteria import asked, judged_by, licensed
from cluster.plan import change
from cluster.study import Study
from denoise_core.errors import UserError
from denoise_core.images.named import absolute, load_images
from denoise_core.method import method_class
from denoise_core.noise.models import RECORDED, simulated_noise
from denoise_core.specification import DataSpec, LoadedData, load_data


def inputs(study: Study, options: Options, console: Console) -> tuple[Study, list[LoadedData]]:
    """The images of every noise; and the study, judged by a criterion where one is asked for. Raises UserError."""
    specs = study.data.specs(options.budget, options.data_root)
    if options.noises:
        same = [spec for spec in specs if spec.noise == specs[0].noise]  # other doses of the test, or folds
        specs = [change(spec, {"noise": noise}) for noise in options.noises for spec in same]
    given = _given(study, options, specs[0])
    specs = [change(spec, given) for spec in specs]
    for spec in specs:
        simulated_noise(spec.noise)
    loaded: list[LoadedData] = []
    for spec in specs:  # the noises of a study share their images
        read = next((one for one in loaded if _share_images(one.spec, spec)), None)
        loaded.append(replace(read, spec=spec) if read else load_data(spec, options.data_root))
    _check_told_apart(study, specs)
    if options.criterion:
        loaded = licensed(loaded, options.criterion, console)
        study = judged_by(study, loaded[0].spec.criteria[0])
    return study, loaded


def _given(study: Study, options: Options, first: DataSpec) -> dict[str, Any]:
    """The fields of the data that flags change."""
    given = {name: one[0] for name, one in options.settings.items() if name in DataSpec.model_fields}
    given |= {name: _absolute(value) for name, value in options.data.items()}
    given |= asked(options.criterion) if options.criterion else {}
    unpaired = "clean_unpaired" in method_class(study.method).assumes.fields
    if "train" in given:
        facts = _facts(options, str(given["train"]), given.get("channels"))
        if given.get("transductive") and given["train"] in given.get("test", first.test):
            facts["validation"] = 0  # settings are never chosen on test images
        given = {**facts, **given}
        if "clean" in given and unpaired:
            _check_channels(options, str(given["clean"]), given["channels"], str(given["train"]))
        elif first.clean:
            raise UserError(
                f"{study.method} learns from noisy images and clean images of other scenes; with --train pass "
                "--clean as well, a folder or a set of clean images, and --test with images to measure on."
            )
    if "clean" in given and not unpaired:
        raise UserError(f"{study.method} does not learn from clean images of other scenes: leave --clean out.")
    return given


def _facts(options: Options, train: str, channels: int | None) -> dict[str, Any]:
    """What follows from the user's own training images: gray or colour, and how many can be set aside."""
    images = load_images(train, channels=channels, data_root=options.data_root)
    held_out = min(12, len(images) // 4, max(1, len(images) // 20))
    return {"channels": images.channels, "validation": held_out, "validation_set": ""}


def _check_channels(options: Options, clean: str, channels: int, train: str) -> None:
    found = load_images(clean, channels=None, data_root=options.data_root).channels
    if found != channels and options.data.get("channels") is None:
        kinds = {1: "gray", 3: "colour"}
        raise UserError(
            f"The clean images {clean} are {kinds[found]}, the noisy ones {train} {kinds[channels]}: give images "
            "of one kind, or say with --channels 1 that all are to be taken as gray."
        )


def _check_told_apart(study: Study, specs: Sequence[DataSpec]) -> None:
    """Raises UserError where a report could not tell two of the study's data apart: it names the test only."""
    shown = [(spec.test_noise or spec.noise, spec.test) for spec in specs]
    if len(set(shown)) < len(shown):
        raise UserError(
            f"{study.name} tests several kinds of training data on the same noise and images, which a "
            "report could not tell apart: give one --noise, and no --test where the study has folds."
        )


def _share_images(one: DataSpec, other: DataSpec) -> bool:
    """Whether they differ in simulated noise only; recorded noise asks other things of the images."""
    noises = {"noise": other.noise, "test_noise": other.test_noise}
    recorded = {(spec.noise == RECORDED, spec.test_noise == RECORDED) for spec in (one, other)}
    return len(recorded) == 1 and one.model_copy(update=noises) == other


def _absolute(value: Any) -> Any:
    """Paths of folders as every worker understands them; names and numbers as they are."""
    if isinstance(value, tuple):
        return tuple(_absolute(one) for one in value)
    return absolute(value) if isinstance(value, str) else value
