"""Measures by all criteria what a store's trainings lack, from their stored weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from cluster.console import Console
from cluster.execution.board import Task
from cluster.execution.one_training import Training
from cluster.results.schema import DONE
from cluster.results.store import Store
from denoise_core.errors import UserError
from denoise_core.method import Recipe, method_class
from denoise_core.metrics.clean_free import criteria
from denoise_core.scenes import scenes
from denoise_core.specification import EVALUATION_FIELDS, DataSpec, LoadedData, TrialSpec, load_data, specify
from denoise_core.trainer import Ranks

log = logging.getLogger("denoise")


def fill(store: Store, data_root: Path | None, most: int, console: Console) -> int:
    """Evaluates up to ``most`` trainings that no criterion has measured yet; returns how many.

    Left out are trainings whose images are not at hand or have changed, and methods that learn anew for every image.
    """
    done = 0
    for trial_id, row in store.trials(store.names("trials")).items():
        if done >= most:
            break
        if row["status"] != DONE or (found := _again(row, data_root)) is None:
            continue
        spec, data = found
        params = {**{name: one for name, one in spec.params.items() if name not in EVALUATION_FIELDS}, **_asked(spec)}
        task = Task(spec, trial_id, (params,))
        training = Training(task, row["study"], row["budget"], store, Ranks(), torch.device("cpu"))
        if store.has("measurements", training._evaluation_id(params)):
            continue
        if training.evaluate_stored(partial(_same, data)):
            done += 1
            console.say(f"measured {row['method']}, seed {row['seed']}, {spec.data.noise} ({trial_id})", style="dim")
    return done


def licences(data: LoadedData) -> Iterator[tuple[str, str, str, str | None]]:
    """(noise, set, criterion, why it is refused there; None where it is licensed)."""
    noise = data.spec.test_noise or data.spec.noise
    for images in data.test:
        seen = scenes(images, noise)
        for one in criteria().values():
            yield noise, images.name, one.name, one.refusal(seen.facts(one))


def data_of(store: Store, data_root: Path | None) -> list[LoadedData]:
    """The images of every kind of data in the store that is at hand."""
    texts = {row["data_json"] for row in store.trials(store.names("trials"), ["trial_id", "data_json"]).values()}
    found = [_loaded(text, data_root) for text in sorted(texts)]
    seen: dict[tuple[str, tuple[str, ...]], LoadedData] = {}
    for one in found:
        if one is not None:
            seen.setdefault((one.spec.noise, one.spec.test), one)
    return list(seen.values())


def _same(data: LoadedData) -> LoadedData:
    return data


def _asked(spec: TrialSpec) -> dict[str, Any]:
    test_noise = {"test_noise": spec.data.test_noise} if spec.data.test_noise else {}
    return {**test_noise, "criteria": tuple(criteria())}


def _again(row: Mapping[str, Any], data_root: Path | None) -> tuple[TrialSpec, LoadedData] | None:
    """The specification of a stored training, with its images; None where it cannot be made again."""
    try:
        kind = method_class(row["method"])
        data = _loaded(row["data_json"], data_root)
        if data is None or data.spec.window or not kind.denoises or kind.version != row["method_version"]:
            return None
        recipe = Recipe(**json.loads(row["recipe_json"]))
        spec = specify(row["method"], json.loads(row["config_json"]), data.spec, data.contents, recipe, row["seed"])
        if spec.trial_id != row["trial_id"]:
            return None
        slow = kind(kind.Config.build(dict(spec.config), kind.name), spec.data.channels).learns_at_inference
        return None if slow else (spec, data)
    except (UserError, ImportError) as error:
        log.info("%s is left out: %s", row["trial_id"], error)
        return None


@lru_cache(maxsize=32)
def _loaded(text: str, data_root: Path | None) -> LoadedData | None:
    try:
        data = DataSpec.model_validate_json(text)
        loaded = load_data(data.model_copy(update={"criteria": tuple(criteria())}), data_root)
        return replace(loaded, spec=data)
    except UserError as error:
        log.info("images are not at hand: %s", error)
        return None
