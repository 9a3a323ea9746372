"""DnCNN (Zhang et al. 2017) as GAN2GAN uses it: no biases, batch normalisation in the middle layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from denoise_core.networks.norms import BatchNorm


class DnCNN(nn.Module):
    """(N, C, H, W) -> (N, C, H, W) of any size: the image minus the noise that ``depth`` 3x3 convolutions find in it.

    ``width`` channels (64 in the papers: 556,032 parameters with depth 17 and one channel, 482,048 with 15, 667,008
    with 20), zero padding. ``sigmoid`` is applied after the subtraction (GAN2GAN's g2), so that the result is in
    (0, 1).
    """

    def __init__(self, channels: int, depth: int = 17, width: int = 64, *, sigmoid: bool = False):
        super().__init__()
        self.sigmoid = sigmoid
        self.reach: int = depth  # see Method.reach
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers += [
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                BatchNorm(width),
                nn.ReLU(inplace=True),
            ]
        layers.append(nn.Conv2d(width, channels, 3, padding=1, bias=False))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        result = images - self.layers(images)
        return torch.sigmoid(result) if self.sigmoid else result
