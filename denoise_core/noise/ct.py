"""Low-dose CT: noise of X-ray counts, made where it arises, in the projections.

The slice is scanned by a parallel beam: 736 views over 360 degrees, 736 detectors of 0.7 mm with a quarter-detector
offset, 512 x 512 pixels of 0.67 mm, reconstructed by filtered back-projection with the Ram-Lak filter. Other sizes keep
the field of view of 343 mm and the row of 515 mm: pixels and detectors grow, and the number of views shrinks, in
proportion, so the noise looks the same in units of pixels (at half the side its standard deviation is 1/sqrt(2): half
the views of twice the width). I0 always counts photons per detector and view. A slice that is not square is extended
with air, and its longer side is the field of view.

Geometry: GAN2GAN (Cha et al. 2021), supplementary material, Table 8. Doses: ISCL (Lee and Jeong 2021), Table IV.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from denoise_core.cache import remembered
from denoise_core.errors import UserError
from denoise_core.images.windows import FULL_RANGE, hounsfield
from denoise_core.noise.models import NoiseModel

Array = NDArray[np.floating[Any]]

VERSION = 1
"""Part of every cache key. Raise it whenever a change here changes a sinogram or a noise."""

WATER = 0.0192
"""Attenuation of water per mm at 71 keV (NIST XCOM), about the effective energy of a 120 kVp spectrum."""

FIELD = 512 * 0.67
"""Edge of the field of view in mm."""

DETECTOR_ROW = 736 * 0.7
"""Length of the row of detectors in mm. It covers the diagonal of the field of view, so no projection is cut off."""

SUB_BINS = 8
"""Histogram bins per half detector when a slice is projected; even, so that detectors are centred on bins."""

SINOGRAM_STEP = 2**-16
"""Line integrals are rounded to this (less than 0.001 mm of water), so that all computers see the same ones."""

MOST_ATTENUATION = 25.0
"""A ray through half a metre of water with bone and steel has less; more means pixels that are not coded HU."""

DOSES = (1e2, 1e9)
"""Lowest and highest I0 that is accepted."""


@dataclass(frozen=True)
class Geometry:
    """The scan of a square slice of ``side`` x ``side`` pixels. Lengths are in mm.

    In a parallel beam over 360 degrees the view from the other side measures the same rays mirrored; the quarter offset
    puts its detectors half-way between. So a sinogram here is (angles, samples): ``angles`` = views / 2 directions over
    180 degrees, each with ``samples`` = 2 * detectors readings half a detector apart, of the two views in turn.
    """

    side: int

    @property
    def pixel(self) -> float:
        """Edge of a pixel."""
        return FIELD / self.side

    @property
    def angles(self) -> int:
        """Number of directions: 368 for 512 x 512."""
        return max(1, round(368 * self.side / 512))

    @property
    def samples(self) -> int:
        """Readings of the two opposite views of a direction: 1472 for 512 x 512."""
        return 4 * self.angles

    @property
    def pitch(self) -> float:
        """Width of a detector; the samples are half as far apart."""
        return 2 * DETECTOR_ROW / self.samples

    def directions(self) -> list[tuple[float, float]]:
        """(cos, sin) of every direction; a pixel centre (x, y) lies on the ray at x cos + y sin."""
        turns = [math.pi * k / self.angles for k in range(self.angles)]
        return [(math.cos(turn), math.sin(turn)) for turn in turns]

    def centres(self) -> Array:
        """Coordinates of the pixel centres along either axis, (side,), zero in the middle."""
        centres: Array = (np.arange(self.side) - (self.side - 1) / 2) * self.pixel
        return centres


def project(attenuation: Array) -> Array:
    """Line integrals (angles, samples) of ``attenuation`` (side, side), per mm, in the order of :class:`Geometry`.

    A pixel is a homogeneous square and a detector averages over its width: the pixels' centres are spread on fine bins,
    and the histogram is convolved with the shadow of a square and the width of a detector in Fourier space.
    """
    geometry = Geometry(attenuation.shape[0])
    rows, columns = np.nonzero(attenuation)
    weights, centres = attenuation[rows, columns], geometry.centres()
    bin_width = geometry.pitch / (2 * SUB_BINS)
    margin = 4 * SUB_BINS  # wider than pixel and detector: nothing wraps around
    bins = geometry.samples * SUB_BINS + 2 * margin
    frequencies = np.fft.rfftfreq(bins, bin_width)
    aperture = np.sinc(frequencies * geometry.pitch) * geometry.pixel**2 / bin_width
    aperture /= np.sinc(frequencies * bin_width) ** 3  # undoes the mean blur of the spreading
    aperture[frequencies * geometry.pitch > 2] = 0  # little is left there but echoes of the bins
    places = SUB_BINS // 2 + margin + SUB_BINS * np.arange(geometry.samples)
    result = np.empty((geometry.angles, geometry.samples))
    for k, (cos, sin) in enumerate(geometry.directions()):
        across = (centres * (cos / bin_width))[columns]
        across += (centres * (sin / bin_width) + bins / 2)[rows]
        shadow = np.sinc(frequencies * (geometry.pixel * cos)) * np.sinc(frequencies * (geometry.pixel * sin))
        counts = _spread(across, weights, bins)
        result[k] = np.fft.irfft(np.fft.rfft(counts) * (shadow * aperture), bins)[places]
    return np.maximum(result, 0)  # rounding


def _spread(across: Array, weights: Array, bins: int) -> Array:
    """``weights`` at the places ``across`` (in bins, overwritten) as a histogram (bins,), by quadratic B-splines.

    Pixel centres repeat in a lattice. Put into the nearest bin, or shared linearly between two, their rounding would
    beat against the bins and leave waves of 5 % or 0.3 % in the views along the axes; this leaves 0.01 %.
    """
    near = (across + 0.5).astype(np.int64)
    across -= near
    mass = np.bincount(near, weights, minlength=bins)
    moment = across * weights
    first = np.bincount(near, moment, minlength=bins)
    moment *= across
    second = np.bincount(near, moment, minlength=bins)
    result: Array = 0.75 * mass - second
    result[1:] += (mass / 8 + first / 2 + second / 2)[:-1]
    result[:-1] += (mass / 8 - first / 2 + second / 2)[1:]
    return result


def reconstruct(sinogram: Tensor, side: int) -> Tensor:
    """Filtered back-projection of ``sinogram`` (angles, samples) to (side, side) float32 per mm, on its device.

    Every view is filtered by itself with the Ram-Lak filter, band-limited at half the sampling rate of its detectors,
    and read with linear interpolation.
    """
    geometry = Geometry(side)
    rows = _both_views(_ram_lak(sinogram, geometry.pitch)).float()
    step = geometry.pitch / 2
    centres = torch.from_numpy(geometry.centres() / step).to(sinogram.device, torch.float32)
    total, value, following, place = (torch.zeros((side, side), device=sinogram.device) for _ in range(4))
    below = torch.zeros_like(total, dtype=torch.int64)
    for row, (cos, sin) in zip(rows, geometry.directions(), strict=True):
        # In place: allocating these for every direction would take several times as long as the arithmetic.
        torch.add((centres * sin + (geometry.samples - 1) / 2)[:, None], centres * cos, out=place)
        below.copy_(place)
        torch.take(row, below, out=value)
        torch.take(row[1:], below, out=following)
        total += value.lerp_(following, place.sub_(below))
    return total.mul_(math.pi / (2 * geometry.angles))


def _ram_lak(sinogram: Tensor, pitch: float) -> Tensor:
    """Each of the two interleaved views convolved with the band-limited ramp (Kak and Slaney 1988, equation 61)."""
    angles, samples = sinogram.shape
    detectors = samples // 2
    length = 2 * detectors
    lag = torch.arange(length, device=sinogram.device, dtype=torch.float64)
    lag = torch.minimum(lag, length - lag)
    kernel = torch.where(lag % 2 == 1, -1 / (math.pi * lag.clamp(min=1) * pitch) ** 2, 0)
    kernel[0] = 1 / (4 * pitch**2)
    views = sinogram.double().reshape(angles, detectors, 2)
    response = torch.fft.rfft(kernel)[:, None] * pitch
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(views, length, dim=1) * response, length, dim=1)
    return filtered[:, :detectors].reshape(angles, samples)


def _both_views(filtered: Tensor) -> Tensor:
    """The sum of the two views of a direction, each interpolated linearly at the samples of the other.

    It is linear between samples, as both are, so interpolating it is exact and takes half the time.
    """
    ends = F.pad(filtered, (1, 1))
    return filtered + (ends[:, :-2] + ends[:, 2:]) / 2


class LowDose(NoiseModel):
    """Quantum noise of a CT scan with I0 photons per detector and view in front of the patient.

    Pixels code HU = 65535 * pixel - 1024. With p the line integrals of the clean slice, counts are I = Poisson(I0
    exp(-p)), read as p' = -ln(max(I, 1) / I0), and

        noisy = clean + FBP(p' - p).

    FBP is linear, so this is the reconstruction FBP(p') minus the error that projecting and reconstructing on a grid
    make without any noise: blurred edges and streaks from few views. The clean slice is itself a reconstruction and has
    such errors already; with them twice, a denoiser would be asked to invert a blur, and its PSNR would be capped at
    high doses for reasons that have nothing to do with the dose.

    Photon starvation: a detector that counts nothing reads 1 photon, so p' is at most ln I0. Behind much bone at a low
    dose the noise therefore has a mean: bright before the floor is reached, as E[-ln I] exceeds -ln E[I], dark beyond.

    Every image takes one number from the generator and draws its counts from a generator of its own, so an image gets
    its noise whether or not its neighbours in the batch come from the cache.
    """

    pattern = r"ldct(?P<dose>-?\d+(?:\.\d+)?(?:e\+?\d+)?)"
    example = "ldct1e4 or ldct5e4"

    whole_image: ClassVar[bool] = True
    """The noise belongs to a whole slice, since rays run through all of it: a crop has to be cut afterwards."""

    cached: ClassVar[bool] = True
    """Sinograms and finished noise are kept on disk (:mod:`denoise_core.cache`): the same noise is simulated once."""

    def __init__(self, dose: float) -> None:
        self.dose = dose
        self.name = f"ldct{_short(dose)}"
        if not DOSES[0] <= dose <= DOSES[1]:
            raise UserError(
                f"the noise {self.name!r} has a dose out of range; I0 must be from {_short(DOSES[0])} to "
                f"{_short(DOSES[1])} photons: {self.example}."
            )
        self.description = (
            f"Low-dose CT, Poisson counts of I0 = {dose:g} photons per detector and view, parallel beam, filtered "
            "back-projection (Ram-Lak); pixels code HU = 65535 * pixel - 1024, not clipped."
        )

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        """See :class:`NoiseModel`."""
        return cls(float(match["dose"]))

    def __call__(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`NoiseModel`. Raises UserError for colour and for pixels that cannot be coded HU."""
        if clean.shape[1] != 1:
            raise UserError(
                f"the noise {self.name!r} needs gray CT images, but these have {clean.shape[1]} channels; "
                "use --channels 1."
            )
        return torch.stack([image + self._noise(image[0], generator).to(image) for image in clean])

    def _noise(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """The noise of one image (H, W), coded: a CPU tensor (H, W) float32."""
        draw = torch.randint(2**62, (1,), generator=generator, device=generator.device)
        seed, device = int(draw.item()), generator.device
        pixels = image.detach().to("cpu", torch.float32).contiguous()
        content = (*pixels.shape, pixels.numpy().tobytes())

        def compute() -> Tensor:
            attenuation = _square_attenuation(pixels)
            integrals = remembered(("sinogram", VERSION, *content), lambda: _rounded_sinogram(attenuation))
            _refuse_other_images(self.name, integrals)
            own = torch.Generator(device=device).manual_seed(seed)
            difference = _reading_error(integrals.to(device), self.dose, own)
            noise = reconstruct(difference, attenuation.shape[0]) * (1000 / (WATER * FULL_RANGE))
            return _middle(noise, pixels.shape).cpu()

        return remembered(("noise", VERSION, self.name, device.type, seed, *content), compute)


def _reading_error(integrals: Tensor, dose: float, generator: torch.Generator) -> Tensor:
    """p' - p of one draw, float64: in float32 another computer's rounding would change which counts are drawn."""
    integrals = integrals.double()
    counts = torch.poisson(dose * torch.exp(-integrals), generator=generator)
    return math.log(dose) - counts.clamp_(min=1).log_() - integrals


def _rounded_sinogram(attenuation: Array) -> Tensor:
    """The line integrals in steps of SINOGRAM_STEP, float32, which holds them exactly."""
    steps = np.rint(project(attenuation) / SINOGRAM_STEP)
    return torch.from_numpy((steps * SINOGRAM_STEP).astype(np.float32))


def _square_attenuation(pixels: Tensor) -> Array:
    """Attenuation per mm of coded pixels (H, W), 0 below -1000 HU, extended with air to a square."""
    values: Array = np.maximum(WATER * (1 + hounsfield(pixels.double()).numpy() / 1000), 0)
    height, width = values.shape
    side = max(height, width)
    result = np.zeros((side, side))
    top, left = (side - height) // 2, (side - width) // 2
    result[top : top + height, left : left + width] = values
    return result


def _middle(square: Tensor, shape: torch.Size) -> Tensor:
    top, left = ((square.shape[0] - edge) // 2 for edge in shape)
    return square[top : top + shape[0], left : left + shape[1]].contiguous()


def _refuse_other_images(name: str, integrals: Tensor) -> None:
    most = integrals.max().item()
    if most > MOST_ATTENUATION:
        raise UserError(
            f"the noise {name!r} needs CT images with HU = 65535 * pixel - 1024, but no light would pass this one (it "
            f"attenuates by exp(-{most:.0f})); use 16-bit CT slices with an offset of 1024, or ct_phantom."
        )


def _short(dose: float) -> str:
    """The one way to write a dose: 10000 and 1e4 are both 1e4, 2500 is 2.5e3."""
    mantissa, _, exponent = f"{dose:.15e}".partition("e")
    return f"{float(mantissa):.15g}e{int(exponent or 0)}"
