"""Training batches as a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, Protocol

import torch
from torch import Tensor

from denoise_core.errors import UserError, nearest
from denoise_core.images.image_set import ImageSet
from denoise_core.noise.models import NoiseModel
from denoise_core.seeding import generator

Realisation = Literal["fresh", "frozen"]


class ImageSource(Protocol):
    """Where the batches of a training come from."""

    @property
    def channels(self) -> int:
        """Channels C of every tensor of a batch."""

    @property
    def fields(self) -> frozenset[str]:
        """What a batch can hold: ``noisy``, ``noisy2`` (an independent noise on the same crop), ``clean``."""

    def check(self, patch: int) -> None:
        """Raise UserError if crops of this edge (pixels) cannot be cut from every image."""

    def batch(self, *, size: int, patch: int, seed: int, step: int, fields: Sequence[str]) -> dict[str, Tensor]:
        """The asked ``fields`` of step ``step``, each (size, C, patch, patch) float32 on the device of the source.

        Assumes that :meth:`check` accepts ``patch``. Raises UserError for a field that the source does not have.
        """


class SimulatedNoiseSource:
    """Clean images with simulated noise.

    Each epoch takes one crop of each image, in an order of its own; crop positions are uniform over all places that
    fit, and there are no flips (Neighbor2Neighbor uses none). ``fresh`` draws new noise for every crop. ``frozen``
    gives every whole image one noisy version per field, from the ``seed`` of the source, as if it had been recorded
    once: all crops of the image see the same realisation. A noise with a range of levels draws one level per crop
    (fresh) or per image (frozen).

    Order and crops are the same on every device; noise is drawn on ``device``, so it repeats exactly only there.
    """

    def __init__(
        self, images: ImageSet, noise: NoiseModel, realisation: Realisation, seed: int, device: torch.device
    ) -> None:
        self.channels = images.channels
        self.fields = frozenset(("noisy", "noisy2", "clean"))
        self._images, self._noise, self._realisation = images, noise, realisation
        self._seed, self._device = seed, device
        # Whole images by field; a frozen noisy field is added when it is first asked for.
        self._whole: dict[str, list[Tensor]] = {"clean": [image.to(device) for image in images.pixels]}

    def check(self, patch: int) -> None:
        """Raise UserError if an image is smaller than ``patch`` x ``patch`` pixels."""
        for image_id, image in zip(self._images.ids, self._images.pixels, strict=True):
            height, width = image.shape[1:]
            if min(height, width) < patch:
                raise UserError(
                    f"the image {image_id} of {self._images.name} has {height} x {width} pixels, less than the patch "
                    f"of {patch} x {patch}; choose a patch of at most {min(height, width)} or remove the image."
                )

    def batch(self, *, size: int, patch: int, seed: int, step: int, fields: Sequence[str]) -> dict[str, Tensor]:
        """See :class:`ImageSource`."""
        for field in fields:
            if field not in self.fields:
                raise UserError(f"batches of simulated noise have no field {field!r}: {nearest(field, self.fields)}.")
        places = self._places(size, patch, seed, step)
        fresh = self._realisation == "fresh"
        result: dict[str, Tensor] = {}
        if fresh or "clean" in fields:
            result["clean"] = _cut(self._whole["clean"], places, patch)
        for field in fields:
            if field != "clean":
                # A generator per field: `noisy` is the same whether or not `noisy2` is asked for.
                result[field] = (
                    self._noise(result["clean"], generator(seed, field, step, device=self._device))
                    if fresh
                    else _cut(self._frozen(field), places, patch)
                )
        return {field: result[field] for field in fields}

    def _places(self, size: int, patch: int, seed: int, step: int) -> list[tuple[int, int, int]]:
        """(image index, top, left) of every crop of a batch."""
        total = len(self._images)
        draws = torch.rand((size, 2), generator=generator(seed, "crop", step), dtype=torch.float64).tolist()
        places = []
        for position, (down, right) in enumerate(draws, start=step * size):
            epoch, within = divmod(position, total)
            index = _epoch_order(total, seed, epoch)[within]
            height, width = self._images.pixels[index].shape[1:]
            places.append((index, int(down * (height - patch + 1)), int(right * (width - patch + 1))))
        return places

    def _frozen(self, field: str) -> list[Tensor]:
        if field not in self._whole:
            pairs = zip(self._images.ids, self._whole["clean"], strict=True)
            self._whole[field] = [
                self._noise(clean[None], generator(self._seed, "frozen", field, image_id, device=self._device))[0]
                for image_id, clean in pairs
            ]
        return self._whole[field]


@lru_cache(maxsize=8)  # only a cache: a batch larger than the set spans several epochs
def _epoch_order(total: int, seed: int, epoch: int) -> list[int]:
    order: list[int] = torch.randperm(total, generator=generator(seed, "epoch", epoch)).tolist()
    return order


def _cut(images: Sequence[Tensor], places: Sequence[tuple[int, int, int]], patch: int) -> Tensor:
    return torch.stack([images[i][:, top : top + patch, left : left + patch] for i, top, left in places])
