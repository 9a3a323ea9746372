"""The small networks of 1x1 convolutions that give D-BSN (Wu et al., ECCV 2020) its covariances.

Covariances are (N, K, H, W) as in :mod:`denoise_core.gaussian`: K = C variances, or K = 6 entries for three channels
that correlate.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NoiseForm = Literal["homoscedastic", "heteroscedastic", "multivariate"]
"""One level for the image; a level for each pixel, by its intensity; one full covariance of three channels."""
Start = Literal["residual", "official"]
"""Where the noise level starts: at the root mean square of y - mu in a median tile, or at the code's 4.9 / 255."""

OFFSET, FLOOR, LAST_BIAS = 4.0, 1e-3, 3e-4  # of the official start
UNIT = math.log(math.e - 1)  # softplus of it is 1
DIAGONAL = (0, 3, 5)
UPPER = ((0, 1, 2), (3, 4), (5,))
"""Which of six outputs form the rows of the upper triangular factor L of a 3 x 3 covariance L L^T."""


class NoiseLevel(nn.Module):
    """CNN_est: the covariance of the noise from the intensity of each pixel alone, five 1x1 convolutions.

    ``width`` channels (16 in the paper; 865 parameters for one channel). In the start ``residual`` all levels are
    multiples of ``scale``, which :meth:`start_at` sets, and begin at exactly that.
    """

    scale: Tensor

    def __init__(self, channels: int, width: int, form: NoiseForm, start: Start):
        super().__init__()
        self.form, self.start = form, start
        outputs = 6 if form == "multivariate" else channels
        widths = [channels, *[width] * 4]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [_kaiming(nn.Conv2d(before, after, 1)), nn.ReLU(inplace=True)]
        last = nn.Conv2d(width, outputs, 1)
        if start == "residual" or form != "multivariate":
            nn.init.zeros_(last.weight)
            assert last.bias is not None
            nn.init.constant_(last.bias, LAST_BIAS if start == "official" else 0.0)
        self.layers = nn.Sequential(*layers, last)
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def start_at(self, mean_square: Tensor) -> None:
        """This mean square of residuals becomes the level that all estimates start from."""
        self.scale.copy_(mean_square.clamp_min(1e-8).sqrt())

    def forward(self, images: Tensor) -> Tensor:
        """Covariances for intensities (N, C, H, W): (N, K, H, W), or (N, K, 1, 1) where one level is the image's."""
        raw = self.layers(images)
        official = self.start == "official"
        if self.form == "multivariate":
            if not official:
                raw = torch.cat([raw[:, at : at + 1] + float(at in DIAGONAL) for at in range(6)], dim=1)
            return covariance_of(raw * self.scale).mean((2, 3), keepdim=True)
        if self.form == "homoscedastic":
            raw = raw.mean((2, 3), keepdim=True)
        deviation = F.softplus(raw - OFFSET) + FLOOR if official else F.softplus(raw + UNIT) * self.scale
        return deviation.square()


class MeanVariance(nn.Module):
    """The covariance of mu from the features of the blind-spot network, three 1x1 convolutions.

    1,841 parameters for 96 features, ``width`` 16 and one output. In the start ``residual`` all variances begin at
    exactly that which :meth:`start_at` sets, without correlation: a random start has places near zero, which the square
    then holds there.
    """

    scale: Tensor

    def __init__(self, features: int, channels: int, width: int, start: Start, *, full: bool = False):
        super().__init__()
        self.full = full
        layers = [nn.Conv2d(features, width, 1), nn.Conv2d(width, width, 1)]
        last = _kaiming(nn.Conv2d(width, 6 if full else channels, 1))
        if start == "residual":
            nn.init.zeros_(last.weight)
            assert last.bias is not None
            last.bias.data.copy_(torch.tensor([at in DIAGONAL for at in range(6)]) if full else torch.ones(channels))
        self.layers = nn.Sequential(
            _kaiming(layers[0]), nn.ReLU(inplace=True), _kaiming(layers[1]), nn.ReLU(inplace=True), last
        )
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def start_at(self, variance: Tensor) -> None:
        """All variances start from this one."""
        self.scale.copy_(variance.clamp_min(1e-8).sqrt())

    def forward(self, features: Tensor) -> Tensor:
        """(N, features, H, W) -> (N, K, H, W)."""
        raw = self.layers(features) * self.scale
        return covariance_of(raw) if self.full else raw.square()


def covariance_of(upper: Tensor) -> Tensor:
    """The entries xx, xy, xz, yy, yz, zz of L L^T for the entries of an upper triangular L: (N, 6, H, W)."""
    entries = upper.unbind(1)
    rows = [[torch.zeros_like(entries[0])] * (3 - len(row)) + [entries[at] for at in row] for row in UPPER]
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    return torch.stack([sum(rows[i][k] * rows[j][k] for k in range(3)) for i, j in pairs], dim=1)  # type: ignore[misc]


def _kaiming(convolution: nn.Conv2d) -> nn.Conv2d:
    nn.init.kaiming_normal_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution
