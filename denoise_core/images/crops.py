"""Crops of whole images as a pure function of (seed, step): what every source of training batches has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from functools import lru_cache, partial
from typing import Literal, Self

import torch
from torch import Tensor

from denoise_core.errors import UserError, nearest
from denoise_core.images.image_set import ImageSet, LazyImages
from denoise_core.images.windows import to_window
from denoise_core.seeding import generator

Realisation = Literal["fresh", "frozen"]
Place = tuple[int, int, int]
"""(image index, top, left) of a crop."""
NOISE_FIELDS = ("noise", "noise2")
"""Fields that hold noise alone."""
UNPAIRED = "clean_unpaired"
"""The field of clean images of other scenes."""
NO_CLEAN = (
    "give clean versions of the training images (simulated noise or recorded pairs, and not transductive=true), or "
    "a method that learns from noisy images alone (--references none leaves out others)"
)
"""What to do where a method needs clean versions and the data has none."""


class CropSource(ABC):
    """Crops of whole images.

    Each epoch takes one crop of each image, in an order of its own; crop positions are uniform over all places that
    fit, and there are no flips (Neighbor2Neighbor uses none). Order and crops are the same on every device.

    ``whole`` are the images' versions by field, in their order. ``clean`` are further images, of other scenes, for the
    field ``clean_unpaired``; their crops are drawn by themselves. ``window`` maps CT images to a Hounsfield window.
    """

    realisation: Realisation

    def __init__(
        self,
        images: ImageSet,
        whole: Mapping[str, Sequence[Tensor]],
        seed: int,
        device: torch.device,
        *,
        clean: ImageSet | None,
        window: str,
    ) -> None:
        self.channels = images.channels
        self.seed, self.window = seed, window
        self._images, self._unpaired, self._device = images, clean, device
        unpaired = {} if clean is None else {UNPAIRED: clean.pixels}
        # Whole images by field; a frozen noisy field is added when it is first asked for.
        self._whole = {field: _on(pixels, device) for field, pixels in {**whole, **unpaired}.items()}
        self.fields = frozenset(self._whole)
        self._view = partial(to_window, name=window) if window else _as_it_is

    @abstractmethod
    def whole(self, field: str) -> Sequence[Tensor]:
        """Every whole image of a field, each (C, H, W) on the source's device. Raises UserError where there is none.

        Those of a set that is read when it is asked for (:class:`LazyImages`) are so here as well.
        """

    @abstractmethod
    def identity(self, field: str) -> tuple[str | int, ...]:
        """What :meth:`whole` depends on, for a cache."""

    @abstractmethod
    def _crops(self, field: str, places: Sequence[Place], patch: int, seed: int, step: int) -> Tensor:
        """(N, C, patch, patch) of a field at ``places``, before the window."""

    def check(self, patch: int) -> list[str]:
        """Raises UserError if an image is smaller than ``patch`` x ``patch`` pixels; no warnings."""
        for images in filter(None, (self._images, self._unpaired)):
            for image_id, (_, height, width) in zip(images.ids, images.shapes, strict=True):
                if min(height, width) < patch:
                    raise UserError(
                        f"the image {image_id} of {images.name} has {height} x {width} pixels, less than the patch "
                        f"of {patch} x {patch}; choose a patch of at most {min(height, width)} or remove the image."
                    )
        return []

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the images that are seen noisy."""
        return self._images.ids

    def with_images(self, field: str, images: list[Tensor]) -> Self:
        """The same source with one field more: whole images, one for each that is seen noisy, cut at its places."""
        other = copy(self)
        other.fields = self.fields | {field}
        other._whole = {**self._whole, field: images}
        return other

    def batch(self, *, size: int, patch: int, seed: int, step: int, fields: Sequence[str]) -> dict[str, Tensor]:
        """See :class:`denoise_core.images.source.ImageSource`."""
        for field in fields:
            if field not in self.fields:
                raise UserError(f"batches of these images have no field {field!r}: {nearest(field, self.fields)}.")
        places = self._places(self._images, size, patch, seed, step)
        result: dict[str, Tensor] = {}
        for field in fields:
            if field == UNPAIRED:
                assert self._unpaired is not None
                others = self._places(self._unpaired, size, patch, seed, step, UNPAIRED)
                crops = self._cut(self._whole[field], others, patch)
            else:
                crops = self._crops(field, places, patch, seed, step)
            result[field] = crops if field in NOISE_FIELDS else self._view(crops)
        return result

    @staticmethod
    def _places(images: ImageSet, size: int, patch: int, seed: int, step: int, *field: str) -> list[Place]:
        """Of every crop of a batch; those of a ``field`` of its own are drawn by themselves."""
        total = len(images)
        draws = torch.rand((size, 2), generator=generator(seed, "crop", *field, step), dtype=torch.float64).tolist()
        places = []
        for position, (down, right) in enumerate(draws, start=step * size):
            epoch, within = divmod(position, total)
            index = _epoch_order(total, seed, epoch, *field)[within]
            _, height, width = images.shapes[index]
            places.append((index, int(down * (height - patch + 1)), int(right * (width - patch + 1))))
        return places

    @staticmethod
    def _cut(images: Sequence[Tensor], places: Sequence[Place], patch: int) -> Tensor:
        if isinstance(images, LazyImages):
            return torch.stack([images.crop(*place, patch) for place in places])
        return torch.stack([images[i][:, top : top + patch, left : left + patch] for i, top, left in places])


@lru_cache(maxsize=8)  # only a cache: a batch larger than the set spans several epochs
def _epoch_order(total: int, seed: int, epoch: int, *field: str) -> list[int]:
    order: list[int] = torch.randperm(total, generator=generator(seed, "epoch", *field, epoch)).tolist()
    return order


def _on(images: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    return images.on(device) if isinstance(images, LazyImages) else [one.to(device) for one in images]


def _as_it_is(images: Tensor) -> Tensor:
    return images
