"""Denoisers that learn nothing, from scikit-image, and the noisy image itself: what every learned method must beat.

Non-local means (Buades, Coll, Morel 2005), total variation (Rudin, Osher, Fatemi 1992, by Chambolle 2004) and
soft-thresholded wavelets (BayesShrink; Chang, Yu, Vetterli 2000). Each takes the noise for white, Gaussian and equally
strong everywhere; how strong it is, is estimated from the image where it is not told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from denoise_core.config import MethodConfig, Param, choice, uniform
from denoise_core.method import Assumptions, Citation, Context, Deviation, Method, Phase, Recipe, Update

Array = NDArray[np.float64]
HIGH_PASS = (-0.48296291314469025, 0.836516303737469, -0.22414386804185735, -0.12940952255092145)
"""Of the wavelet db2: it leaves white noise as strong as it is, and next to nothing of what is smooth."""
TO_DEVIATION = 0.6744897501960817
"""Median of the absolute value of standard normal numbers."""

STEPS = 20
FEW_CROPS: Mapping[str, Any] = {"batch_size": 4, "patch_size": 32}


def _restoration() -> Any:
    """scikit-image's denoisers: imported by whoever uses them, since every worker would wait for them."""
    from skimage import restoration

    return restoration


class MeasuredConfig(MethodConfig):
    """How many crops the noise level is measured on."""

    batch_size: int = Param(16, "noisy crops a step, over all workers", affects="data", ge=1)
    patch_size: int = Param(64, "side of a crop in pixels", affects="data", ge=8)


class Untrained(Method):
    """A method without weights: its training measures the mean noise level of the noisy images, and nothing else."""

    version = 1
    Config: ClassVar[type[MethodConfig]] = MeasuredConfig
    config: MeasuredConfig
    protocol = "canonical"
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "smoke": Recipe(3, FEW_CROPS, channels_last=False),
        **{budget: Recipe(STEPS, channels_last=False) for budget in ("laptop", "gpu", "paper")},
    }
    sums: Tensor

    def __init__(self, config: MeasuredConfig, channels: int):
        super().__init__(config, channels)
        # count of the crops and sum of their noise levels
        self.register_buffer("sums", torch.zeros(2, dtype=torch.float64))

    def phases(self) -> tuple[Phase, ...]:
        """One phase without an optimizer."""
        return (Phase("measure", {}, ("noisy",), self.config.patch_size, self.config.batch_size),)

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """Adds the noise levels of the crops to the sums."""
        levels = noise_levels(batch["noisy"])
        sums = torch.stack([levels.new_tensor(len(levels)), levels.sum()])
        if context.world > 1:
            dist.all_reduce(sums)
        self.sums += sums
        yield from ()

    @property
    def measured(self) -> float:
        """The noise level of the images that were seen in training, in the images' units; 0 before any was."""
        return float(self.sums[1] / self.sums[0].clamp_min(1))


def noise_levels(images: Tensor) -> Tensor:
    """(N,) float64: the noise's standard deviation in each of (N, C, H, W), mean over the channels, in their units.

    Donoho's rule: the median of the absolute values of the finest diagonal wavelet coefficients (of db2, at every
    pixel) over that of the standard normal distribution. Coefficients that are exactly 0, of places that are blank or
    saturated, do not count. Images of less than 4 x 4 pixels have the level 0, and so have constant ones.
    """
    if min(images.shape[-2:]) < len(HIGH_PASS):
        return images.new_zeros(len(images), dtype=torch.float64)
    sizes = _high_pass(_high_pass(images.double(), -2), -1).abs().flatten(2)
    sizes = sizes.masked_fill(sizes < 1e-9, float("nan"))  # 0 up to rounding
    return (sizes.nanmedian(-1).values.nan_to_num(0) / TO_DEVIATION).mean(1)


def _high_pass(values: Tensor, axis: int) -> Tensor:
    """``values`` through :data:`HIGH_PASS` along an axis, which gets that much shorter."""
    length = values.shape[axis] - len(HIGH_PASS) + 1
    return torch.stack([weight * values.narrow(axis, at, length) for at, weight in enumerate(HIGH_PASS)]).sum(0)


class Noisy(Untrained):
    """The noisy image, unchanged: what every other line must lie above."""

    name = "noisy"
    title = "Noisy image"
    assumes = Assumptions(False, False, False, fields=("noisy",))

    def denoise(self, noisy: Tensor) -> Tensor:
        """The same image, not clipped."""
        return noisy


class ClassicalConfig(MeasuredConfig):
    """How strongly to denoise. All of it acts on new images only."""

    sigma: float = Param(
        0.0, "the noise's standard deviation at a range of 255; 0: estimated", affects="inference", ge=0
    )
    estimated_from: Literal["image", "training"] = Param(
        "image", "where sigma is 0: estimated from each image, or the mean of the training images", affects="inference"
    )
    strength: float = Param(
        1.0, "factor of the noise level, above 1 for smoother images", affects="inference", search=uniform(0.5, 2), ge=0
    )


