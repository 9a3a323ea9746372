"""A trained method in one file, ready to denoise arrays of any size.

The file is safetensors: the weights that the last phase keeps, and in its header one JSON text with all that is needed
to build the method again and to say what it was trained on. Nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from denoise_core.errors import UserError, nearest
from denoise_core.images.named import view_of
from denoise_core.images.windows import FULL_RANGE, OFFSET, WINDOWS, to_window
from denoise_core.inference import MAX_PIXELS, tiles
from denoise_core.method import Method, create, method_class
from denoise_core.noise.models import NoiseModel
from denoise_core.planes import Array, Pixels, Planes, planes
from denoise_core.seeding import generator
from denoise_core.trainer import load_kept, state_names

FORMAT = 1
KEY = "denoise_studies_model"
"""Of the JSON text among the header's metadata."""
HIGH = 0.999
"""The quantile that stands for the largest value, since single hot pixels say nothing."""
EXCESS = 4
"""Values that reach this many times as high as in training are refused: the range is another."""
LOWER = 12
"""So are those of another number type that stay below this part, as 12 bits in 16 do, a sixteenth."""
SAMPLE = 2**18
"""About how many values are looked at for a quantile."""
BLOCK = 2**20
"""Values that are read at once when an array is checked."""
IMAGES = 16
"""Training images whose values are looked at."""
VALUES_NOTE = (
    "Values are divided by the full range of the number type (8 bits: 255, 16 bits: 65535, floats: 1), never by an "
    "image's own maximum, unless another white is given."
)


@dataclass(frozen=True)
class ValueRange:
    """The values of the noisy training images: ``bits`` is 8 or 16 where all clean ones are those of such files, 0
    otherwise; up to ``high``, in [0, 1] and more, go 99.9 % of them."""

    bits: int
    high: float


