"""How alike generated and real noise are (Yue et al., DANet, ECCV 2020, section 3.4): AKLD and PGap.

AKLD compares local variances only. It is no proper score: white noise of the right variance scores better than the
true noise drawn anew, because it lets the variance be estimated more evenly, and it hardly sees correlation. So reports
show the standard deviation by intensity and the correlation of neighbours beside it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = (0.03125, 0.109375, 0.21875, 0.28125, 0.21875, 0.109375, 0.03125)
"""OpenCV's fixed table for a Gaussian kernel of 7 taps and no given sigma, which the official code takes."""
FLOOR = 1e-10
LOW, HIGH = 0.1, 10.0
"""Bounds of the ratio of two variances."""


def local_variance(noise: Tensor) -> Tensor:
    """Eq. 11: the squares of ``noise`` (..., H, W) averaged over 7 x 7 pixels with :data:`WINDOW`, at least 1e-10.

    The border is reflected, so both sides must have at least 4 pixels.
    """
    images = noise.square().reshape(-1, 1, *noise.shape[-2:])
    reach = len(WINDOW) // 2
    images = F.pad(images, (reach, reach, reach, reach), mode="reflect")
    taps = torch.tensor(WINDOW, dtype=noise.dtype, device=noise.device)
    images = F.conv2d(F.conv2d(images, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
    return images.reshape(noise.shape).clamp_min(FLOOR)


def akld(clean: Tensor, noisy: Tensor, generated: Iterable[Tensor]) -> float:
    """Eq. 10 to 13: the mean Kullback-Leibler divergence of Gaussians with the two local variances; 0 is best.

    All images are (C, H, W) in [0, 1]; ``generated`` are draws for the same clean image, clipped to [0, 1] here as in
    the official code. With the ratio s of generated to real variance, bounded to [0.1, 10], one draw counts
    mean((s - 1 - log s) / 2) over pixels and channels; draws are averaged (50 in the paper). Raises ValueError where
    there is none.
    """
    real = local_variance((noisy - clean).double())
    values = []
    for one in generated:
        ratio = (local_variance((one.clamp(0, 1) - clean).double()) / real).clamp(LOW, HIGH)
        values.append(0.5 * float((ratio - 1 - ratio.log()).mean()))
    if not values:
        raise ValueError("AKLD needs at least one generated image")
    return sum(values) / len(values)