class Classical(Untrained):
    """Denoises each image by itself, on the CPU in float64."""

    config: ClassicalConfig
    whole_images = True
    assumes = Assumptions(True, True, True, fields=("noisy",))

    def denoise(self, noisy: Tensor) -> Tensor:
        """Each image at ``strength`` times its noise level; as it is where that is 0; clipped to [0, 1]."""
        results = []
        for image, level in zip(noisy, self.levels(noisy), strict=True):
            values = image.permute(1, 2, 0).double().cpu().numpy()
            done = self.restore(values, level) if level > 0 else values
            results.append(torch.from_numpy(np.ascontiguousarray(done)).view(values.shape).permute(2, 0, 1))
        return torch.stack(results).to(noisy).clamp(0, 1)

    def levels(self, noisy: Tensor) -> list[float]:
        """The standard deviation to take away from each image, in its units."""
        config = self.config
        if config.sigma > 0:
            found = [config.sigma / 255] * len(noisy)
        elif config.estimated_from == "training":
            found = [self.measured] * len(noisy)
        else:
            found = noise_levels(noisy).tolist()
        return [config.strength * level for level in found]

    def restore(self, image: Array, level: float) -> Array:
        """The denoised (H, W, C) of an image with noise of the standard deviation ``level`` > 0; units of [0, 1]."""
        raise NotImplementedError


class NonLocalMeansConfig(ClassicalConfig):
    """The patches that are compared."""

    compared: int = Param(5, "side of the patches, in pixels", affects="inference", search=choice(3, 5, 7), ge=1)
    distance: int = Param(6, "how far away patches are looked for, in pixels", affects="inference", ge=1)
    smoothing: float = Param(
        0.6,
        "cut-off of the patches' distance over the noise level",
        affects="inference",
        search=uniform(0.3, 1.5),
        gt=0,
    )


class NonLocalMeans(Classical):
    """Each pixel becomes the mean of pixels with similar surroundings."""

    name = "non_local_means"
    title = "Non-local means"
    citation = Citation(
        "Buades, Coll, Morel: A Non-Local Algorithm for Image Denoising, CVPR 2005",
        "https://doi.org/10.1109/CVPR.2005.38",
    )
    Config = NonLocalMeansConfig
    config: NonLocalMeansConfig
    deviations = (
        Deviation(
            "Weights",
            "by the Gaussian-weighted distance of patches of 7 x 7, looked for in 21 x 21 pixels",
            "scikit-image's fast mode: equal weights in a patch",
            "scikit-image's fast mode with patches of 5 x 5, looked for in 13 x 13 pixels",
        ),
    )

    def restore(self, image: Array, level: float) -> Array:
        """See :class:`Classical`."""
        config = self.config
        return _restoration().denoise_nl_means(  # type: ignore[no-any-return]
            image, config.compared, config.distance, config.smoothing * level, sigma=level, fast_mode=True,
            channel_axis=-1,
        )  # fmt: skip


class TotalVariationConfig(ClassicalConfig):
    """The weight of the total variation."""

    weight: float = Param(
        0.8, "weight of the total variation over the noise level", affects="inference", search=uniform(0.5, 2), gt=0
    )
    iterations: int = Param(200, "iterations at most", affects="inference", ge=1)


class TotalVariation(Classical):
    """The image with the least total variation among those about as near to the noisy one."""

    name = "total_variation"
    title = "Total variation (Chambolle)"
    citation = Citation(
        "Chambolle: An Algorithm for Total Variation Minimization and Applications, JMIV 2004",
        "https://doi.org/10.1023/B:JMIV.0000011325.36760.1e",
    )
    Config = TotalVariationConfig
    config: TotalVariationConfig

    def restore(self, image: Array, level: float) -> Array:
        """See :class:`Classical`."""
        return _restoration().denoise_tv_chambolle(  # type: ignore[no-any-return]
            image, self.config.weight * level, max_num_iter=self.config.iterations, channel_axis=-1
        )


class WaveletsConfig(ClassicalConfig):
    """The transform."""

    wavelet: Literal["db1", "db2", "sym4", "sym8", "bior4.4"] = Param(
        "db1",
        "the wavelet, by its name in PyWavelets",
        affects="inference",
        search=choice("db1", "db2", "sym4", "sym8"),
    )
    shifts: int = Param(
        3, "the mean over that many shifts each way, which blurs the transform's grid", affects="inference", ge=1, le=16
    )


class Wavelets(Classical):
    """Coefficients are shrunk by a threshold of each band, sigma^2 / sigma_x (BayesShrink)."""

    name = "wavelets"
    title = "Wavelets (BayesShrink)"
    citation = Citation(
        "Chang, Yu, Vetterli: Adaptive Wavelet Thresholding for Image Denoising and Compression, IEEE TIP 2000",
        "https://doi.org/10.1109/83.862633",
    )
    Config = WaveletsConfig
    config: WaveletsConfig
    deviations = (
        Deviation(
            "Shifts",
            "one transform",
            "scikit-image: one transform",
            "the mean over 3 x 3 shifts (cycle spinning; Coifman, Donoho 1995); `shifts` = 1 is one transform",
        ),
        Deviation("Colour", "not stated", "as it is, or in YCbCr", "each channel by itself"),
    )

    def restore(self, image: Array, level: float) -> Array:
        """See :class:`Classical`."""
        total = np.zeros_like(image)
        settings: dict[str, Any] = {"wavelet": self.config.wavelet, "method": "BayesShrink", "mode": "soft"}
        for shift in product(range(self.config.shifts), repeat=2):
            rolled = np.roll(image, shift, (0, 1))
            done = _restoration().denoise_wavelet(rolled, level, rescale_sigma=False, channel_axis=-1, **settings)
            total += np.roll(done, (-shift[0], -shift[1]), (0, 1))
        return total / self.config.shifts**2
