"""The networks of GAN2GAN beside DnCNN (supplement, Tables 4 and 5, and the official code): g1, critics, CT network."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from denoise_core.networks.norms import BatchNorm

SIDES = (16, 32, 64, 128)
"""Patch sides that the noise generator and the critics can have."""


class NoiseGenerator(nn.Module):
    """g1: (N, latent) standard normal -> (N, C, patch, patch) in [-1, 1], in units of the image range.

    One transposed 4x4 convolution to 4x4 pixels, then one of stride 2 for each doubling, with batch normalisation and
    ReLU, tanh at the end; each layer has half the channels of the one before. With ``width`` 64 and ``patch`` 64 these
    are the code's five layers, 174,448 parameters for one channel (the paper's table prints a stride of 1 for the
    fourth and a convolution for the last, which do not give 64 pixels).
    """

    def __init__(self, channels: int, width: int = 64, patch: int = 64, latent: int = 128):
        super().__init__()
        self.latent = latent
        layers: list[nn.Module] = _up(latent, width, stride=1, padding=0)
        side = 4
        while side < patch // 2:
            layers += _up(width, max(4, width // 2), stride=2, padding=1)
            width, side = max(4, width // 2), 2 * side
        layers.append(nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1, bias=False))
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        """See the class."""
        return torch.tanh(self.layers(latent[:, :, None, None]))


def _up(width_in: int, width_out: int, stride: int, padding: int) -> list[nn.Module]:
    return [
        nn.ConvTranspose2d(width_in, width_out, 4, stride=stride, padding=padding, bias=False),
        BatchNorm(width_out),
        nn.ReLU(inplace=True),
    ]


class PatchCritic(nn.Module):
    """f1 and f2: (N, C, H, W) -> a map of scores (N, 1, H / 8 - 3, W / 8 - 3), linear; sides of at least 32.

    Three 4x4 convolutions of stride 2 with batch normalisation and LeakyReLU(0.2), then one of stride 1. With ``width``
    128: 2,634,369 parameters for one channel.
    """

    def __init__(self, channels: int, width: int = 128):
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [
                nn.Conv2d(width_in, width_out, 4, stride=2, padding=1),
                BatchNorm(width_out),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers.append(nn.Conv2d(4 * width, 1, 4))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return self.layers(images)  # type: ignore[no-any-return]


class SharedUNet(nn.Module):
    """The network that GAN2GAN uses for CT in the place of DnCNN: (N, C, H, W) -> the same, sides multiples of 32.

    The U-Net of Lehtinen et al. (2018) with one module for the encoder's levels 2 to 5 and one for the decoder's inner
    levels; 698,017 parameters for one channel. The result is the image minus the network's output, ``sigmoid`` after
    the subtraction. Kaiming normal weights, zero biases.
    """

    multiple = 32
    reach: int = 160
    """See Method.reach."""

    def __init__(self, channels: int, width: int = 48, *, sigmoid: bool = False):
        super().__init__()
        self.sigmoid = sigmoid
        wide = 2 * width
        self.first = _convolutions(channels, width, width, end=nn.MaxPool2d(2))
        self.encoder = _convolutions(width, width, end=nn.MaxPool2d(2))  # used for four levels
        self.bottom = _convolutions(width, width, end=_doubling(width))
        self.inner = _convolutions(wide, wide, wide, end=_doubling(wide))
        self.decoder = _convolutions(wide + width, wide, wide, end=_doubling(wide))  # used for three levels
        last = nn.Conv2d(32, channels, 3, padding=1)
        self.last = _convolutions(wide + channels, 64, 32, end=last)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        pooled = [self.first(images)]
        for _ in range(4):
            pooled.append(self.encoder(pooled[-1]))
        hidden = self.inner(torch.cat([self.bottom(pooled[4]), pooled[3]], dim=1))
        for skip in (pooled[2], pooled[1], pooled[0]):
            hidden = self.decoder(torch.cat([hidden, skip], dim=1))
        result = images - self.last(torch.cat([hidden, images], dim=1))
        return torch.sigmoid(result) if self.sigmoid else result


def _convolutions(*widths: int, end: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Conv2d(width_in, width_out, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, end)


def _doubling(width: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1)


def initialise(*networks: nn.Module) -> None:
    """The official code's initialisation of the GAN phase: N(0, 0.02) for kernels, N(1, 0.02) for batch norm's scale.

    Biases of convolutions keep PyTorch's default, those of batch normalisation are 0.
    """
    for network in networks:
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)
                nn.init.zeros_(module.bias)
