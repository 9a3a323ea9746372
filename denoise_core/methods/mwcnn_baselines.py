"""The upper references of D-BSN's tables: its student with targets that users lack, clean or noisy ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from denoise_core.config import MethodConfig, Param
from denoise_core.images.augment import dihedral
from denoise_core.method import Assumptions, Context, Deviation, Group, Method, Phase, Recipe, Update
from denoise_core.methods.dbsn import DBSN
from denoise_core.networks.mwcnn import MWCNN
from denoise_core.networks.norms import wide
from denoise_core.schedule import one_cycle, steps


class MWCNNConfig(MethodConfig):
    """The student's hyperparameters, under D-BSN's names, so that a study's settings reach both."""

    student_widths: tuple[int, int, int] = Param((160, 256, 256), "channels of the MWCNN")
    student_depth: int = Param(4, "convolutions of each of its stages", ge=1)
    student_lr: float = Param(1e-4, "Adam's rate", gt=0, le=1)
    lr_schedule: Literal["step", "one_cycle"] = Param("step", "the code's stairs, or one cycle")
    student_batch_size: int = Param(32, "crops a step, over all workers", affects="data", ge=1)
    student_patch_size: int = Param(160, "side of the crops, a multiple of 8", affects="data", ge=8, multiple_of=8)
    student_steps: float = Param(1.0, "share of the steps, as many as the student's", gt=0)


class PairedMWCNN(Method):
    """Mean squared error between the network's output and a target field."""

    version = 1
    Config: ClassVar[type[MethodConfig]] = MWCNNConfig
    config: MWCNNConfig
    protocol = "dbsn"
    deviations: ClassVar[tuple[Deviation, ...]] = (
        Deviation(
            "Training",
            "MWCNN retrained; rate, batch and length are not stated",
            "not released",
            "the student's network, rate, schedule, batch and steps, on the noisy images' own targets",
        ),
    )

    def __init__(self, config: MWCNNConfig, channels: int):
        super().__init__(config, channels)
        self.student = MWCNN(channels, config.student_widths, config.student_depth)

    def phases(self) -> tuple[Phase, ...]:
        """One phase, as long as the student's."""
        config = self.config
        schedule = one_cycle() if config.lr_schedule == "one_cycle" else steps((0.2, 0.4, 0.6, 0.7, 0.8, 0.9), 0.1)
        adam = partial(torch.optim.Adam, lr=config.student_lr, fused=True)
        return (
            Phase(
                "train", {"student": Group((self.student,), adam, schedule)}, self.assumes.fields,
                config.student_patch_size, config.student_batch_size, share=config.student_steps,
            ),
        )  # fmt: skip

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """mean((f(y) - target)^2)."""
        noisy, target = dihedral([batch[name] for name in self.assumes.fields], context)
        loss = (wide(self.student(noisy)) - target).square().mean()
        yield Update("student", loss, {"loss": loss})

    @property
    def reach(self) -> int:
        """The network's."""
        return self.student.reach

    def denoise(self, noisy: Tensor) -> Tensor:
        """The network's output, clipped to [0, 1]."""
        return wide(self.student(noisy)).clamp(0, 1)


def _recipes() -> Mapping[str, Recipe]:
    """The student's part of D-BSN's recipes."""
    known = MWCNNConfig.model_fields

    def own(config: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in config.items() if name in known}

    return {
        budget: Recipe(one.steps, own(one.config), one.precision, one.channels_last)
        for budget, one in DBSN.recipes.items()
    }


class MWCNNToClean(PairedMWCNN):
    """Supervised training, the upper reference."""

    name = "mwcnn_n2c"
    title = "N2C (MWCNN, clean targets)"
    assumes = Assumptions(False, False, False, fields=("noisy", "clean"))
    recipes: ClassVar[Mapping[str, Recipe]] = _recipes()


class MWCNNToNoise(PairedMWCNN):
    """Two independent noisy copies of each image."""

    name = "mwcnn_n2n"
    title = "N2N (MWCNN, noisy pairs)"
    assumes = Assumptions(zero_mean=True, pixel_independent=False, signal_independent=False, fields=("noisy", "noisy2"))
    recipes: ClassVar[Mapping[str, Recipe]] = _recipes()
