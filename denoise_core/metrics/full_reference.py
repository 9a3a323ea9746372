"""PSNR and SSIM of a prediction against its clean image."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from denoise_core.errors import TrainingDiverged, UserError
from denoise_core.metrics.protocol import SSIM, MetricProtocol

MAX_PSNR = 100.0
"""PSNR in dB is capped here: identical images would give infinity, which no mean and no results table can hold."""


@torch.inference_mode()
def measure(protocol: MetricProtocol, prediction: Tensor, clean: Tensor) -> dict[str, float]:
    """``{"psnr": dB, "ssim": -1..1}`` of one image; both tensors are (C, H, W) float32 with clean values in [0, 1].

    Computed in float64 on the prediction's device. Raises UserError for an image smaller than the SSIM window,
    TrainingDiverged for a prediction with NaN or infinity (clipping could hide it), ValueError for shapes that differ.
    """
    first, second = _both(protocol, prediction, clean)
    return {"psnr": psnr(first, second, protocol.peak), "ssim": ssim(first, second, protocol.ssim)}


@torch.inference_mode()
def measure_psnr(protocol: MetricProtocol, prediction: Tensor, clean: Tensor) -> float:
    """The PSNR of :func:`measure` alone, at a fraction of its time."""
    return psnr(*_both(protocol, prediction, clean), protocol.peak)


def _both(protocol: MetricProtocol, prediction: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    if prediction.shape != clean.shape or clean.ndim != 3:
        raise ValueError(f"expected two (C, H, W) images of one shape, got {prediction.shape} and {clean.shape}")
    if not prediction.isfinite().all():
        raise TrainingDiverged("the denoised image holds NaN or infinite values; lower the learning rate.")
    device = torch.device("cpu") if prediction.device.type == "mps" else prediction.device  # which has no float64
    first, second = prediction.to(device), clean.to(device)
    return _prepared(first, protocol, clip=protocol.clip_prediction), _prepared(second, protocol, clip=False)


def psnr(prediction: Tensor, clean: Tensor, peak: float) -> float:
    """10 log10(peak^2 / mean squared error over all values) in dB, at most :data:`MAX_PSNR`; NaN stays NaN."""
    error = (prediction - clean).square().mean().item()
    if error == 0 or not math.isfinite(error):
        return MAX_PSNR if error == 0 else math.nan
    return min(MAX_PSNR, 10 * math.log10(peak * peak / error))


def ssim(prediction: Tensor, clean: Tensor, settings: SSIM) -> float:
    """Structural similarity (Wang et al. 2004) of two (C, H, W) float64 images, mean over channels and valid pixels.

    Equals structural_similarity of scikit-image to rounding error at a quarter of its time. Raises UserError for an
    image smaller than the window.
    """
    height, width = clean.shape[-2:]
    if min(height, width) < settings.size:
        raise UserError(
            f"SSIM needs images of at least {settings.size} x {settings.size} pixels, this one has {height} x {width}; "
            "leave it out or use larger images."
        )
    window = _window(settings)
    # Four filters are enough: only the sum of the two variances enters the formula.
    mean_p, mean_c = _filtered(prediction, window), _filtered(clean, window)
    squares = _filtered(prediction.square() + clean.square(), window)
    products = _filtered(prediction * clean, window)
    span = settings.data_range
    limit = (prediction.max() - prediction.min()).item() if span == "prediction" else span
    c1, c2 = (0.01 * limit) ** 2, (0.03 * limit) ** 2
    count = settings.size**2
    correction = count / (count - 1) if settings.sample_covariance else 1.0
    product, means = mean_p * mean_c, mean_p.square() + mean_c.square()
    covariance, variances = correction * (products - product), correction * (squares - means)
    return (((2 * product + c1) * (2 * covariance + c2)) / ((means + c1) * (variances + c2))).mean().item()


def _prepared(image: Tensor, protocol: MetricProtocol, clip: bool) -> Tensor:
    values = image.clamp(0, 1) if clip else image
    if protocol.round_to_8_bit:  # in float32, as the papers' code does
        values = (values * 255 + 0.5).floor().clamp(0, 255)
    return values.double()


@cache
def _window(settings: SSIM) -> tuple[float, ...]:
    """The weights of one axis, which sum to 1; the window is their outer product."""
    middle = settings.size // 2
    if settings.window == "uniform":
        return (1 / settings.size,) * settings.size
    weights = [math.exp(-((i - middle) ** 2) / (2 * settings.sigma**2)) for i in range(settings.size)]
    return tuple(weight / sum(weights) for weight in weights)


def _filtered(image: Tensor, window: tuple[float, ...]) -> Tensor:
    """Valid separable filter over the last two axes; shifted sums are far faster than float64 conv2d on a CPU."""
    for axis in (-2, -1):
        valid = image.shape[axis] - len(window) + 1
        total = image.narrow(axis, 0, valid) * window[0]
        for shift, weight in enumerate(window[1:], start=1):
            total.add_(image.narrow(axis, shift, valid), alpha=weight)
        image = total
    return image
