"""The noise of test images: the same for every training, seed, device and computer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.images.image_set import ImageSet
from denoise_core.noise.models import NoiseModel
from denoise_core.seeding import generator


class NoisyTestImage(NamedTuple):
    """One test input: ``noisy`` and ``clean`` are (C, H, W) float32 on the CPU; ``noisy`` is not clipped."""

    image_id: str
    repeat: int
    noisy: Tensor
    clean: Tensor


def noisy_test_images(images: ImageSet, noise: NoiseModel | None, repeats: int = 1) -> Iterator[NoisyTestImage]:
    """Every image with ``repeats`` noise realisations, image by image; without a ``noise`` as it was recorded, once.

    A realisation depends on the id of the image, the name of the noise and the number of the repeat only: not on the
    seed of a training, nor on which other images are in the set. It is drawn on the CPU, because other devices draw
    other numbers from the same seed. Raises UserError for fewer than 1 repeat, and for images that were not recorded
    where no noise is given.
    """
    if repeats < 1:
        raise UserError(f"the number of noise repeats is {repeats}; it must be 1 or more.")
    if noise is None:
        for image_id, clean, noisy in zip(images.ids, images.pixels, recorded(images), strict=True):
            yield NoisyTestImage(image_id, 0, noisy.cpu(), clean.cpu())
        return
    for image_id, image in zip(images.ids, images.pixels, strict=True):
        clean = image.cpu()
        for repeat in range(repeats):
            noisy = noise(clean[None], generator("test", image_id, noise.name, repeat))[0]
            yield NoisyTestImage(image_id, repeat, noisy, clean)


def recorded(images: ImageSet) -> Sequence[Tensor]:
    """The recorded noisy versions of images, each (C, H, W). Raises UserError where they have none."""
    if images.noisy is None:
        raise UserError(
            f"{images.name} holds single images, but recorded noise is measured on pairs of a noisy and a clean image: "
            "give a folder that holds the folders noisy and gt, or a set such as cc15."
        )
    return images.noisy
