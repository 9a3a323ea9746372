"""The Smartphone Image Denoising Dataset (SIDD) as it is published: sRGB, 8 bit, five phones, ten scenes.

Source: Abdelhamed, Lin, Brown, "A High-Quality Denoising Dataset for Smartphone Cameras", CVPR 2018.

**SIDD-Medium**, 320 pairs of up to 5328 x 3000 pixels of 160 scene instances: ``Data/<instance>/``, with two pairs
each, such as ``0001_GT_SRGB_010.PNG`` and ``0001_NOISY_SRGB_010.PNG``. An instance such as
``0052_002_S6_01600_01000_5500_N`` is named by its number, scene, phone, ISO, shutter speed (1/s), temperature of the
light (K) and its brightness. The images are cut into patches of 512 x 512 pixels every 384 (the last end at the right
and lower border), as DANet's official code does; they are written into the cache once (about 50 GB: see
denoise_core.images.mapped).

Ids are ``<instance>_<file>_<patch>``, so patches sort by instance, and instances were numbered scene by scene: a
selection such as ``sidd_medium[0:20000]`` is a choice of scenes. Patches overlap, so images that are set aside evenly
(``validation=``) show places that are trained on: choose settings on ``validation_set=sidd_validation`` or on other
scenes.

**Its validation blocks**, 32 of 256 x 256 pixels from each of 40 further images: two MAT files of one variable each.
"""

from __future__ import annotations

import logging
import re
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from denoise_core.cache import Part
from denoise_core.errors import UserError
from denoise_core.images.folder import READERS
from denoise_core.images.image_set import ImageSet
from denoise_core.images.mapped import Array, Conversion, MappedImages, remembered_pairs
from denoise_core.images.pairs import first_three

PATCH, STRIDE = 512, 384
"""Edge of a patch and distance of two, in pixels (DANet)."""
PAIRS = 320
"""As many were published."""
BLOCKS = (40, 32, 256, 256, 3)
"""Shape of both validation variables: images, blocks of each, height, width, RGB."""
MATS = {"clean": "ValidationGtBlocksSrgb", "noisy": "ValidationNoisyBlocksSrgb"}
"""Names of the validation files, without .mat, and of the variables in them."""
VALIDATION_FOLDERS = ("SIDD_Validation_Srgb", "SIDD_Validation_sRGB", "")
"""Where below the data folder they are looked for."""
INSTANCE = re.compile(r"\d{4}_\d{3}_[A-Z0-9]{2}_\d{5}_\d{5}_\d{4}_[LNH]")
VERSION = 1
"""Part of what the patches are kept by: to be raised when the same files give others."""
REPORT_S = 30
"""Seconds between two lines of the log."""

LAYOUT = (
    "Data/<scene instance>/ with pairs such as Data/0001_001_S6_00100_00060_3200_L/0001_GT_SRGB_010.PNG and "
    "0001_NOISY_SRGB_010.PNG beside it"
)


class Pair(NamedTuple):
    """Two files of one size."""

    name: str  # <instance>_<number of the file>
    clean: Path
    noisy: Path


def holds_medium(folder: Path) -> bool:
    """Whether the folder, or its sub-folder Data, has sub-folders that are called like scene instances."""
    return bool(_instances(folder))


def holds_validation(folder: Path) -> bool:
    """Whether one of the validation files lies in the folder."""
    return any((folder / f"{name}.mat").is_file() for name in MATS.values())


def validation_folder(data_root: Path) -> Path | None:
    """The folder of the validation files, below ``data_root`` or itself; None where there is none."""
    return next((data_root / one for one in VALIDATION_FOLDERS if holds_validation(data_root / one)), None)


def load_medium(folder: Path, channels: int | None = None) -> ImageSet:
    """The pairs of SIDD-Medium, or of a part of it, as patches (3, PATCH, PATCH) that stay on disk.

    ``pixels`` are the ground truth; the set is called after ``folder``. The first call writes the patches into the
    cache, image by image. Files count as the same while their names, sizes and dates of change are.

    Raises UserError for another layout, an image without its partner, partners of different size or equal in every
    pixel, a file that is damaged or no 8-bit RGB PNG, one channel, and a cache without space.
    """
    _check_colour(folder, channels)
    pairs = _pairs(folder)
    if len(pairs) != PAIRS:
        logging.getLogger(__name__).warning("%s holds %d pairs; SIDD-Medium has %d", folder, len(pairs), PAIRS)
    ids, clean, noisy = remembered_pairs(_state(pairs), lambda: _conversion(pairs))
    return ImageSet(folder.resolve().name, ids, clean, noisy)


