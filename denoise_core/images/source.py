"""Training batches as a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.images.crops import NO_CLEAN, NOISE_FIELDS, CropSource, Place, Realisation
from denoise_core.images.image_set import ImageSet, LazyImages
from denoise_core.noise.models import NoiseModel
from denoise_core.seeding import generator

__all__ = ["ImageSource", "Realisation", "SimulatedNoiseSource"]


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


class SimulatedNoiseSource(CropSource):
    """Clean images with simulated noise.

    ``fresh`` draws new noise for every crop. ``frozen`` gives every whole image one noisy version per field, from the
    ``seed`` of the source, as if it had been recorded once: all crops of the image see the same realisation. A noise
    with a range of levels draws one level per crop (fresh) or per image (frozen).

    ``clean`` and ``window`` are those of :class:`CropSource`; the noise is added before the window. ``hidden`` images
    are seen noisy only: there is no field ``clean``, nor noise alone, whose difference from ``noisy`` would be it.

    Frozen noise is the same on every device; fresh noise is drawn on ``device``, so it repeats exactly only there.
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
        hidden: bool = False,
    ) -> None:
        if noise.whole_image and realisation == "fresh":
            raise UserError(
                f"the noise {noise.name} belongs to a whole image and cannot be drawn anew for every crop; "
                "use --set noise_realisation=frozen."
            )
        super().__init__(images, {"clean": images.pixels}, seed, device, clean=clean, window=window)
        drawn = () if noise.whole_image or window else NOISE_FIELDS
        self.fields |= {"noisy", "noisy2", *drawn}
        if hidden:
            self.fields -= {"clean", *NOISE_FIELDS}
        self._noise, self.realisation = noise, realisation

    def whole(self, field: str) -> Sequence[Tensor]:
        """Every whole image of a field, each (C, H, W) on the source's device: ``clean``, or a frozen noisy field.

        Raises UserError for noise that is drawn anew for every crop, of which there are no whole images, and for
        ``clean`` where it is hidden.
        """
        if field == "clean" and field not in self.fields:
            raise UserError(f"the clean versions of the training images are not seen in training: {NO_CLEAN}.")
        if field not in self._whole and self.realisation == "fresh":
            raise UserError(
                "the noisy images must be given once and for all, but their noise is drawn anew for every crop; use "
                "--set noise_realisation=frozen."
            )
        return self._frozen(field)

    def identity(self, field: str) -> tuple[str | int, ...]:
        """See :class:`CropSource`."""
        return (self._images.fingerprint, self._noise.name, self._noise.version, self.seed, field)

    def _crops(self, field: str, places: Sequence[Place], patch: int, seed: int, step: int) -> Tensor:
        if field in self._whole or (self.realisation == "frozen" and field not in NOISE_FIELDS):
            return self._cut(self._frozen(field), places, patch)
        clean = self._cut(self._whole["clean"], places, patch)
        # A generator per field: `noisy` is the same whether or not `noisy2` is asked for.
        noisy = self._noise(clean, generator(seed, field, step, device=self._device))
        return noisy - clean if field in NOISE_FIELDS else noisy

    def _frozen(self, field: str) -> Sequence[Tensor]:
        if field not in self._whole:
            if isinstance(self._images.pixels, LazyImages):
                raise UserError(
                    f"the images of {self._images.name} are too many to keep a noisy version of each in memory; use "
                    "--set noise_realisation=fresh, or --noise recorded."
                )
            # on the CPU, so that given images are the same wherever they are trained on
            self._whole[field] = [
                self._noise(clean[None], generator(self.seed, "frozen", field, image_id))[0].to(self._device)
                for image_id, clean in zip(self._images.ids, self._images.pixels, strict=True)
            ]
        return self._whole[field]
