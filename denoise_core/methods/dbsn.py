"""D-BSN with unpaired distillation (Wu, Liu, Cao, Ren, Zuo: Unpaired Learning of Deep Image Denoising, ECCV 2020).

Stage 1 learns from noisy images alone: a blind-spot network estimates each pixel from its neighbours (mu) with an
uncertainty, a network of 1x1 convolutions the noise level; a Gaussian likelihood trains them, and Bayes' rule fuses mu
with the pixel itself. Stage 2 distils a fast denoiser from two sets of pairs: clean images of other scenes with
simulated noise of the learned level, and noisy images with the first stage's results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_core import gaussian
from denoise_core.config import MethodConfig
from denoise_core.diagnostics import Diagnostic, describe_level
from denoise_core.errors import UserError
from denoise_core.gaussian import Likelihood
from denoise_core.images.augment import dihedral
from denoise_core.images.crops import CropSource
from denoise_core.images.distillation import BAYER_GROUPS, DistillationSource
from denoise_core.images.shuffle import bayer_group, guided_filter, join, split
from denoise_core.images.source import ImageSource
from denoise_core.inference import ALIGNED
from denoise_core.method import Assumptions, Citation, Context, Deviation, Group, Method, Phase, Recipe, Update
from denoise_core.methods.dbsn_config import JOINT, MEAN, SMALL, STUDENT, VARIANCE, WARM, DBSNConfig
from denoise_core.methods.dbsn_deviations import DEVIATIONS
from denoise_core.networks.blindspot import DilatedBlindSpot
from denoise_core.networks.mwcnn import MWCNN
from denoise_core.networks.noise_level import MeanVariance, NoiseLevel
from denoise_core.networks.norms import wide
from denoise_core.schedule import Schedule, one_cycle, steps

OUTPUTS = ("mu", "bayes", "student")
BEGUN = {MEAN: 0, VARIANCE: 1, JOINT: 1, WARM: 1, STUDENT: 2}
"""How many of the outputs after the first the networks can give, from each phase on."""
IMPLAUSIBLE = 1e8
"""A step whose largest quadratic term is above this is skipped (the code's limit for gray images)."""
TILE = 8
"""Side of the tiles whose residuals tell where the noise level starts."""
DIAGNOSED = 32
"""Crops that are looked at when a training has ended."""


class Teacher(nn.Module):
    """Stage 1's networks: mu with features, the covariance of mu, the covariance of the noise."""

    def __init__(self, mean: nn.Module, features: int, channels: int, config: DBSNConfig):
        super().__init__()
        full = config.noise_form == "multivariate"
        self.mean = mean
        self.mean_variance = MeanVariance(features, channels, config.level_width, config.noise_start, full=full)
        self.noise_level = NoiseLevel(channels, config.level_width, config.noise_form, config.noise_start)

    def noise(self, noisy: Tensor, mu: Tensor) -> Tensor:
        """The covariance of the noise; a level by intensity takes mu for the intensity, as the code does."""
        return self.noise_level(mu if self.noise_level.form == "heteroscedastic" else noisy)  # type: ignore[no-any-return]

    @torch.no_grad()
    def start_at(self, residual: Tensor, context: Context) -> None:
        """The two variances begin with the mean square of the residuals (N, C, H, W) as their sum.

        The noise's is the median of a crop's small tiles: mu errs least in smooth places, so it lies above the truth,
        but not far. The rest, at least a tenth, is the variance of mu.
        """
        squares = residual.square().mean(1, keepdim=True)
        level = context.over_ranks(F.avg_pool2d(squares, TILE).flatten(1).median(dim=1).values.mean())
        self.noise_level.start_at(level)
        self.mean_variance.start_at(torch.maximum(context.over_ranks(squares.mean()) - level, level / 10))


class DBSN(Method):
    """See the module."""

    name = "dbsn"
    citation = Citation(
        "Wu, Liu, Cao, Ren, Zuo: Unpaired Learning of Deep Image Denoising, ECCV 2020",
        "https://arxiv.org/abs/2008.13711",
    )
    version = 2
    title = "D-BSN"
    lineage = "dbsn"
    Config: ClassVar[type[MethodConfig]] = DBSNConfig
    config: DBSNConfig
    protocol = "dbsn"
    assumes = Assumptions(
        zero_mean=True, pixel_independent=True, signal_independent=False, fields=("noisy", "clean_unpaired")
    )
    deviations: ClassVar[tuple[Deviation, ...]] = DEVIATIONS
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "smoke": Recipe(3, {**SMALL, "width": 6, "blocks": 1, "level_width": 4, "patch_size": 32, "batch_size": 4,
                            "lr": 1e-3, "joint_lr": 1e-3, "joint_steps": 1.0, "student_steps": 1.0, "student_lr": 1e-3,
                            "student_widths": (6, 6, 6), "student_depth": 1, "student_batch_size": 4,
                            "student_patch_size": 32, "noisy_share": 0.5, "image_steps": 2}),
        "laptop": Recipe(300, SMALL),
        "gpu": Recipe(10_000, {"width": 48, "blocks": 4, "lr": 1e-3, "joint_lr": 3e-4, "lr_schedule": "one_cycle",
                               "student_lr": 4e-4, "student_patch_size": 96, "student_batch_size": 16}),
        "paper": Recipe(600_000),
    }  # fmt: skip
    stage: Tensor

    def __init__(self, config: DBSNConfig, channels: int):
        super().__init__(config, channels)
        if channels not in (1, 3):
            raise UserError(f"{self.name} takes images of 1 or 3 channels, not {channels}.")
        if config.noise_form == "multivariate" and channels != 3:
            raise UserError(
                f"{self.name}: noise_form = multivariate is a covariance of three channels, but the images are gray; "
                "use --channels 3, or noise_form = homoscedastic or heteroscedastic."
            )
        count = BAYER_GROUPS if config.bayer_groups else 1
        # those of the first phase first: their weights must not depend on what comes after them
        means = [self._mean_network() for _ in range(count)]
        self.teachers = nn.ModuleList(Teacher(mean, config.width, channels, config) for mean in means)
        self.student = MWCNN(channels, config.student_widths, config.student_depth) if config.distil else nn.Identity()
        # what the weights can give so far, see BEGUN; kept with them
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))

    def _mean_network(self) -> nn.Module:
        config = self.config
        return DilatedBlindSpot(
            self.channels, config.width, config.blocks, wide_branch=config.wide_branch, masking=config.masking
        )

    # ---- phases ----

    def phases(self) -> tuple[Phase, ...]:
        """mu, then the variances (in one or two phases), then the student (from scratch or after a warm start)."""
        config = self.config
        found = [self._teacher_phase(MEAN, config.mean_steps, config.lr, "mean")]
        if config.variance_steps:
            found.append(
                self._teacher_phase(VARIANCE, config.variance_steps, config.variance_lr, "mean_variance", "noise_level")
            )
        if config.joint_steps:
            parts = ("mean", "mean_variance", "noise_level")
            found.append(self._teacher_phase(JOINT, config.joint_steps, config.joint_lr, *parts))
        if config.distil and config.warm_steps:
            found.append(self._student_phase(WARM, config.warm_steps, ("noisy", "clean")))
        if config.distil:
            labels = ("label",) if config.labels == "whole" else ()
            found.append(self._student_phase(STUDENT, config.student_steps, ("noisy", "clean_unpaired", *labels)))
        return tuple(found)

    def prepare(self, source: ImageSource) -> ImageSource:
        """Adds sub-images and labels. Raises UserError where they need images that are given once and for all."""
        whole = self.config.distil and self.config.labels == "whole"
        crops = cast(CropSource, source)
        label, key = (self._label, self._label_key) if whole else (None, tuple)
        return DistillationSource(crops, self.config.pixel_shuffle, self.config.patch_size, label, key)

    def enter(self, phase: str) -> None:
        """Notes what the weights can give from now on."""
        self.stage.fill_(BEGUN[phase])

    def updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """Squared error of mu, the likelihood, or the student's losses (Eq. 4)."""
        if phase == STUDENT:
            return self._student_updates(batch, context)
        if phase == WARM:
            return self._warm_updates(batch, context)
        return self._teacher_updates(phase, batch, context)

    def diagnose(self, source: ImageSource) -> Sequence[Diagnostic]:
        """The estimated noise level beside the true one, by intensity where it depends on it."""
        if self.config.pixel_shuffle > 1:
            return []
        patch, known = self.config.patch_size, "clean" in source.fields
        fields = ("noisy", "clean") if known else ("noisy",)
        crops = source.batch(size=DIAGNOSED, patch=patch, seed=0, step=0, fields=fields)
        teacher, noisy = cast(Teacher, self.teachers[0]), crops["noisy"]
        self.eval()
        with torch.no_grad():
            mu = wide(teacher.mean(noisy)[0])
            variance = gaussian.variances(teacher.noise(noisy, mu), self.channels).expand_as(noisy)
        intensity, noise = (crops["clean"], noisy - crops["clean"]) if known else (mu, None)
        return describe_level(intensity, noise, variance, by_intensity=self.config.noise_form == "heteroscedastic")

    # ---- inference ----

    @property
    def learns_at_inference(self) -> bool:
        """Where the noise network goes on learning on each image, which only the Bayes estimate needs."""
        return self.config.noise_network == "image" and self._reached() == "bayes"

    def _reached(self) -> str:
        wanted = len(OUTPUTS) - 1 if self.config.estimate == "best" else OUTPUTS.index(self.config.estimate)
        return OUTPUTS[min(wanted, int(self.stage))]

    def denoise(self, noisy: Tensor) -> Tensor:
        """The chosen estimate, or the last before it that is trained so far, clipped to [0, 1]."""
        estimate = self._reached()
        if estimate == "student":
            return wide(self.student(noisy)).clamp(0, 1)
        of_image = self.config.noise_network == "image"
        return self._first_stage(noisy, estimate, self.config.fusion_gamma, of_image=of_image).clamp(0, 1)

    @property
    def reach(self) -> int:
        """The student's, or that of the network for mu and of what follows it."""
        if self._reached() == "student":
            return cast(MWCNN, self.student).reach
        factor, reach = self.config.pixel_shuffle, int(cast(Any, self.teachers[0]).mean.reach)
        if factor == 1:
            return reach
        # tiles lie on the sub-images' grids, but not on those of their poolings; the filter's boxes follow each other
        return factor * (reach + ALIGNED) + 2 * self.config.guided_radius

    def _first_stage(self, noisy: Tensor, estimate: str, gamma: float = 1.0, *, of_image: bool = False) -> Tensor:
        """mu or the Bayes estimate of (N, C, H, W), with pixel-shuffle and guided filter where these are asked for.

        ``of_image``: the noise level is that of a network that goes on learning on the image.
        """
        factor = self.config.pixel_shuffle
        if factor == 1:
            return self._estimate(cast(Teacher, self.teachers[0]), noisy, estimate, gamma, of_image)
        parts = split(noisy, factor)
        result = torch.empty_like(parts)
        for at in range(len(parts)):  # one at a time: they are as large as a small image
            number = bayer_group(at % factor**2, factor) if len(self.teachers) > 1 else 0
            teacher = cast(Teacher, self.teachers[number])
            result[at : at + 1] = self._estimate(teacher, parts[at : at + 1], estimate, gamma, of_image)
        height, width = noisy.shape[-2:]
        joined = join(result, factor, (height, width))
        return guided_filter(joined, joined, self.config.guided_radius, self.config.guided_eps)

    def _estimate(self, teacher: Teacher, noisy: Tensor, estimate: str, gamma: float, of_image: bool) -> Tensor:
        mu, features = (wide(one) for one in teacher.mean(noisy))
        if estimate == "mu":
            return mu
        mean = teacher.mean_variance(features)
        noise = self._noise_of_image(teacher, noisy, mu, mean) if of_image else teacher.noise(noisy, mu)
        return gaussian.posterior_mean(noisy, mu, mean, gamma * noise)

    def _noise_of_image(self, teacher: Teacher, noisy: Tensor, mu: Tensor, mean: Tensor) -> Tensor:
        """The noise's covariance by a copy of the network that goes on learning on these pixels."""
        with torch.inference_mode(False), torch.enable_grad():
            noisy, mu, mean = noisy.clone(), mu.clone(), mean.clone()
            copied = NoiseLevel(
                self.channels, self.config.level_width, self.config.noise_form, self.config.noise_start
            ).to(noisy.device)
            copied.load_state_dict({name: value.clone() for name, value in teacher.noise_level.state_dict().items()})
            optimizer = torch.optim.Adam(copied.parameters(), lr=self.config.joint_lr)
            shown = mu if self.config.noise_form == "heteroscedastic" else noisy
            for _ in range(self.config.image_steps):
                optimizer.zero_grad()
                self._likelihood(noisy - mu, mean, copied(shown)).loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            return copied(shown).detach()  # type: ignore[no-any-return]

    @torch.no_grad()
    def _label(self, noisy: Tensor) -> Tensor:
        """The first stage's result for one given image, what the student is to give for it."""
        training = self.training
        self.eval()
        label = self._first_stage(noisy, "bayes")
        self.train(training)
        return label

    def _label_key(self) -> list[str]:
        """All that labels depend on beside the images; device and memory layout decide the last bits."""
        digest = hashlib.sha256()
        for name, value in self.teachers.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        names = ("noise_form", "noise_start", "masking", "wide_branch", "pixel_shuffle", "bayer_groups",
                 "guided_radius", "guided_eps")  # fmt: skip
        settings = ", ".join(f"{name} = {getattr(self.config, name)}" for name in names)
        first = next(one for one in self.teachers.parameters() if one.ndim == 4 and one.shape[2] > 1)
        return [self.name, digest.hexdigest(), settings, f"{first.device.type} {first.stride()}"]

    # ---- stage 1 ----

    def _teacher_phase(self, name: str, share: float, lr: float, *parts: str) -> Phase:
        config = self.config
        adam = partial(torch.optim.Adam, lr=lr, fused=True)
        groups = {
            f"teacher{number}": Group(tuple(getattr(teacher, part) for part in parts), adam, self._schedule())
            for number, teacher in enumerate(self.teachers)
        }
        kept = tuple(cast(Teacher, one).mean for one in self.teachers) if name == MEAN else (self.teachers,)
        return Phase(
            name, groups, ("sub",) if config.pixel_shuffle > 1 else ("noisy",), config.patch_size, config.batch_size,
            share=share, depends=(MEAN,) if name == MEAN else (VARIANCE,), keeps=kept,
        )  # fmt: skip

    def _schedule(self) -> Schedule:
        return one_cycle() if self.config.lr_schedule == "one_cycle" else steps((0.2, 0.4, 0.6, 0.7, 0.8, 0.9), 0.1)

    def _teacher_updates(self, phase: str, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        (every,) = dihedral((batch["sub" if self.config.pixel_shuffle > 1 else "noisy"],), context)
        for number, one in enumerate(self.teachers):
            teacher, noisy = cast(Teacher, one), every[number :: len(self.teachers)]
            if phase == VARIANCE:
                with torch.no_grad():
                    mu, features = teacher.mean(noisy)
            else:
                mu, features = teacher.mean(noisy)
            residual = noisy - wide(mu)
            if phase == MEAN:
                loss = residual.square().mean()
                yield Update(f"teacher{number}", loss, {"squared_error": loss})
                continue
            first = phase == VARIANCE or not self.config.variance_steps
            if first and context.step == 0 and self.config.noise_start == "residual":
                teacher.start_at(residual, context)
            with torch.autocast(noisy.device.type, enabled=False):
                noise = teacher.noise(noisy, wide(mu))
                found = self._likelihood(residual, teacher.mean_variance(wide(features)), noise)
            level = gaussian.variances(noise.detach(), self.channels).mean().sqrt() * 255
            logs = {"likelihood": found.loss, "estimated_sigma": level}
            yield Update(f"teacher{number}", found.loss, logs, valid=found.largest < IMPLAUSIBLE)

    def _likelihood(self, residual: Tensor, mean: Tensor, noise: Tensor) -> Likelihood:
        if self.config.likelihood == "constrained":
            return gaussian.constrained(residual, mean, noise)
        return gaussian.ordinary(residual, mean, noise, self.config.trace_weight)

    # ---- stage 2 ----

    def _student_phase(self, name: str, share: float, needs: tuple[str, ...]) -> Phase:
        config = self.config
        adam = partial(torch.optim.Adam, lr=config.student_lr, fused=True)
        return Phase(
            name, {"student": Group((self.student,), adam, self._schedule())}, needs, config.student_patch_size,
            config.student_batch_size, share=share, depends=(STUDENT,), keeps=(self.teachers, self.student),
        )  # fmt: skip

    def _warm_updates(self, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        noisy, clean = dihedral((batch["noisy"], batch["clean"]), context)
        loss = (wide(self.student(noisy)) - clean).square().mean()
        yield Update("student", loss, {"loss": loss})

    def _student_updates(self, batch: Mapping[str, Tensor], context: Context) -> Iterator[Update]:
        """Eq. 4 with means: one pass over clean crops with simulated noise and noisy crops with labels."""
        weight = self.config.distillation_lambda
        fields = [batch[name] for name in ("clean_unpaired", "noisy", "label") if name in batch]
        clean, noisy, *labels = dihedral(fields, context)
        chosen, others, count = spread(len(noisy), self.config.noisy_share, context)
        simulated = self.simulate(clean, context)[others]
        clean, noisy = clean[others], noisy[chosen]
        if weight == 0:
            noisy = noisy[:0]
        given = wide(self.student(torch.cat([simulated, noisy])))
        # sums over this rank's crops by the number in the global batch: the mean over the ranks is the global mean
        total = context.world * len(batch["noisy"])
        synthetic = _sum_of_means(given[: len(clean)] - clean) * context.world / (total - count)
        loss, logs = synthetic, {"synthetic": synthetic}
        if weight:
            label = labels[0][chosen] if labels else self._label(noisy)
            logs["distilled"] = _sum_of_means(given[len(clean) :] - label) * context.world / count
            loss = loss + weight * logs["distilled"]
        yield Update("student", loss, {**logs, "loss": loss})

    @torch.no_grad()
    def simulate(self, clean: Tensor, context: Context) -> Tensor:
        """Eq. 3: clean crops (N, C, H, W) with noise of the level that the first stage gives their intensities.

        One factor in 1 +- ``disturbance`` scales the deviation of each crop. With Bayer groups each pixel has the level
        of its own phase.
        """
        height, width = clean.shape[-2:]
        levels = [cast(Teacher, one).noise(clean, clean).expand(-1, -1, height, width) for one in self.teachers]
        level = levels[0]
        if len(levels) > 1:
            level = level.clone()
            for number, other in enumerate(levels):
                level[..., number // 2 :: 2, number % 2 :: 2] = other[..., number // 2 :: 2, number % 2 :: 2]
        factor = 1 + self.config.disturbance * (2 * context.rand((len(clean), 1, 1, 1)) - 1)
        return clean + factor * gaussian.sample(level, context.randn(clean.shape))


def spread(count: int, share: float, context: Context) -> tuple[Tensor, Tensor, int]:
    """Which of this rank's ``count`` crops are among the ``share`` of the global batch that is chosen, evenly spread.

    Their places, those of the others, and how many are chosen in the global batch: at least one is, and one is not. The
    choice depends on the place in the global batch alone.
    """
    total = count * context.world
    number = min(max(1, round(total * share)), total - 1)
    places = range(context.rank * count, (context.rank + 1) * count)
    found = [(place + 1) * number // total > place * number // total for place in places]
    both = ([index for index, one in enumerate(found) if one is kind] for kind in (True, False))
    chosen, others = (torch.tensor(one, dtype=torch.int64, device=context.device) for one in both)
    return chosen, others, number


def _sum_of_means(difference: Tensor) -> Tensor:
    """The sum over crops of their mean squared differences."""
    return difference.square().mean((1, 2, 3)).sum()