def load_validation(folder: Path, channels: int | None = None) -> ImageSet:
    """The validation blocks, (3, 256, 256), with ids from ``00_00`` to ``39_31``; 8 bit in memory, about 0.5 GB.

    ``pixels`` are the ground truth; the set is called after ``folder``. Raises UserError for a missing or damaged file,
    a variable that is missing or of another shape or type, equal contents, and one channel.
    """
    _check_colour(folder, channels)
    clean, noisy = (_blocks(folder / f"{name}.mat", name) for name in MATS.values())
    _refuse_equal(folder, MATS["clean"], MATS["noisy"], clean, noisy)
    ids = tuple(f"{image:02d}_{block:02d}" for image in range(BLOCKS[0]) for block in range(BLOCKS[1]))
    places = range(len(ids))
    return ImageSet(folder.resolve().name, ids, MappedImages(clean, places), MappedImages(noisy, places))


def _check_colour(folder: Path, channels: int | None) -> None:
    if channels not in (None, 3):
        raise UserError(f"the images of {folder} (SIDD) are read in colour only; use --channels 3.")


# --- SIDD-Medium ------------------------------------------------------------------------------------------------------


def _instances(folder: Path) -> list[Path]:
    """The folders of the scene instances, by name."""
    for place in (folder / "Data", folder):
        if place.is_dir() and (found := [one for one in place.iterdir() if INSTANCE.fullmatch(one.name)]):
            return sorted(one for one in found if one.is_dir())
    return []


def _pairs(folder: Path) -> list[Pair]:
    """The files, by name."""
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for instance in _instances(folder):
        pattern = re.compile(rf"{instance.name[:4]}_(?P<kind>GT|NOISY)_SRGB_(?P<number>\d{{3}})\.png", re.IGNORECASE)
        for file in sorted(instance.iterdir()):
            if match := pattern.fullmatch(file.name):
                found.setdefault((instance.name, match["number"]), {})[match["kind"].upper()] = file
    if not found:
        raise UserError(f"{folder} is not laid out like SIDD-Medium (sRGB), which is {LAYOUT}: give its folder.")
    for has, lacks in (("GT", "NOISY"), ("NOISY", "GT")):
        lonely = [str(files[has].relative_to(folder)) for files in found.values() if lacks not in files]
        if lonely:
            raise UserError(
                f"{len(lonely)} {has} images of {folder} have no {lacks} partner beside them: {first_three(lonely)}; "
                "add the missing files or remove these."
            )
    return [Pair("_".join(key), files["GT"], files["NOISY"]) for key, files in sorted(found.items())]


def _state(pairs: Sequence[Pair]) -> list[Part]:
    """What the patches depend on; not on where the files lie."""
    parts: list[Part] = ["sidd", VERSION, PATCH, STRIDE]
    for name, *files in pairs:
        states = [file.stat() for file in files]
        parts += [name, *(number for state in states for number in (state.st_size, state.st_mtime_ns))]
    return parts


def _conversion(pairs: Sequence[Pair]) -> Conversion:
    """Checks all headers at once, before minutes are spent on the first images."""
    sizes = [_agreed_size(pair) for pair in pairs]
    ids = [
        f"{pair.name}_{patch:03d}"
        for pair, (height, width) in zip(pairs, sizes, strict=True)
        for patch in range(len(_starts(height)) * len(_starts(width)))
    ]
    log = logging.getLogger(__name__)
    log.warning("%d patches of %d images are written into the cache, once: this takes a while", len(ids), len(pairs))
    return Conversion(ids, (PATCH, PATCH, 3), _patches(pairs))


