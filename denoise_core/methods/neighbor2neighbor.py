"""Neighbor2Neighbor (Huang, Li, Jia, Lu, Liu: Self-Supervised Denoising from Single Noisy Images, CVPR 2021).

One noisy image y gives two half-size images g1(y), g2(y) of neighbouring pixels; the network learns to map one to the
other. A regulariser, weighted by gamma, corrects for the difference of the two underlying clean sub-images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_core.config import MethodConfig, Param, choice, log, uniform
from denoise_core.inference import pad_to_multiple
from denoise_core.method import Assumptions, Citation, Context, Deviation, Group, Method, Phase, Recipe, Update
from denoise_core.networks.norms import wide
from denoise_core.networks.unet import UNet
from denoise_core.schedule import Schedule, one_cycle, staircase, steps

NEIGHBOURS = ((0, 1), (0, 2), (1, 3), (2, 3), (1, 0), (2, 0), (3, 1), (3, 2))
"""Ordered pairs of horizontal or vertical neighbours in a 2x2 cell with positions 0 1 / 2 3 (paper, section 3.3)."""
DIAGONALS = ((0, 3), (1, 2), (3, 0), (2, 1))
"""The pairs that only the fix-location sub-sampler may use (appendix B)."""


class UNetConfig(MethodConfig):
    """Network, optimisation and data sizes that Neighbor2Neighbor shares with its baselines N2C and N2N."""

    features: int = Param(48, "width of the U-Net's encoder", paper="section 4.1", search=choice(16, 24, 32, 48), ge=1)
    depth: int = Param(5, "poolings of the U-Net", ge=1, le=5)
    lr: float = Param(3e-4, "Adam's learning rate", paper="section 4.1", search=log(1e-4, 1e-2), gt=0, le=1)
    beta2: float = Param(0.999, "Adam's decay of the second moment", gt=0, lt=1)
    init_scale: float = Param(0.1, "factor of the Kaiming initialisation", gt=0)
    lr_schedule: Literal["step", "one_cycle"] = Param(
        "step", "halved at 19, 39, 59, 79 % of the training, or one cycle"
    )
    batch_size: int = Param(4, "crops a step, over all workers", affects="data", ge=1)
    patch_size: int = Param(
        256, "side of a training crop in pixels, a multiple of 64", affects="data", ge=64, multiple_of=64
    )
    padding: Literal["square", "minimal"] = Param(
        "square", "at test time, pad to a square of a multiple of 32, or each side to the next one", affects="inference"
    )


FAST: Mapping[str, Any] = {"depth": 3, "lr": 3e-3, "beta2": 0.95, "init_scale": 1.0, "lr_schedule": "one_cycle"}
"""What a thousand steps on small crops need. With the paper's rate and initialisation the network has hardly begun by
then. With its five poolings the deepest maps of a 32x32 sub-image have one pixel, so that only the centres of their
kernels are trained, and whole images meet the rest: single seeds then lose several decibels."""


class UNetMethod(Method):
    """A method that trains one U-Net in one phase with one Adam."""

    Config: ClassVar[type[MethodConfig]] = UNetConfig
    config: UNetConfig
    protocol = "neighbor2neighbor"
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "smoke": Recipe(4, {**FAST, "features": 4, "patch_size": 64, "batch_size": 2, "padding": "minimal"}),
        "laptop": Recipe(1000, {**FAST, "features": 24, "patch_size": 64, "padding": "minimal"}),
        "gpu": Recipe(20_000, {"patch_size": 128, "batch_size": 16, "lr": 1e-3, "lr_schedule": "one_cycle"}, "bf16"),
        "paper": Recipe(1_108_200),
    }

    def __init__(self, config: UNetConfig, channels: int):
        super().__init__(config, channels)
        self.network = UNet(channels, config.features, config.init_scale, config.depth)

    def phases(self) -> tuple[Phase, ...]:
        """One phase, one group."""
        adam = partial(torch.optim.Adam, lr=self.config.lr, betas=(0.9, self.config.beta2), fused=True)
        group = Group((self.network,), adam, self._schedule())
        return (
            Phase("train", {"network": group}, self.assumes.fields, self.config.patch_size, self.config.batch_size),
        )

    def denoise(self, noisy: Tensor) -> Tensor:
        """Pads by reflection at the bottom and the right, applies the network, crops and clamps to [0, 1]."""
        height, width = noisy.shape[-2:]
        padded = pad_to_multiple(noisy, 32, square=self.config.padding == "square")
        return self.network(padded)[..., :height, :width].clamp(0, 1)  # type: ignore[no-any-return]

    @property
    def reach(self) -> int:
        """The network's."""
        return self.network.reach

    def _schedule(self) -> Schedule:
        return one_cycle() if self.config.lr_schedule == "one_cycle" else steps((0.19, 0.39, 0.59, 0.79), 0.5)


class Neighbor2NeighborConfig(UNetConfig):
    """Neighbor2Neighbor's own hyperparameters on top."""

    gamma: float = Param(2.0, "weight of the regulariser", paper="Eq. 7, Table 3", search=uniform(0, 20), ge=0)
    sampler: Literal["random", "fix-location"] = Param("random", "neighbour sub-sampler", paper="Table 4")
    diagonal: bool = Param(True, "the fix-location sampler may take diagonal pixels", paper="appendix B")
    ramp: bool = Param(True, "gamma grows from gamma / 100 to gamma in 100 equal stairs")


