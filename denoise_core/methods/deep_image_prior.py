"""Deep Image Prior (Ulyanov, Vedaldi, Lempitsky, CVPR 2018): a network is fitted to one noisy image from noise.

The network's input is fixed noise, its target the noisy image. It gives natural images long before it gives white
noise, so a fit that is stopped in time is a denoised image. Nothing is learned from other images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_core.config import Param, integer, log
from denoise_core.inference import pad_to_multiple
from denoise_core.method import Assumptions, Citation, Deviation, Recipe
from denoise_core.methods.classical import FEW_CROPS, STEPS, MeasuredConfig, Untrained, noise_levels
from denoise_core.seeding import seed_from

INPUT_SCALE = 0.1
"""The fixed input is uniform from 0 to this."""


class DeepImagePriorConfig(MeasuredConfig):
    """The network and how it is fitted to each image; all of it acts on new images only."""

    width: int = Param(128, "channels of the network", affects="inference", ge=1)
    depth: int = Param(5, "halvings of the resolution", affects="inference", ge=1, le=6)
    skip: int = Param(4, "channels that go past each halving", affects="inference", ge=1)
    latent: int = Param(32, "channels of the fixed input", affects="inference", ge=1)
    iterations: int = Param(3000, "steps of each fit", affects="inference", search=integer(100, 3000), ge=1)
    lr: float = Param(0.01, "Adam's learning rate", affects="inference", search=log(1e-3, 3e-2), gt=0, le=1)
    jitter: float = Param(1 / 30, "standard deviation of what is added to the input at each step", affects="inference",
                          ge=0)  # fmt: skip
    memory: float = Param(
        0.99, "decay of the mean over the outputs, which is the result", affects="inference", ge=0, lt=1
    )
    stop_at_noise: bool = Param(
        False, "stop once the fit is as near to the image as the estimated noise lets the clean one be",
        affects="inference",
    )  # fmt: skip


class SingleImage(Untrained):
    """A method that fits a network to each image when it is denoised: images, draws and weights come from the seed."""

    assumes = Assumptions(zero_mean=True, pixel_independent=True, signal_independent=False, fields=("noisy",))
    seed: Tensor

    def __init__(self, config: MeasuredConfig, channels: int):
        super().__init__(config, channels)
        # kept with the state, so that a training that is loaded later gives the same images
        self.register_buffer("seed", torch.randint(2**31, ()))

    @property
    def learns_at_inference(self) -> bool:
        """Always."""
        return True

    def denoise(self, noisy: Tensor) -> Tensor:
        """Each of (N, C, H, W) by a fit of its own, clipped to [0, 1]; the same at every call."""
        results = []
        for at in range(len(noisy)):
            with torch.inference_mode(False), torch.enable_grad(), seeded(noisy.device, int(self.seed), self.name):
                results.append(self.fit(noisy[at : at + 1].clone()).detach())
        return torch.cat(results).to(noisy.dtype).clamp(0, 1)

    def fit(self, noisy: Tensor) -> Tensor:
        """The denoised (1, C, H, W); draws from PyTorch's own generators, which are seeded."""
        raise NotImplementedError


