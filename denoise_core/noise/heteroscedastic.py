"""White Gaussian noise whose deviation follows the image (heteroscedastic), or whose channels are correlated.

The two noise models beside plain Gaussian noise of Wu et al., Unpaired Learning of Deep Image Denoising (D-BSN), ECCV
2020. Paper and official code (XHWXD/DBSN) differ in both, so each published form has a name of its own. Levels are in
units of 0..255, images in [0, 1]. Given the clean image, the noise of one pixel is independent of that of all others.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.noise.models import NUMBER, NoiseModel

VALIDATION_LEVEL = 75
"""The level at which :data:`VALIDATION_COVARIANCE` was drawn."""
VALIDATION_COVARIANCE = ((3438.9, 175.3, 286.1), (175.3, 3701.2, 289.1), (286.1, 289.1, 3360.5))
"""Covariance of red, green and blue in units of 0..255 squared, with which the official code validates.

It is |75^2 U^T D U| (absolute values of the elements, which the paper does not have), where D and U come from seed 0.
"""
SINGULAR = 1e-9
"""A covariance counts as not positive definite where its smallest eigenvalue is at most this share of its largest."""


def _stated(value: float) -> float:
    """The number that a name states: four decimals, and 0 for -0."""
    return round(value, 4) + 0.0


def _text(value: float) -> str:
    """A stated number as in a name: never with an exponent, which :data:`NUMBER` does not match."""
    return f"{value:.4f}".rstrip("0").rstrip(".")


class Heteroscedastic(NoiseModel):
    """Gaussian noise with a deviation that grows with the clean image x, for levels a and d, 0 or more.

    ``hg``, the paper: variance a^2 x + d^2. ``hgt``, the official code in training: two independent draws a x z1 +
    d z2, so variance (a x)^2 + d^2. ``hgv``, the official code in validation: both draws from the same seed, so z1 = z2
    and the deviation is a x + d. For a = 40 and d = 10 the deviations at x = 0.1, 0.5 and 0.9 are 16.1, 30.0 and 39.2
    (hg), 10.8, 22.4 and 37.4 (hgt), and 14, 30 and 46 (hgv), in units of 0..255.

    The three forms turn the same numbers into noise: from equal generators they differ in the deviation only.
    """

    pattern = rf"hg(?P<form>[tv]?)(?P<slope>{NUMBER})_(?P<offset>{NUMBER})"
    example = "hg40_10 or hgt40_10 or hgv40_10"

    FORMULAS: ClassVar[Mapping[str, str]] = {
        "": "variance a^2 x + d^2",
        "t": "variance (a x)^2 + d^2 (training code of D-BSN)",
        "v": "standard deviation a x + d (validation code of D-BSN)",
    }

    def __init__(self, form: str, slope: float, offset: float) -> None:
        self.form, self.slope, self.offset = form, _stated(slope), _stated(offset)
        self.name = f"hg{form}{_text(self.slope)}_{_text(self.offset)}"
        if not all(0 <= level < math.inf for level in (self.slope, self.offset)):
            raise UserError(
                f"the noise {self.name!r} has a level out of range; levels must be 0 or more: {self.example}."
            )
        self.description = (
            f"Heteroscedastic Gaussian noise, y = x + N(0, s(x)^2), {self.FORMULAS[form]}, "
            f"a = {_text(self.slope)}/255, d = {_text(self.offset)}/255, not clipped."
        )

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        """See :class:`NoiseModel`."""
        return cls(match["form"], float(match["slope"]), float(match["offset"]))

    def __call__(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`NoiseModel`."""
        white = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
        return white.mul_(self.std(clean)).add_(clean)  # a sum of two independent Gaussians is one of the same variance

    def std(self, clean: Tensor) -> Tensor:
        """The standard deviation of the noise where the clean image has the values ``clean``.

        Args:
            clean: Values in [0, 1], any shape; what is below 0 counts as 0.

        Returns:
            A new tensor of the same shape and type, in the units of the image (a level of 255 is 1).
        """
        x = clean.clamp_min(0)
        slope, offset = self.slope / 255, self.offset / 255
        if self.form == "v":
            return x * slope + offset
        # The levels are in units of 0..255 but x is not: 255^2 variance = a^2 x + d^2, as the paper's numbers mean it.
        signal = x.square() if self.form == "t" else x
        return (signal * slope**2 + offset**2).sqrt()


