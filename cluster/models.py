"""Models of a store's trainings: the weights that it keeps, with all that is known of what they were trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from cluster.execution.checkpoints import CheckpointFolder
from cluster.results.schema import DONE
from cluster.results.store import Store
from cluster.watching.stored import existing_store, find_trial, read_trials
from denoise_core.errors import UserError
from denoise_core.method import Recipe, create, method_class
from denoise_core.model import Model, ModelInfo, ValueRange, load, values_of
from denoise_core.specification import DataSpec, LoadedData, load_data, specify
from denoise_core.trainer import load_kept

SUFFIX = ".safetensors"


def find_model(given: str, store: str, data_root: Path | None = None, device: torch.device | str = "cpu") -> Model:
    """The model of a file, or else of the training of the store whose id begins with ``given``. Raises UserError."""
    if given.endswith(SUFFIX) or os.sep in given or Path(given).is_file():
        return load(given, device)
    found = existing_store(store)
    return model_of_trial(found, find_trial(read_trials(found), given), data_root, device)


def model_of_trial(
    store: Store, trial_id: str, data_root: Path | None = None, device: torch.device | str = "cpu"
) -> Model:
    """The model of a training that is done, with the inference-time values that it was recorded with.

    What the training images' values were, and their fingerprints, is found out where these images are at hand, as below
    ``data_root``. Raises UserError.
    """
    row = store.trials([trial_id]).get(trial_id)
    if row is None:
        raise UserError(f"The store {store.location} has no training {trial_id}: denoise-studies ls shows what it has.")
    _check(row)
    data = DataSpec.model_validate_json(row["data_json"])
    method = create(row["method"], json.loads(row["config_json"]), data.channels, row["seed"])
    last = method.phases()[-1]
    for name in _kept_under(store, row, last.name):
        weights = CheckpointFolder(store, name).kept_weights()
        if weights is not None:
            break
    else:
        raise UserError(
            f"The store {store.location} has not kept the weights of {trial_id}, or they are damaged: the same study "
            "trains it again once its row in trials is removed."
        )
    try:
        load_kept(method, last, weights)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"The stored weights of {trial_id} do not fit {row['method']} ({reason}): train it again."
        ) from None
    loaded = _images(row, data, data_root)
    info = ModelInfo(
        data=data.model_dump(mode="json"),
        contents=loaded.contents if loaded is not None else (),
        trial_id=trial_id,
        seed=row["seed"],
        values=_values(loaded) if loaded is not None else None,
    )
    return Model(method, info, device)


def _check(row: Mapping[str, Any]) -> None:
    if row["status"] != DONE:
        raise UserError(
            f"The training {row['trial_id']} is {row['status']}: only one that is done has the weights of a model."
        )
    version = method_class(row["method"]).version
    if row["method_version"] not in (None, version):
        raise UserError(
            f"The training {row['trial_id']} is of version {row['method_version']} of {row['method']}, this program "
            f"has version {version}, which gives other results: train it again, or use the program that trained it."
        )


def _kept_under(store: Store, row: Mapping[str, Any], last: str) -> Iterator[str]:
    """The names under which the weights of the last phase may be kept.

    A phase that trainings share has the hash of what it depends on for its name; this training's own is the one that it
    wrote, or whose curves are part of its curves, values of floating point that no other training repeats.
    """
    if not method_class(row["method"]).lineage:
        yield row["trial_id"]
        return
    phases = [
        one for one in store.read("phases", store.names("phases")).to_pylist()
        if (one["phase"], one["seed"]) == (last, row["seed"])
    ]  # fmt: skip
    yield from (one["phase_id"] for one in phases if one["trial_id"] == row["trial_id"])
    curves = store.read("curves", [row["trial_id"]]).to_pylist()
    mine = {(one["step"], one["name"], one["value"]) for one in curves if one["phase"] == last}
    for one in phases:
        points = {(point["step"], point["name"], point["value"]) for point in json.loads(one["curves_json"])}
        if points and points <= mine:
            yield one["phase_id"]


def _images(row: Mapping[str, Any], data: DataSpec, data_root: Path | None) -> LoadedData | None:
    """The training's images, if these are here and still the same."""
    try:
        loaded = load_data(data, data_root)
        recipe = Recipe(**json.loads(row["recipe_json"]))
    except (UserError, OSError, TypeError, ValueError):
        return None
    spec = specify(row["method"], json.loads(row["config_json"]), data, loaded.contents, recipe, row["seed"])
    return loaded if spec.trial_id == row["trial_id"] else None


def _values(loaded: LoadedData) -> ValueRange | None:
    """None where a window decides what is seen."""
    if loaded.spec.window:
        return None
    if loaded.noise is None and loaded.train.noisy is not None:
        return values_of(loaded.train.noisy, None)
    return values_of(loaded.train.pixels, loaded.noise)
