"""What is trained on what: the canonical specification of a trial. Its hash is the trial's identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from denoise_core.errors import UserError
from denoise_core.images.image_set import ImageSet
from denoise_core.images.named import load_images
from denoise_core.images.source import ImageSource, SimulatedNoiseSource
from denoise_core.method import Recipe, method_class
from denoise_core.noise.models import NoiseModel, parse_noise


class DataSpec(BaseModel):
    """Images and noise of a trial. Names are those of denoise_core.images.named, or paths of folders."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: str = Field("bundled_train", description="training images: a named set or a folder")
    test: tuple[str, ...] = Field(("bundled_test",), description="test images: named sets or folders", min_length=1)
    noise: str = Field("gauss25", description="gauss25, gauss5_50, poisson30, poisson5_50, ...")
    noise_realisation: Literal["fresh", "frozen"] = Field(
        "fresh", description="new noise at every draw, or one noisy copy of each training image"
    )
    channels: Literal[1, 3] = Field(1, description="gray or colour")
    validation: int = Field(0, description="training images set aside to choose settings on", ge=0)
    repeats: int = Field(1, description="noisy copies of each test image", ge=1)


@dataclass(frozen=True)
class LoadedData:
    """The images of a DataSpec, read once per process."""

    spec: DataSpec
    train: ImageSet
    validation: ImageSet | None
    test: tuple[ImageSet, ...]

    @cached_property
    def noise(self) -> NoiseModel:
        """The noise of training and test."""
        return parse_noise(self.spec.noise)

    def source(self, seed: int, device: Any) -> ImageSource:
        """What the trainer draws from."""
        return SimulatedNoiseSource(self.train, self.noise, self.spec.noise_realisation, seed, device)

    @cached_property
    def contents(self) -> tuple[tuple[str, str], ...]:
        """Name and fingerprint of every set: what results depend on, instead of where the files lie."""
        sets = [self.train, *((self.validation,) if self.validation else ()), *self.test]
        return tuple((one.name, one.fingerprint) for one in sets)


def load_data(spec: DataSpec, data_root: Path | None) -> LoadedData:
    """Reads and checks all images of ``spec``. Raises UserError."""
    parse_noise(spec.noise)
    train = load_images(spec.train, channels=spec.channels, data_root=data_root)
    validation = None
    if spec.validation:
        train, validation = train.hold_out(spec.validation)
    test = tuple(load_images(name, channels=spec.channels, data_root=data_root) for name in spec.test)
    _check_apart(train, validation, test)
    return LoadedData(spec, train, validation, test)


def _check_apart(train: ImageSet, validation: ImageSet | None, test: tuple[ImageSet, ...]) -> None:
    """Raises UserError for test sets of one name, and for test images that are trained on or chosen by."""
    names = [one.name for one in test]
    if len(set(names)) < len(names):
        raise UserError(
            f"Two test sets are called {max(names, key=names.count)}, so their results could not be told apart: "
            "rename a folder."
        )
    seen = {digest: (one.name, name) for one in (train, validation) if one for name, digest in one.digests.items()}
    for one in test:
        for name, digest in one.digests.items():
            if digest in seen:
                raise UserError(
                    f"The test image {name} of {one.name} is also the training image {seen[digest][1]} of "
                    f"{seen[digest][0]}: test on other images than those that are trained on."
                )


@dataclass(frozen=True)
class TrialSpec:
    """One training and its evaluation: same specification, same numbers."""

    method: str
    config: Mapping[str, Any]
    """The whole configuration, defaults included."""
    data: DataSpec
    contents: tuple[tuple[str, str], ...]
    recipe: Recipe
    seed: int

    @cached_property
    def trial_id(self) -> str:
        """16 hexadecimal digits: the hash of everything that the results depend on, hardware apart."""
        return _digest({**self._group(), "seed": self.seed})

    @cached_property
    def group_id(self) -> str:
        """The same for all seeds of one setting."""
        return _digest(self._group())

    def _group(self) -> dict[str, Any]:
        recipe = asdict(self.recipe)
        recipe.pop("config")  # it went into the configuration
        return {
            "method": self.method,
            "version": method_class(self.method).version,
            "config": dict(self.config),
            "data": self.data.model_dump(mode="json", exclude={"train", "test"}),
            "images": self.contents,
            "recipe": recipe,
        }


def specify(
    method: str,
    values: Mapping[str, Any],
    data: DataSpec,
    contents: tuple[tuple[str, str], ...],
    recipe: Recipe,
    seed: int,
) -> TrialSpec:
    """A trial with ``values`` over the recipe's configuration over the method's defaults. Raises UserError."""
    config = method_class(method).Config.build({**recipe.config, **values}, method)
    return TrialSpec(method, config.model_dump(mode="json"), data, contents, recipe, seed)


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