def _patches(pairs: Sequence[Pair]) -> Iterator[tuple[list[Array], list[Array]]]:
    """Those of one pair at a time."""
    reported = time.monotonic()
    for number, pair in enumerate(pairs, start=1):
        clean, noisy = _decoded(pair.clean), _decoded(pair.noisy)
        _refuse_equal(pair.clean.parent, pair.clean.name, pair.noisy.name, clean, noisy)
        yield _cut(clean), _cut(noisy)
        if time.monotonic() - reported >= REPORT_S or number == len(pairs):
            reported = time.monotonic()
            logging.getLogger(__name__).info("%d of %d images are cut into patches", number, len(pairs))


def _cut(image: Array) -> list[Array]:
    """Patches of (H, W, 3), row by row."""
    height, width = image.shape[:2]
    return [image[y : y + PATCH, x : x + PATCH] for y in _starts(height) for x in _starts(width)]


def _starts(length: int) -> list[int]:
    """Where patches begin along an edge of ``length`` pixels."""
    starts = list(range(0, length - PATCH + 1, STRIDE))
    return starts if starts[-1] == length - PATCH else [*starts, length - PATCH]


def _agreed_size(pair: Pair) -> tuple[int, int]:
    clean, noisy = _header(pair.clean), _header(pair.noisy)
    if clean != noisy:
        raise UserError(
            f"the pair {pair.name} does not match: {noisy[0]} x {noisy[1]} pixels in {pair.noisy}, {clean[0]} x "
            f"{clean[1]} in {pair.clean.name}; both must show the same place: replace or remove them."
        )
    if min(clean) < PATCH:
        raise UserError(
            f"{pair.clean} has {clean[0]} x {clean[1]} pixels, less than a patch of {PATCH} x {PATCH}; give the full "
            "images as they were published."
        )
    return clean


def _header(path: Path) -> tuple[int, int]:
    """(height, width) as the first 26 bytes of a PNG say."""
    with path.open("rb") as file:
        header = file.read(26)
    if len(header) < 26 or not header.startswith(b"\x89PNG\r\n\x1a\n"):
        raise UserError(f"cannot read the image {path}: it is no PNG or damaged; download it again.")
    width, height, depth, colours = struct.unpack(">IIBB", header[16:26])
    if (depth, colours) != (8, 2):
        raise UserError(f"{path} is no PNG of 8 bits and three colours (RGB), as SIDD's are; download it again.")
    return height, width


def _decoded(path: Path) -> Array:
    """(H, W, 3) uint8."""
    try:
        (image,) = READERS[".png"](path)
    except UserError:
        raise
    except Exception as error:  # a decoder raises anything on a damaged file
        reason = str(error).rstrip(".") or type(error).__name__
        raise UserError(
            f"cannot read the image {path}: it is truncated or damaged ({reason}); download it again."
        ) from error
    return image


def _refuse_equal(folder: Path, clean_name: str, noisy_name: str, clean: Array, noisy: Array) -> None:
    if np.array_equal(clean, noisy):
        raise UserError(
            f"{clean_name} and {noisy_name} in {folder} are equal in every pixel, so there is no noise in them: "
            "download them again."
        )


# --- validation -------------------------------------------------------------------------------------------------------


def _blocks(path: Path, name: str) -> Array:
    """(images * blocks, H, W, 3) uint8 of one file."""
    if not path.is_file():
        raise UserError(
            f"{path} is missing: SIDD's validation blocks are {' and '.join(f'{one}.mat' for one in MATS.values())} "
            "in one folder."
        )
    try:
        from scipy.io import loadmat  # here, and not in every worker: it is slow to import

        found = loadmat(path, variable_names=[name]).get(name)
    except Exception as error:  # SciPy raises anything on a damaged file
        reason = str(error).rstrip(".") or type(error).__name__
        raise UserError(f"cannot read {path}: it is damaged or no MAT file ({reason}); download it again.") from error
    if found is None:
        raise UserError(f"{path} holds no variable {name}, as SIDD's validation file does; download it again.")
    if found.shape != BLOCKS or found.dtype != np.uint8:
        raise UserError(
            f"{name} in {path} is {found.dtype.name} of shape {found.shape}, not uint8 of shape {BLOCKS}; download it "
            "again."
        )
    ordered = np.empty(BLOCKS, np.uint8)  # MATLAB's order runs the other way: a block would lie all over the memory
    for row in range(BLOCKS[2]):  # four times as fast as all at once
        ordered[:, :, row] = found[:, :, row]
    return ordered.reshape(-1, *BLOCKS[2:])
