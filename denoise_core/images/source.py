"""Training batches as a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import lru_cache, partial
from typing import Literal, Protocol

import torch
from torch import Tensor

from denoise_core.errors import UserError, nearest
from denoise_core.images.image_set import ImageSet
from denoise_core.images.windows import to_window
from denoise_core.noise.models import NoiseModel
from denoise_core.seeding import generator

Realisation = Literal["fresh", "frozen"]
NOISE_FIELDS = ("noise", "noise2")
"""Fields that hold noise alone."""


class ImageSource(Protocol):
    """Where the batches of a training come from."""

    @property
    def channels(self) -> int:
        """Channels C of every tensor of a batch."""

    @property
    def fields(self) -> frozenset[str]:
        """What a batch can hold: ``noisy``, ``noisy2`` (an independent noise on the same crop), ``clean`` (the same
        crop without noise), ``clean_unpaired`` (crops of other images), ``noise`` and ``noise2`` (what new noise adds
        to the crop, even where ``noisy`` is frozen), ``smooth`` (noise found in smooth places of the noisy images)."""

    def check(self, patch: int) -> list[str]:
        """Warnings about training on crops of this edge (pixels). Raises UserError if they cannot be cut."""

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

    ``clean`` are further images, of other scenes, for the field ``clean_unpaired``; their crops are drawn by
    themselves. ``window`` maps CT images to a Hounsfield window after the noise was added.

    Order, crops and frozen noise are the same on every device; fresh noise is drawn on ``device``, so it repeats
    exactly only there.
    """

    def __init__(
        self,
        images: ImageSet,
        noise: NoiseModel,
        realisation: Realisation,
        seed: int,
        device: torch.device,
        *,
        clean: ImageSet | None = None,
        window: str = "",
    ) -> None:
        if noise.whole_image and realisation == "fresh":
            raise UserError(
                f"the noise {noise.name} belongs to a whole image and cannot be drawn anew for every crop; "
                "use --set noise_realisation=frozen."
            )
        self.channels = images.channels
        drawn = () if noise.whole_image or window else NOISE_FIELDS
        self.fields = frozenset(
            ("noisy", "noisy2", "clean", *drawn, *(("clean_unpaired",) if clean is not None else ()))
        )
        self._sets = {"clean": images, **({"clean_unpaired": clean} if clean is not None else {})}
        self._noise, self.realisation = noise, realisation
        self.seed, self._device = seed, device
        self.window = window
        self._view = partial(to_window, name=window) if window else _as_it_is
        self._given: frozenset[str] = frozenset()
        # Whole images by field; a frozen noisy field is added when it is first asked for.
        self._whole: dict[str, list[Tensor]] = {
            field: [image.to(device) for image in one.pixels] for field, one in self._sets.items()
        }

    def check(self, patch: int) -> list[str]:
        """Raises UserError if an image is smaller than ``patch`` x ``patch`` pixels; no warnings."""
        for images in self._sets.values():
            for image_id, image in zip(images.ids, images.pixels, strict=True):
                height, width = image.shape[1:]
                if min(height, width) < patch:
                    raise UserError(
                        f"the image {image_id} of {images.name} has {height} x {width} pixels, less than the patch "
                        f"of {patch} x {patch}; choose a patch of at most {min(height, width)} or remove the image."
                    )
        return []

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the images that are made noisy."""
        return self._sets["clean"].ids

    def whole(self, field: str) -> list[Tensor]:
        """Every whole image of a field, each (C, H, W) on the source's device: ``clean``, or a frozen noisy field.

        Raises UserError for noise that is drawn anew for every crop, of which there are no whole images.
        """
        if field in self._sets:
            return self._whole[field]
        if self.realisation == "fresh":
            raise UserError(
                "the noisy images must be given once and for all, but their noise is drawn anew for every crop; use "
                "--set noise_realisation=frozen."
            )
        return self._frozen(field)

    def identity(self, field: str) -> tuple[str | int, ...]:
        """What :meth:`whole` depends on, for a cache."""
        return (self._sets["clean"].fingerprint, self._noise.name, self._noise.version, self.seed, field)

    def with_images(self, field: str, images: list[Tensor]) -> SimulatedNoiseSource:
        """The same source with one field more: whole images, one for each that is made noisy, cut at its places."""
        other = copy(self)
        other.fields = self.fields | {field}
        other._whole = {**self._whole, field: images}
        other._given = self._given | {field}
        return other

    def batch(self, *, size: int, patch: int, seed: int, step: int, fields: Sequence[str]) -> dict[str, Tensor]:
        """See :class:`ImageSource`."""
        for field in fields:
            if field not in self.fields:
                raise UserError(f"batches of simulated noise have no field {field!r}: {nearest(field, self.fields)}.")
        places = self._places("clean", size, patch, seed, step)
        clean = _cut(self._whole["clean"], places, patch)
        result: dict[str, Tensor] = {}
        for field in fields:
            if field == "clean":
                result[field] = clean
            elif field == "clean_unpaired":
                result[field] = _cut(self._whole[field], self._places(field, size, patch, seed, step), patch)
            elif field in NOISE_FIELDS:
                result[field] = self._drawn(clean, field, seed, step) - clean
            elif field in self._given or self.realisation == "frozen":
                result[field] = _cut(self._frozen(field), places, patch)
            else:
                result[field] = self._drawn(clean, field, seed, step)
        return {field: one if field in NOISE_FIELDS else self._view(one) for field, one in result.items()}

    def _drawn(self, clean: Tensor, field: str, seed: int, step: int) -> Tensor:
        # A generator per field: `noisy` is the same whether or not `noisy2` is asked for.
        return self._noise(clean, generator(seed, field, step, device=self._device))

    def _places(self, field: str, size: int, patch: int, seed: int, step: int) -> list[tuple[int, int, int]]:
        """(image index, top, left) of every crop of a batch."""
        images = self._sets[field]
        total = len(images)
        draw = generator(seed, "crop", step) if field == "clean" else generator(seed, "crop", field, step)
        draws = torch.rand((size, 2), generator=draw, dtype=torch.float64).tolist()
        places = []
        for position, (down, right) in enumerate(draws, start=step * size):
            epoch, within = divmod(position, total)
            index = _epoch_order(total, seed, epoch, field)[within]
            height, width = images.pixels[index].shape[1:]
            places.append((index, int(down * (height - patch + 1)), int(right * (width - patch + 1))))
        return places

    def _frozen(self, field: str) -> list[Tensor]:
        if field not in self._whole:
            # on the CPU, so that given images are the same wherever they are trained on
            self._whole[field] = [
                self._noise(clean[None], generator(self.seed, "frozen", field, image_id))[0].to(self._device)
                for image_id, clean in zip(self._sets["clean"].ids, self._sets["clean"].pixels, strict=True)
            ]
        return self._whole[field]


@lru_cache(maxsize=8)  # only a cache: a batch larger than the set spans several epochs
def _epoch_order(total: int, seed: int, epoch: int, field: str) -> list[int]:
    draw = generator(seed, "epoch", epoch) if field == "clean" else generator(seed, "epoch", field, epoch)
    order: list[int] = torch.randperm(total, generator=draw).tolist()
    return order


def _as_it_is(images: Tensor) -> Tensor:
    return images


def _cut(images: Sequence[Tensor], places: Sequence[tuple[int, int, int]], patch: int) -> Tensor:
    return torch.stack([images[i][:, top : top + patch, left : left + patch] for i, top, left in places])
