"""Surrogates of two degradations of electron microscopy that are neither white nor of zero mean.

The literature on unpaired denoising (ISCL, Lee & Jeong 2021) multiplies clean transmission images by a *film noise* and
adds a *charge noise* to them, but publishes neither a formula nor the patterns. The models here are therefore
surrogates: every term is argued from physics, and only the total is calibrated, so that noisy images read the PSNR at
which methods that cannot fix a brightness shift end in that paper (12.85 dB and 17.85 dB). No number obtained with them
is comparable with a published one.

All fields are windows of infinite stationary random fields: a 32 x 32 crop has the statistics of a whole image. A field
belongs to the place, not to a colour: the channels of an image share it. Images of a batch are independent.

Gaussian numbers are drawn in float32, which is faster. Everything else is computed in float64 and rounded once to the
type of the images, because the last digit of a Fourier transform depends on the machine and the number of threads.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.noise.models import NUMBER, NoiseModel

MAX_STRENGTH = 4.0
"""Beyond this nothing of an image is left: film transmits a tenth, charge saturates."""


class _Microscopy(NoiseModel):
    """A family with an optional strength in its name: 0 is no noise, 1 (``film`` without a number) the default."""

    family: ClassVar[str]

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength = float(f"{strength:g}") + 0.0  # what the name says; the sum makes 0 of -0
        self.name = self.family if strength == 1 else f"{self.family}{strength:g}"
        if not 0 <= strength <= MAX_STRENGTH:
            raise UserError(
                f"the noise {self.name!r} has a strength out of range; it must lie from 0 (no noise) over 1 (default) "
                f"to {MAX_STRENGTH:g}: {self.example}."
            )
        self.description = self._text()

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        return cls(float(match["strength"] or 1))

    @abstractmethod
    def _text(self) -> str:
        """What ``description`` says."""


class FilmNoise(_Microscopy):
    """Support film in transmission EM, a surrogate: y = x exp(-s mu t), purely multiplicative, dark, never negative.

    Sections lie on a film of plastic or carbon. Electrons that it scatters are lost to the image, so transmission falls
    exponentially with mass thickness (Beer-Lambert). The relative thickness t has mean 1 and four independent Gaussian
    parts: slow unevenness of the film and of its contamination (sigma 24 and 6 pixels), grain of evaporated material
    blurred by the optics (0.7 pixels) and grain below a pixel (white). ``strength`` s is the film's thickness in units
    of the default film, which transmits about 0.57.

    Values stay at or above 0 and pass 1 only where a nearly white pixel meets a hole; they are not clipped.
    """

    family = "film"
    pattern = rf"film(?P<strength>{NUMBER})?"
    example = "film or film0.5"

    OPTICAL_DEPTH: ClassVar[float] = 0.59
    """mu: -log of the transmission of the default film where it has its mean thickness."""
    THICKNESS: ClassVar[Mapping[float, float]] = {24.0: 0.14, 6.0: 0.14, 0.7: 0.26, 0.0: 0.17}
    """Relative standard deviation of the thickness by sigma (pixels) of its Gaussian smoothing; 0 is white."""

    def __call__(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`NoiseModel`."""
        thickness = 1 + stationary_field(clean, self.THICKNESS, generator)
        return (clean * torch.exp(-self.strength * self.OPTICAL_DEPTH * thickness)).to(clean.dtype)

    def _text(self) -> str:
        parts = ", ".join(f"{level:g} at sigma {sigma:g} px" for sigma, level in self.THICKNESS.items() if sigma)
        return (
            f"Film noise (a surrogate: no formula is published), y = x exp(-{self.strength * self.OPTICAL_DEPTH:g} t), "
            f"thickness t of mean 1 and deviations {parts} and {self.THICKNESS[0.0]:g} white, not clipped."
        )


