"""Self2Self with dropout (Quan, Chen, Pang, Ji: Self-Supervised Learning from Single Image, CVPR 2020).

A network is fitted to one noisy image: at each step a random part of its pixels is hidden, and the network learns to
give what is hidden for what is left. Dropout in its decoder makes of it many networks, whose mean is the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_core.config import Param, integer, log, uniform
from denoise_core.inference import pad_to_multiple
from denoise_core.method import Citation, Deviation, Recipe
from denoise_core.methods.classical import FEW_CROPS, STEPS, MeasuredConfig
from denoise_core.methods.deep_image_prior import SingleImage
from denoise_core.networks.unet import UNet


class Self2SelfConfig(MeasuredConfig):
    """The network and how it is fitted to each image; all of it acts on new images only."""

    features: int = Param(48, "width of the U-Net's encoder", affects="inference", ge=1)
    depth: int = Param(5, "poolings of the U-Net", affects="inference", ge=1, le=5)
    iterations: int = Param(150_000, "steps of each fit", affects="inference", search=integer(300, 20_000), ge=1)
    lr: float = Param(1e-4, "Adam's learning rate", affects="inference", search=log(1e-4, 1e-2), gt=0, le=1)
    hidden: float = Param(
        0.3, "probability that a pixel is hidden", affects="inference", search=uniform(0.1, 0.7), gt=0, lt=1
    )
    dropout: float = Param(
        0.3,
        "probability that a value of the decoder is left out",
        affects="inference",
        search=uniform(0, 0.5),
        ge=0,
        lt=1,
    )
    predictions: int = Param(100, "networks whose mean is the result", affects="inference", ge=1)
    crop: int = Param(
        0, "side of the crop of the image that each step sees; 0: the whole image", affects="inference", ge=0
    )


class Self2Self(SingleImage):
    """See the module."""

    name = "self2self"
    title = "Self2Self"
    citation = Citation(
        "Quan, Chen, Pang, Ji: Self2Self With Dropout: Learning Self-Supervised Denoising From Single Image, CVPR 2020",
        "https://doi.org/10.1109/CVPR42600.2020.00196",
    )
    Config = Self2SelfConfig
    config: Self2SelfConfig
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "smoke": Recipe(3, {**FEW_CROPS, "features": 4, "depth": 2, "iterations": 3, "lr": 1e-3, "predictions": 2,
                            "crop": 32}, channels_last=False),
        "laptop": Recipe(STEPS, {"features": 16, "depth": 3, "iterations": 400, "lr": 3e-3, "predictions": 20,
                                 "crop": 96, "dropout": 0.1}, channels_last=False),
        "gpu": Recipe(STEPS, {"iterations": 3000, "lr": 1e-3, "predictions": 50, "crop": 256}, channels_last=False),
        "paper": Recipe(STEPS, channels_last=False),
    }  # fmt: skip
    deviations = (
        Deviation(
            "Encoder",
            "partial convolutions",
            "the same, each with the mask of the one before it",
            "one partial convolution, then ordinary ones: with three of ten pixels hidden all but one place in 50,000 "
            "sees something after the first",
        ),
        Deviation(
            "Steps",
            "450,000 for each image",
            "150,000 on the whole image at a rate of 0.0001",
            "the code's (paper); 3000 and 400 steps on crops at higher rates with a cosine decay (gpu, laptop), and "
            "less dropout (laptop): this is the costliest method by far",
        ),
        Deviation("Predictions", "50", "100", "the code's; 50 and 20 in the smaller budgets"),
        Deviation("Output", "a sigmoid", "the same", "linear, clipped: the fit begins faster"),
        Deviation(
            "Training",
            "none",
            "none",
            "measures the mean noise level of the training images, which nothing depends on; the seed of the training "
            "is that of every fit",
        ),
    )

    def fit(self, noisy: Tensor) -> Tensor:
        """See :class:`SingleImage`; minimises the squared error at the hidden pixels (Eq. 7)."""
        config, (height, width) = self.config, noisy.shape[-2:]
        image = pad_to_multiple(noisy, 2**config.depth)
        network = DropoutUNet(self.channels, config.features, 1.0, config.depth).to(noisy.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=config.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.iterations)
        for _ in range(config.iterations):
            seen = self._view(image)
            shown = (torch.rand_like(seen) >= config.hidden).to(seen.dtype)
            squares = (network(seen, shown, config.dropout) - seen).square()
            loss = (squares * (1 - shown)).sum() / (1 - shown).sum().clamp_min(1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            total = torch.zeros_like(image)
            for _ in range(config.predictions):
                shown = (torch.rand_like(image) >= config.hidden).to(image.dtype)
                total += network(image, shown, config.dropout)
        return (total / config.predictions)[..., :height, :width]

    def _view(self, image: Tensor) -> Tensor:
        """A crop of the image, or all of it, flipped at random."""
        side = self.config.crop // 2**self.config.depth * 2**self.config.depth or max(image.shape)
        down, right, flips = (torch.rand(3) * torch.tensor([1.0, 1.0, 4.0])).tolist()
        height, width = (min(side, length) for length in image.shape[-2:])
        top, left = int(down * (image.shape[-2] - height + 1)), int(right * (image.shape[-1] - width + 1))
        crop = image[..., top : top + height, left : left + width]
        return crop.flip([axis for axis, bit in ((-1, 1), (-2, 2)) if int(flips) & bit])


class DropoutUNet(UNet):
    """The U-Net with dropout in its decoder and a first convolution that leaves hidden pixels out of account."""

    def forward(self, image: Tensor, shown: Tensor, dropout: float) -> Tensor:  # type: ignore[override]
        """``shown`` is 1 where (N, C, H, W) may be seen, else 0; ``dropout`` is the probability of the decoder's."""
        skips = [image * shown]
        hidden = _activate(self._partial(skips[0], shown))
        for convolution in self.encoder:
            hidden = F.max_pool2d(_activate(convolution(hidden)), 2)
            skips.append(hidden)
        skips.pop()
        hidden = _activate(self.bottom(hidden))
        for up, first, second in zip(self.up, self.decoder_a, self.decoder_b, strict=True):
            hidden = torch.cat([up(hidden), skips.pop()], dim=1)
            for convolution in (first, second):
                hidden = _activate(convolution(F.dropout(hidden, dropout)))
        for convolution in self.tail[:-1]:
            hidden = _activate(convolution(hidden))
        return self.tail[-1](F.dropout(hidden, dropout))  # type: ignore[no-any-return]

    def _partial(self, image: Tensor, shown: Tensor) -> Tensor:
        """The first convolution, scaled up by the part of each window that is hidden or outside of the image."""
        window = self.first.weight.new_ones(1, *self.first.weight.shape[1:])
        seen = F.conv2d(shown, window, padding=1) / window.sum()
        bias = self.first.bias[:, None, None] if self.first.bias is not None else 0.0
        return F.conv2d(image, self.first.weight, padding=1) / seen.clamp_min(1e-6) + bias


def _activate(hidden: Tensor) -> Tensor:
    return F.leaky_relu(hidden, 0.1, inplace=True)
