"""Measures a trained method on test images: one value an image, repeat, metric and protocol; the noisy input too."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from denoise_core.images.windows import to_window
from denoise_core.inference import MAX_PIXELS, denoise_image
from denoise_core.method import Method
from denoise_core.metrics.full_reference import measure, psnr
from denoise_core.metrics.protocol import PROTOCOLS
from denoise_core.noise.evaluation import noisy_test_images
from denoise_core.noise.models import simulated_noise
from denoise_core.specification import EVALUATION_FIELDS, LoadedData
from denoise_core.trainer import Ranks

CANONICAL = "canonical"
PREVIEW_SIDE = 96
PREVIEW_IMAGES = 2


@dataclass(frozen=True)
class Measurement:
    """One row: ``output`` is ``denoised`` or ``noisy``."""

    dataset: str
    image_id: str
    repeat: int
    output: str
    metric: str
    protocol: str
    value: float


@dataclass(frozen=True)
class Preview:
    """A small crop as PNG; ``kind`` is ``clean``, ``noisy`` or ``denoised``."""

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
    protocols = tuple(dict.fromkeys((method.protocol, CANONICAL)))
    result = Evaluation([], [])
    for images in data.test:
        draws = noisy_test_images(images, noise, data.spec.repeats)
        for index, (image_id, repeat, noisy, clean) in enumerate(draws):
            if index % ranks.world != ranks.rank:
                continue
            noisy, clean = _viewed(noisy, data.spec.window), _viewed(clean, data.spec.window)
            denoised = denoise(method, noisy, device)
            for output, image in (("noisy", noisy), ("denoised", denoised)):
                for protocol in protocols:
                    for metric, value in measure(PROTOCOLS[protocol], image, clean).items():
                        result.measurements.append(
                            Measurement(images.name, image_id, repeat, output, metric, protocol, value)
                        )
            if repeat == 0 and image_id in images.ids[:PREVIEW_IMAGES]:
                kinds = {"clean": clean, "noisy": noisy, "denoised": denoised}
                result.previews.extend(Preview(images.name, image_id, kind, crop) for kind, crop in _crops(kinds))
    return result


def validation_psnr(method: Method, data: LoadedData, device: torch.device) -> float:
    """Mean canonical PSNR in dB on images that are neither trained on nor reported on, which ``data`` must have."""
    assert data.validation is not None
    values = []
    for _, _, noisy, clean in noisy_test_images(data.validation, data.noise, repeats=1):
        noisy, clean = _viewed(noisy, data.spec.window), _viewed(clean, data.spec.window)
        values.append(psnr(denoise(method, noisy, device).double(), clean.double(), PROTOCOLS[CANONICAL].peak))
    return float(np.mean(values))


def _viewed(image: Tensor, window: str) -> Tensor:
    return to_window(image, window) if window else image


def denoise(method: Method, noisy: Tensor, device: torch.device) -> Tensor:
    """(C, H, W) in, (C, H, W) out on the CPU; always in fp32, in evaluation mode."""
    training = method.training
    method.eval()
    try:
        pixels = max(MAX_PIXELS, noisy[0].numel()) if method.whole_images else MAX_PIXELS
        return denoise_image(method.denoise, noisy.to(device), max_pixels=pixels).float().cpu()
    finally:
        method.train(training)


def _crops(images: dict[str, Tensor]) -> Iterator[tuple[str, bytes]]:
    height, width = images["clean"].shape[-2:]
    top, left = max(0, (height - PREVIEW_SIDE) // 2), max(0, (width - PREVIEW_SIDE) // 2)
    for kind, image in images.items():
        crop = image[:, top : top + PREVIEW_SIDE, left : left + PREVIEW_SIDE]
        pixels = (crop.clamp(0, 1) * 255 + 0.5).byte().permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG", optimize=True)
        yield kind, buffer.getvalue()
