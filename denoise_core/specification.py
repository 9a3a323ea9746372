"""What is trained on what: the canonical specification of a trial. Its hash is the trial's identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from denoise_core.errors import UserError
from denoise_core.images.image_set import ImageSet
from denoise_core.images.named import check_same_view, load_images
from denoise_core.images.recorded import RecordedNoiseSource
from denoise_core.images.source import ImageSource, SimulatedNoiseSource
from denoise_core.images.transductive import with_test_images
from denoise_core.images.windows import to_window
from denoise_core.method import Recipe, method_class, outline
from denoise_core.noise.evaluation import recorded
from denoise_core.noise.models import RECORDED, NoiseModel, simulated_noise
from denoise_core.seeding import generator
from denoise_core.trainer import stretches


class DataSpec(BaseModel):
    """Images and noise of a trial. Names are those of denoise_core.images.named, or paths of folders."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: str = Field("bundled_train", description="training images, to be made noisy: a named set or a folder")
    clean: str = Field("", description="clean images of other scenes, for methods that learn from unpaired images")
    test: tuple[str, ...] = Field(("bundled_test",), description="test images: named sets or folders", min_length=1)
    noise: str = Field("gauss25", description="gauss25, poisson30, ..., or recorded: images are noisy as they are")
    noise_realisation: Literal["fresh", "frozen"] = Field(
        "fresh", description="new noise at every draw, or one noisy copy of each training image"
    )
    test_noise: str = Field("", description="noise of the test images, where it is not that of the training")
    window: Literal["", "abdomen", "chest"] = Field("", description="Hounsfield window of CT images")
    channels: Literal[1, 3] = Field(1, description="gray or colour")
    validation: int = Field(0, description="training images set aside to choose settings on", ge=0)
    validation_set: str = Field("", description="images to choose settings on, instead: a named set or a folder")
    repeats: int = Field(1, description="noisy copies of each test image", ge=1)
    transductive: bool = Field(False, description="train on the noisy versions of the test images as well")
    criteria: tuple[str, ...] = Field((), description="estimates of quality without clean images, measured as well")

    @model_validator(mode="before")
    @classmethod
    def _recorded_once(cls, given: Any) -> Any:
        """Recorded noise was given once: frozen, unless told otherwise, which is refused where it is loaded."""
        if isinstance(given, dict) and given.get("noise") == RECORDED:
            return {"noise_realisation": "frozen", **given}
        return given

    @model_serializer(mode="wrap")
    def _as_before(self, usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A field that came later is left out where it says nothing: stored trials and searches keep their names."""
        fields: dict[str, Any] = usual(self)
        for name in ("transductive", "criteria"):
            if not fields.get(name):
                fields.pop(name, None)
        return fields


IMAGE_SETS = ("train", "clean", "validation_set", "test")
"""Fields that name images: their contents count, not where they lie."""
SEEN_IN_WINDOW = 0.05
"""Part of a CT slice that lies inside a window at least."""
TRAINING_FIELDS = ("noise", "noise_realisation", "window", "channels", "transductive")
"""Fields of the data, beside the images, that training sees."""
EVALUATION_FIELDS = ("test_noise", "criteria")
"""Fields of the data that training does not see: one training serves all their values."""


@dataclass(frozen=True)
class LoadedData:
    """The images of a DataSpec, read once per process."""

    spec: DataSpec
    train: ImageSet
    validation: ImageSet | None
    test: tuple[ImageSet, ...]
    clean: ImageSet | None = None

    @cached_property
    def noise(self) -> NoiseModel | None:
        """The noise of the training images; None where it was recorded."""
        return simulated_noise(self.spec.noise)

    @cached_property
    def seen(self) -> ImageSet:
        """The images that training sees noisy."""
        if not self.spec.transductive:
            return self.train
        return with_test_images(self.train, self.test, recorded=self.noise is None)

    def source(self, seed: int, device: Any) -> ImageSource:
        """What the trainer draws from. Raises UserError."""
        spec = self.spec
        if self.noise is None:
            _check_given(spec)
            return RecordedNoiseSource(self.seen, seed, device, clean=self.clean, window=spec.window)
        return SimulatedNoiseSource(
            self.seen, self.noise, spec.noise_realisation, seed, device,
            clean=self.clean, window=spec.window, hidden=spec.transductive,
        )  # fmt: skip

    @cached_property
    def contents(self) -> tuple[tuple[str, str], ...]:
        """Role with name, and fingerprint, of every set: what results depend on, instead of where the files lie."""
        sets = [("train", self.train), ("clean", self.clean), ("validation", self.validation)]
        sets += [("test", one) for one in self.test]
        return tuple((f"{role} {one.name}", one.fingerprint) for role, one in sets if one is not None)


def load_data(spec: DataSpec, data_root: Path | None) -> LoadedData:
    """Reads and checks all images of ``spec``. Raises UserError.

    Of single images with recorded noise none are set aside: without clean versions they measure nothing.
    """
    for noise in filter(None, (spec.noise, spec.test_noise)):
        simulated_noise(noise)
    _check_given(spec)
    check_same_view((spec.train, spec.clean, spec.validation_set, *spec.test), data_root)
    train = load_images(spec.train, channels=spec.channels, data_root=data_root)
    clean = load_images(spec.clean, channels=spec.channels, data_root=data_root) if spec.clean else None
    validation = None
    if spec.validation_set:
        validation = load_images(spec.validation_set, channels=spec.channels, data_root=data_root)
    elif spec.validation and (spec.noise != RECORDED or train.noisy is not None or spec.criteria):
        train, validation = train.hold_out(spec.validation)
    test = tuple(load_images(name, channels=spec.channels, data_root=data_root) for name in spec.test)
    _check_recorded(spec, validation, test)
    _check_apart(train, validation, test, spec.transductive)
    if clean is not None:
        _check_unpaired(clean, train, validation, test)
    _check_suitable(spec, train, *test)
    return LoadedData(spec, train, validation, test, clean)


def _check_given(spec: DataSpec) -> None:
    """Raises UserError where recorded noise is to be drawn anew."""
    if spec.noise == RECORDED and spec.noise_realisation == "fresh":
        raise UserError(
            "recorded images have one noisy version each, so their noise cannot be drawn anew for every crop: use "
            "--set noise_realisation=frozen."
        )


def _check_recorded(spec: DataSpec, validation: ImageSet | None, test: tuple[ImageSet, ...]) -> None:
    """Raises UserError for single images where recorded pairs are measured, or trained on as the test images are.

    Criteria without clean images measure single images.
    """
    if spec.criteria:
        _check_criteria(spec)
    if validation is not None and spec.noise == RECORDED and not spec.criteria:
        recorded(validation)
    for one in test if not spec.criteria or spec.transductive else ():
        if (spec.test_noise or spec.noise) == RECORDED or (spec.transductive and spec.noise == RECORDED):
            recorded(one)


def _check_criteria(spec: DataSpec) -> None:
    """Raises UserError for a criterion that does not exist, and where a window changes the noise before it is seen."""
    from denoise_core.metrics.clean_free import AUTO, criterion  # here: most studies use none

    for name in spec.criteria:
        if name != AUTO:  # it is chosen when the images are known
            criterion(name)
    if spec.window:
        raise UserError(
            f"Criteria without clean images know nothing of the {spec.window} window: leave --criterion out, or the "
            "window with --set window=."
        )


def _check_suitable(spec: DataSpec, *sets: ImageSet) -> None:
    """Raises UserError where a set does not suit the noise or a Hounsfield window, of which parts may show only air."""
    for images in sets:
        image = images.pixels[0]
        for noise in {spec.noise, spec.test_noise} - {""}:
            if (model := simulated_noise(noise)) is not None:
                shown = image[None] if model.whole_image else image[None, :, :8, :8]  # such as colour noise on gray
                model(shown, generator("suitable", images.name))
        if spec.window:
            windows = (to_window(one, spec.window) for one in images.pixels)
            if not any(((seen > 0) & (seen < 1)).float().mean() >= SEEN_IN_WINDOW for seen in windows):
                raise UserError(
                    f"Almost nothing of the images of {images.name} lies inside the {spec.window} window: it is for CT "
                    "images whose 16-bit values are HU + 1024, without @white=; give such images, or --set window= to "
                    "do without."
                )


def _check_unpaired(clean: ImageSet, train: ImageSet, validation: ImageSet | None, test: tuple[ImageSet, ...]) -> None:
    """Raises UserError for clean images that are the originals of noisy ones: learning would not be unpaired."""
    others = {
        digest: (one.name, name) for one in (train, validation, *test) if one for digest, name in one.seen.items()
    }
    for digest, name in clean.seen.items():
        if digest in others:
            raise UserError(
                f"The clean image {name} of {clean.name} is also the image {others[digest][1]} of {others[digest][0]}: "
                "clean images must show other scenes than the noisy ones and the test; give --clean other images."
            )


def _check_apart(
    train: ImageSet, validation: ImageSet | None, test: tuple[ImageSet, ...], transductive: bool = False
) -> None:
    """Raises UserError for test sets of one name, and for test images that are trained on or chosen by.

    Where training is ``transductive``, test images may be among those of the training, which sees them noisy only.
    """
    names = [one.name for one in test]
    if len(set(names)) < len(names):
        raise UserError(
            f"Two test sets are called {max(names, key=names.count)}, so their results could not be told apart: "
            "rename a folder."
        )
    if validation is not None and set(train.seen) & set(validation.seen):
        raise UserError(f"Images of {validation.name} are also trained on: choose settings on other images.")
    trained = {} if transductive else {digest: (train.name, name) for digest, name in train.seen.items()}
    chosen = {digest: (validation.name, name) for digest, name in validation.seen.items()} if validation else {}
    for one in test:
        for digest, name in one.seen.items():
            if digest in trained:
                raise UserError(
                    f"The test image {name} of {one.name} is also the training image {trained[digest][1]} of "
                    f"{trained[digest][0]}: test on other images than those that are trained on."
                )
            if digest in chosen:
                raise UserError(
                    f"The test image {name} of {one.name} is also {chosen[digest][1]} of {chosen[digest][0]}, where "
                    "settings are chosen: choose on other images (--set validation_set=...), or on none (--set "
                    "validation=0)."
                )


@dataclass(frozen=True)
class Link:
    """One phase of a training. ``phase_id`` is the hash of everything that its result depends on: trainings whose
    first links have the same ids begin alike. ``group_id`` is the same for all seeds."""

    phase: str
    steps: int
    phase_id: str
    group_id: str


@dataclass(frozen=True)
class TrialSpec:
    """One training and its evaluation: same specification, same numbers."""

    method: str
    config: Mapping[str, Any]
    """The whole configuration, defaults and inference-time values included."""
    data: DataSpec
    contents: tuple[tuple[str, str], ...]
    recipe: Recipe
    seed: int

    @cached_property
    def trial_id(self) -> str:
        """16 hexadecimal digits: the hash of everything that the results depend on, hardware apart."""
        return _digest({**self._setting, "seed": self.seed})

    @cached_property
    def group_id(self) -> str:
        """The same for all seeds of one setting."""
        return _digest(self._setting)

    @cached_property
    def params(self) -> dict[str, Any]:
        """What is chosen at inference only. Trials that differ in nothing else are one training."""
        values: dict[str, Any] = {
            name: self.config[name] for name in method_class(self.method).Config.inference_names()
        }
        return values | {name: getattr(self.data, name) for name in EVALUATION_FIELDS if getattr(self.data, name)}

    @cached_property
    def evaluation_id(self) -> str:
        """The trial's identity with what is chosen at inference: the name of its measurements."""
        return f"{self.trial_id}-{self._params_digest}"

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """The phases in order. A method without a lineage shares none, so its training is one link as a whole."""
        found = _phases(self.method, json.dumps(self.config, sort_keys=True), self.data.channels, self.recipe.steps)
        if not method_class(self.method).lineage:
            return (Link(found[-1][0], sum(length for _, length, _ in found), self.trial_id, self.group_id),)
        links: list[Link] = []
        known = {"data", "training"}
        for name, length, depends in found:
            known |= set(depends)
            before = [(one.phase, one.steps) for one in links]
            content = self._beginning(known, [*before, (name, length)])
            links.append(Link(name, length, _digest({**content, "seed": self.seed}), _digest(content)))
        return tuple(links)

    def with_seed(self, seed: int) -> TrialSpec:
        """The same setting with another seed. What all seeds share is not found out again."""
        other = replace(self, seed=seed)
        shared = ("_setting", "_params_digest", "group_id", "params")
        other.__dict__.update({name: getattr(self, name) for name in shared})
        return other

    @property
    def steps(self) -> int:
        """Of all phases."""
        return sum(link.steps for link in self.links)

    def _beginning(self, known: set[str], phases: list[tuple[str, int]]) -> dict[str, Any]:
        """All that matters up to the last of ``phases``: no test image that is not trained on, and no parameter of
        what comes later."""
        kind = method_class(self.method)
        config = {name: value for name, value in self.config.items() if kind.Config.affects(name) in known}
        return {
            "lineage": kind.lineage,
            "version": kind.version,
            "phases": phases,
            "config": config,
            "data": self.data.model_dump(mode="json", include=set(TRAINING_FIELDS)),
            "images": [one for one in self.contents if self.data.transductive or not one[0].startswith("test ")],
            "recipe": {name: getattr(self.recipe, name) for name in ("precision", "channels_last", "compile")},
        }

    @cached_property
    def _params_digest(self) -> str:
        return _digest(self.params)[:8]

    @cached_property
    def _setting(self) -> dict[str, Any]:
        recipe = asdict(self.recipe)
        recipe.pop("config")  # it went into the configuration
        inference = method_class(self.method).Config.inference_names()
        return {
            "method": self.method,
            "version": method_class(self.method).version,
            "config": {name: value for name, value in self.config.items() if name not in inference},
            "data": self.data.model_dump(mode="json", exclude={*IMAGE_SETS, *EVALUATION_FIELDS}),
            "images": self.contents,
            "recipe": recipe,
        }


@lru_cache(maxsize=4096)
def _phases(method: str, config: str, channels: int, steps: int) -> tuple[tuple[str, int, tuple[str, ...]], ...]:
    """Name, steps and ``depends`` of each phase: the same for all seeds of a setting, and found by building it."""
    found = stretches(outline(method, json.loads(config), channels).phases(), steps)
    return tuple((one.phase.name, one.last - one.first, one.phase.depends) for one in found)


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


def evaluation_id(trial_id: str, params: Mapping[str, Any]) -> str:
    """``<trial>-<8 hexadecimal digits of the inference-time values>``."""
    return f"{trial_id}-{_digest(params)[:8]}"


def params_json(params: Mapping[str, Any]) -> str:
    """Inference-time values as the store keeps them."""
    return json.dumps(dict(params), sort_keys=True)


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