class Neighbor2Neighbor(UNetMethod):
    """Trains on single noisy images, with noise that is zero-mean and independent from pixel to pixel."""

    name = "neighbor2neighbor"
    version = 1
    title = "Neighbor2Neighbor"
    citation = Citation(
        "Huang, Li, Jia, Lu, Liu: Neighbor2Neighbor: Self-Supervised Denoising from Single Noisy Images, CVPR 2021",
        "https://arxiv.org/abs/2101.02824",
    )
    Config = Neighbor2NeighborConfig
    config: Neighbor2NeighborConfig
    half_precision = True
    assumes = Assumptions(zero_mean=True, pixel_independent=True, signal_independent=False, fields=("noisy",))
    deviations = (
        Deviation(
            "Noisy data",
            "a set of noisy images is given",
            "draws new noise on clean images at every iteration",
            "fresh noise by default, as the tables were made; `noise_realisation = frozen` keeps one copy an image",
        ),
        Deviation(
            "Training images",
            "50k images of ImageNet's validation set",
            "44,328 images after the size filter",
            "the code's number of steps (100 epochs of 11,082); the images are those that the report names",
        ),
        Deviation(
            "Learning rate",
            "halved every 20 epochs",
            "halved after epochs 19, 39, 59, 79",
            "the code's; the small budgets use one cosine cycle at a higher rate, smoke and laptop also Adam's "
            "beta2 = 0.95: they converge in fewer steps",
        ),
        Deviation(
            "Initialisation",
            "not stated",
            "Kaiming normal times 0.1",
            "the code's; the smoke and laptop budgets do without the factor, whose plateau would take half their steps",
        ),
        Deviation(
            "gamma's ramp",
            "gradually increased",
            "gamma * epoch / epochs, constant inside an epoch",
            "the code's: 100 stairs over the training, whatever its length",
        ),
        Deviation(
            "Depth of the network",
            "five poolings",
            "the same",
            "the same; the smoke and laptop budgets pool three times, since their crops are too small for five",
        ),
        Deviation("Norm", "squared L2 norm, a sum", "mean over all elements", "the mean"),
        Deviation("Crops", "random crops", "the last position is never drawn", "all positions are drawn"),
        Deviation(
            "Order of the images",
            "not stated",
            "unseeded; one crop an image and epoch",
            "one crop an image and epoch, order and crops from the seed",
        ),
        Deviation(
            "Fix-location sampler",
            "appendix B: any two of the four positions of a cell",
            "not released",
            "two positions drawn anew for each image of the batch, diagonals allowed (`diagonal`)",
        ),
        Deviation(
            "Test noise",
            "not stated",
            "one NumPy seed (101) for a whole evaluation: the noise depends on the order of the sets",
            "each image and repeat has its own seed, so that a set's numbers do not depend on the others",
        ),
        Deviation(
            "Padding at test time",
            "not stated",
            "reflection to a square whose side is a multiple of 32",
            "the code's; the smoke and laptop budgets pad each side to the next multiple of 32",
        ),
        Deviation("Reported epoch", "not stated", "every epoch is evaluated", "the last step, never the best on test"),
    )

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """Eq. 7: mean(d^2) + gamma * mean((d - e)^2), with d = f(g1(y)) - g2(y), e = g1(f(y)) - g2(f(y))."""
        noisy = batch["noisy"]
        choices = draw_choices(self.config.sampler, self.config.diagonal, noisy, context)
        first, second = sub_images(noisy, choices)
        gamma = self.config.gamma * (staircase(context.progress) if self.config.ramp else 1.0)
        shift = torch.zeros_like(first)
        if gamma > 0:
            with torch.no_grad():  # the paper stops the gradient here, and only here
                full_first, full_second = sub_images(wide(self.network(noisy)), choices)
                shift = full_first - full_second
        difference = wide(self.network(first)) - second
        reconstruction = difference.square().mean()
        regulariser = (difference - shift).square().mean()
        loss = reconstruction + gamma * regulariser
        yield Update("network", loss, {"loss": loss, "reconstruction": reconstruction, "regulariser": regulariser})


def draw_choices(sampler: str, diagonal: bool, noisy: Tensor, context: Context) -> Tensor:
    """Which ordered pair of pixels each 2x2 cell gives: (N, 2, H/2, W/2), int64, positions 0..3.

    ``random``: one of the eight neighbouring pairs, independently for each cell and image, the same for all colours.
    ``fix-location``: one pair for the whole of each image, diagonal ones included where ``diagonal``.
    """
    count, _, height, width = noisy.shape
    cells = (count, height // 2, width // 2)
    pairs: tuple[tuple[int, int], ...] = NEIGHBOURS
    if sampler == "random":
        drawn = context.randint(len(pairs), cells)
    else:
        pairs += DIAGONALS if diagonal else ()
        drawn = context.randint(len(pairs), (count, 1, 1)).expand(cells)
    table = torch.tensor(pairs, device=noisy.device).T.contiguous()
    return torch.stack([table[0][drawn], table[1][drawn]], dim=1)


def sub_images(image: Tensor, choices: Tensor) -> tuple[Tensor, Tensor]:
    """The sub-images g1, g2 of (N, C, H, W), each (N, C, H/2, W/2); H and W even; ``choices`` as of draw_choices."""
    count, channels, height, width = image.shape
    cells = F.pixel_unshuffle(image, 2).view(count, channels, 4, height // 2, width // 2)
    picked = cells.gather(2, choices[:, None].expand(-1, channels, -1, -1, -1))
    return picked[:, :, 0], picked[:, :, 1]
