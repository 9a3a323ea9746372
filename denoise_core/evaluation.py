"""Measures a trained method on test images: one value an image, repeat, metric and protocol; the noisy input too, and
the noise of methods that generate it."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from denoise_core.diagnostics import GENERATED
from denoise_core.images.image_set import ImageSet
from denoise_core.images.windows import to_window
from denoise_core.inference import MAX_PIXELS, denoise_image
from denoise_core.method import Denoise, Method
from denoise_core.metrics.full_reference import measure, measure_psnr, psnr
from denoise_core.metrics.generation import akld
from denoise_core.metrics.protocol import PROTOCOLS
from denoise_core.noise.evaluation import NoisyTestImage, noisy_test_images
from denoise_core.noise.models import simulated_noise
from denoise_core.seeding import generator
from denoise_core.specification import EVALUATION_FIELDS, LoadedData
from denoise_core.trainer import Ranks

CANONICAL = "canonical"
PREVIEW_SIDE = 96
PREVIEW_IMAGES = 2
TOGETHER = {"cuda": MAX_PIXELS}
"""Pixels of several images that go through a network at once: a GPU idles on a small one, a CPU would gain nothing."""
LEAST_SIDE = 64
"""Of what is measured of a validation image, in pixels."""


@dataclass(frozen=True)
class Measurement:
    """One row: ``output`` is ``denoised``, ``noisy`` or, for what is measured of its noise, ``generated``."""

    dataset: str
    image_id: str
    repeat: int
    output: str
    metric: str
    protocol: str
    value: float


@dataclass(frozen=True)
class Preview:
    """A small crop as PNG; ``kind`` is ``clean``, ``noisy`` or ``denoised``, and where noise is generated also
    ``generated``, ``noise`` and ``generated noise``: what was added, around middle gray."""

    dataset: str
    image_id: str
    kind: str
    png: bytes


@dataclass(frozen=True)
class Evaluation:
    """What one pass over the test images gives."""

    measurements: list[Measurement]
    previews: list[Preview]


def evaluate(
    method: Method, data: LoadedData, device: torch.device, ranks: Ranks, params: Mapping[str, Any]
) -> Evaluation:
    """Evaluates with these inference-time values on this rank's part of the test images (every ``world``-th)."""
    method.reconfigure({name: value for name, value in params.items() if name not in EVALUATION_FIELDS})
    noise = simulated_noise(params.get("test_noise") or data.spec.noise)
    protocols, window = tuple(dict.fromkeys((method.protocol, CANONICAL))), data.spec.window
    result = Evaluation([], [])
    for images in data.test:
        result.measurements.extend(_without_clean(method, images, params, data, device, ranks))
        if noise is None and images.noisy is None:
            result.previews.extend(_looks(method, images, device, ranks))
            continue
        inputs = itertools.islice(noisy_test_images(images, noise, data.spec.repeats), ranks.rank, None, ranks.world)
        viewed = (one._replace(noisy=_viewed(one.noisy, window), clean=_viewed(one.clean, window)) for one in inputs)
        for together in _groups(viewed, _together(method, device)):
            for one, denoised in zip(together, _all_denoised(method, together, device), strict=True):
                generated = list(draws(method, one.clean, one.image_id, method.draws, device))
                for output, metric, protocol, value in _values(method, one, denoised, generated, protocols, device):
                    result.measurements.append(
                        Measurement(images.name, one.image_id, one.repeat, output, metric, protocol, value)
                    )
                if one.repeat == 0 and one.image_id in images.ids[:PREVIEW_IMAGES]:
                    crops = _crops(_shown(one, denoised, generated, residual=bool(params.get("criteria"))))
                    result.previews.extend(Preview(images.name, one.image_id, kind, crop) for kind, crop in crops)
    return result


def _together(method: Method, device: torch.device) -> int:
    """How many pixels go through ``method`` at once, several images together; 1 where each goes alone."""
    alone = method.whole_images or method.learns_at_inference or not method.denoises
    return 1 if alone else TOGETHER.get(device.type, 1)


def _groups(inputs: Iterable[NoisyTestImage], pixels: int) -> Iterator[list[NoisyTestImage]]:
    """Inputs of one size that follow one another, as many as have ``pixels``, at least one."""
    group: list[NoisyTestImage] = []
    for one in inputs:
        full = (len(group) + 1) * one.noisy[0].numel() > pixels
        if group and (full or one.noisy.shape != group[0].noisy.shape):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _all_denoised(
    method: Method, together: Sequence[NoisyTestImage], device: torch.device
) -> Sequence[Tensor] | Sequence[None]:
    """What becomes of each, (C, H, W) on ``device``; None where the method does not denoise."""
    if not method.denoises:
        return [None] * len(together)
    return list(_denoised(method, torch.stack([one.noisy for one in together]), device))


