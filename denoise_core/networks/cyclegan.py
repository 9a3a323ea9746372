"""The networks of ISCL (Lee & Jeong 2021, Fig. 3 and official code): generator, noise extractor, critic."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_core.networks.norms import SLOPE, BatchInstanceNorm, Statistics

DEVIATION = 0.05
"""Of the normal distribution, cut at two deviations, that all kernels are drawn from."""


class Generator(nn.Module):
    """(N, C, H, W) -> (N, C, H, W) in [-1, 1], H and W multiples of 4; no skip from input to output.

    A 7x7 convolution, two 4x4 convolutions of stride 2, ``blocks`` residual blocks, two transposed 3x3 convolutions of
    stride 2, a 7x7 convolution and tanh. Widths are ``width``, twice and four times that (32 in the paper, with 3
    blocks: 1,148,225 parameters for one channel).
    """

    def __init__(self, channels: int, width: int = 32, blocks: int = 3):
        super().__init__()
        wide, widest = 2 * width, 4 * width
        self.first = _Normalised(nn.Conv2d(channels, width, 7))
        self.down = nn.ModuleList(
            [_Normalised(nn.Conv2d(width, wide, 4, stride=2)), _Normalised(nn.Conv2d(wide, widest, 4, stride=2))]
        )
        self.blocks = nn.ModuleList(_Residual(widest) for _ in range(blocks))
        self.up = nn.ModuleList(
            [
                _Normalised(nn.ConvTranspose2d(widest, wide, 3, stride=2)),
                _Normalised(nn.ConvTranspose2d(wide, width, 3, stride=2)),
            ]
        )
        self.last = nn.Conv2d(width, channels, 7)
        initialise(self)

    def forward(self, images: Tensor, statistics: Statistics = "batch") -> Tensor:
        """See the class; ``statistics`` as in :mod:`denoise_core.networks.norms`."""
        hidden = self.first(symmetric_pad(images, 3), statistics)
        for layer in self.down:
            hidden = layer(symmetric_pad(hidden, 1), statistics)
        for block in self.blocks:
            hidden = block(hidden, statistics)
        for layer in self.up:
            hidden = layer(hidden, statistics)
        return torch.tanh(self.last(symmetric_pad(hidden, 3)))


class Extractor(nn.Module):
    """(N, C, H, W) -> (N, C, H, W): the noise of an image. DnCNN with batch-instance normalisation, zero padding.

    ``layers`` convolutions 3x3 of ``width`` channels (20 and 32 in the code: 168,801 parameters for one channel).
    """

    def __init__(self, channels: int, width: int = 32, layers: int = 20):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.middle = nn.ModuleList(_Normalised(nn.Conv2d(width, width, 3, padding=1)) for _ in range(layers - 2))
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        initialise(self)

    def forward(self, images: Tensor, statistics: Statistics = "batch") -> Tensor:
        """See the class."""
        hidden = F.leaky_relu_(self.first(images), SLOPE)
        for layer in self.middle:
            hidden = layer(hidden, statistics)
        return self.last(hidden)  # type: ignore[no-any-return]


class Critic(nn.Module):
    """(N, C, H, W) -> (N, 1, h, w) scores; a patch of 4 * 2 ** depth pixels gives one score.

    ``depth`` 4x4 convolutions of stride 2, the first without normalisation, then a 4x4 and a 1x1 convolution; every
    layer is twice as wide as the one before (32 and depth 4 in the code: 2,790,177 parameters for one channel). Where
    the map has one pixel the instance part of the normalisation is zero: with a batch of one the score is a constant.
    """

    def __init__(self, channels: int, width: int = 32, depth: int = 4):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 4, stride=2, padding=1)
        widths = [width * 2**level for level in range(depth)]
        self.down = nn.ModuleList(
            _Normalised(nn.Conv2d(narrow, 2 * narrow, 4, stride=2, padding=1)) for narrow in widths[:-1]
        )
        self.whole = _Normalised(nn.Conv2d(widths[-1], 2 * widths[-1], 4))
        self.score = nn.Conv2d(2 * widths[-1], 1, 1)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        hidden = F.leaky_relu_(self.first(images), SLOPE)
        for layer in self.down:
            hidden = layer(hidden)
        return self.score(self.whole(hidden))  # type: ignore[no-any-return]


class _Normalised(nn.Module):
    """A convolution, normalised and activated; a transposed one doubles height and width."""

    def __init__(self, convolution: nn.Conv2d | nn.ConvTranspose2d, activate: bool = True):
        super().__init__()
        self.convolution = convolution
        self.norm = BatchInstanceNorm(convolution.out_channels, activate)

    def forward(self, images: Tensor, statistics: Statistics = "batch") -> Tensor:
        hidden = self.convolution(images)
        if isinstance(self.convolution, nn.ConvTranspose2d):
            # TensorFlow's "same": the last row and column are cut, not the first
            hidden = hidden[..., : 2 * images.shape[-2], : 2 * images.shape[-1]].contiguous()
        return self.norm(hidden, statistics)  # type: ignore[no-any-return]


class _Residual(nn.Module):
    """Two normalised 3x3 convolutions around the identity, no activation after the sum."""

    def __init__(self, width: int):
        super().__init__()
        self.first = _Normalised(nn.Conv2d(width, width, 3))
        self.second = _Normalised(nn.Conv2d(width, width, 3), activate=False)

    def forward(self, images: Tensor, statistics: Statistics) -> Tensor:
        hidden = self.first(symmetric_pad(images, 1), statistics)
        return images + self.second(symmetric_pad(hidden, 1), statistics)  # type: ignore[no-any-return]


def symmetric_pad(images: Tensor, pad: int) -> Tensor:
    """Pads H and W by mirroring with the edge pixel repeated, as NumPy's and TensorFlow's ``symmetric``."""
    # the compiler is wrong about the strides of this operation's gradient (torch 2.13)
    if pad == 1 and not torch.compiler.is_compiling():
        return F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = torch.cat([images[..., :pad, :].flip(-2), images, images[..., -pad:, :].flip(-2)], -2)
    return torch.cat([rows[..., :pad].flip(-1), rows, rows[..., -pad:].flip(-1)], -1)


def initialise(network: nn.Module) -> None:
    """All kernels from a cut normal distribution, all biases 0, as the official code does."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.trunc_normal_(module.weight, std=DEVIATION, a=-2 * DEVIATION, b=2 * DEVIATION)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