@dataclass(frozen=True)
class ModelInfo:
    """What a model was trained on: images and noise, their fingerprints, their values; all of it may be unknown."""

    data: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a DataSpec."""
    contents: tuple[tuple[str, str], ...] = ()
    """Role with name, and SHA-256, of every set of images."""
    trial_id: str = ""
    seed: int = 0
    values: ValueRange | None = None
    licence: str = "CC-BY-4.0"
    """Of the weights, as an SPDX identifier."""


def values_of(images: Sequence[Tensor], noise: NoiseModel | None) -> ValueRange:
    """The range of clean images (C, H, W) in [0, 1] with this noise; None: they are noisy as they are."""
    some = [images[at] for at in range(0, len(images), max(1, len(images) // IMAGES))][:IMAGES]
    bits = next((one for one, full in ((8, 255), (16, 65535)) if all(_is_whole(image * full) for image in some)), 0)
    if noise is not None and not noise.whole_image:  # a scanner's takes minutes, and leaves the range as it is
        some = [noise(image[None], generator("range", at))[0] for at, image in enumerate(some)]
    return ValueRange(bits, max(_high(image.numpy()) for image in some))


def _is_whole(values: Tensor) -> bool:
    return bool(((values - values.round()).abs() < 1e-2).all())


def _high(values: Array) -> float:
    flat = values.reshape(-1)
    return float(np.quantile(flat[:: max(1, flat.size // SAMPLE)], HIGH))


class Model:
    """A method with its weights, and what it was trained on."""

    def __init__(self, method: Method, info: ModelInfo, device: torch.device | str = "cpu"):
        if not method.denoises:
            raise UserError(f"{method.title} only generates noise: a model is made of a method that denoises.")
        self.method, self.info, self.device = method.eval().to(device), info, torch.device(device)

    def save(self, path: Path | str) -> None:
        """Writes the model aside and renames it, so that it is whole or not there."""
        save_model(path, self.method, self.info)

    @property
    def bytes(self) -> int:
        """What the weights take in a file, about."""
        return sum(value.numel() * value.element_size() for value in self.method.state_dict().values())

    @property
    def white(self) -> float | None:
        """The value of the training images' files that counted as 1, where it was given with their name."""
        with suppress(UserError):
            return view_of(str(self.info.data.get("train", "")), None).white
        return None

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        """Other values of parameters that act at inference only. Raises UserError."""
        names = type(self.method).Config.inference_names()
        for name in values:
            if name not in names:
                known = nearest(name, names) if names else "it has no such parameter"
                raise UserError(f"{name} is no parameter of {self.method.name} that acts at inference: {known}.")
        self.method.reconfigure(values)

    def denoise(
        self,
        array: Array,
        axes: str | None = None,
        *,
        white: float | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Array:
        """The denoised array, of the same shape, number type and range.

        ``axes`` has a letter an axis, see :func:`denoise_core.planes.planes`. Unsigned 8- and 16-bit values are those
        of files, floats lie in [0, 1]; ``white`` is the value that counts as 1 where that is another, such as 4095 for
        12 bits in 16 if training saw such values divided by 4095. Planes of more than ``max_pixels`` go through in
        tiles. Raises UserError for other channels, another range than in training, NaN and infinity.
        """
        result = np.empty_like(array)
        self.denoise_into(array, result, planes(array.shape, axes, self.method.channels), white=white,
                          max_pixels=max_pixels)  # fmt: skip
        return result

    def denoise_into(
        self,
        source: Pixels,
        target: Pixels,
        layout: Planes,
        *,
        white: float | None = None,
        max_pixels: int = MAX_PIXELS,
        name: str = "The array",
        advance: Callable[[int], None] = lambda pixels: None,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        """As :meth:`denoise`, tile by tile from one array into another that may lie on disk.

        All of ``source`` is checked before anything is written. ``name`` begins a message, ``advance`` is told of each
        tile's pixels, ``warn`` of values that are allowed but look wrong.
        """
        scale = _scale(source.dtype, white, name)
        self._check(source, layout, scale, white, name, warn)
        size = layout.height * layout.width
        if self.method.whole_images:
            max_pixels = max(max_pixels, size)
        for page in layout:
            for tile in tiles(layout.height, layout.width, max_pixels=max_pixels, halo=self.method.reach):
                values = layout.read(source, page, tile.seen).astype(np.float32) / np.float32(scale)
                found = self._denoised(torch.from_numpy(values))[:, tile.inner[0], tile.inner[1]]
                layout.write(target, page, tile.core, _as_type(found.numpy(), source.dtype, scale))
                advance(found[0].numel())

    @torch.inference_mode()
    def _denoised(self, image: Tensor) -> Tensor:
        """(C, H, W) in units of white -> the same."""
        window = str(self.info.data.get("window") or "")
        seen = to_window(image, window) if window else image
        try:
            result = self.method.denoise(seen[None].to(self.device))[0].float().cpu()
        except torch.OutOfMemoryError:
            raise UserError(
                f"{self.device} has not enough memory for {image[0].numel()} pixels at once: give a smaller "
                "--max-pixels (in Python max_pixels=)."
            ) from None
        if not window:
            return result
        # what the window does not show is kept: of it the network saw nothing
        low, high = WINDOWS[window]
        back = (result * (high - low) + low + OFFSET) / FULL_RANGE
        return torch.where((seen > 0) & (seen < 1), back, image)

    def _check(
        self, source: Pixels, layout: Planes, scale: float, white: float | None, name: str, warn: Callable[[str], None]
    ) -> None:
        """Raises UserError for NaN, infinity, and values of another range than in training."""
        is_float = np.dtype(source.dtype).kind == "f"
        stride = max(1, int((len(layout) * layout.height * layout.width / SAMPLE) ** 0.5))
        sample: list[NDArray[np.float32]] = []
        for page, part in _blocks(layout, stride, every=is_float):
            values = layout.read(source, page, part).astype(np.float32) / np.float32(scale)
            if is_float:
                _check_floats(values, white, name)
                values = values[:, ::stride, ::stride]
            sample.append(values.reshape(-1))
        known = self.info.values
        if known is None:
            return
        high = float(np.quantile(np.concatenate(sample), HIGH))
        bits = 0 if is_float else 8 * np.dtype(source.dtype).itemsize
        low = bits != 8 and white is None and high * LOWER <= known.high
        if low and bits == known.bits and not is_float:  # as dim images are, too
            warn(
                f"{name} has values up to {high * scale:g} only, where training saw up to {known.high * scale:g}: if "
                f"white is another value, such as 4095 for 12 bits in {bits}, give it with --white (in Python white=)."
            )
        other = low and bits != known.bits
        if other or high > EXCESS * known.high:
            raise UserError(
                f"{name} has another range than the training images: its values go up to {high * scale:g}, which "
                f"counts as {high:.3g}, where training saw up to {known.high:.3g}: give the value that is to count as "
                f"1 with --white{f' {self.white:g}, as in training,' if self.white else ''} (in Python white=), or use "
                "a model that was trained on such images."
            )


def save_model(path: Path | str, method: Method, info: ModelInfo) -> None:
    """Writes a trained method with what it was trained on, aside and renamed. Raises UserError, OSError."""
    if not method.denoises:
        raise UserError(f"{method.title} only generates noise: a model is made of a method that denoises.")
    names = state_names(method, method.phases()[-1], ended=True)
    weights = {name: one.detach().cpu().contiguous() for name, one in method.state_dict().items() if name in names}
    header = {
        "format": FORMAT,
        "method": method.name,
        "method_version": method.version,
        "config": method.config.model_dump(mode="json"),
        "channels": method.channels,
        **asdict(info),
        "values_note": VALUES_NOTE,
        "citation": asdict(method.citation) if method.citation else None,
        "sha256": _digest(weights),
    }
    target = Path(path)
    aside = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    try:
        aside.write_bytes(to_bytes(weights, {KEY: json.dumps(header, sort_keys=True)}))
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def load(path: Path | str, device: torch.device | str = "cpu") -> Model:
    """The model of a file. Raises UserError where it is none, is damaged or was made by another version."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"There is no model file {file}: give the path of one, or a training's id with --store.")
    try:
        with safe_open(file, framework="pt") as content:  # type: ignore[no-untyped-call]
            text = (content.metadata() or {}).get(KEY)
            weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no mapping
        header = json.loads(text) if text is not None else None
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{file} is damaged or no model file ({error}): save or copy it again.") from None
    if header is None:
        raise UserError(f"{file} holds weights but not what they are of: make it with denoise-studies export.")
    if header.get("format") != FORMAT:
        raise UserError(
            f"{file} has format {header.get('format')}, this program reads format {FORMAT}: use the program that wrote "
            "it, or export the model again."
        )
    if header["sha256"] != _digest(weights):
        raise UserError(f"{file} is damaged (its weights are not those that were written): copy it again.")
    return Model(_built(file, header, weights), _info(header), device)


def _built(file: Path, header: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Method:
    version = method_class(header["method"]).version
    if header["method_version"] != version:
        raise UserError(
            f"{file} was made by version {header['method_version']} of {header['method']}, this program has version "
            f"{version}, which gives other results: train it again, or use the program that wrote it."
        )
    method = create(header["method"], header["config"], header["channels"], header["seed"])
    try:
        load_kept(method, method.phases()[-1], weights)
    except ValueError as error:
        raise UserError(
            f"{file} does not fit {header['method']} ({str(error).splitlines()[0]}): export it again."
        ) from None
    return method


def _info(header: Mapping[str, Any]) -> ModelInfo:
    values = header["values"]
    return ModelInfo(
        data=header["data"],
        contents=tuple((role, digest) for role, digest in header["contents"]),
        trial_id=header["trial_id"],
        seed=header["seed"],
        values=ValueRange(**values) if values else None,
        licence=header["licence"],
    )


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _scale(dtype: Any, white: float | None, name: str) -> float:
    """The value that counts as 1. Raises UserError for number types that are no images', and an unsuitable white."""
    kind = np.dtype(dtype)
    if not (kind.kind == "f" or (kind.kind == "u" and kind.itemsize <= 2)):
        raise UserError(f"{name} has values of type {kind.name}: save it as unsigned 8-bit or 16-bit, or as float.")
    full = 1.0 if kind.kind == "f" else float(np.iinfo(kind).max)
    if white is not None and not (0 < white < float("inf") and (kind.kind == "f" or white <= full)):
        limit = "above 0" if kind.kind == "f" else f"above 0 and at most {full:g}, the largest of {kind.name}"
        raise UserError(f"--white {white:g} is not allowed for {name}: give a value {limit}.")
    return full if white is None else white


def _blocks(layout: Planes, stride: int, *, every: bool) -> Iterator[tuple[tuple[int, ...], tuple[slice, slice]]]:
    """Parts of all planes, in blocks of rows: ``every`` value, or a grid of them."""
    rows = max(1, BLOCK // layout.width)
    rows = max(stride, rows // stride * stride)  # so that the grid goes on from block to block
    step = None if every else stride
    for page, top in itertools.product(layout, range(0, layout.height, rows)):
        yield page, (slice(top, min(top + rows, layout.height), step), slice(0, layout.width, step))


def _check_floats(values: NDArray[np.float32], white: float | None, name: str) -> None:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low + high):
        raise UserError(f"{name} holds NaN or infinite values: replace them by finite ones.")
    if white is None and (low < 0 or high > 1):
        raise UserError(
            f"{name} has float values from {low:g} to {high:g}, but floats lie in [0, 1] as in training: give the "
            "value that is to count as 1 with --white (in Python white=)."
        )


def _as_type(values: NDArray[np.float32], dtype: Any, scale: float) -> Array:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (values * np.float32(scale)).astype(kind)
    whole: Array = np.clip(np.rint(values * np.float32(scale)), 0, np.iinfo(kind).max).astype(kind)
    return whole
