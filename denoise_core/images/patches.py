"""Smooth windows of noisy images: where the scene is flat, a window minus its mean is a sample of the noise.

The rules of GAN2GAN (Cha et al., ICLR 2021, Eq. 4) and GCBD (Chen et al., CVPR 2018; Eq. 3 of the former). The official
code of GAN2GAN skips the last aligned window of each row and column (a strict <); here it counts.

A window's score does not depend on the threshold, so one pass over the images serves every threshold: :func:`extract`
scores, :func:`choose` selects. Images are visited once, a few at a time, and only 16 bytes a window are kept.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from denoise_core.cache import Part, remembered
from denoise_core.errors import UserError
from denoise_core.images.smooth_rules import SmoothRule, VarianceRule, box_sums
from denoise_core.seeding import generator

VERSION = 1
"""Part of the key of remembered scores: to be raised when a score changes."""

BATCH = 2**20
"""Values of images (pixels times channels) that are read before they are scored, those of one shape together."""

ENOUGH = 10_000
"""Windows that are always enough: GAN2GAN's README advises a lambda that keeps at least so many."""

SATURATED_IMAGE, EXTREME_PIXELS, SATURATED_WINDOW = 0.5, 0.001, 0.01
"""Largest part of an image at one value; part from which its extreme value counts as saturation; part of a window."""

NEIGHBOURS = (1.5, 2.0, 4.0)
"""A lambda that keeps too little is shown next to these multiples of it."""

LARGEST_SAMPLE = 2_000
"""Patches that the variance is fitted to."""


@dataclass(frozen=True, eq=False)
class Scored:
    """All windows of a set of images with their scores.

    ``places`` is (N, 3) int32: index of the image, top, left, in this order; ``scores`` is (N,) float32, see
    :class:`SmoothRule`. Both are on the CPU.
    """

    rule: SmoothRule
    places: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def places_within(self, threshold: float) -> Tensor:
        """The places of the windows that a threshold keeps, (N, 3) int32, in order."""
        return self.places[self._kept(threshold)]

    def count(self, threshold: float) -> int:
        """How many windows a threshold keeps; with inf, how many are usable at all."""
        return int(self._kept(threshold).sum())

    def threshold_for(self, count: int) -> float:
        """The smallest threshold that keeps at least ``count`` >= 1 windows; inf where none does."""
        return self.scores.kthvalue(count).values.item() if count <= len(self) else math.inf

    def _kept(self, threshold: float) -> Tensor:
        return (self.scores <= threshold) & self.scores.isfinite()


@dataclass(frozen=True, eq=False)
class SmoothPatches:
    """The chosen windows: ``places`` (N, 3) int32 as in :class:`Scored`, ``size`` x ``size`` pixels each.

    ``threshold`` is the one they were chosen with, ``survivors`` the windows that it keeps (more than N where a limit
    was reached), ``windows`` all that there are.
    """

    places: Tensor
    size: int
    threshold: float
    survivors: int
    windows: int

    def __len__(self) -> int:
        return len(self.places)


def extract(
    images: Iterable[Tensor], ids: Sequence[str], rule: SmoothRule, *, cache_parts: Sequence[Part] | None
) -> Scored:
    """The scores of all windows of all ``images``, each (C, H, W) and finite; ``ids`` name them in errors.

    Windows with more than 1 % of saturated pixels are never accepted. Images are taken one after the other and kept
    until they have :data:`BATCH` values together, so that small ones are scored in one go; a generator must not write
    into what it gave. With ``cache_parts``, which must name all that the pixels depend on, a result is remembered on
    disk, and images are not looked at where it is found.

    Raises UserError for an image that is smaller than a window, constant, saturated in more than half of its pixels, or
    not finite.
    """

    def compute() -> Tensor:
        table = bytearray()  # one block that grows: small tensors strewn between the images would hold their memory
        batch, values = [], 0
        for index, image in enumerate(images):
            batch.append(_Checked(index, image, _rejected(image, ids[index], rule)))
            values += image.numel()
            if values >= BATCH:
                table += _scored(batch, rule)
                batch, values = [], 0
        table += _scored(batch, rule)
        return torch.frombuffer(table, dtype=torch.int32).view(-1, 4)

    table = compute() if cache_parts is None else remembered(("smooth", VERSION, repr(rule), *cache_parts), compute)
    return Scored(rule, table[:, :3].contiguous(), table[:, 3].contiguous().view(torch.float32))


