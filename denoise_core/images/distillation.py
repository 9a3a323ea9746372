"""What D-BSN's two stages train on beside the images: sub-images of photographs, and the first stage's results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from denoise_core.cache import Part, remembered
from denoise_core.errors import UserError
from denoise_core.images.crops import CropSource
from denoise_core.images.image_set import LazyImages
from denoise_core.images.shuffle import bayer_group, split
from denoise_core.seeding import generator

BAYER_GROUPS = 4
LABELS_VERSION = 1
"""Part of what labels are kept by: to be raised when the same networks give others."""


class DistillationSource:
    """A source with two fields more.

    ``sub``: crops, ``sub_patch`` pixels wide, of the sub-images that pixel-shuffle down-sampling by ``factor`` makes of
    the noisy images; crop i of a batch is of Bayer phase i % 4, so that a batch holds as many of each. Only with a
    ``factor`` above 1.
    ``label``: crops of what ``label`` makes of each whole noisy image, at the places of the field ``noisy``. It is
    computed once, when it is first asked for, and kept in the cache under the images and what ``label_key`` says that
    the labels depend on: trainings that begin alike have the same. Only where ``label`` is given.

    Both need noisy images that are given once and for all: UserError otherwise.
    """

    def __init__(
        self,
        source: CropSource,
        factor: int,
        sub_patch: int,
        label: Callable[[Tensor], Tensor] | None = None,
        label_key: Callable[[], Sequence[Part]] = tuple,
    ):
        # refuses noise that is drawn anew
        if (factor > 1 or label is not None) and isinstance(source.whole("noisy"), LazyImages):
            raise UserError(
                "sub-images and labels of whole images are kept in memory, and these images are read from disk as they "
                "are needed: use pixel_shuffle = 1 and labels = crop, or images that fit into memory."
            )
        self.source, self.factor, self.sub_patch, self._label = source, factor, sub_patch, label
        self._label_key = label_key
        self.channels = source.channels
        more = (["sub"] if factor > 1 else []) + (["label"] if label is not None else [])
        self.fields = source.fields | frozenset(more)

    def check(self, patch: int) -> list[str]:
        """See ImageSource; raises UserError, too, where ``sub_patch`` does not fit into the sub-images."""
        if self.factor > 1:
            smallest = min(side for image in self.source.whole("noisy") for side in image.shape[1:])
            if self.sub_patch > (least := math.ceil(smallest / self.factor)):
                raise UserError(
                    f"crops of {self.sub_patch} pixels do not fit into the sub-images that pixel_shuffle = "
                    f"{self.factor} makes: the smallest have {least} pixels; give patch_size of at most {least}, or "
                    "larger images."
                )
        return self.source.check(patch)

    def batch(self, *, size: int, patch: int, seed: int, step: int, fields: Sequence[str]) -> dict[str, Tensor]:
        """See ImageSource."""
        found: dict[str, Tensor] = {}
        plain = [field for field in fields if field not in ("sub", "label")]
        if "label" in fields:
            found |= self._labelled.batch(size=size, patch=patch, seed=seed, step=step, fields=[*plain, "label"])
        elif plain:
            found |= self.source.batch(size=size, patch=patch, seed=seed, step=step, fields=plain)
        if "sub" in fields:
            found["sub"] = self._sub(size, patch, generator(seed, "sub", step))
        return {field: found[field] for field in fields}

    @cached_property
    def _labelled(self) -> CropSource:
        noisy = self.source.whole("noisy")
        parts = ("labels", LABELS_VERSION, *self.source.identity("noisy"), *self._label_key())
        flat = remembered(parts, partial(self._made, noisy)).to(noisy[0].device)
        pieces = torch.split(flat, [image.numel() for image in noisy])
        labels = [piece.view_as(image) for piece, image in zip(pieces, noisy, strict=True)]
        return self.source.with_images("label", labels)

    def _made(self, noisy: Sequence[Tensor]) -> Tensor:
        """The labels of all images, one after the other."""
        assert self._label is not None
        return torch.cat([self._label(image[None]).float().cpu().flatten() for image in noisy])

    @cached_property
    def _sub_images(self) -> list[list[Tensor]]:
        """The sub-images (C, h, w) of each Bayer phase."""
        groups: list[list[Tensor]] = [[] for _ in range(BAYER_GROUPS)]
        for image in self.source.whole("noisy"):
            for at, part in enumerate(split(image[None], self.factor)):
                groups[bayer_group(at, self.factor)].append(part)
        return groups

    def _sub(self, size: int, patch: int, draw: torch.Generator) -> Tensor:
        crops = []
        for item in range(size):
            group = self._sub_images[item % BAYER_GROUPS]
            image = group[int(torch.randint(len(group), (), generator=draw))]
            room = [side - patch + 1 for side in image.shape[1:]]
            top, left = (int(torch.randint(one, (), generator=draw)) for one in room)
            crops.append(image[:, top : top + patch, left : left + patch])
        return torch.stack(crops)
