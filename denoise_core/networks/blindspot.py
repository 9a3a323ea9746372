"""Blind-spot networks: the output at a pixel is independent of the input at that pixel, by construction.

``DilatedBlindSpot`` is that of Wu et al. (2020), ``RotatedBlindSpot`` that of Laine et al. (2019). Padding with
anything but zeros inside such a network would carry a pixel's value back to itself.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_core.inference import turned

WideBranch = Literal["5x5", "3x3"]
"""The widest sub-branch of D-BSN's blocks: one dilated 5x5 convolution (released code) or two 3x3 (paper)."""

Masking = Literal["mask", "trimmed"]
"""D-BSN's first convolution: centre times 0, or also rescaled by the number of valid taps."""


class DilatedBlindSpot(nn.Module):
    """(N, C, H, W) of any size -> the clean image ``mu`` (N, C, H, W) and features (N, width, H, W), both blind.

    D-BSN (Wu et al. 2020, section 3.2): two branches, a 3x3 convolution without centre followed by steps of 2 pixels
    and a 5x5 one followed by steps of 3, so that no path leads back to the centre. ``mu`` is a function of the
    features pixel by pixel, as are the networks for its variance.

    The defaults are the released code: 6,612,289 parameters with one channel, 6,612,675 with three. The paper has 7
    ``blocks`` (5,836,609 with the code's ``wide_branch``) and ``wide_branch="3x3"``. ``masking="trimmed"`` multiplies
    the masked convolution by kernel taps / valid taps (valid: in the image, not the centre) before the bias, and is 0
    where no tap is valid. Kaiming initialisation, biases 0 but for the convolution that joins the branches.
    ValueError for an unknown option.
    """

    def __init__(
        self,
        channels: int,
        width: int = 96,
        blocks: int = 8,
        *,
        wide_branch: WideBranch = "5x5",
        masking: Masking = "mask",
    ):
        super().__init__()
        if wide_branch not in ("5x5", "3x3") or masking not in ("mask", "trimmed"):
            raise ValueError(f"unknown option: wide_branch={wide_branch!r}, masking={masking!r}")
        self.reach: int = 2 + 6 * blocks  # of the branch with steps of 3; see Method.reach
        self.head = nn.Sequential(*_pointwise(channels, width))
        self.branches = nn.ModuleList(_branch(width, blocks, kernel, wide_branch, masking) for kernel in (3, 5))
        self.join = nn.Conv2d(2 * width, width, 1)
        self.tail = nn.Sequential(*_pointwise(width, width), *_pointwise(width, width), nn.Conv2d(width, channels, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight)
                if module is not self.join:
                    nn.init.zeros_(module.bias)

    def forward(self, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        hidden = self.head(noisy)
        features = self.join(torch.cat([branch(hidden) for branch in self.branches], dim=1))
        return self.tail(features), features


class CentreMaskedConv2d(nn.Conv2d):
    """(N, width, H, W) -> the same shape: a convolution of odd side ``kernel`` whose centre tap is 0."""

    centre_mask: Tensor

    def __init__(self, width: int, kernel: int, masking: Masking):
        super().__init__(width, width, kernel, padding=kernel // 2)
        self.masking = masking
        mask = torch.ones(kernel, kernel)
        mask[kernel // 2, kernel // 2] = 0
        self.register_buffer("centre_mask", mask, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        weight = self.weight * self.centre_mask
        if self.masking == "mask":
            return self._conv_forward(input, weight, self.bias)  # type: ignore[no-any-return]
        height, width = input.shape[-2:]
        rows, columns = (self._taps_inside(side, input.device) for side in (height, width))
        valid = rows[:, None] * columns - 1  # the centre is always inside
        scale = self.kernel_size[0] ** 2 / valid.clamp(min=1)
        seen = valid.clamp(max=1)
        sums: Tensor = self._conv_forward(input, weight, None)
        result = sums * scale.to(sums.dtype)
        return result if self.bias is None else result + self.bias.to(result.dtype)[:, None, None] * seen

    def _taps_inside(self, side: int, device: torch.device) -> Tensor:
        """For each place of ``side`` places, how many of the kernel's places around it exist."""
        reach = self.kernel_size[0] // 2
        place = torch.arange(side, device=device)
        return place.clamp(max=reach) + (side - 1 - place).clamp(max=reach) + 1


class _DilatedBlock(nn.Module):
    """The multi-dilated-convolution block: three sub-branches of growing reach, joined, added to the input."""

    def __init__(self, width: int, dilation: int, wide_branch: WideBranch):
        super().__init__()
        wide = [5] if wide_branch == "5x5" else [3, 3]
        self.wide = nn.Sequential(*_pointwise(width, width), *(_dilated(width, kernel, dilation) for kernel in wide))
        self.middle = nn.Sequential(*_pointwise(width, width), _dilated(width, 3, dilation))
        self.point = nn.Sequential(*_pointwise(width, width))
        self.join = nn.Sequential(*_pointwise(3 * width, width))
        self.mix = nn.Sequential(*_pointwise(width, width), *_pointwise(width, width))

    def forward(self, hidden: Tensor) -> Tensor:
        joined = self.join(torch.cat([self.wide(hidden), self.middle(hidden), self.point(hidden)], dim=1))
        return self.mix(joined + hidden)  # type: ignore[no-any-return]


def _branch(width: int, blocks: int, kernel: int, wide_branch: WideBranch, masking: Masking) -> nn.Sequential:
    dilation = (kernel + 1) // 2  # sums of such steps skip over all the places that the masked kernel reaches
    return nn.Sequential(
        CentreMaskedConv2d(width, kernel, masking),
        nn.ReLU(inplace=True),
        *_pointwise(width, width),
        *_pointwise(width, width),
        *(_DilatedBlock(width, dilation, wide_branch) for _ in range(blocks)),
        nn.Conv2d(width, width, 1),
    )


def _pointwise(width_in: int, width_out: int) -> list[nn.Module]:
    return [nn.Conv2d(width_in, width_out, 1), nn.ReLU(inplace=True)]


class _DilatedConv2d(nn.Conv2d):
    """A dilated convolution that keeps the size and is right in bfloat16 on every CPU."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        if input.device.type == "cpu" and (input.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")):
            # PyTorch 2.13 on CPUs with AVX-512 but no AMX (try ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16): if input or
            # weight is channels_last, the backward pass in bfloat16 gives wrong gradients, NaN or a segmentation
            # fault, for widths above 16 that are no multiples of 16. Contiguous memory gives the right ones.
            input, weight = input.contiguous(), weight.contiguous()
        return self._conv_forward(input, weight, self.bias)  # type: ignore[no-any-return]


def _dilated(width: int, kernel: int, dilation: int) -> nn.Sequential:
    convolution = _DilatedConv2d(width, width, kernel, padding=kernel // 2 * dilation, dilation=dilation)
    return nn.Sequential(convolution, nn.ReLU(inplace=True))


class RotatedBlindSpot(nn.Module):
    """(N, C, H, W) -> (N, outputs, H, W) of any size: one U-Net that looks only upwards, applied to four rotations.

    Laine et al. (2019), section 3 and appendix C, in the form that Neighbor2Neighbor's code carries (2x2 transposed
    convolutions on the way up): 1,425,651 parameters with three channels, three outputs and the default
    ``features`` and ``depth``. Every convolution and pooling is moved up by its reach, and the U-Net's output by one
    pixel more, so that a pixel sees the rows above it; 1x1 convolutions combine the four half planes.

    ``depth`` max-poolings. The image is padded with zeros at bottom and right to multiples of 2 ** depth, and the
    result cropped. Kaiming initialisation with the gain of LeakyReLU(0.2), the last layer linear; biases 0.
    """

    def __init__(self, channels: int, outputs: int, features: int = 48, *, depth: int = 5):
        super().__init__()
        wide = 2 * features
        self.depth = depth
        self.reach: int = 9 * 2**depth - 1  # see Method.reach
        self.first = _UpwardConv2d(channels, features)
        self.encoder = nn.ModuleList(_UpwardConv2d(features, features) for _ in range(depth))
        self.bottom = _UpwardConv2d(features, features)
        up_widths = ([features] + [wide] * depth)[:depth]
        skip_widths = ([channels] + [features] * depth)[:depth][::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(width, width, 2, stride=2) for width in up_widths)
        self.decoder_a = nn.ModuleList(
            _UpwardConv2d(up + skip, wide) for up, skip in zip(up_widths, skip_widths, strict=True)
        )
        self.decoder_b = nn.ModuleList(_UpwardConv2d(wide, wide) for _ in range(depth))
        half_plane = wide if depth else features
        self.tail = nn.ModuleList(
            [
                nn.Conv2d(4 * half_plane, 4 * half_plane, 1),
                nn.Conv2d(4 * half_plane, wide, 1),
                nn.Conv2d(wide, outputs, 1),
            ]
        )
        _initialise(self)

    def forward(self, noisy: Tensor) -> Tensor:
        """See the class."""
        height, width = noisy.shape[-2:]
        multiple = 2**self.depth
        # Zeros carry no pixel's value, also where a rotation brings them to the top; a reflection would.
        noisy = F.pad(noisy, (0, -width % multiple, 0, -height % multiple))
        hidden = torch.cat([turned(self._above(rotated), -turn) for turn, rotated in _rotations(noisy)], 1)
        hidden = _leaky(self.tail[1](_leaky(self.tail[0](hidden))))
        return self.tail[2](hidden)[..., :height, :width]  # type: ignore[no-any-return]

    def _above(self, image: Tensor) -> Tensor:
        """What the U-Net finds in the rows above each pixel."""
        skips = [image]
        hidden = _leaky(self.first(image))
        for convolution in self.encoder:
            hidden = F.max_pool2d(_moved_down(_leaky(convolution(hidden))), 2)
            skips.append(hidden)
        skips.pop()  # the deepest level has no skip of its own
        hidden = _leaky(self.bottom(hidden))
        for up, first, second in zip(self.up, self.decoder_a, self.decoder_b, strict=True):
            hidden = torch.cat([up(hidden), skips.pop()], dim=1)
            hidden = _leaky(second(_leaky(first(hidden))))
        return _moved_down(hidden)


class _UpwardConv2d(nn.Conv2d):
    """A 3x3 convolution that sees its own row and the two above."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__(width_in, width_out, 3, padding=(2, 1))

    def forward(self, input: Tensor) -> Tensor:
        # Two rows of zeros above and below; the results of the last two rows look beyond their own.
        return super().forward(input)[..., :-2, :]


def _rotations(image: Tensor) -> list[tuple[int, Tensor]]:
    return [(turn, turned(image, turn)) for turn in range(4)]


def _moved_down(hidden: Tensor) -> Tensor:
    """One row of zeros comes in at the top, the last row falls out."""
    return F.pad(hidden, (0, 0, 1, -1))


def _leaky(hidden: Tensor) -> Tensor:
    return F.leaky_relu(hidden, 0.2, inplace=True)


def _initialise(network: RotatedBlindSpot) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
            if isinstance(module, nn.ConvTranspose2d):  # its pixels do not overlap: each sees one tap of every channel
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_channels))
            else:
                slope = 1.0 if module is network.tail[2] else 0.2  # slope 1 is a linear layer
                nn.init.kaiming_normal_(module.weight, a=slope)
            nn.init.zeros_(module.bias)
