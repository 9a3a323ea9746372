"""Training images that include the noisy versions of the test images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.images.image_set import ImageSet, LazyImages


def with_test_images(train: ImageSet, tests: Sequence[ImageSet], recorded: bool) -> ImageSet:
    """``train`` and the images of ``tests``, each once; the latter's ids begin with the name of their set.

    ``recorded`` images are the noisy versions themselves, and no clean ones are among them; others are clean images
    that are still to be made noisy, and must be kept from the training as such. In sets of ``tests`` that are
    ``recorded`` every image must have its noisy version. Raises UserError for images that are too many for memory.
    """
    for one in (train, *tests):
        if isinstance(one.pixels, LazyImages):
            raise UserError(
                f"transductive = true keeps all images in memory, and those of {one.name} are read from disk as they "
                "are needed: use --set transductive=false, or a selection that you save as a folder of its own."
            )
    images: dict[str, Tensor] = {}
    taken: set[str] = set()
    for one, prefix in [(train, ""), *((test, f"{test.name}/") for test in tests)]:
        versions = one.noisy if recorded and one.noisy is not None else one.pixels
        for image_id, image in zip(one.ids, versions, strict=True):
            digest = one.digests[image_id].split()[-1 if recorded else 0]
            if digest not in taken:
                taken.add(digest)
                images[prefix + image_id] = image
    name = "+".join((train.name, *(test.name for test in tests)))
    return ImageSet(name, tuple(images), tuple(images.values()))
