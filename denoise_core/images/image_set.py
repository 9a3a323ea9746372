"""A named, ordered set of images."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from denoise_core.errors import UserError


class LazyImages(Sequence[Tensor]):
    """Images that are read whenever they are indexed, and what is known of them without reading.

    Every image is (C, H, W) float32 in [0, 1]. Whoever iterates reads all of them, one after the other.
    """

    @property
    @abstractmethod
    def shapes(self) -> Sequence[tuple[int, ...]]:
        """(C, H, W) of each image."""

    @property
    @abstractmethod
    def digests(self) -> Sequence[str]:
        """What :func:`pixel_digest` says of each image."""

    @abstractmethod
    def take(self, indices: Sequence[int]) -> LazyImages:
        """The images at ``indices``, in that order, unread."""

    @abstractmethod
    def on(self, device: torch.device) -> LazyImages:
        """The same images, unread, which come to be on ``device``."""

    @abstractmethod
    def crop(self, index: int, top: int, left: int, side: int) -> Tensor:
        """(C, side, side) of one image, without reading the rest of it. Assumes that it lies within the image."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one kind, in a fixed order, in memory or read when they are asked for (:class:`LazyImages`).

    ``pixels[i]`` is (C, H, W) float32 in [0, 1]; H and W may differ between the images, C may not. ``ids`` are unique
    and name the images in results and in the seeds of their noise.

    ``noisy[i]``, where there are any, is a noisy version of ``pixels[i]`` as it was recorded, of the same shape. Where
    there are ``frames[i]``, ``pixels[i]`` is noisy itself and these are further recordings of the same scene.
    """

    name: str
    ids: tuple[str, ...]
    pixels: Sequence[Tensor]
    noisy: Sequence[Tensor] | None = None
    frames: Sequence[Sequence[Tensor]] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError where a caller breaks the contract above, UserError for an empty set."""
        if not self.ids:
            raise UserError(f"the image set {self.name!r} is empty; give it at least one image.")
        if len(self.ids) != len(self.pixels) or len(set(self.ids)) != len(self.ids):
            raise ValueError(f"{self.name}: {len(self.pixels)} images need as many different ids, got {len(self.ids)}")
        lazy = isinstance(self.pixels, LazyImages)
        if not lazy and any(image.ndim != 3 or image.dtype != torch.float32 for image in self.pixels):
            raise ValueError(f"{self.name}: every image must be (C, H, W) float32")
        if len({shape[0] for shape in self.shapes}) != 1:
            raise ValueError(f"{self.name}: all images must have the same number of channels")
        if self.noisy is not None and _shapes(self.noisy) != self.shapes:
            raise ValueError(f"{self.name}: every image needs one noisy version of its own shape")

    @property
    def channels(self) -> int:
        """Number of channels C: 1 for gray, 3 for colour."""
        return self.shapes[0][0]

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """(C, H, W) of each image."""
        return _shapes(self.pixels)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over ids, shapes and pixel bytes, noisy ones included; the name does not count."""
        return hashlib.sha256(repr(list(self.digests.items())).encode()).hexdigest()

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 (hex) of each image's shape and pixels, by id; of both versions where there is a noisy one."""
        if self.frames is not None:
            scenes = zip(self.ids, self.pixels, self.frames, strict=True)
            return {name: " ".join(map(pixel_digest, (first, *others))) for name, first, others in scenes}
        if self.noisy is None:
            return dict(zip(self.ids, _digests(self.pixels), strict=True))
        versions = zip(self.ids, _digests(self.pixels), _digests(self.noisy), strict=True)
        return {image_id: f"{clean} {noisy}" for image_id, clean, noisy in versions}

    @cached_property
    def seen(self) -> dict[str, str]:
        """The id of the image that shows some pixels, clean or noisy, by their SHA-256."""
        return {one: image_id for image_id, digest in self.digests.items() for one in digest.split()}

    def subset(self, indices: Sequence[int], name: str) -> ImageSet:
        """The images at ``indices``, in that order, sharing memory with this set."""
        noisy = None if self.noisy is None else _taken(self.noisy, indices)
        frames = None if self.frames is None else [self.frames[i] for i in indices]
        return ImageSet(name, tuple(self.ids[i] for i in indices), _taken(self.pixels, indices), noisy, frames)

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


def pixel_digest(image: Tensor) -> str:
    """SHA-256 (hex) of an image's shape and of its pixels, (C, H, W) float32."""
    digest = hashlib.sha256(repr(tuple(image.shape)).encode())
    digest.update(image.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _shapes(images: Sequence[Tensor]) -> list[tuple[int, ...]]:
    return list(images.shapes) if isinstance(images, LazyImages) else [tuple(image.shape) for image in images]


def _digests(images: Sequence[Tensor]) -> Sequence[str]:
    return images.digests if isinstance(images, LazyImages) else [pixel_digest(image) for image in images]


def _taken(images: Sequence[Tensor], indices: Sequence[int]) -> Sequence[Tensor]:
    return images.take(indices) if isinstance(images, LazyImages) else tuple(images[i] for i in indices)
