"""How good a denoiser is, from noisy images alone: estimates of its mean squared error, and what they assume.

Every criterion states what it needs, and refuses noise that does not measure so, since it would rank wrongly without
saying so. Values are in dB like PSNR, ``-10 log10(estimated MSE)`` for intensities in [0, 1]: higher is better. An
estimate may come near zero or fall below it, by chance or since the noise's level is not known exactly; below
:data:`BEND` of the noise's variance the logarithm goes on as its tangent, so that the order is kept.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from denoise_core.errors import UserError, nearest
from denoise_core.metrics.facts import LEAST_LEVEL, Facts, Scene
from denoise_core.seeding import generator

Denoise = Callable[[Tensor], Tensor]
"""(C, H, W) noisy -> denoised, in the same units."""

AUTO = "auto"
"""Stands for the strongest criterion that the noise licenses."""
BEND = 0.05
"""Part of the noise's variance, 13 dB below it, where the scale in dB becomes a straight line."""
PIXELS = 2**17
"""About so many pixels are probed by a random direction; small images get several directions."""
DRIFT = 0.25
"""Frames whose means over blocks of 32 pixels differ by more than a quarter of the noise's deviation do not share their
brightness. White noise differs by 1/32 of it, noise that was blurred 5 x 5 by a sixth."""


class Criterion(ABC):
    """One way to tell how good a denoiser is without clean images."""

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    assumption: ClassVar[str]
    """What must hold, in words."""
    rank: ClassVar[int]
    """Place among the criteria that ``auto`` tries, the best first; 0: it is never chosen by itself."""
    least: ClassVar[int] = 1
    """Frames of each scene that it needs."""

    @property
    def several_frames(self) -> bool:
        """Whether one frame is not enough."""
        return self.least > 1

    @abstractmethod
    def refusal(self, facts: Facts) -> str | None:
        """Why it cannot be trusted on this noise, with what was measured; None where it can."""

    @abstractmethod
    def error(self, denoise: Denoise, scene: Scene, facts: Facts) -> float:
        """The estimated mean squared error of one scene's first frame, in units of [0, 1] squared."""

    def decibels(self, denoise: Denoise, scene: Scene, facts: Facts) -> float:
        """The same in dB, see the module."""
        bend = BEND * float(facts.variance(scene).mean())
        error = self.error(denoise, scene, facts)
        if math.isnan(error) or error >= bend:
            return math.nan if math.isnan(error) else -10 * math.log10(error)
        return -10 * math.log10(bend) + 10 / math.log(10) * (1 - error / bend)


class _OfFrames(Criterion):
    """What compares a denoised frame with another one of the same scene."""

    def refusal(self, facts: Facts) -> str | None:
        """Too few frames, frames that are not aligned, or that do not share their brightness."""
        if facts.frames < self.least:
            kinds = "one frame" if facts.frames == 1 else f"{facts.frames} frames"
            return f"it needs {self.least} frames of each scene, and there is {kinds}"
        zero_mean = facts.report.zero_mean
        if zero_mean is not None and not zero_mean.aligned:
            return f"the frames are not aligned: they are up to {zero_mean.shift_pixels:.1f} pixels apart"
        if facts.drift > DRIFT:
            return (
                f"the frames differ in brightness over many pixels ({facts.drift:.2f} of the noise's deviation, more "
                f"than {DRIFT}), so the noise is not zero-mean around one image"
            )
        return None


class UnbiasedPSNR(_OfFrames):
    """PSNR from three noisy frames: mean((f(a) - b)^2) - mean((b - c)^2) / 2."""

    name, title, rank, least = "upsnr", "uPSNR", 1, 3
    source = "Marcos-Morales et al., ICML 2023"
    assumption = "three frames of each scene with independent, zero-mean noise"

    def error(self, denoise: Denoise, scene: Scene, facts: Facts) -> float:
        """See the class; b and c change places as well, which halves the variance."""
        a, b, c = scene.frames[:3]
        result = denoise(a)
        risk = ((result - b).square().mean() + (result - c).square().mean()) / 2
        return float(risk - (b - c).square().mean() / 2)


class PairRisk(_OfFrames):
    """mean((f(a) - b)^2) - mean((a - b)^2) / 2: the risk on a held-out frame, less the noise of this."""

    name, title, rank, least = "pair_risk", "risk on a second frame", 2, 2
    source = "Lehtinen et al., ICML 2018"
    assumption = "two frames of each scene with independent, zero-mean noise of the same strength"

    def error(self, denoise: Denoise, scene: Scene, facts: Facts) -> float:
        """See the class."""
        a, b = scene.frames[:2]
        return float((denoise(a) - b).square().mean() - (a - b).square().mean() / 2)


