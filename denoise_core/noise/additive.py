"""Additive noise of zero mean that is not Gaussian (mixtures) or not white (correlated), independent of the image.

The formulas are those of Cha et al., GAN2GAN, ICLR 2021, as its code (csm9493/GAN2GAN) has them: the code's correlated
noise differs from the paper's sentence in its weight and its window, see :func:`correlate`. The paper has gray images;
here every channel gets noise of its own.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_core.errors import UserError
from denoise_core.noise.models import NUMBER, NoiseModel

WINDOW = 16
"""Edge of the window of correlated noise in pixels; a power of two."""
OWN_WEIGHT = 0.7
"""The weight r of a pixel's own number in correlated noise (the paper says 1/sqrt 2)."""
NEIGHBOUR_WEIGHT = (1 - OWN_WEIGHT) / math.sqrt(WINDOW**2 - 1)
"""What every tap of the window weighs."""
INTERIOR_GAIN = math.sqrt(OWN_WEIGHT**2 + 2 * OWN_WEIGHT * NEIGHBOUR_WEIGHT + (1 - OWN_WEIGHT) ** 2)
"""Standard deviation of correlated noise by that of its white field, where the whole window is inside: 0.7787.

The weights are r + a once, for the pixel itself is one of the taps, and a = (1 - r)/sqrt 255 for 254 others.
"""


class _Additive(NoiseModel):
    """A family with one level s in its name, 0 or more, in units of 0..255."""

    def __init__(self, family: str, level: float) -> None:
        self.level = level = float(f"{level:g}") + 0.0  # what the name says; the sum makes 0 of -0
        self.name = f"{family}{level:g}"
        if not 0 <= level < math.inf:
            raise UserError(
                f"the noise {self.name!r} has a level out of range; levels must be 0 or more: {self.example}."
            )
        self.description = self._text()

    def __call__(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`NoiseModel`."""
        return self._noise(clean, generator).div_(255).add_(clean)

    @abstractmethod
    def _noise(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Noise in units of 0..255 in the shape and type of ``clean`` (N, C, H, W), in a tensor of its own."""

    @abstractmethod
    def _text(self) -> str:
        """What ``description`` says."""


class Mixture(_Additive):
    """White noise: for each pixel one of two Gaussians or U(-s, s), chosen by a uniform number, in units of 0..255.

    Case A is 70 % N(0, 0.1^2), 20 % N(0, 1), 10 % U(-s, s): weak with rare outliers, which make nearly all of its
    standard deviation sqrt(0.207 + s^2/30): 2.78 for s = 15 and 4.59 for s = 25. Case B is 70 % N(0, 15^2), 20 %
    N(0, 25^2), 10 % U(-s, s): strong and near to a Gaussian, sqrt(282.5 + s^2/30): 17.68 for s = 30, 19.13 for s = 50.
    """

    pattern = rf"mix(?P<case>[ab])(?P<level>{NUMBER})"
    example = "mixa15 or mixb30"

    UNIFORM_SHARE: ClassVar[float] = 0.1
    """Share of the pixels with the uniform part."""
    WIDE_SHARE: ClassVar[float] = 0.2
    """Share of the pixels with the wider Gaussian; all others have the narrower one."""
    DEVIATIONS: ClassVar[Mapping[str, tuple[float, float]]] = {"a": (0.1, 1.0), "b": (15.0, 25.0)}
    """Standard deviations of the narrower and of the wider Gaussian by case."""

    def __init__(self, case: str, level: float) -> None:
        self.case = case
        super().__init__(f"mix{case}", level)

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        """See :class:`NoiseModel`."""
        return cls(match["case"], float(match["level"]))

    def _noise(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        def draw() -> Tensor:
            return torch.rand(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)

        part, uniform = draw(), draw().mul_(2 * self.level).sub_(self.level)
        gaussian = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
        narrow, wide = self.DEVIATIONS[self.case]
        gaussian.mul_(torch.where(part < self.UNIFORM_SHARE + self.WIDE_SHARE, wide, narrow))
        return torch.where(part < self.UNIFORM_SHARE, uniform, gaussian)

    def _text(self) -> str:
        narrow, wide = self.DEVIATIONS[self.case]
        return (
            f"Mixture noise, case {self.case.upper()}: for each pixel 70 % N(0, {narrow:g}^2), 20 % N(0, {wide:g}^2) "
            f"or 10 % U(-{self.level:g}, {self.level:g}), in units of 1/255, not clipped."
        )


class Correlated(_Additive):
    """White Gaussian noise N(0, s^2) mixed with its sum over a window of 16 x 16 pixels, see :func:`correlate`.

    Its own standard deviation is 0.7787 s, not s as the paper has it, and falls to 0.73 s in the corners, since there
    is nothing beyond the border (zero fill). Over a whole image of 321 x 481 it is 0.7775 s. Noise drawn for a crop has
    the weaker border on all four sides of the crop; frozen noise is drawn for whole images and has it on theirs only.
    """

    family: ClassVar[str] = "corr"
    pattern = rf"corr(?P<level>{NUMBER})"
    example = "corr15 or corr25"
    divisor: ClassVar[float] = 1.0
    claim: ClassVar[str] = f"standard deviation {INTERIOR_GAIN:.4f} s"

    def __init__(self, level: float) -> None:
        super().__init__(self.family, level)

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        """See :class:`NoiseModel`."""
        return cls(float(match["level"]))

    def _noise(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        white = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
        return correlate(white).mul_(self.level / self.divisor)

    def _text(self) -> str:
        return (
            f"Correlated Gaussian noise, N(0, s^2) mixed with its sum over {WINDOW} x {WINDOW} pixels, "
            f"s = {self.level:g}/255, {self.claim}, less within 8 pixels of the border, not clipped."
        )


class NormalisedCorrelated(Correlated):
    """:class:`Correlated` divided by 0.7787: the standard deviation away from the border is s, as the paper claims."""

    family = "corrn"
    pattern = rf"corrn(?P<level>{NUMBER})"
    example = "corrn15 or corrn25"
    divisor = INTERIOR_GAIN
    claim = "normalised to standard deviation s"


def correlate(white: Tensor) -> Tensor:
    """The correlated field N of a white field M (..., H, W) of any size: the same shape and type, in a new tensor.

    N(y, x) = r M(y, x) + (1 - r)/sqrt(255) (sum of M over rows y - 8 .. y + 7 and columns x - 8 .. x + 7, less
    M(y - 1, x - 1)), with r = 0.7 and M = 0 outside of the image.

    That is what ``scipy.signal.convolve2d(M, ones with a 0 at [8, 8], mode="same")`` of the official code computes: an
    even window is off-centre by half a pixel towards smaller y and x, and the tap that was meant to leave out the pixel
    itself leaves out its upper left neighbour. The pixel itself is therefore among the 255 summed.
    """
    before, after = WINDOW // 2, WINDOW // 2 - 1
    total = F.pad(white, (before, after, before, after))
    for axis in (-2, -1):
        width = 1
        while width < WINDOW:  # sums over 2, 4, 8, 16: additions in an order that is the same on every device
            length = total.shape[axis] - width
            total = total.narrow(axis, 0, length) + total.narrow(axis, width, length)
            width *= 2
    omitted = F.pad(white, (1, 0, 1, 0))[..., :-1, :-1]
    return total.sub_(omitted).mul_(NEIGHBOUR_WEIGHT).add_(white, alpha=OWN_WEIGHT)
