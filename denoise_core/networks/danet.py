"""The networks of DANet (Yue et al., ECCV 2020, supplement): a U-Net for denoiser and generator, a critic of pairs."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Init = Literal["default", "he", "identity"]
SLOPE = 0.2
"""Of every LeakyReLU."""
LAST_SIDES = range(4, 8)
"""Sides of the map that the critic's last convolution takes as a whole; 4 as published."""
WIDEST = 16
"""The critic's widest halving layer, in widths of its first."""


class ResidualUNet(nn.Module):
    """(N, channels_in, H, W) -> (N, channels, H, W), what is to be added to or taken from an image.

    H and W are multiples of ``multiple`` = 2 ** (depth - 1). ``depth`` levels of two 3x3 convolutions with ``width``
    channels and their doubles, LeakyReLU(0.2), no normalisation; 4x4 convolutions of stride 2 without bias go down,
    2x2 transposed convolutions up. With width 32, depth 5 and 3 channels 9,153,571 parameters, with a fourth input
    channel 9,153,859. ``init`` is PyTorch's default, as in the official code, He's normal, as in the paper, or
    ``identity``: the default with a last layer of zeros, so that nothing is added or taken at first.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        width: int = 32,
        depth: int = 5,
        init: Init = "default",
    ):
        super().__init__()
        self.multiple = 2 ** (depth - 1)
        self.reach: int = 7 * self.multiple - 3  # see Method.reach
        widths = [width * 2**level for level in range(depth)]
        self.down = nn.ModuleList(
            _Pair(before, after) for before, after in zip([channels_in, *widths], widths, strict=False)
        )
        self.shrink = nn.ModuleList(nn.Conv2d(one, one, 4, stride=2, padding=1, bias=False) for one in widths[:-1])
        upwards = list(reversed(widths))
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 2, stride=2) for before, after in itertools.pairwise(upwards)
        )
        self.up = nn.ModuleList(_Pair(before, after) for before, after in itertools.pairwise(upwards))
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        if init == "identity":
            nn.init.zeros_(self.last.weight)
            assert self.last.bias is not None
            nn.init.zeros_(self.last.bias)
        elif init == "he":
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                    nn.init.kaiming_normal_(module.weight, a=SLOPE)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        hidden, skips = images, []
        for level, block in enumerate(self.down):
            hidden = block(hidden)
            if level < len(self.shrink):
                skips.append(hidden)
                hidden = self.shrink[level](hidden)
        for grow, block in zip(self.grow, self.up, strict=True):
            hidden = block(torch.cat([grow(hidden), skips.pop()], dim=1))
        return self.last(hidden)  # type: ignore[no-any-return]


class PairCritic(nn.Module):
    """(N, 2 C, patch, patch), clean and noisy image one after the other -> (N,) scores. No normalisation.

    4x4 convolutions of stride 2 without bias halve the side until it is 4 to 7 and double the channels, from ``width``
    to 16 ``width`` at most; one convolution takes the rest as a whole, one linear layer follows. As published, with
    width 64, patch 128 and 3 channels: 44,703,745 parameters. Bias 0, weights from N(0, 0.02^2) for width 64 and wider
    for less, so that a layer passes on as much of its input as the published ones: the scores of a narrow critic would
    otherwise hardly depend on the pair, and the generator would learn nothing for hundreds of steps. Raises ValueError
    for a patch that is not 4, 5, 6 or 7 times a power of two, see :func:`halvings`.
    """

    def __init__(self, channels: int, width: int = 64, patch: int = 128):
        super().__init__()
        count = halvings(patch)
        if count is None:
            raise ValueError(f"the critic takes no patches of {patch} pixels")
        widths = [2 * channels, *(width * min(2**level, WIDEST) for level in range(count))]
        self.halve = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False) for before, after in itertools.pairwise(widths)
        )
        self.whole = nn.Conv2d(widths[-1], 2 * widths[-1], patch // 2**count, bias=False)
        self.score = nn.Linear(2 * widths[-1], 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.02 * math.sqrt(64 / width))
        nn.init.zeros_(self.score.bias)

    def forward(self, pairs: Tensor) -> Tensor:
        """See the class."""
        hidden = pairs
        for layer in self._convolutions():
            hidden = F.leaky_relu(layer(hidden), SLOPE)
        return self.score(hidden.flatten(1)).squeeze(1)  # type: ignore[no-any-return]

    def input_gradient(self, pairs: Tensor) -> Tensor:
        """The gradient of each score with respect to its pair, (N, 2 C, patch, patch), differentiable in the weights.

        Equal to that of autograd, which would also carry zeros back through the forward pass: the slopes of LeakyReLU
        are constants, so only the chain of transposed convolutions depends on the weights.
        """
        layers, slopes, hidden = self._convolutions(), [], pairs
        with torch.no_grad():
            for layer in layers:
                hidden = layer(hidden)
                slopes.append((hidden > 0).to(hidden.dtype) * (1 - SLOPE) + SLOPE)
                hidden = hidden * slopes[-1]
        gradient = self.score.weight[..., None, None].expand(len(pairs), -1, 1, 1)
        for layer, slope in zip(reversed(layers), reversed(slopes), strict=True):
            stride, padding = (1, 0) if layer is self.whole else (2, 1)
            gradient = F.conv_transpose2d(gradient * slope, layer.weight, stride=stride, padding=padding)
        return gradient

    def _convolutions(self) -> list[nn.Conv2d]:
        return [*self.halve, self.whole]  # type: ignore[list-item]


def halvings(patch: int) -> int | None:
    """How often the critic halves a patch until 4 to 7 pixels are left; None where it cannot, or not once."""
    count = 0
    while patch % 2 == 0 and patch not in LAST_SIDES:
        patch //= 2
        count += 1
    return count if patch in LAST_SIDES and count else None


class _Pair(nn.Module):
    """Two 3x3 convolutions with LeakyReLU."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.second = nn.Conv2d(after, after, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return _activate(self.second(_activate(self.first(images))))


def _activate(hidden: Tensor) -> Tensor:
    return F.leaky_relu(hidden, SLOPE, inplace=True)
