"""MWCNN (Liu et al. 2018), a U-Net on Haar sub-bands, as the student of D-BSN (Wu et al. 2020) uses it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_core.inference import pad_to_multiple


def haar(images: Tensor) -> Tensor:
    """(N, C, H, W) of even sides -> (N, 4C, H/2, W/2): the orthonormal Haar wavelet transform, one level.

    Channel c becomes the sub-bands 4c to 4c+3, in the order and with the signs of ``pywt.dwt2(image, "haar")``: mean
    of the four pixels times 2, top minus bottom, left minus right, and the diagonal difference, every coefficient
    +-1/2. The sum of squares is kept. RuntimeError for odd sides.
    """
    return _mixed_in_fours(F.pixel_unshuffle(images, 2))


def inverse_haar(bands: Tensor) -> Tensor:
    """(N, 4C, H, W) -> (N, C, 2H, 2W): the inverse of ``haar``. RuntimeError if the channels are no multiple of 4."""
    return F.pixel_shuffle(_mixed_in_fours(bands), 2)


def _mixed_in_fours(bands: Tensor) -> Tensor:
    """Each group of four channels times the symmetric orthogonal 4x4 matrix of +-1/2, which is its own inverse."""
    count, channels, height, width = bands.shape
    top_left, top_right, bottom_left, bottom_right = bands.reshape(count, channels // 4, 4, height, width).unbind(2)
    top, bottom = (top_left + top_right) / 2, (bottom_left + bottom_right) / 2
    top_step, bottom_step = (top_left - top_right) / 2, (bottom_left - bottom_right) / 2
    mixed = [top + bottom, top - bottom, top_step + bottom_step, top_step - bottom_step]
    return torch.stack(mixed, dim=2).flatten(1, 2)


class MWCNN(nn.Module):
    """(N, C, H, W) -> (N, C, H, W) of any size: the clean image, found as a correction of its Haar sub-bands.

    ``widths`` has one entry per level, finest first. A level transforms its input by ``haar`` and goes through
    ``depth`` 3x3 convolutions with ReLU on the way down and on the way up; the way up ends in the width of the level's
    sub-bands, which are added before ``inverse_haar``. Only the very last convolution is linear. The defaults have
    16,145,892 parameters with one channel. Zero padding, orthogonal initialisation with gain 1, biases 0.

    Images whose sides are no multiples of 2 ** len(widths) are padded by reflection at bottom and right, and the
    result is cropped; the official code drops rows and columns instead.
    """

    def __init__(self, channels: int, widths: Sequence[int] = (160, 256, 256), depth: int = 4):
        super().__init__()
        bands = [4 * width for width in (channels, *widths[:-1])]
        self.multiple = 2 ** len(widths)
        self.reach: int = (4 * depth + 1) * (self.multiple - 1)  # see Method.reach
        self.down = nn.ModuleList(_stage(bands[i], width, width, depth) for i, width in enumerate(widths))
        self.up = nn.ModuleList(
            _stage(width, width, bands[i], depth, linear_end=i == 0) for i, width in enumerate(widths)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.orthogonal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        height, width = images.shape[-2:]
        if height % self.multiple or width % self.multiple:
            return self._denoised(pad_to_multiple(images, self.multiple))[..., :height, :width]
        return self._denoised(images)

    def _denoised(self, images: Tensor) -> Tensor:
        skips, hidden = [], images
        for stage in self.down:
            skips.append(haar(hidden))
            hidden = stage(skips[-1])
        for stage in reversed(self.up):
            hidden = inverse_haar(stage(hidden) + skips.pop())
        return hidden


def _stage(width_in: int, width: int, width_out: int, depth: int, *, linear_end: bool = False) -> nn.Sequential:
    widths = [width_in] + [width] * (depth - 1) + [width_out]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*(layers[:-1] if linear_end else layers))