class _Multivariate(NoiseModel):
    """Gaussian noise of three channels: correlated between the channels of a pixel, independent between pixels."""

    channels: ClassVar[int] = 3
    covariance: Tensor | None = None
    """(3, 3), float64, in units of the image squared, channels in the order of the image; None where it is drawn."""

    def __call__(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`NoiseModel`.

        Raises:
            UserError: ``clean`` does not have three channels.
        """
        if clean.shape[1] != self.channels:
            raise UserError(
                f"the noise {self.name!r} correlates red, green and blue, so it needs images of {self.channels} "
                f"channels, but these have {clean.shape[1]}: use --channels 3, or another noise such as gauss25."
            )
        factor = self._factor(clean, generator).to(clean.dtype)
        white = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
        # A sum of three products and no matrix product: those may round otherwise with another number of threads.
        noise: Tensor = (factor[..., None, None] * white[:, None]).sum(2)
        return noise.add_(clean)

    @abstractmethod
    def _factor(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """F with F F^T the covariance in units of the image: (1 or N, 3, 3) on the device of ``clean``, float64."""


class _Fixed(_Multivariate):
    """One covariance for all images."""

    covariance: Tensor

    def _set_covariance(self, levels: Tensor) -> None:
        """Take a covariance (3, 3) in units of 0..255 squared; UserError where it is not positive definite."""
        if not bool(torch.isfinite(levels).all()):
            raise UserError(f"the noise {self.name!r} has a number out of range; all must be finite: {self.example}.")
        eigenvalues = torch.linalg.eigvalsh(levels)
        smallest = float(eigenvalues[0])
        if smallest <= SINGULAR * float(eigenvalues[-1]):
            raise UserError(
                f"the noise {self.name!r} has a covariance that is not positive definite: its smallest eigenvalue is "
                f"{smallest:.4g} (in units of 0..255 squared) and must be more than 0; write larger variances (the "
                f"first, fourth and last number) or covariances nearer to 0: {self.example}."
            )
        self.covariance = levels / 255**2
        self._cholesky: Tensor = torch.linalg.cholesky(self.covariance)[None]

    def _factor(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        return self._cholesky.to(clean.device)


class Multivariate(_Fixed):
    """The covariance of the official validation, nearly white, times (level / 75)^2; three channels.

    Deviations at level 75 are 58.6, 60.8 and 58.0 in units of 0..255 and correlations 0.05 to 0.08. The mean variance
    is 3500 where the paper's formula has 2812 on average, see :class:`DrawnMultivariate`.
    """

    pattern = rf"mg(?P<level>{NUMBER})"
    example = "mg75"

    def __init__(self, level: float) -> None:
        self.level = _stated(level)
        self.name = f"mg{_text(self.level)}"
        _check_level(self, self.level)
        scale = (self.level / VALIDATION_LEVEL) ** 2
        self._set_covariance(torch.tensor(VALIDATION_COVARIANCE, dtype=torch.float64) * scale)
        self.description = (
            f"Multivariate Gaussian noise, y = x + N(0, S) with the covariance S of red, green and blue of the "
            f"validation code of D-BSN, level {_text(self.level)}/255, not clipped."
        )

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        """See :class:`NoiseModel`."""
        return cls(float(match["level"]))


class NamedCovariance(_Fixed):
    """A covariance whose upper triangle is in the name: xx, xy, xz, yy, yz, zz in units of 0..255 squared.

    x, y and z are the channels in the order of the image: red, green, blue.
    """

    pattern = "cov" + "_".join(rf"(?P<{entry}>{NUMBER})" for entry in ("xx", "xy", "xz", "yy", "yz", "zz"))
    example = "cov3439_175_286_3701_289_3361"

    def __init__(self, xx: float, xy: float, xz: float, yy: float, yz: float, zz: float) -> None:
        xx, xy, xz, yy, yz, zz = self.entries = tuple(_stated(entry) for entry in (xx, xy, xz, yy, yz, zz))
        self.name = "cov" + "_".join(_text(entry) for entry in self.entries)
        self._set_covariance(torch.tensor(((xx, xy, xz), (xy, yy, yz), (xz, yz, zz)), dtype=torch.float64))
        rows = "; ".join(" ".join(_text(entry) for entry in row) for row in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz)))
        self.description = (
            f"Multivariate Gaussian noise, y = x + N(0, S) with the covariance S = [{rows}]/255^2 of red, green and "
            "blue, not clipped."
        )

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        """See :class:`NoiseModel`."""
        return cls(*(float(match[entry]) for entry in ("xx", "xy", "xz", "yy", "yz", "zz")))


class DrawnMultivariate(_Multivariate):
    """The paper's multivariate noise: a covariance level^2 U diag(l) U^T drawn anew for each image; three channels.

    l is uniform in (0, 1)^3. The paper says of U only that it is a random orthonormal matrix: here it is Q of the QR
    decomposition of nine independent N(0, 1), which is uniform over all such matrices (Haar) up to the signs of its
    columns, and these cancel in the covariance. The official code takes an orthonormal basis of nine U(0, 1) instead,
    and U^T diag(l) U. Drawn in this order: l of all images, the Gaussians of all U, the noise.
    """

    pattern = rf"mgdraw(?P<level>{NUMBER})"
    example = "mgdraw75"

    def __init__(self, level: float) -> None:
        self.level = _stated(level)
        self.name = f"mgdraw{_text(self.level)}"
        _check_level(self, self.level)
        self.description = (
            "Multivariate Gaussian noise, y = x + N(0, S) with S = s^2 U diag(l) U^T, "
            f"s = {_text(self.level)}/255, U orthonormal and l ~ U(0, 1)^3 drawn for each image, not clipped."
        )

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        """See :class:`NoiseModel`."""
        return cls(float(match["level"]))

    def _factor(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        count, device = clean.shape[0], clean.device
        shares = torch.rand((count, 1, self.channels), generator=generator, device=device).double()
        gaussian = torch.randn((count, self.channels, self.channels), generator=generator, device=device)
        basis: Tensor = torch.linalg.qr(gaussian.double()).Q
        return basis * shares.sqrt() * (self.level / 255)


def _check_level(noise: NoiseModel, level: float) -> None:
    """Raises UserError for a level that leaves no positive definite covariance."""
    if not 0 < level < math.inf:
        raise UserError(
            f"the noise {noise.name!r} has a level out of range; levels must be more than 0: {noise.example}."
        )
