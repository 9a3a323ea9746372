"""Repeated frames of a scene: whether they show the same thing, at the same place and as bright."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ALIGNED = 0.25
"""Frames that are shifted by more than this many pixels are not of one image."""
DRIFT = 0.1
"""Frames whose brightness differs by more than this part of the noise's standard deviation do not share their mean."""
LEAST_DRIFT = 0.25 / 255
"""Less than a quarter of a level of 8 bits is rounding."""
BLUR = 1.5
"""Standard deviation of the blur, in pixels, in which frames are compared: it takes away most of white noise."""
FINE = 0.05
"""Precision of a shift, in pixels."""
PEAK = 0.55
"""Height above which a peak of the correlation is one, in standard deviations of the rest, times log2 of the pixels.

Nothing but noise reaches 0.52 of 40 pairs, a scene below noise of 200/255 0.8 (256 x 256).
"""
MARGIN = 8
"""Pixels at the borders that are not compared, beside the displacement."""
SURE = 3.0
"""Standard deviations, of independent pixels, by which moving a frame must make the others more alike."""
LARGEST = 1024
"""Edge of the part of a frame that is compared, in pixels."""


@dataclass(frozen=True)
class ZeroMean:
    """Whether repeated frames share their mean, which zero-mean noise implies.

    It is necessary and not sufficient: what is the same in all frames, such as a fixed pattern or a nonlinear scale,
    cannot be seen. ``frames`` is the least number per scene, ``bias`` the largest deviation of a frame's brightness
    from that of the scene in [0, 1], as the median over blocks. ``shift_pixels`` is the largest displacement that was
    measured. ``holds``: aligned, and the bias is below a tenth of the noise's deviation.
    """

    frames: int
    bias: float
    shift_pixels: float
    aligned: bool
    holds: bool


def zero_mean(scenes: Sequence[Sequence[Tensor]], sigma: float) -> ZeroMean:
    """The check of scenes of two or more frames (C, H, W), with noise of standard deviation ``sigma``."""
    shift = max(displacement(scene[0], frame) for scene in scenes for frame in scene[1:])
    bias = max(_drift(scene) for scene in scenes)
    aligned = shift <= ALIGNED
    holds = aligned and bias <= max(DRIFT * sigma, LEAST_DRIFT)
    return ZeroMean(min(map(len, scenes)), bias, shift, aligned, holds)


def displacement(first: Tensor, other: Tensor) -> float:
    """How far ``other`` (C, H, W) is shifted against ``first``, in pixels; 0 where nothing in them tells it.

    The peak of the phase correlation [Kuglin & Hines 1975], of blurred frames whose borders fade, found to 0.05 pixels
    by evaluating the transform there [Guizar-Sicairos, Thurman & Fienup, Opt. Lett. 2008]. Noise that is independent in
    the frames leaves no peak at zero.
    """
    height, width = (min(edge, LARGEST) for edge in first.shape[1:])
    cross = _spectrum(first[:, :height, :width]) * _spectrum(other[:, :height, :width]).conj()
    surface = torch.fft.ifft2(cross).real
    peak = int(surface.argmax())
    if float(surface.max() - surface.mean()) < PEAK * math.log2(height * width) * float(surface.std()):
        return 0.0
    centre = [_signed(peak // width, height), _signed(peak % width, width)]
    reach = torch.arange(-1.5, 1.5 + FINE / 2, FINE, dtype=torch.float64)
    near = _transform_at(cross, reach + centre[0], reach + centre[1])
    best = int(near.argmax())
    down, right = centre[0] + float(reach[best // len(reach)]), centre[1] + float(reach[best % len(reach)])
    frames = (first[:, :height, :width].double(), other[:, :height, :width].double())
    return math.hypot(down, right) if _moved(*frames, down, right) else 0.0


def _moved(first: Tensor, other: Tensor, down: float, right: float) -> bool:
    """Whether the frames are more alike when one is moved back: noise alone may put a peak beside zero, and moving it
    then makes them less alike."""
    height, width = first.shape[1:]
    margin = min(math.ceil(max(abs(down), abs(right))) + MARGIN, min(height, width) // 3)
    inside = (..., slice(margin, height - margin), slice(margin, width - margin))
    still = (first - other)[inside].square()
    rows, columns = (torch.fft.fftfreq(edge, dtype=torch.float64) for edge in (height, width))
    spectrum = torch.fft.fft2(other)
    least = math.inf
    for sign in (-1, 1):
        ramp = torch.exp(sign * 2j * math.pi * (down * rows[:, None] + right * columns))
        moved = torch.fft.ifft2(spectrum * ramp).real
        least = min(least, float((first - moved)[inside].square().mean()))
    mean = float(still.mean())
    return mean - least > SURE * mean * math.sqrt(2 / still.numel())


def _spectrum(frame: Tensor) -> Tensor:
    """(H, W) complex: of the channels' mean, blurred, faded at the borders, with its strong frequencies damped."""
    image = frame.double().mean(0)
    height, width = image.shape
    window = torch.hann_window(height, periodic=False).double()[:, None] * torch.hann_window(width, periodic=False)
    spectrum = torch.fft.fft2((image - image.mean()) * window)
    down, right = (torch.fft.fftfreq(edge, dtype=torch.float64) for edge in (height, width))
    blur = torch.exp(-2 * (math.pi * BLUR) ** 2 * (down[:, None].square() + right.square()))
    blur = torch.where(down[:, None].square() + right.square() > 0, blur, 0.0)
    damped: Tensor = spectrum / spectrum.abs().clamp_min(1e-12).sqrt()
    return blur * damped


def _transform_at(cross: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """(len(down), len(right)): the inverse transform of ``cross`` at these places, unscaled."""
    rows, columns = (torch.fft.fftfreq(edge, dtype=torch.float64) for edge in cross.shape)
    left = torch.exp(2j * math.pi * down[:, None] * rows)
    above = torch.exp(2j * math.pi * columns[:, None] * right)
    return (left @ cross @ above).real


def _signed(place: int, length: int) -> float:
    return float(place - length if place > length // 2 else place)


def _drift(scene: Sequence[Tensor]) -> float:
    """The largest deviation of a frame's brightness from that of all, as the median over blocks of 32 pixels."""
    side = min(32, *scene[0].shape[1:])
    blocks = torch.stack([F.avg_pool2d(frame, side).flatten() for frame in scene])
    return float((blocks - blocks.mean(0)).median(1).values.abs().max())
