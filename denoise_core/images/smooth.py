"""Noise that was found in the images themselves: crops of smooth patches, minus their mean (GAN2GAN, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.images.crops import CropSource
from denoise_core.images.patches import Scored, SmoothPatches, choose, extract, signal_dependence
from denoise_core.images.smooth_rules import SmoothRule
from denoise_core.seeding import generator


class SmoothNoiseSource:
    """A source with the field ``smooth`` beside its own: zero-mean crops of the smooth patches of its noisy images.

    Patches are looked for when they are first needed, and kept as places, not as pixels. ``smallest`` is the number of
    patches that there must be. Raises UserError where the noisy images are not given once and for all.
    """

    def __init__(
        self,
        source: CropSource,
        rule: SmoothRule,
        threshold: float | Literal["auto"],
        *,
        smallest: int,
        limit: int,
        seed: int,
    ):
        source.whole("noisy")  # refuses noise that is drawn anew
        self.source, self.rule, self.threshold = source, rule, threshold
        self.smallest, self.limit, self.seed = smallest, limit, seed
        self.channels = source.channels
        self.fields = source.fields | {"smooth"}

    @cached_property
    def scored(self) -> Scored:
        """The scores of all windows, from the cache where they are known."""
        source = self.source
        return extract(source.whole("noisy"), source.ids, self.rule, cache_parts=source.identity("noisy"))

    @cached_property
    def patches(self) -> SmoothPatches:
        """The patches that are smooth enough. Raises UserError where they are fewer than a batch."""
        return choose(self.scored, self.threshold, batch=self.smallest, limit=self.limit, seed=self.seed)

    def check(self, patch: int) -> list[str]:
        """See ImageSource; warns of noise that depends on the signal."""
        if patch > self.rule.size:
            raise UserError(
                f"a crop of {patch} pixels does not fit into a smooth patch of {self.rule.size}: give patch_size of at "
                f"most {self.rule.size}, or a larger window_size."
            )
        warnings = self.source.check(patch)
        found = signal_dependence(self.source.whole("noisy"), self.patches)
        return [*warnings, *([found] if found else [])]

    def batch(self, *, size: int, patch: int, seed: int, step: int, fields: Sequence[str]) -> dict[str, Tensor]:
        """See ImageSource."""
        others = [field for field in fields if field != "smooth"]
        found = self.source.batch(size=size, patch=patch, seed=seed, step=step, fields=others)
        if "smooth" in fields:
            found["smooth"] = self._smooth(size, patch, generator(seed, "smooth", step))
        return {field: found[field] for field in fields}

    def samples(self, count: int, patch: int, seed: int) -> Tensor:
        """(count, C, patch, patch) of the field ``smooth``, drawn from ``seed``."""
        return self._smooth(count, patch, generator(seed, "smooth samples"))

    def deviations(self) -> Tensor:
        """The standard deviation of each patch about its own mean, in the images' units."""
        noisy = self.source.whole("noisy")
        return torch.stack([_window(noisy, place, self.patches.size).std(correction=0) for place in self._places])

    @property
    def _places(self) -> list[list[int]]:
        return self.patches.places.tolist()  # type: ignore[no-any-return]

    def _smooth(self, size: int, patch: int, draw: torch.Generator) -> Tensor:
        noisy, places, room = self.source.whole("noisy"), self.patches.places, self.patches.size - patch + 1
        chosen = torch.randint(len(places), (size,), generator=draw)
        shifts = torch.randint(room, (size, 2), generator=draw)
        at = places[chosen].clone()
        at[:, 1:] += shifts.to(at)
        crops = torch.stack([_window(noisy, place, patch) for place in at.tolist()])
        # the code's order: the mean of the crop is removed, not that of the larger patch
        return crops - crops.mean((1, 2, 3), keepdim=True)


def _window(images: Sequence[Tensor], place: Sequence[int], side: int) -> Tensor:
    index, top, left = place
    return images[index][:, top : top + side, left : left + side]
