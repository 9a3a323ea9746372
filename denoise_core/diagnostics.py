"""What a training learned of the noise, set beside the truth: the lines and numbers that a report draws.

Methods such as GAN2GAN learn to make noise; their PSNR alone does not tell whether the noise was learned or something
else helped. Samples and standard deviations come in as fractions of the intensity range, [0, 1]; everything that comes
out is in units of 0 to 255, as the papers print it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

GENERATED, TRUE, EXTRACTED, ESTIMATED = "generated", "true", "extracted", "estimated"
"""Names of series: noise that a method makes, the noise that was simulated, noise found in smooth patches, a level of
noise that a method estimates."""

RANGE = 255.0
BINS, WIDEST = 101, 4.0  # an odd number puts a bin around zero; 4 standard deviations hold all but 6e-5 of a Gaussian
LAGS = 8
SIGMA_BINS = 50  # bins from 0 to the true standard deviation of patches
LEVELS, LEAST = 16, 500  # bins of intensity, and the pixels that one must have to be shown
PLAIN_BIN = 0.5  # their width in units of 0 to 255 where no true value is known

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Diagnostic:
    """One line of one figure. ``series`` is one of the names above; a scalar has ``x = (0.0,)``."""

    figure: str
    series: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class FigureText:
    """How a figure is shown. ``histogram``: frequencies with a peak of 1, drawn as steps; ``scalar``: a table's column.

    The true value that belongs to a histogram is the scalar ``<figure>_mean`` of the series ``true``.
    """

    title: str
    x_label: str
    y_label: str
    kind: Literal["lines", "histogram", "scalar"]
    note: str


def _scalar(title: str, note: str) -> FigureText:
    return FigureText(title, "", "", "scalar", note)


FIGURES: Mapping[str, FigureText] = {
    "patch_sigma": FigureText(
        "Standard deviation of the extracted patches", "σ of a patch (0–255)", "frequency (peak = 1)", "histogram",
        "Every histogram is scaled to a peak of 1; the vertical line is the true standard deviation.",
    ),
    "noise_histogram": FigureText(
        "Values of the noise", "noise (0–255)", "density", "lines",
        "Density of the noise in a pixel.",
    ),
    "noise_autocorrelation": FigureText(
        "Correlation of the noise between pixels", "lag (pixels)", "correlation", "lines",
        "Mean of the horizontal and the vertical correlation; white noise has none from lag 1 on.",
    ),
    "noise_level_function": FigureText(
        "Noise level by intensity", "intensity (0–255)", "standard deviation (0–255)", "lines",
        "Standard deviation of the noise where the clean image has this intensity.",
    ),
    "noise_std": _scalar("noise σ", "standard deviation of the noise (0–255)"),
    "noise_lag1": _scalar("correlation at lag 1", "mean of the horizontal and the vertical neighbour"),
    "patch_sigma_mean": _scalar("patch σ, mean", "mean standard deviation of the extracted patches (0–255)"),
    "patch_sigma_spread": _scalar("patch σ, spread", "how much it varies between patches (standard deviation)"),
    "patch_count": _scalar("patches", "how many the rule extracted"),
    "patch_lambda": _scalar("λ of the rule", "its threshold"),
}  # fmt: skip
"""Every figure in the order in which it is shown."""


def scalar(figure: str, series: str, value: float) -> Diagnostic:
    """A single number."""
    return Diagnostic(figure, series, (0.0,), (float(value),))


def rows(trial_id: str, diagnostics: Sequence[Diagnostic]) -> list[dict[str, Any]]:
    """Rows of the store's table ``diagnostics``: one a point."""
    return [
        {"trial_id": trial_id, "figure": one.figure, "series": one.series, "x": x, "y": y}
        for one in diagnostics
        for x, y in zip(one.x, one.y, strict=True)
    ]


def describe_noise(series: str, noise: Tensor, scale: float) -> list[Diagnostic]:
    """Density, autocorrelation, standard deviation and lag-1 correlation of samples (N, C, H, W) in units of [0, 1].

    ``scale`` is the true standard deviation in the same units. It sets the bins, +-4 ``scale``, so that trainings with
    one kind of noise, and its truth, share their x: pass the same number for all of them. A constant has no
    correlations: they are left out.

    Raises:
        ValueError: The samples are empty or no batch of images, or ``scale`` is not in units of [0, 1].
    """
    if noise.ndim != 4 or noise.numel() == 0:
        raise ValueError(f"expected samples of shape (N, C, H, W), got {tuple(noise.shape)}")
    if not 0 < scale <= 1:
        raise ValueError(f"the scale of the noise is a fraction of the intensity range, not {scale}")
    values: Array = noise.detach().double().cpu().numpy() * RANGE
    std = float(values.std())
    density = _density(values, WIDEST * scale * RANGE)
    found = [Diagnostic("noise_histogram", series, *density), scalar("noise_std", series, std)]
    if std > 1e-6:
        correlations = _autocorrelation(values - values.mean())  # of all samples: a sample's own mean is its noise
        lags = tuple(float(lag) for lag in range(len(correlations)))
        found.append(Diagnostic("noise_autocorrelation", series, lags, correlations))
        if len(correlations) > 1:
            found.append(scalar("noise_lag1", series, correlations[1]))
    return found