def choose(
    scored: Scored, threshold: float | Literal["auto"], *, batch: int, limit: int = 20_000, seed: int
) -> SmoothPatches:
    """The windows that ``threshold`` (lambda of Eq. 4) keeps; a seeded choice of ``limit`` of them if they are more.

    ``auto`` takes the smallest threshold that keeps 3 % of the windows, but at least four batches and at most 10,000
    windows. 10,000 is the authors' advice, and no training of theirs had less than 11,000 (S.M. Table 3); but 400 crops
    of 180 x 180 pixels have 6,400 windows in all, and only the flat ones are noise. A smaller share is nearer to pure
    noise, a larger one has more of it: with sigma 25, 3 % of ``kodak24`` are 376 patches with a mean deviation of 25.2
    (lambda 0.024), 3 % of ``train400`` 192 with 26.7 (lambda 0.11). Where nothing is flat, it takes what is least
    uneven: a threshold above 0.2 or so means structure in the noise.

    ``limit`` = 0 is none. The paper takes the first 20,000 in the order of the files; a choice among all shows more
    scenes. Raises UserError for fewer than ``batch`` windows; a rule without a threshold has every value accepted.
    """
    if 0 < limit < batch:
        raise UserError(
            f"a limit of {limit} smooth patches is less than a batch of {batch}; raise the limit, or use 0 for none."
        )
    usable = scored.count(math.inf)
    if threshold == "auto":
        wanted = min(ENOUGH, max(4 * batch, math.ceil(0.03 * len(scored))), usable)
        threshold = scored.threshold_for(max(1, wanted))
    places = scored.places_within(threshold)
    survivors = len(places)
    if survivors < batch:
        raise UserError(_too_few(scored, threshold, survivors, usable, batch))
    if 0 < limit < survivors:
        kept = torch.randperm(survivors, generator=generator(seed, "smooth patches"))[:limit]
        places = places[kept.sort().values]
    return SmoothPatches(places, scored.rule.size, threshold, survivors, len(scored))


def variance_slope(images: Sequence[Tensor], patches: SmoothPatches) -> tuple[float, float]:
    """``(slope, standard error)`` of the patches' variance over their mean intensity, by least squares.

    The slope is in units of intensity: 1 / lambda for Poisson noise of lambda counts. At most 2,000 patches are
    measured, none overlapping another. With fewer than three, or all of one mean, nothing is known: (0, inf).
    """
    slope, error, _ = _fit(*_measured(images, patches))
    return slope, error


def signal_dependence(images: Sequence[Tensor], patches: SmoothPatches) -> str | None:
    """A warning where the variance of the noise visibly depends on the brightness, else None.

    Visibly: the slope is more than four standard errors from zero, and the fitted variance changes by more than 30 % of
    the mean variance between the darkest and the brightest decile of the patches.
    """
    means, variances = _measured(images, patches)
    slope, error, line = _fit(means, variances)
    if not abs(slope) > 4 * error:
        return None
    low, high = torch.quantile(means, means.new_tensor([0.1, 0.9])).tolist()
    if abs(slope) * (high - low) <= 0.3 * variances.mean().item():
        return None
    dark, bright = (255 * math.sqrt(max(0.0, line + slope * at)) for at in (low, high))
    return (
        f"The noise's variance {'grows' if slope > 0 else 'falls'} with brightness (slope {slope:.2g} per unit of "
        f"intensity, from a deviation of {dark:.1f}/255 at {low:.2f} to {bright:.1f}/255 at {high:.2f}): GAN2GAN "
        "assumes noise independent of the signal; expect a bias, or stabilise the variance first (Anscombe)."
    )


@dataclass(frozen=True, eq=False)
class _Checked:
    """An image (C, H, W) that can be used, its place in the set, and which of its windows are saturated, if any."""

    index: int
    image: Tensor
    rejected: Tensor | None


def _scored(batch: Sequence[_Checked], rule: SmoothRule) -> bytes:
    """Of every window, in order, the place and the bits of the score, as four int32: one file then holds both."""
    alike = defaultdict(list)
    for one in batch:
        alike[one.image.shape].append(one)
    tables = [table for group in alike.values() for table in _scored_alike(group, rule)]
    return b"".join(table for _, table in sorted(tables))


def _scored_alike(group: Sequence[_Checked], rule: SmoothRule) -> list[tuple[int, bytes]]:
    """``(index, what _scored says)`` of each image, all of one shape."""
    scores = rule.scores([one.image for one in group]).cpu()
    for found, one in zip(scores, group, strict=True):
        if one.rejected is not None:
            found.masked_fill_(one.rejected, math.inf)
    starts = (torch.arange(count, dtype=torch.int32) * rule.stride for count in scores.shape[1:])
    table = torch.empty((len(group), scores[0].numel(), 4), dtype=torch.int32)
    table[..., 0] = torch.tensor([[one.index] for one in group])
    table[..., 1:3] = torch.cartesian_prod(*starts)
    table[..., 3] = scores.flatten(1).view(torch.int32)
    return [(one.index, rows.tobytes()) for one, rows in zip(group, table.numpy(), strict=True)]


def _rejected(image: Tensor, image_id: str, rule: SmoothRule) -> Tensor | None:
    """The windows with too many saturated pixels, (rows, columns) on the CPU, or None where no pixel is saturated.

    Raises UserError for an image without use.
    """
    if min(image.shape[1:]) < rule.size:
        raise UserError(
            f"the image {image_id} has {image.shape[1]} x {image.shape[2]} pixels, less than the window of {rule.size} "
            f"x {rule.size}; choose a window_size of at most {min(image.shape[1:])} or remove the image."
        )
    saturated = _saturated(image, image_id)
    if saturated is None:
        return None
    return box_sums(saturated.double(), rule.size, rule.stride).amax(0) / rule.size**2 > SATURATED_WINDOW