@contextlib.contextmanager
def seeded(device: torch.device, *parts: int | str) -> Iterator[None]:
    """PyTorch's own generators, of the CPU and ``device``, seeded by ``parts`` here and as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed_from(*parts))
        yield


class DeepImagePrior(SingleImage):
    """See the module."""

    name = "deep_image_prior"
    title = "Deep Image Prior"
    citation = Citation(
        "Ulyanov, Vedaldi, Lempitsky: Deep Image Prior, CVPR 2018",
        "https://arxiv.org/abs/1711.10925",
    )
    Config = DeepImagePriorConfig
    config: DeepImagePriorConfig
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "smoke": Recipe(3, {**FEW_CROPS, "width": 4, "depth": 2, "latent": 4, "iterations": 3, "memory": 0.5},
                        channels_last=False),
        "laptop": Recipe(STEPS, {"width": 16, "depth": 4, "latent": 16, "iterations": 250, "memory": 0.95},
                         channels_last=False),
        "gpu": Recipe(STEPS, {"iterations": 1000, "memory": 0.98}, channels_last=False),
        "paper": Recipe(STEPS, channels_last=False),
    }  # fmt: skip
    deviations = (
        Deviation(
            "Up-sampling and edges",
            "bilinear or nearest; reflected",
            "bilinear; reflected",
            "nearest; zeros: those that PyTorch computes the same at every run on a GPU",
        ),
        Deviation(
            "Steps",
            "1800 to 5000, by the image",
            "3000 in the example for noise, by the image",
            "3000 (paper), 1000 (gpu), 250 with a small network (laptop) for every image; `stop_at_noise` stops by the "
            "noise level",
        ),
        Deviation(
            "Result",
            "an exponential mean over the outputs, of two runs",
            "one run, decay 0.99; goes back when the fit gets worse by 5 dB",
            "one run, decay 0.99, shorter in the short budgets; does not go back",
        ),
        Deviation(
            "Training",
            "none",
            "none",
            "measures the mean noise level of the training images, which nothing depends on; the seed of the training "
            "is that of every fit",
        ),
    )

    def fit(self, noisy: Tensor) -> Tensor:
        """See :class:`SingleImage`; minimises the mean of (f(input + jitter) - y)^2."""
        config, (height, width) = self.config, noisy.shape[-2:]
        target = pad_to_multiple(noisy, 2**config.depth)
        network = Hourglass(config.latent, self.channels, config.width, config.depth, config.skip).to(noisy.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=config.lr)
        fixed = INPUT_SCALE * torch.rand(1, config.latent, *target.shape[-2:], device=noisy.device)
        enough = float(noise_levels(noisy).square().mean()) if config.stop_at_noise else -1.0
        mean: Tensor | None = None
        for _ in range(config.iterations):
            output = network(fixed + config.jitter * torch.randn_like(fixed))
            loss = (output - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            output = output.detach()
            mean = output if mean is None else config.memory * mean + (1 - config.memory) * output
            if enough >= 0 and loss.item() < enough:
                break
        assert mean is not None
        return mean[..., :height, :width]


class Hourglass(nn.Module):
    """(1, latent, H, W) -> (1, C, H, W) in [0, 1], H and W multiples of 2 ** depth.

    Each level halves the resolution by a convolution, and comes back beside ``skip`` channels that went past it; batch
    normalisation, with the image's own moments, after every convolution.
    """

    def __init__(self, latent: int, channels: int, width: int, depth: int, skip: int):
        super().__init__()
        inputs = [latent] + [width] * (depth - 1)
        self.past = nn.ModuleList(_layer(one, skip, 1) for one in inputs)
        self.down = nn.ModuleList(
            nn.Sequential(_layer(one, width, 3, stride=2), _layer(width, width, 3)) for one in inputs
        )
        self.up = nn.ModuleList(
            nn.Sequential(_norm(width + skip), _layer(width + skip, width, 3), _layer(width, width, 1)) for _ in inputs
        )
        self.last = nn.Conv2d(width, channels, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """See the class."""
        skips = []
        for past, down in zip(self.past, self.down, strict=True):
            skips.append(past(hidden))
            hidden = down(hidden)
        for up, skipped in zip(reversed(self.up), reversed(skips), strict=True):
            hidden = up(torch.cat([F.interpolate(hidden, scale_factor=2), skipped], dim=1))
        return torch.sigmoid(self.last(hidden))


def _layer(width_in: int, width_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(width_in, width_out, kernel, stride, padding=kernel // 2)
    return nn.Sequential(convolution, _norm(width_out), nn.LeakyReLU(0.2, inplace=True))


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, track_running_stats=False)
