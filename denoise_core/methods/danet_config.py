"""DANet's hyperparameters, and what the small budgets change of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationInfo, field_validator

from denoise_core.config import MethodConfig, Param, integer, log, uniform
from denoise_core.networks.danet import Init, halvings

GAME, PLUS = "game", "plus"
Weight = float | Literal["inf"]


class DANetConfig(MethodConfig):
    """Hyperparameters of DANet. Defaults are those of the official code for SIDD."""

    # ---- the game ----
    tau1: Weight = Param(
        1000.0, "weight of the denoiser's L1 loss; 0: critic alone, inf: L1 alone", affects=GAME, paper="Table 3",
        search=log(10, 1e5),
    )  # fmt: skip
    tau2: Weight = Param(
        10.0, "weight of the generator's loss on blurred noise; 0: critic alone, inf: this alone", affects=GAME,
        paper="Table 4", search=log(0.1, 1000),
    )  # fmt: skip
    alpha: float = Param(
        0.5, "weight of the denoiser in the critic's loss, the generator's is 1 - alpha", affects=GAME, paper="Eq. 5",
        search=uniform(0.1, 0.9), ge=0, le=1,
    )  # fmt: skip
    networks: Literal["both", "denoiser", "generator"] = Param(
        "both", "who plays against the critic: BaseD is the denoiser alone, BaseG the generator alone", affects=GAME,
        paper="Tables 5, 6",
    )  # fmt: skip
    penalty: float = Param(10.0, "weight of the gradient penalty", affects=GAME, search=log(1, 100), ge=0)
    critic_steps: int = Param(
        3, "n_critic: steps of the critic, each on a new batch, for one of the others", affects=GAME,
        paper="Algorithm 1", search=integer(1, 5), ge=1,
    )  # fmt: skip
    generator_lr: float = Param(1e-4, "Adam's rate of the generator", affects=GAME, search=log(1e-5, 5e-3), gt=0, le=1)
    critic_lr: float = Param(2e-4, "Adam's rate of the critic", affects=GAME, search=log(1e-5, 5e-3), gt=0, le=1)
    game_schedule: Literal["step", "constant"] = Param(
        "step", "rates of generator and critic: the code's stairs, or as they are", affects=GAME
    )  # fmt: skip
    momentum: float = Param(0.5, "Adam's beta1 of generator and critic", affects=GAME, ge=0, lt=1)
    generator_width: int = Param(32, "channels of the generator's first layer", affects=GAME, ge=1)
    critic_width: int = Param(64, "channels of the critic's first layer", affects=GAME, ge=1)
    # ---- all denoisers ----
    lr: float = Param(1e-4, "Adam's rate of the denoisers", search=log(1e-5, 5e-3), gt=0, le=1)
    lr_schedule: Literal["step", "one_cycle"] = Param("step", "the code's stairs, or one cycle for the denoisers")
    width: int = Param(32, "channels of a denoiser's first layer", ge=1)
    depth: int = Param(5, "levels of the U-Nets", ge=1, le=6)
    init: Init = Param(
        "default",
        "first weights of the U-Nets: PyTorch's as in the code, He's, or for the denoisers a last layer of zeros",
    )
    batch_size: int = Param(16, "pairs a step, over all workers", affects="data", ge=1)
    patch_size: int = Param(128, "side of a crop in pixels", affects="data", ge=8)
    augmentation: Literal["official", "uniform", "none"] = Param(
        "official", "one half as they are and seven symmetries, all eight alike, or none", affects="data"
    )
    # ---- what follows the game ----
    pgap: bool = Param(False, "also train a denoiser on generated pairs, to measure PGap", affects="length",
                       paper="Eq. 9")  # fmt: skip
    plus: bool = Param(False, "also train DANet+, a denoiser on real and generated pairs", affects="length",
                       paper="Table 2")  # fmt: skip
    fake_ratio: float = Param(
        0.25, "generated pairs for each real one of DANet+", affects=PLUS, search=uniform(0.05, 1.0), ge=0, le=8
    )
    plus_steps: float = Param(2 / 3, "steps of DANet+ for each step of the critic", affects=PLUS, gt=0)
    plus_lr: float = Param(2e-4, "Adam's rate of DANet+", affects=PLUS, search=log(1e-5, 5e-3), gt=0, le=1)
    plus_batch_size: int = Param(32, "pairs a step of DANet+", affects=PLUS, ge=1)
    plus_clip: float = Param(1e4, "first bound of its gradients' norm; it shrinks", affects=PLUS, gt=0)
    # ---- inference ----
    estimate: Literal["best", "plus", "dual", "synthetic", "plain"] = Param(
        "best",
        "whose result: DANet+'s, the game's, that of the denoiser trained on generated or on real pairs alone (plain "
        "L1); best: the last trained one that is DANet's",
        affects="inference",
    )
    ensemble: bool = Param(False, "average over the eight flips and rotations of the image", affects="inference")
    akld_draws: int = Param(50, "L: generated versions of each test image", affects="inference", paper="Eq. 12", ge=1)

    @field_validator("tau1", "tau2", mode="before")
    @classmethod
    def _a_weight(cls, value: Any) -> Weight:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isnan(number) or number < 0:
            raise ValueError("give a weight of 0 or more, such as 10, or inf")
        return "inf" if number == math.inf else number

    @field_validator("patch_size")
    @classmethod
    def _for_critic_and_unets(cls, value: int, info: ValidationInfo) -> int:
        multiple = 2 ** (info.data.get("depth", 5) - 1)
        if value % multiple or halvings(value) is None:
            sizes = [size for size in range(multiple, 513, multiple) if halvings(size) is not None]
            near = sorted(sorted(sizes, key=lambda size: abs(size - value))[:4])
            raise ValueError(
                "the critic halves a patch until 4 to 7 pixels are left, and the U-Nets need a multiple of "
                f"{multiple}: use one of {', '.join(map(str, near))}"
            )
        return value

    @field_validator("pgap", "plus")
    @classmethod
    def _of_a_generator(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("networks") == "denoiser":
            raise ValueError("without a generator there are no generated pairs: give networks = both or generator")
        if not value and info.field_name == "pgap" and info.data.get("networks") == "generator":
            raise ValueError("the only denoiser of a generator alone is that of PGap: give pgap = true")
        return value

    @field_validator("estimate")
    @classmethod
    def _trained(cls, value: str, info: ValidationInfo) -> str:
        data = info.data
        lacking = {
            "plus": not data.get("plus") and "DANet+ is not trained: give plus = true",
            "synthetic": not data.get("pgap") and "no denoiser is trained on generated pairs: give pgap = true",
            "dual": data.get("networks") == "generator" and "no denoiser plays: give networks = both",
        }
        if remedy := lacking.get(value):
            raise ValueError(remedy)
        return value


SMALL: Mapping[str, Any] = {
    "width": 8, "generator_width": 8, "critic_width": 24, "depth": 3, "patch_size": 64, "batch_size": 4, "lr": 2e-3,
    "lr_schedule": "one_cycle", "init": "identity", "generator_lr": 1e-3, "critic_lr": 1e-3,
    "game_schedule": "constant", "plus_lr": 2e-3, "plus_batch_size": 8, "plus_steps": 1 / 3, "akld_draws": 2,
}  # fmt: skip
"""Networks of a hundredth of the size on patches of half the side, at ten times the rate.

Narrower critics, fewer steps, falling rates of the game or a generator that starts at nothing left small generators
without noise in trials; so did most that were a third as long.
"""