def _values(
    method: Method,
    one: NoisyTestImage,
    denoised: Tensor | None,
    generated: Sequence[Tensor],
    protocols: Sequence[str],
    device: torch.device,
) -> Iterator[tuple[str, str, str, float]]:
    """Output, metric, protocol and value of one image."""
    clean = one.clean.to(device)
    outputs = {"noisy": one.noisy.to(device), **({} if denoised is None else {"denoised": denoised})}
    for protocol, (output, image) in itertools.product(protocols, outputs.items()):
        for metric, value in measure(PROTOCOLS[protocol], image, clean).items():
            yield output, metric, protocol, value
    for metric, protocol, value in _of_noise(method, one.clean, one.noisy, generated, protocols, device):
        yield GENERATED, metric, protocol, value


def _shown(
    one: NoisyTestImage, denoised: Tensor | None, generated: Sequence[Tensor], *, residual: bool
) -> dict[str, Tensor]:
    """Pictures of one image by their kind."""
    kinds = {"clean": one.clean, "noisy": one.noisy}
    if denoised is not None:
        kinds["denoised"] = denoised.cpu()
    if generated:
        kinds |= noise_pictures(one.clean, one.noisy, generated[0])
    if residual and denoised is not None:
        kinds["residual"] = _residual(one.noisy, kinds["denoised"])
    return kinds


def validation(
    method: Method, data: LoadedData, device: torch.device, pixels: int | None = None, *, last: bool = True
) -> dict[str, float]:
    """Means over images that are neither trained on nor reported on, which ``data`` must have: ``psnr``, canonical and
    in dB, and ``akld`` of one draw an image where noise is generated.

    Where the images together have more than ``pixels``, the middle of each is measured, a square of at least
    :data:`LEAST_SIDE`. Criteria without clean images, which are less exact, take them whole when it is the ``last``
    time, by which settings are chosen.
    """
    assert data.validation is not None
    values: dict[str, list[float]] = {}
    side = side_of(data.validation, pixels)
    if data.spec.criteria:
        from denoise_core.scenes import scenes  # here: most studies use none

        seen, part = scenes(data.validation, data.spec.noise), None if last else lambda frame: middle(frame, side)
        for index in range(len(data.validation)):
            by = seen.values(data.spec.criteria, index, lambda noisy: denoise(method, noisy, device), part)
            for name, value in by:
                values.setdefault(name, []).append(value)
    if data.noise is None and data.validation.noisy is None:
        return {name: float(np.mean(several)) for name, several in values.items()}
    values["psnr"] = []
    for image_id, _, noisy, clean in noisy_test_images(data.validation, data.noise, repeats=1):
        noisy, clean = (middle(_viewed(one, data.spec.window), side) for one in (noisy, clean))
        values["psnr"].append(psnr(denoise(method, noisy, device).double(), clean.double(), PROTOCOLS[CANONICAL].peak))
        if method.draws:
            generated = draws(method, clean, image_id, 1, device)
            values.setdefault("akld", []).append(akld(clean, noisy, generated))
    return {name: float(np.mean(several)) for name, several in values.items()}


def pixels_of(images: ImageSet) -> int:
    """Of all images of a set together."""
    return sum(height * width for _, height, width in images.shapes)