class ChargeNoise(_Microscopy):
    """Charging and beam damage in scanning EM, a surrogate: y = clip(x + s (lift + drift + blobs + grain)) to [0, 1].

    A poorly conducting section keeps charge under the beam. The mean potential repels secondary electrons towards the
    detector: a background lift, with a slow drift over the place. Charge trapped in patches, and resin that the beam
    has damaged, make blobs: they form independently of each other (Poisson process), have soft edges because charge
    spreads, are mostly brighter and sometimes darker than their surroundings, and vary in radius and amplitude. The
    detector adds mild white grain. ``strength`` s scales all of it, as the dose would.

    The recorded image saturates, so values are clipped to [0, 1]: bright blobs on bright cytoplasm lose all detail.
    """

    family = "charge"
    pattern = rf"charge(?P<strength>{NUMBER})?"
    example = "charge or charge0.5"

    LIFT: ClassVar[float] = 0.075
    """Mean brightening without the blobs, on the scale of 0..1 like all amplitudes here."""
    DRIFT: ClassVar[Mapping[float, float]] = {20.0: 0.03}
    """Standard deviation of the drift by sigma (pixels) of its Gaussian smoothing."""
    RADII: ClassVar[tuple[float, ...]] = (3.0, 5.0, 8.0, 12.0)
    """Radii of the blobs in pixels; each covers the same share of the place."""
    COVERAGE: ClassVar[float] = 0.10
    """Expected share of the place inside blobs, those that overlap counted twice."""
    AMPLITUDE: ClassVar[tuple[float, float]] = (0.15, 0.45)
    """Least and largest height of a blob, uniform."""
    DARK: ClassVar[float] = 0.25
    """Share of the blobs that darken."""
    GRAIN: ClassVar[float] = 0.04
    """Standard deviation of the white grain."""

    def __call__(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`NoiseModel`."""
        charge = self._blobs(clean, generator).add_(self.LIFT)
        charge += stationary_field(clean, {**self.DRIFT, 0.0: self.GRAIN}, generator)
        return (clean + self.strength * charge).clamp_(0, 1).to(clean.dtype)

    def _blobs(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """The sum of all blobs, (N, 1, H, W): a marked Poisson process for each radius, smoothed with its profile."""
        size = _padded(clean, 2 * max(self.RADII))
        radii = torch.tensor(self.RADII, device=clean.device, dtype=torch.float64)[:, None, None]
        # Flat inside, soft at the edge; below 1e-6 from two radii on. Its integral is pi R^2 Gamma(3/2).
        profile = torch.exp(-((_wrapped_radius(size, clean.device) / radii) ** 4))
        density = self.COVERAGE / len(self.RADII) / (math.pi * math.gamma(1.5) * radii**2)
        shape = (clean.shape[0], len(self.RADII), *size)
        # Where a uniform number is below the density there is a centre, and there number / density is uniform again.
        mark = torch.rand(shape, generator=generator, device=clean.device, dtype=torch.float64) / density
        low, high = self.AMPLITUDE
        dark = -(low + (high - low) * mark / self.DARK)
        bright = low + (high - low) * (mark - self.DARK) / (1 - self.DARK)
        centres = torch.where(mark < self.DARK, dark, bright) * (mark < 1)
        spectrum = (torch.fft.rfft2(centres) * torch.fft.rfft2(profile)).sum(1, keepdim=True)
        return _window(torch.fft.irfft2(spectrum, s=size), clean)

    def _text(self) -> str:
        return (
            f"Charge noise (a surrogate: no formula is published), y = clip(x + {self.strength:g} c) to [0, 1], "
            f"c = {self.LIFT:g} + drift of deviation {self.DRIFT[20.0]:g} + soft blobs of radius {self.RADII[0]:g} to "
            f"{self.RADII[-1]:g} px and height {self.AMPLITUDE[0]:g} to {self.AMPLITUDE[1]:g} over "
            f"{100 * self.COVERAGE:g} % of the place, {100 * self.DARK:g} % of them dark, + white grain of deviation "
            f"{self.GRAIN:g}."
        )


def stationary_field(like: Tensor, deviations: Mapping[float, float], generator: torch.Generator) -> Tensor:
    """A Gaussian random field of mean 0 for each image of ``like`` (N, C, H, W): (N, 1, H, W), float64.

    ``deviations`` gives, for each sigma in pixels, the standard deviation of an independent part: white noise (sigma 0)
    or white noise smoothed with a Gaussian of that sigma. Independent Gaussian fields add up to one whose spectrum is
    the sum of theirs, so a single white field is filtered. The grid is longer than the window by 8 sigma, so that the
    filter, which is periodic on it, shows the window nothing of its far side.
    """
    size = _padded(like, 4 * max(deviations))
    white = torch.randn(
        (like.shape[0], 1, *size), generator=generator, device=like.device, dtype=torch.float32
    ).double()
    if not any(deviations):
        return white * deviations[0.0]
    down = torch.fft.fftfreq(size[0], device=like.device, dtype=white.dtype)[:, None]
    right = torch.fft.fftfreq(size[1], device=like.device, dtype=white.dtype)[None]
    power = torch.zeros(size, device=like.device, dtype=white.dtype)
    for sigma, deviation in deviations.items():
        part = torch.exp(-((2 * math.pi * sigma * down) ** 2)) * torch.exp(-((2 * math.pi * sigma * right) ** 2))
        power += part * (deviation**2 / part.mean())  # the mean is the variance that the filter leaves of white noise
    transfer = power.sqrt_()[:, : size[1] // 2 + 1]
    return _window(torch.fft.irfft2(torch.fft.rfft2(white) * transfer, s=size), like)


def _padded(like: Tensor, margin: float) -> tuple[int, int]:
    """Height and width of a grid that has ``margin`` pixels around the images, and whose Fourier transform is fast."""
    down, right = (int(next_fast_len(side + 2 * math.ceil(margin), real=True)) for side in like.shape[2:])
    return down, right


def _window(field: Tensor, like: Tensor) -> Tensor:
    """The part of a padded field that lies over the images."""
    return field[..., : like.shape[2], : like.shape[3]]


def _wrapped_radius(size: tuple[int, int], device: torch.device) -> Tensor:
    """Distance (pixels) of every place of a periodic grid from its corner."""
    down, right = (torch.arange(side, device=device, dtype=torch.float64) for side in size)
    return torch.hypot(torch.minimum(down, size[0] - down)[:, None], torch.minimum(right, size[1] - right)[None])
