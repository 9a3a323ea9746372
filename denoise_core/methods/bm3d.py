"""BM3D (Dabov, Foi, Katkovnik, Egiazarian, IEEE TIP 2007): similar patches are stacked and filtered together.

The algorithm is its authors' package ``bm3d``, which is no part of this project and is installed by itself
(``pip install 'denoise-studies[bm3d]'``). Its licence (Tampere University) allows non-commercial use only, and asks
that the authors are named where results are made public.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import ClassVar, Literal

from denoise_core.config import Param
from denoise_core.errors import UserError
from denoise_core.method import Citation, Deviation, Recipe
from denoise_core.methods.classical import Array, Classical, ClassicalConfig, MeasuredConfig

PROFILES = {"normal": "BM3DProfile", "fast": "BM3DProfileLC", "high": "BM3DProfileHigh"}
"""How the package names what ``profile`` chooses."""

QUICK = ("smoke", "laptop")
"""Budgets with the profile ``fast``: a quarter of the time, and 0.1 dB less on photographs with noise of 25/255."""


class BM3DConfig(ClassicalConfig):
    """How much of the algorithm is run."""

    profile: Literal["normal", "fast", "high"] = Param(
        "normal", "the package's settings: normal, of low complexity, or of high quality", affects="inference"
    )


class BM3D(Classical):
    """Two passes: a first estimate by thresholds, then Wiener filters that take their weights from it."""

    name = "bm3d"
    title = "BM3D"
    citation = Citation(
        "Dabov, Foi, Katkovnik, Egiazarian: Image Denoising by Sparse 3-D Transform-Domain Collaborative Filtering, "
        "IEEE TIP 2007",
        "https://doi.org/10.1109/TIP.2007.901238",
    )
    Config = BM3DConfig
    config: BM3DConfig
    recipes: ClassVar[Mapping[str, Recipe]] = {
        budget: replace(recipe, config={**recipe.config, "profile": "fast"}) if budget in QUICK else recipe
        for budget, recipe in Classical.recipes.items()
    }
    deviations = (
        Deviation(
            "Noise level",
            "given",
            "given",
            "estimated from each image, as for the other classical methods; `sigma` gives it",
        ),
        Deviation(
            "Colour",
            "in an opponent colour space, patches are matched in its brightness",
            "the same",
            "the same for 3 channels; otherwise each channel by itself, patches matched in the first",
        ),
        Deviation("Threads", "not stated", "as many as there are", "one, so that the same image gives the same result"),
    )

    def __init__(self, config: MeasuredConfig, channels: int):
        package()
        super().__init__(config, channels)

    def restore(self, image: Array, level: float) -> Array:
        """See :class:`Classical`."""
        algorithm = package()
        profile = getattr(algorithm, PROFILES[self.config.profile])()
        profile.num_threads = 1  # several add up in the order in which they finish: other last bits at every call
        denoise = algorithm.bm3d_rgb if image.shape[2] == 3 else algorithm.bm3d
        return denoise(image, level, profile)  # type: ignore[no-any-return]


def package() -> ModuleType:
    """The authors' package. Raises UserError where it cannot be imported."""
    try:
        return importlib.import_module("bm3d")
    except ImportError as error:
        raise UserError(
            f"bm3d needs the package of its authors, which cannot be imported here ({error}): install it with "
            "pip install 'denoise-studies[bm3d]' if its licence, which allows non-commercial use only, suits you, or "
            "choose another method, such as non_local_means."
        ) from None
