"""The U-Net of Neighbor2Neighbor (Huang et al. 2021, section 4.1): that of Laine et al. (2019) without blind spot."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UNet(nn.Module):
    """(N, C, H, W) -> (N, C, H, W), H and W multiples of 2 ** depth; the output is the clean image, no global skip.

    ``depth`` max-poolings (5 in the paper), 3x3 convolutions with LeakyReLU(0.2), 2x2 transposed convolutions, a tail
    of three 1x1 convolutions. ``features`` is the width of the encoder (48 in the paper: 1,259,475 parameters for 3
    channels), the decoder is twice as wide. Initialised with Kaiming normal times ``init_scale``, biases 0, as the
    official code does with 0.1: its initial output is all but zero.
    """

    def __init__(self, channels: int, features: int = 48, init_scale: float = 0.1, depth: int = 5):
        super().__init__()
        self.reach: int = 4 * 2**depth  # see Method.reach
        wide = 2 * features
        self.first = _conv3(channels, features)
        self.encoder = nn.ModuleList(_conv3(features, features) for _ in range(depth))
        self.bottom = _conv3(features, features)
        up_widths = [features] + [wide] * (depth - 1)
        skip_widths = [features] * (depth - 1) + [channels]
        self.up = nn.ModuleList(nn.ConvTranspose2d(width, width, 2, stride=2) for width in up_widths)
        self.decoder_a = nn.ModuleList(_conv3(up + skip, wide) for up, skip in zip(up_widths, skip_widths, strict=True))
        self.decoder_b = nn.ModuleList(_conv3(wide, wide) for _ in range(depth))
        self.tail = nn.ModuleList([nn.Conv2d(wide, wide, 1), nn.Conv2d(wide, wide, 1), nn.Conv2d(wide, channels, 1)])
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                _initialise(module, init_scale)

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        skips = [image]
        hidden = _activate(self.first(image))
        for convolution in self.encoder:
            hidden = F.max_pool2d(_activate(convolution(hidden)), 2)
            skips.append(hidden)
        skips.pop()  # the deepest level has no skip of its own
        hidden = _activate(self.bottom(hidden))
        for up, first, second in zip(self.up, self.decoder_a, self.decoder_b, strict=True):
            hidden = torch.cat([up(hidden), skips.pop()], dim=1)
            hidden = _activate(second(_activate(first(hidden))))
        hidden = _activate(self.tail[1](_activate(self.tail[0](hidden))))
        return self.tail[2](hidden)  # type: ignore[no-any-return]


def _conv3(width_in: int, width_out: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, 3, padding=1)


def _activate(hidden: Tensor) -> Tensor:
    return F.leaky_relu(hidden, 0.2, inplace=True)


def _initialise(convolution: nn.Conv2d | nn.ConvTranspose2d, scale: float) -> None:
    nn.init.kaiming_normal_(convolution.weight)
    convolution.weight.data.mul_(scale)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