def describe_patches(sigmas: Tensor, true_sigma: float | None) -> list[Diagnostic]:
    """Histogram, mean, spread and count of the standard deviations of extracted patches; all in units of [0, 1].

    After Fig. 2(a) of GAN2GAN: a histogram scaled to a peak of 1. ``true_sigma`` sets the width of the bins and is
    kept as the true mean; None where it is not known. Of no patches only the count is told.
    """
    if true_sigma is not None and not 0 < true_sigma <= 1:
        raise ValueError(f"the true standard deviation is a fraction of the intensity range, not {true_sigma}")
    values: Array = sigmas.detach().double().cpu().numpy().ravel() * RANGE
    values = values[np.isfinite(values)]
    found = [scalar("patch_count", EXTRACTED, len(values))]
    if true_sigma is not None:
        found.append(scalar("patch_sigma_mean", TRUE, true_sigma * RANGE))
    if len(values):
        width = PLAIN_BIN if true_sigma is None else true_sigma * RANGE / SIGMA_BINS
        found += [
            scalar("patch_sigma_mean", EXTRACTED, values.mean()),
            scalar("patch_sigma_spread", EXTRACTED, values.std()),
            Diagnostic("patch_sigma", EXTRACTED, *_frequencies(values, width)),
        ]
    return found


def describe_level(clean: Tensor, noise: Tensor | None, variance: Tensor, *, by_intensity: bool) -> list[Diagnostic]:
    """The standard deviation of ``noise``, where it is known, and the one that ``variance`` says, as a whole and by the
    ``clean`` intensity.

    All (N, C, H, W), in units of [0, 1] and their square. Intensities are put into bins of a sixteenth of the range;
    such with fewer than 500 pixels are left out. Without ``by_intensity`` only the scalars are told.
    """
    squares = {ESTIMATED: _plain(variance), **({} if noise is None else {TRUE: _plain(noise) ** 2})}
    found = [scalar("noise_std", series, math.sqrt(values.mean()) * RANGE) for series, values in squares.items()]
    if not by_intensity:
        return found
    return found + _by_intensity(clean, squares)


def describe_pairs(clean: Tensor, noisy: Tensor, generated: Tensor) -> list[Diagnostic]:
    """True and generated noise of the same ``clean`` crops: what :func:`describe_noise` tells, and the standard
    deviation by intensity as in :func:`describe_level`.

    All (N, C, H, W), in units of [0, 1]. Nothing where ``noisy`` is ``clean``.
    """
    noises = {TRUE: noisy - clean, GENERATED: generated - clean}
    scale = float(noises[TRUE].std())
    if scale == 0:
        return []
    found = [one for name, noise in noises.items() for one in describe_noise(name, noise, scale)]
    return found + _by_intensity(clean, {series: _plain(noise) ** 2 for series, noise in noises.items()})


def _by_intensity(clean: Tensor, squares: Mapping[str, Array]) -> list[Diagnostic]:
    found = []
    bins = np.clip((_plain(clean) * LEVELS).astype(np.int64), 0, LEVELS - 1)
    counts = np.bincount(bins, minlength=LEVELS)
    kept = counts >= LEAST
    centres = (np.arange(LEVELS) + 0.5) / LEVELS * RANGE
    for series, values in squares.items():
        means = np.bincount(bins, weights=values, minlength=LEVELS)[kept] / counts[kept]
        found.append(
            Diagnostic("noise_level_function", series, _floats(centres[kept]), _floats(np.sqrt(means) * RANGE))
        )
    return found


def _plain(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy().ravel()  # type: ignore[no-any-return]


def _density(values: Array, limit: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Centres and densities of bins over +-``limit``. Values outside count in the whole, so nothing is hidden."""
    counts, edges = np.histogram(values, bins=BINS, range=(-limit, limit))
    density = counts / (values.size * (edges[1] - edges[0]))
    return _floats((edges[:-1] + edges[1:]) / 2), _floats(density)


def _frequencies(values: Array, width: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Centres, multiples of ``width``, and relative frequencies (peak 1), with an empty bin at both ends.

    One grid for all, so that histograms of several trainings share their bins; bins without content are not kept.
    """
    places = np.rint(values / width).astype(np.int64)
    first = int(places.min()) - 1
    counts = np.bincount(places - first, minlength=int(places.max()) - first + 2)
    centres = np.arange(first, first + len(counts)) * width
    inside = centres >= 0  # there is no standard deviation below zero
    return _floats(centres[inside]), _floats((counts / counts.max())[inside])


def _autocorrelation(values: Array) -> tuple[float, ...]:
    """Correlation at lags 0 to 8 pixels of samples without their mean, horizontal and vertical averaged.

    At each lag the products and the squares are summed over the same pixels, those that have a partner, and over all
    samples before they are divided: so no bias towards zero, and no sample counts by its own variance.
    """
    height, width = values.shape[-2:]
    correlations = [1.0]
    for lag in range(1, min(LAGS, height - 1, width - 1) + 1):
        pairs = (
            (values[..., :, :-lag], values[..., :, lag:]),
            (values[..., :-lag, :], values[..., lag:, :]),
        )
        correlations.append(float(np.mean([_correlation(a, b) for a, b in pairs])))
    return tuple(correlations)


def _correlation(a: Array, b: Array) -> float:
    squares = math.sqrt(float(np.square(a).sum()) * float(np.square(b).sum()))
    return float((a * b).sum()) / squares if squares > 0 else 0.0


def _floats(values: npt.NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