class _OfSingles(Criterion):
    """What takes the noise as independent from pixel to pixel, since it has nothing but one frame."""

    def refusal(self, facts: Facts) -> str | None:
        """Correlated noise, noise too weak to measure, clipped images."""
        report = facts.report
        if not report.pixel_independent:
            return (
                f"the noise of neighbouring pixels measures correlated ({report.correlation.lag1:.2f}), and it takes "
                "it as independent"
            )
        if report.jpeg:
            return f"the images were compressed as JPEG, whose grid stands out by {report.jpeg_grid:.2f}"
        if report.sigma < LEAST_LEVEL:
            return f"the noise is too weak to be measured ({report.sigma * 255:.2f} of 255)"
        return None


class SURE(_OfSingles):
    """Stein's unbiased risk estimate: mean((f(y) - y)^2) - mean(v) + 2 mean(v df/dy), v the noise's variance at y.

    The divergence is that along random directions (Monte Carlo). For shot noise v = gain y makes it the first order of
    its unbiased estimate.
    """

    name, title, rank = "sure", "SURE", 3
    source = "Stein 1981; Ramani, Blu & Unser, IEEE TIP 2008; Luisier et al. 2010 for shot noise"
    assumption = "noise that is zero-mean and independent from pixel to pixel, its level measured or known"

    def error(self, denoise: Denoise, scene: Scene, facts: Facts) -> float:
        """See the class."""
        noisy = scene.frames[0]
        variance = facts.variance(scene)
        step = math.sqrt(float(variance.mean())) / 20
        result, slopes = denoise(noisy), []
        for number in range(_probes(noisy)):
            random = generator("sure", scene.image_id, number)
            direction = torch.randint(2, noisy.shape, generator=random).to(noisy) * 2 - 1
            change = (denoise(noisy + step * direction) - denoise(noisy - step * direction)) / (2 * step)
            slopes.append(float((variance * direction * change).double().mean()))
        fidelity = float((result - noisy).double().square().mean() - variance.double().mean())
        return fidelity + 2 * sum(slopes) / len(slopes)


class Thinning(_OfSingles):
    """Photons split by chance: f sees four fifths of them, the others are compared with what it says.

    Never chosen by ``auto``: f sees a quarter more noise than in the frame, which some settings of a network that was
    trained for one level bear better than others, so that the order changes; SURE is licensed wherever this is.
    """

    name, title, rank = "thinning", "photon thinning", 0
    source = "data fission of Poisson counts (Leiner et al., JASA 2023)"
    assumption = "pixels that are photon counts times a constant: shot noise without any other"
    share: ClassVar[float] = 0.8

    def refusal(self, facts: Facts) -> str | None:
        """Also values that are no counts."""
        report = facts.report
        if (reason := super().refusal(facts)) is not None:
            return reason
        if not report.slope_sure or report.gain <= 0:
            return "the noise does not grow with the intensity, as that of photon counts does"
        if report.step <= 0 or abs(report.step / report.gain - 1) > 0.25:
            return (
                f"the values are no photon counts: their smallest step is {report.step:.4f} of the range, a photon "
                f"would be {report.gain:.4f}"
            )
        return None

    def error(self, denoise: Denoise, scene: Scene, facts: Facts) -> float:
        """See the class; of a noisier version than the frame, so a little pessimistic."""
        unit, noisy = facts.report.step, scene.frames[0]
        if unit <= 0:
            return math.nan  # there are no counts
        counts = (noisy / unit).round().clamp_min(0)
        errors = []
        for number in range(_probes(noisy)):
            random = generator("thinning", scene.image_id, number)
            kept = torch.binomial(counts, torch.full_like(counts, self.share), generator=random)
            seen, other = kept * unit / self.share, (counts - kept) * unit / (1 - self.share)
            noise = unit * (counts * unit).mean() / (1 - self.share)
            errors.append(float((denoise(seen) - other).square().mean() - noise))
        return sum(errors) / len(errors)


