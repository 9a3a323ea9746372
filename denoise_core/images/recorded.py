"""Images that are noisy as they were recorded: nothing is simulated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.images.crops import NO_CLEAN, CropSource, Place
from denoise_core.images.image_set import ImageSet
from denoise_core.noise.models import RECORDED


class RecordedNoiseSource(CropSource):
    """Recorded noisy images, given once and for all.

    Of recorded pairs it has the fields ``noisy`` and ``clean``; of single images, which are noisy themselves, only
    ``noisy``. ``clean``, for ``clean_unpaired``, and ``window`` are those of :class:`CropSource`. Places are those that
    simulated noise on as many images of the same sizes would have.
    """

    realisation = "frozen"

    def __init__(
        self, images: ImageSet, seed: int, device: torch.device, *, clean: ImageSet | None = None, window: str = ""
    ) -> None:
        versions = {"noisy": images.pixels}
        if images.noisy is not None:
            versions = {"noisy": images.noisy, "clean": images.pixels}
        super().__init__(images, versions, seed, device, clean=clean, window=window)

    def whole(self, field: str) -> Sequence[Tensor]:
        """See :class:`CropSource`: ``noisy``, and ``clean`` of pairs. Raises UserError for any other."""
        if field not in self._whole:
            raise UserError(f"the recorded images have no {field} versions: {NO_CLEAN}.")
        return self._whole[field]

    def identity(self, field: str) -> tuple[str | int, ...]:
        """See :class:`CropSource`; no seed, for nothing is drawn."""
        return (self._images.fingerprint, RECORDED, field)

    def _crops(self, field: str, places: Sequence[Place], patch: int, seed: int, step: int) -> Tensor:
        return self._cut(self._whole[field], places, patch)
