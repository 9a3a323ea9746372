"""Gaussian likelihoods and the posterior mean of Wu et al. (ECCV 2020), for gray and colour, pixel by pixel.

A covariance is (N, K, H, W), or (N, K, 1, 1) where it is the same everywhere: with K = C the variances of C channels
that do not correlate, with K = 6 and C = 3 the entries xx, xy, xz, yy, yz, zz of a full matrix. All sums over the
channels of a pixel are written out: a batched factorisation of millions of 3 x 3 matrices takes many times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST = 1e-12
"""Variances below this are taken as this: (2.6e-4 / 255)^2, far below what 16 bits resolve."""
PIVOT = 1e-6
"""Smallest pivot of a 3 x 3 matrix by its trace: what float32 can tell from a singular matrix."""


class Likelihood(NamedTuple):
    """``loss`` is the mean over all pixels, ``largest`` the largest of the quadratic terms, both without dimensions."""

    loss: Tensor
    largest: Tensor


def ordinary(residual: Tensor, mean: Tensor, noise: Tensor, trace_weight: float = 0.0) -> Likelihood:
    """Eq. 6, with ``trace_weight`` times half of tr(Sn^-1 Sm) added, which Eq. 6 does not have.

    ``residual`` is y - mu, (N, C, H, W), ``mean`` the covariance Sm of mu and ``noise`` that of the noise, Sn. Eq. 6
    knows the two by their sum only; the trace prefers, of all splits that explain the residuals, the one with more
    noise.
    """
    quadratic, total = _quadratic(residual, mean, noise)
    loss = quadratic + log_determinant(total)
    if trace_weight:
        loss = loss + trace_weight * _trace(noise, mean)
    return Likelihood(loss.mean() / 2, quadratic.detach().amax())


def constrained(residual: Tensor, mean: Tensor, noise: Tensor) -> Likelihood:
    """Eq. 8: log|Sm + Sn| of Eq. 6 is replaced by its expansion at Sn, log|Sn| + tr(Sn^-1 Sm)."""
    quadratic, _ = _quadratic(residual, mean, noise)
    loss = quadratic + log_determinant(noise) + _trace(noise, mean)
    return Likelihood(loss.mean() / 2, quadratic.detach().amax())


def posterior_mean(noisy: Tensor, mu: Tensor, mean: Tensor, noise: Tensor) -> Tensor:
    """Eq. 9 in a form without inverses of small matrices: mu + Sm (Sm + Sn)^-1 (y - mu), (N, C, H, W)."""
    residual = noisy - mu
    if _is_diagonal(residual, mean):
        return mu + residual * mean / (mean + noise).clamp_min(SMALLEST)
    rows = _inverse_factor(mean + noise)
    whitened = _times_rows(rows, residual)
    # (M^T M) residual, with the lower triangular M
    weighted = [sum(row[at] * w for row, w in zip(rows, whitened, strict=True) if at < len(row)) for at in range(3)]
    xx, xy, xz, yy, yz, zz = mean.unbind(1)
    a, b, c = weighted
    return mu + torch.stack([xx * a + xy * b + xz * c, xy * a + yy * b + yz * c, xz * a + yz * b + zz * c], dim=1)


def sample(noise: Tensor, white: Tensor) -> Tensor:
    """Noise of the covariance ``noise`` from standard normal numbers (N, C, H, W)."""
    if _is_diagonal(white, noise):
        return white * noise.clamp_min(SMALLEST).sqrt()
    (a,), (b, c), (d, e, f) = _factor(noise)
    x, y, z = white.unbind(1)
    return torch.stack([a * x, b * x + c * y, d * x + e * y + f * z], dim=1)


def variances(covariance: Tensor, channels: int) -> Tensor:
    """The variances alone: (N, C, H, W)."""
    return covariance if covariance.shape[1] == channels else covariance[:, (0, 3, 5)]


def log_determinant(covariance: Tensor) -> Tensor:
    """log|S| of each pixel: (N, H, W)."""
    if covariance.shape[1] != 6:
        return covariance.clamp_min(SMALLEST).log().sum(1)
    return 2 * sum(row[-1].log() for row in _factor(covariance))  # type: ignore[return-value]


def _is_diagonal(pixels: Tensor, covariance: Tensor) -> bool:
    return covariance.shape[1] == pixels.shape[1]


def _quadratic(residual: Tensor, mean: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """r^T (Sm + Sn)^-1 r of each pixel, (N, H, W), and Sm + Sn."""
    total = mean + noise
    if _is_diagonal(residual, mean):
        return (residual.square() / total.clamp_min(SMALLEST)).sum(1), total
    whitened = _times_rows(_inverse_factor(total), residual)
    return torch.stack([one.square() for one in whitened]).sum(0), total


def _trace(noise: Tensor, mean: Tensor) -> Tensor:
    """tr(Sn^-1 Sm) of each pixel, (N, H, W): the trace of M Sm M^T, where Sn^-1 = M^T M."""
    if mean.shape[1] != 6:
        return (mean / noise.clamp_min(SMALLEST)).sum(1)
    xx, xy, xz, yy, yz, zz = mean.unbind(1)
    (a,), (b, c), (d, e, f) = _inverse_factor(noise)
    second = b * b * xx + 2 * b * c * xy + c * c * yy
    third = d * d * xx + e * e * yy + f * f * zz + 2 * (d * e * xy + d * f * xz + e * f * yz)
    return a * a * xx + second + third


Rows = tuple[tuple[Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def _factor(covariance: Tensor) -> Rows:
    """The rows of Cholesky's lower triangular factor, with pivots that float32 can hold."""
    xx, xy, xz, yy, yz, zz = covariance.unbind(1)
    least = (PIVOT * (xx + yy + zz)).clamp_min(SMALLEST)
    a = torch.maximum(xx, least).sqrt()
    b, d = xy / a, xz / a
    c = torch.maximum(yy - b * b, least).sqrt()
    e = (yz - b * d) / c
    f = torch.maximum(zz - d * d - e * e, least).sqrt()
    return (a,), (b, c), (d, e, f)


def _inverse_factor(covariance: Tensor) -> Rows:
    """The rows of the inverse M of Cholesky's factor: S^-1 = M^T M."""
    (a,), (b, c), (d, e, f) = _factor(covariance)
    u, v, w = 1 / a, 1 / c, 1 / f
    return (u,), (-b * u * v, v), ((b * e - d * c) * u * v * w, -e * v * w, w)


def _times_rows(rows: Rows, pixels: Tensor) -> Sequence[Tensor]:
    values = pixels.unbind(1)
    return [torch.stack([m * v for m, v in zip(row, values, strict=False)]).sum(0) for row in rows]