def side_of(images: ImageSet, pixels: int | None) -> int | None:
    """The side of squares that have ``pixels`` together; None where the images have no more than that."""
    if pixels is None or pixels_of(images) <= pixels:
        return None
    return max(LEAST_SIDE, math.isqrt(pixels // len(images)))


def middle(image: Tensor, side: int | None) -> Tensor:
    """The square of ``side`` pixels in the middle of (C, H, W), less where the image has less; None: the whole."""
    if side is None:
        return image
    top, left = (max(0, (length - side) // 2) for length in image.shape[-2:])
    return image[:, top : top + side, left : left + side]


def _without_clean(
    method: Method, images: ImageSet, params: Mapping[str, Any], data: LoadedData, device: torch.device, ranks: Ranks
) -> Iterator[Measurement]:
    """What the asked criteria say of the denoised images and of the noisy ones."""
    names = tuple(params.get("criteria", ()))
    if not names:
        return
    from denoise_core.scenes import scenes

    seen = scenes(images, params.get("test_noise") or data.spec.noise)
    outputs: dict[str, Denoise] = {"noisy": lambda noisy: noisy}
    if method.denoises:
        outputs["denoised"] = lambda noisy: denoise(method, noisy, device)
    for index in range(ranks.rank, len(images), ranks.world):
        for output, by in outputs.items():
            for name, value in seen.values(names, index, by):
                yield Measurement(images.name, images.ids[index], 0, output, name, CANONICAL, value)


def _looks(method: Method, images: ImageSet, device: torch.device, ranks: Ranks) -> Iterator[Preview]:
    """Crops of single noisy images, of what they become and of what was removed."""
    for image_id, noisy in zip(images.ids[:PREVIEW_IMAGES], images.pixels, strict=False):
        if ranks.rank == 0 and method.denoises:
            denoised = denoise(method, noisy, device)
            shown = {"noisy": noisy.cpu(), "denoised": denoised, "residual": _residual(noisy.cpu(), denoised)}
            yield from (Preview(images.name, image_id, kind, crop) for kind, crop in _crops(shown))


def _residual(noisy: Tensor, denoised: Tensor) -> Tensor:
    """What was removed beside a shift of the brightness, around middle gray, black and white at three deviations."""
    removed = noisy - denoised
    removed = removed - removed.mean()
    return 0.5 + removed / (6 * max(float(removed.std()), 1 / 255))


def draws(method: Method, clean: Tensor, image_id: str, count: int, device: torch.device) -> Iterator[Tensor]:
    """``count`` noisy versions (C, H, W) that the method generates of ``clean``, clipped, the same in every training.

    A draw depends on the id of the image and its number only, and is made on the CPU.
    """
    method.eval()
    for number in range(count):
        with torch.inference_mode():
            one = method.generate(clean[None].to(device), generator("draw", image_id, number))[0]
        yield one.clamp(0, 1).float().cpu()


def _of_noise(
    method: Method,
    clean: Tensor,
    noisy: Tensor,
    generated: Sequence[Tensor],
    protocols: Sequence[str],
    device: torch.device,
) -> Iterator[tuple[str, str, float]]:
    """Metric, protocol and value of one image: AKLD and PGap, as far as the method can tell them."""
    if generated:
        divergence = akld(clean, noisy, generated)
        yield from (("akld", name, divergence) for name in protocols)
    if (twins := method.twins()) is not None:
        of_real, of_generated = (denoise(method, noisy, device, one) for one in twins)
        for name in protocols:
            real, simulated = (measure_psnr(PROTOCOLS[name], one, clean) for one in (of_real, of_generated))
            yield "pgap", name, real - simulated


def noise_pictures(clean: Tensor, noisy: Tensor, generated: Tensor) -> dict[str, Tensor]:
    """``generated``, and ``noise`` and ``generated noise`` around middle gray, both at the scale of the real one."""
    scale = 6 * max(float((noisy - clean).std()), 1 / 255)
    return {
        "generated": generated,
        "noise": 0.5 + (noisy - clean) / scale,
        "generated noise": 0.5 + (generated - clean) / scale,
    }


def _viewed(image: Tensor, window: str) -> Tensor:
    return to_window(image, window) if window else image


def denoise(method: Method, noisy: Tensor, device: torch.device, by: Denoise | None = None) -> Tensor:
    """(C, H, W) in, (C, H, W) out on the CPU; always in fp32, in evaluation mode; ``by`` is method.denoise or another
    network of the method."""
    return _denoised(method, noisy, device, by).cpu()


def _denoised(method: Method, noisy: Tensor, device: torch.device, by: Denoise | None = None) -> Tensor:
    """(C, H, W) or (N, C, H, W) in and out, on ``device``."""
    training = method.training
    method.eval()
    try:
        pixels = max(MAX_PIXELS, noisy.shape[-2] * noisy.shape[-1]) if method.whole_images else MAX_PIXELS
        seen = noisy.to(device)
        return denoise_image(by or method.denoise, seen, max_pixels=pixels, halo=method.reach).float()
    finally:
        method.train(training)


def _crops(images: dict[str, Tensor]) -> Iterator[tuple[str, bytes]]:
    for kind, image in images.items():
        crop = middle(image, PREVIEW_SIDE)
        pixels = (crop.clamp(0, 1) * 255 + 0.5).byte().permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG", optimize=True)
        yield kind, buffer.getvalue()