class NeighbourRisk(_OfSingles):
    """mean((f(g1 y) - g2 y)^2) - mean(v): neighbouring pixels as two noisy images of half the size.

    Without the correction of Huang et al. for the difference of the scenes, which makes the identity perfect.
    """

    name, title, rank = "neighbour_risk", "risk on neighbouring pixels", 4
    source = "after Huang et al., CVPR 2021, Eq. 5"
    assumption = "noise that is zero-mean and independent from pixel to pixel, and a scene that is smooth beside it"

    def error(self, denoise: Denoise, scene: Scene, facts: Facts) -> float:
        """See the class; over horizontal and vertical neighbours, in both directions."""
        noisy = scene.frames[0]
        noisy = noisy[:, : noisy.shape[1] // 2 * 2, : noisy.shape[2] // 2 * 2]
        errors = []
        for (y, x), (down, right) in (((0, 0), (0, 1)), ((1, 1), (1, 0)), ((0, 0), (1, 0)), ((1, 1), (0, 1))):
            one, other = noisy[:, y::2, x::2], noisy[:, down::2, right::2]
            errors.append(float((denoise(one) - other).square().mean()))
        return sum(errors) / len(errors) - float(facts.variance(scene).mean())


class Recorrupted(_OfSingles):
    """Noise z added and subtracted again: mean((f(y + a s z) - (y - s z / a))^2) - (1 + 1 / a^2) mean(v), v = s^2."""

    name, title, rank = "recorrupted", "recorrupted pairs", 0
    source = "Pang et al., CVPR 2021"
    assumption = "Gaussian noise that is zero-mean and independent from pixel to pixel, its level measured or known"
    strength: ClassVar[float] = 0.5

    def error(self, denoise: Denoise, scene: Scene, facts: Facts) -> float:
        """See the class; the denoiser is judged on more noise than the frame has."""
        noisy, errors = scene.frames[0], []
        variance = facts.variance(scene)
        for number in range(_probes(noisy)):
            added = torch.randn(noisy.shape, generator=generator("recorrupted", scene.image_id, number)).to(noisy)
            added = added * variance.sqrt()
            target = noisy - added / self.strength
            errors.append(float((denoise(noisy + self.strength * added) - target).square().mean()))
        return sum(errors) / len(errors) - (1 + self.strength**-2) * float(variance.mean())


class Whiteness(_OfSingles):
    """How white the residual y - f(y) is: the squared correlations of neighbours up to two pixels away.

    It is no error in intensities; its dB count from a residual that is all structure.
    """

    name, title, rank = "whiteness", "whiteness of the residual", 0
    source = "Hansen et al. 2006; Almeida & Figueiredo 2013"
    assumption = "noise that is independent from pixel to pixel"

    def error(self, denoise: Denoise, scene: Scene, facts: Facts) -> float:
        """The sum of the squared correlations."""
        noisy = scene.frames[0]
        residual = (noisy - denoise(noisy)) / facts.variance(scene).sqrt()
        residual = residual - residual.mean((1, 2), keepdim=True)
        energy = residual.square().mean().clamp_min(1e-12)
        height, width = residual.shape[1:]
        total = 0.0
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0)):
            moved = residual[:, down:, max(0, right) : width + min(0, right)]
            still = residual[:, : height - down, max(0, -right) : width - max(0, right)]
            total += float((moved * still).mean() / energy) ** 2
        return total

    def decibels(self, denoise: Denoise, scene: Scene, facts: Facts) -> float:
        """-10 log10 of the sum, at most 60."""
        return -10 * math.log10(max(self.error(denoise, scene, facts), 1e-6))


@cache
def criteria() -> dict[str, Criterion]:
    """Every criterion by name, the most trusted first, those that ``auto`` never takes last."""
    found, pending = [], list(Criterion.__subclasses__())
    while pending:
        one = pending.pop()
        pending.extend(one.__subclasses__())
        if "name" in vars(one):
            found.append(one())
    return {one.name: one for one in sorted(found, key=lambda one: (one.rank or math.inf, one.name))}


def criterion(name: str) -> Criterion:
    """The criterion of that name. Raises UserError that names the nearest."""
    try:
        return criteria()[name]
    except KeyError:
        raise UserError(f"There is no criterion '{name}': {nearest(name, [*criteria(), AUTO])}.") from None


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why each of the stronger ones was not: (criterion, reason)."""

    criterion: Criterion
    refused: tuple[tuple[Criterion, str], ...]

    def __str__(self) -> str:
        why = "".join(f" {one.title} is out: {reason}." for one, reason in self.refused)
        return f"Chosen by {self.criterion.title} ({self.criterion.assumption}; {self.criterion.source}).{why}"


def choose(name: str, facts: Facts) -> Choice:
    """The criterion of that name, or for ``auto`` the strongest that the noise licenses.

    Raises UserError where it is refused, or where none is reliable, with what was measured and what to record.
    """
    if name != AUTO:
        one = criterion(name)
        if (reason := one.refusal(facts)) is not None:
            raise UserError(f"{one.title} cannot be trusted here: {reason}. Use --criterion auto, or another one.")
        return Choice(one, ())
    refused: list[tuple[Criterion, str]] = []
    for one in criteria().values():
        if not one.rank:
            continue
        if (reason := one.refusal(facts)) is None:
            return Choice(one, tuple(refused))
        refused.append((one, reason))
    reasons = "; ".join(f"{one.title}: {reason}" for one, reason in refused)
    raise UserError(
        f"No criterion can be trusted on these images without clean ones ({reasons}). Record each scene of a few twice "
        "or more often, without anything moving, and give the frames (which_method.py --repeats FOLDER, studies --test "
        "frames:FOLDER); or give clean images."
    )


def _probes(image: Tensor) -> int:
    """How many random directions an image gets."""
    return max(1, round(PIXELS / image.numel()))
