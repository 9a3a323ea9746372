"""A small benchmark from the photographs inside the installed scikit-image: nothing is ever downloaded.

Training: up to eight photographs, centre crops of at most 512 x 512. Test: six other scenes, centre crops of at most
256 x 256. In colour the photographs that exist in gray only are left out (four for training, four for the test).
It shows within minutes whether a method works; its numbers are comparable with those of no paper.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from denoise_core.errors import UserError
from denoise_core.images.folder import load_file
from denoise_core.images.image_set import ImageSet

# (colour files, gray files, largest crop edge in pixels). Left out: drawings, text, binary and blurred pictures, and
# motorcycle_right, which shows the scene of motorcycle_left.
BUNDLED: dict[str, tuple[tuple[str, ...], tuple[str, ...], int]] = {
    "bundled_train": (
        ("hubble_deep_field.jpg", "ihc.png", "retina.jpg", "rocket.jpg"),
        ("brick.png", "grass.png", "gravel.png", "moon.png"),
        512,
    ),
    "bundled_test": (
        ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png"),
        ("camera.png", "coins.png"),
        256,
    ),
}


def load_bundled(name: str, channels: int | None = None) -> ImageSet:
    """``bundled_train`` or ``bundled_test`` with 1 (default) or 3 channels, as float32 in [0, 1].

    Raises UserError if the installed scikit-image lacks one of the files.
    """
    colour, gray, edge = BUNDLED[name]
    channels = 1 if channels is None else channels
    folder = _data_folder()
    ids, pixels = [], []
    for file in sorted(colour if channels == 3 else colour + gray):
        if not (folder / file).is_file():
            raise UserError(
                f"the installed scikit-image lacks {file}; install scikit-image 0.26 or use your own images."
            )
        image = load_file(folder / file, channels)
        top, left = (max(0, (side - edge) // 2) for side in image.shape[1:])
        ids.append(file.rsplit(".", 1)[0])
        pixels.append(image[:, top : top + edge, left : left + edge].clone(memory_format=torch.contiguous_format))
    return ImageSet(name, tuple(ids), tuple(pixels))


def _data_folder() -> Path:
    # The package is located, not imported: skimage.data would fetch files that are missing.
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise UserError(
            "the bundled images need scikit-image, which is not installed; install it or use your own images."
        )
    return Path(spec.origin).parent / "data"
