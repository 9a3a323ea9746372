"""Recorded pairs: the same scenes noisy and clean, in two folders of files of the same names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from denoise_core.errors import UserError
from denoise_core.images.image_set import ImageSet

CLEAN, NOISY = "gt", "noisy"
"""Names of the two folders."""


def paired(folder: Path, clean: ImageSet, noisy: ImageSet) -> ImageSet:
    """The images of ``clean`` with those of ``noisy`` as their recorded versions, paired by id.

    Raises UserError for an image without a partner, for partners of different size or number of channels, and for
    partners that are equal in every pixel.
    """
    for has, lacks, images, others in ((NOISY, CLEAN, noisy, clean), (CLEAN, NOISY, clean, noisy)):
        if lonely := [one for one in images.ids if one not in set(others.ids)]:
            raise UserError(
                f"{len(lonely)} of {len(images)} images of {folder / has} have no partner in {lacks}: "
                f"{first_three(lonely)}; both folders must hold files of the same names: rename or remove what has no "
                "partner."
            )
    partners = dict(zip(noisy.ids, noisy.pixels, strict=True))
    recorded = tuple(partners[image_id] for image_id in clean.ids)
    for image_id, one, other in zip(clean.ids, clean.pixels, recorded, strict=True):
        if one.shape != other.shape:
            raise UserError(
                f"the pair {image_id} of {folder} does not match: {_size(other.shape)} in {NOISY}, {_size(one.shape)} "
                f"in {CLEAN}; both must show the same place: cut or remove them."
            )
        if torch.equal(one, other):
            raise UserError(
                f"the pair {image_id} of {folder} is equal in every pixel, so there is no noise in it; {NOISY} must "
                f"hold the noisy image and {CLEAN} the clean one: replace or remove it."
            )
    return ImageSet(folder.resolve().name, clean.ids, clean.pixels, recorded)


def first_three(names: Sequence[str]) -> str:
    """The first of ``names``, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _size(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{height} x {width} pixels, {'gray' if channels == 1 else 'colour'}"
