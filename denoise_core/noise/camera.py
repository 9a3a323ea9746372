"""Noise like that of finished photographs: it grows with the signal, is coarser than a pixel, and clipped."""

from __future__ import annotations

import math
import re
from typing import ClassVar, Self

import torch
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.noise.models import NUMBER, NoiseModel


class Camera(NoiseModel):
    """y = clip(x + s(x) n): n is standard normal noise that correlates with its neighbours, s(x)^2 = a^2 x + d^2.

    A stand-in for recorded pairs where there are none, not a model of any camera: shot and read noise (a and d in units
    of 0..255), spread by demosaicing, here with the taps 1, 3, 1 along rows and columns, which makes neighbours
    correlate by 6/11 = 0.55 (recorded photographs: about 0.5), and cut off at black and white as photographs are.
    Channels are independent.
    """

    pattern = rf"camera(?P<slope>{NUMBER})_(?P<offset>{NUMBER})"
    example = "camera25_5"
    CENTRE: ClassVar[float] = 3.0

    def __init__(self, slope: float, offset: float) -> None:
        self.slope, self.offset = slope, offset
        self.name = f"camera{slope:g}_{offset:g}"
        if not all(0 <= level < math.inf for level in (slope, offset)) or slope + offset == 0:
            raise UserError(
                f"the noise {self.name!r} has a level out of range; levels must be 0 or more, and one above 0: "
                f"{self.example}."
            )
        self.description = (
            f"Camera-like noise, y = clip(x + s(x) n), s(x)^2 = a^2 x + d^2, a = {slope:g}/255, d = {offset:g}/255, "
            "n Gaussian, neighbours correlate by 0.55, clipped to [0, 1]."
        )

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        """See :class:`NoiseModel`."""
        return cls(float(match["slope"]), float(match["offset"]))

    def __call__(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`NoiseModel`; clipped to [0, 1]."""
        count, channels, height, width = clean.shape
        shape = (count * channels, 1, height + 2, width + 2)  # one more on every side: no weaker border
        white = torch.randn(shape, generator=generator, device=clean.device, dtype=clean.dtype)
        for axis in (-2, -1):  # sums of shifted fields: the same on every device, unlike convolutions
            length = white.shape[axis] - 2
            sides = white.narrow(axis, 0, length) + white.narrow(axis, 2, length)
            white = sides.add_(white.narrow(axis, 1, length), alpha=self.CENTRE).div_(math.sqrt(2 + self.CENTRE**2))
        return white.view(clean.shape).mul_(self.std(clean)).add_(clean).clamp_(0, 1)

    def std(self, clean: Tensor) -> Tensor:
        """The standard deviation where the clean image has these values in [0, 1], before clipping."""
        return (clean.clamp_min(0) * (self.slope / 255) ** 2 + (self.offset / 255) ** 2).sqrt()
