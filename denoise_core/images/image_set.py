"""A named, ordered set of images in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from denoise_core.errors import UserError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one kind, in a fixed order.

    ``pixels[i]`` is (C, H, W) float32 in [0, 1]; H and W may differ between the images, C may not. ``ids`` are unique
    and name the images in results and in the seeds of their noise.

    ``noisy[i]``, where there are any, is a noisy version of ``pixels[i]`` as it was recorded, of the same shape.
    """

    name: str
    ids: tuple[str, ...]
    pixels: tuple[Tensor, ...]
    noisy: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError where a caller breaks the contract above, UserError for an empty set."""
        if not self.ids:
            raise UserError(f"the image set {self.name!r} is empty; give it at least one image.")
        if len(self.ids) != len(self.pixels) or len(set(self.ids)) != len(self.ids):
            raise ValueError(f"{self.name}: {len(self.pixels)} images need as many different ids, got {len(self.ids)}")
        if any(image.ndim != 3 or image.dtype != torch.float32 for image in self.pixels):
            raise ValueError(f"{self.name}: every image must be (C, H, W) float32")
        if len({image.shape[0] for image in self.pixels}) != 1:
            raise ValueError(f"{self.name}: all images must have the same number of channels")
        if self.noisy is not None and [one.shape for one in self.noisy] != [one.shape for one in self.pixels]:
            raise ValueError(f"{self.name}: every image needs one noisy version of its own shape")

    @property
    def channels(self) -> int:
        """Number of channels C: 1 for gray, 3 for colour."""
        return self.pixels[0].shape[0]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over ids, shapes and pixel bytes, noisy ones included; the name does not count."""
        return hashlib.sha256(repr(list(self.digests.items())).encode()).hexdigest()

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 (hex) of each image's shape and pixels, by id; of both versions where there is a noisy one."""
        if self.noisy is None:
            return {image_id: _digest(image) for image_id, image in zip(self.ids, self.pixels, strict=True)}
        versions = zip(self.ids, self.pixels, self.noisy, strict=True)
        return {image_id: f"{_digest(image)} {_digest(noisy)}" for image_id, image, noisy in versions}

    @cached_property
    def seen(self) -> dict[str, str]:
        """The id of the image that shows some pixels, clean or noisy, by their SHA-256."""
        return {one: image_id for image_id, digest in self.digests.items() for one in digest.split()}

    def subset(self, indices: Sequence[int], name: str) -> ImageSet:
        """The images at ``indices``, in that order, sharing memory with this set."""
        noisy = None if self.noisy is None else tuple(self.noisy[i] for i in indices)
        return ImageSet(name, tuple(self.ids[i] for i in indices), tuple(self.pixels[i] for i in indices), noisy)

    def hold_out(self, count: int) -> tuple[ImageSet, ImageSet]:
        """``(training part, validation part)``: ``count`` images at evenly spaced places are set aside.

        The places depend on the two numbers only, so every trial of every study sets the same images aside. The parts
        of ``train400`` are called ``train400[:-20]`` and ``train400[-20:]``. UserError unless 1 <= count < len(self).
        """
        total = len(self)
        if not 1 <= count < total:
            raise UserError(
                f"cannot hold out {count} of the {total} images of {self.name}: give a number from 1 to {total - 1}."
            )
        # The middle of each of `count` equal stretches: neighbours in a sorted folder are often alike.
        held = [(2 * i + 1) * total // (2 * count) for i in range(count)]
        rest = sorted(set(range(total)) - set(held))
        return self.subset(rest, f"{self.name}[:-{count}]"), self.subset(held, f"{self.name}[-{count}:]")


def _digest(image: Tensor) -> str:
    digest = hashlib.sha256(repr(tuple(image.shape)).encode())
    digest.update(image.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
