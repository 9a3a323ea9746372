"""What a method assumes of the noise, against what the noise measures."""

from __future__ import annotations

import torch

from denoise_core.images.source import ImageSource
from denoise_core.method import Method
from denoise_core.noise.estimate import Correlation, noise_correlation
from denoise_core.specification import LoadedData

CROPS, SIDE = 200, 128
"""How many crops are measured, and their largest edge in pixels."""


def measured_correlation(data: LoadedData) -> Correlation:
    """The correlation of the noise that training sees, always of the same crops. Raises UserError as a source does."""
    source: ImageSource = data.source(0, torch.device("cpu"))
    side = min(SIDE, *(edge for shape in data.seen.shapes for edge in shape[1:]))
    crops = source.batch(size=CROPS, patch=side, seed=0, step=0, fields=("noisy",))["noisy"]
    return noise_correlation(list(crops))


def takes_pixels_as_independent(method: Method) -> bool:
    """Whether the method, set as it is, needs noise that is independent from pixel to pixel.

    Pixel-shuffle down-sampling takes neighbours apart, so a method that is set to it does not.
    """
    return method.assumes.pixel_independent and getattr(method.config, "pixel_shuffle", 1) <= 1


def correlation_warning(method: Method, measured: Correlation) -> str | None:
    """A sentence for a method that takes the noise as independent where it measures correlated, else None."""
    if not (measured.correlated and takes_pixels_as_independent(method)):
        return None
    remedy = "choose a method that allows correlated noise, such as gan2gan"
    if hasattr(method.config, "pixel_shuffle"):
        remedy += ", or, for photographs, --set pixel_shuffle=4"
    return (
        f"The noise of neighbouring pixels measures correlated ({measured.lag1:.2f}, over {measured.windows} flat "
        f"windows), but {method.name} takes it as independent from pixel to pixel, so it may keep the noise: {remedy}."
    )