def _saturated(image: Tensor, image_id: str) -> Tensor | None:
    """Which pixels are saturated, (C, H, W), or None where none are. Raises UserError for an image without use."""
    found: Tensor | None = None
    for index, pixels in enumerate(image.numpy(force=True)):  # NumPy counts equal values five times as fast
        low, high = float(pixels.min()), float(pixels.max())
        name = f"the image {image_id}" + (f" (channel {index + 1})" if len(image) > 1 else "")
        if not (math.isfinite(low) and math.isfinite(high)):
            raise UserError(f"{name} has pixels that are not finite; repair or remove it.")
        if low == high:
            raise UserError(f"{name} is constant, so that there is no noise to learn; remove it.")
        values = [value for value in dict.fromkeys((low, high, 0.0, 1.0)) if low <= value <= high]
        share = {value: np.count_nonzero(pixels == value) / pixels.size for value in values}
        if sum(share.values()) > SATURATED_IMAGE:
            named = " or ".join(f"{value:g}" for value in sorted(share) if share[value] > EXTREME_PIXELS)
            raise UserError(
                f"{name} is saturated: {sum(share.values()):.0%} of its pixels are exactly {named}, where no noise is "
                "left; remove it, or give images that are not clipped."
            )
        for value in (low, high):
            if share[value] > EXTREME_PIXELS:
                found = torch.zeros(image.shape, dtype=torch.bool) if found is None else found
                found[index] |= torch.from_numpy(pixels == value)
    return found


def _too_few(scored: Scored, threshold: float, survivors: int, usable: int, batch: int) -> str:
    """The sentence that refuses a threshold."""
    total = f"{len(scored):,} windows"
    if isinstance(scored.rule, VarianceRule):
        return (
            f"the rule of GCBD keeps {survivors:,} of {total}, fewer than a batch of {batch}, and has no patch_lambda "
            f"to tune; raise mean_tolerance = {scored.rule.mean_tolerance:g} or variance_tolerance = "
            f"{scored.rule.variance_tolerance:g}, or give more images."
        )
    if usable < batch:
        return (
            f"{usable:,} of {total} are usable at any patch_lambda, fewer than a batch of {batch}; give more or larger "
            "images, or a smaller batch."
        )
    around = [(f"{factor * threshold:.3g}", f"{scored.count(factor * threshold):,}") for factor in NEIGHBOURS]
    counts = ", ".join(f"{value}{'' if i else ' would keep'} {count}" for i, (value, count) in enumerate(around))
    better = _rounded_up(scored.threshold_for(min(2 * batch, usable)))
    return (
        f"patch_lambda = {threshold:g} keeps {survivors:,} of {total}, fewer than a batch of {batch}: "
        f"{counts}; use --set patch_lambda={better:g} "
        f"({scored.count(better):,} windows), or --set patch_lambda=auto."
    )


def _rounded_up(value: float) -> float:
    """To two digits, for a sentence."""
    if value <= 0:
        return value
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.2g}")


def _measured(images: Sequence[Tensor], patches: SmoothPatches) -> tuple[Tensor, Tensor]:
    """Mean and variance (average over channels) of patches that share no pixel, float64."""
    places = _apart(patches.places.tolist(), patches.size)
    places = places[:: math.ceil(len(places) / LARGEST_SAMPLE) or 1]
    size = patches.size
    pixels = (images[index][:, top : top + size, left : left + size].double() for index, top, left in places)
    pairs = [(one.mean().item(), one.var((1, 2)).mean().item()) for one in pixels]
    means, variances = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2).T
    return means, variances


def _apart(places: Sequence[Sequence[int]], size: int) -> list[Sequence[int]]:
    """Those places, each taken if it can be, whose windows do not overlap: a standard error assumes independence."""
    kept: dict[tuple[int, int, int], Sequence[int]] = {}  # a cell of size x size pixels begins at most one window
    for place in places:
        image, top, left = place
        row, column = top // size, left // size
        near = (kept.get((image, row + i, column + j)) for i in (-1, 0, 1) for j in (-1, 0, 1))
        if all(other is None or abs(top - other[1]) >= size or abs(left - other[2]) >= size for other in near):
            kept[image, row, column] = place
    return list(kept.values())


def _fit(x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """``(slope, its standard error, intercept)`` of the least-squares line."""
    if len(x) < 3 or x.min() == x.max():
        return 0.0, math.inf, 0.0
    middle = x.mean()
    spread = (x - middle).square().sum()
    slope = ((x - middle) * y).sum() / spread
    line = y.mean() - slope * middle
    error = ((y - line - slope * x).square().sum() / (len(x) - 2) / spread).sqrt()
    return slope.item(), error.item(), line.item()
