"""Real photographs for networks that want pixel-independent noise (Wu et al. 2020, section 4.4).

Cameras spread noise over neighbouring pixels. ``split`` takes every factor-th pixel, so that the sub-images' noise is
less correlated; ``join`` puts the denoised sub-images together, and ``guided_filter`` smooths the seams.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from denoise_core.inference import pad_to_multiple


def split(images: Tensor, factor: int) -> Tensor:
    """(N, C, H, W) -> (N * factor**2, C, ceil(H / factor), ceil(W / factor)): every factor-th pixel, at every offset.

    Sub-image k of image i is at i * factor**2 + k; it holds the pixels whose row is k // factor and whose column is
    k % factor modulo ``factor``. Sides that are no multiple of ``factor`` are padded by reflection at bottom and right.
    ValueError for a factor below 1.
    """
    _check(factor)
    if images.shape[-2] % factor or images.shape[-1] % factor:
        images = pad_to_multiple(images, factor)
    count, channels, height, width = images.shape
    cells = images.reshape(count, channels, height // factor, factor, width // factor, factor)
    return cells.permute(0, 3, 5, 1, 2, 4).flatten(0, 2)


def join(parts: Tensor, factor: int, size: tuple[int, int] | None = None) -> Tensor:
    """The inverse of ``split``: (N * factor**2, C, h, w) -> (N, C, h * factor, w * factor), cropped to ``size`` (H, W).

    Without ``size`` nothing is cropped. ValueError if the number of parts is no multiple of factor**2, if ``size`` is
    larger than the parts make, or for a factor below 1.
    """
    _check(factor)
    if len(parts) % factor**2:
        raise ValueError(f"{len(parts)} sub-images are no multiple of {factor} x {factor}")
    whole = (parts.shape[-2] * factor, parts.shape[-1] * factor)
    height, width = size or whole
    if height > whole[0] or width > whole[1]:
        raise ValueError(f"the sub-images make {whole[0]} x {whole[1]} pixels, not {height} x {width}")
    offsets = parts.reshape(len(parts) // factor**2, factor, factor, *parts.shape[1:])
    images = offsets.permute(0, 3, 4, 1, 5, 2).reshape(len(offsets), parts.shape[1], *whole)
    return images[..., :height, :width]


def bayer_group(k: int, factor: int) -> int:
    """The place, 0 to 3, of sub-image ``k``'s pixels in the 2x2 cells of a Bayer sensor: 2 * (row % 2) + column % 2.

    Row and column are the sub-image's offsets as in ``split``. An odd ``factor`` mixes the four places within each
    sub-image; the number then only groups the offsets. ValueError unless 0 <= k < factor**2.
    """
    _check(factor)
    if not 0 <= k < factor**2:
        raise ValueError(f"sub-image {k} of {factor} x {factor}")
    row, column = divmod(k, factor)
    return 2 * (row % 2) + column % 2


def guided_filter(guide: Tensor, image: Tensor, radius: int = 1, eps: float = 0.01) -> Tensor:
    """``image`` (N, C, H, W) smoothed along the structures of ``guide`` (He, Sun and Tang 2010), channel by channel.

    In every square window of side 2 * radius + 1 the image is fitted by a * guide + b with the penalty eps * a**2;
    each pixel averages the fits of the windows around it. At the borders windows hold only the pixels that exist.
    ``guide`` has the shape of ``image`` or one channel for all. ``eps`` is in squared intensities of the guide, 0.01
    for images in [0, 1]. ValueError for other shapes, a negative radius or eps <= 0.
    """
    if guide.shape not in (image.shape, (image.shape[0], 1, *image.shape[2:])) or radius < 0 or eps <= 0:
        raise ValueError(f"guide {tuple(guide.shape)}, image {tuple(image.shape)}, radius {radius}, eps {eps}")
    mean_guide, mean_image = _box_mean(guide, radius), _box_mean(image, radius)
    variance = _box_mean(guide * guide, radius) - mean_guide * mean_guide
    slope = (_box_mean(guide * image, radius) - mean_guide * mean_image) / (variance + eps)
    offset = mean_image - slope * mean_guide
    return _box_mean(slope, radius) * guide + _box_mean(offset, radius)


def _box_mean(images: Tensor, radius: int) -> Tensor:
    return F.avg_pool2d(images, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)


def _check(factor: int) -> None:
    if factor < 1:
        raise ValueError(f"factor {factor}")
