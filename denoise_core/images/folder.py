"""A folder of image files as an :class:`ImageSet`.

Range rule: the divisor is the full range of the file's number type, never the image's own maximum, so that images stay
comparable. 8-bit values are divided by 255, 16-bit values by 65535; floats must lie in [0, 1] already. Where a
``white`` is given, values are divided by it instead.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.images.image_set import ImageSet
from denoise_core.images.pairs import CLEAN, NOISY, paired

MAX_PIXELS = 2**28
"""Largest H*W that is decoded; a larger header is more often a mistake or a decompression bomb than an image."""

MEMORY_SHARE = 0.6
"""Part of the machine's memory that the images of a set (float32) may take."""

GRAY_WEIGHTS = (0.2989, 0.5870, 0.1140)
"""MATLAB rgb2gray, which made the gray benchmark sets from the colour ones."""

Array = NDArray[Any]


def load_folder(
    path: Path | str, channels: int | None = None, *, skip: Sequence[str] = (), white: float | None = None
) -> ImageSet:
    """The images that lie directly in ``path``, sorted by file name; hidden and other files are ignored.

    Reads PNG, JPEG, TIFF and NPY, gray or colour; an alpha channel is dropped if it is constant. A file with several
    pages, (pages, H, W[, C]), gives the images ``name#000``, ``name#001``, ...; the id of any other is the file name
    without its suffix. ``channels=1`` makes colour gray with :data:`GRAY_WEIGHTS`, ``channels=3`` repeats gray, None
    keeps the files as they are. ``skip`` names files that are left out. ``white`` is the value that counts as 1, where
    that is not the full range of the files' number type.

    A folder without images, but with two folders ``noisy`` and ``gt`` of files of the same names, holds recorded pairs:
    those of ``gt`` are the images, the others their ``noisy`` versions.

    Raises UserError for a folder, a file or a mixture of files that cannot be used.
    """
    folder = Path(path)
    _check_channels(channels)
    if _holds_pairs(folder):
        return paired(
            folder, *(load_folder(folder / part, channels, skip=skip, white=white) for part in (CLEAN, NOISY))
        )
    files = _image_files(folder, skip)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:  # the decoders release the GIL
        images = _within_memory(folder, len(files), pool.map(partial(_read_file, white=white), files))
    names, pixels = [name for name, _ in images], [image for _, image in images]
    if channels is None:
        _refuse_mixture(folder, names, pixels)
    else:
        pixels = [_with_channels(image, channels) for image in pixels]
    return ImageSet(folder.resolve().name, tuple(names), tuple(pixels))


def load_file(path: Path, channels: int) -> Tensor:
    """The first (usually only) page of one image file: (channels, H, W) float32 in [0, 1], rules of load_folder."""
    _check_channels(channels)
    return _with_channels(_read_file(path)[0][1], channels)


def _check_channels(channels: int | None) -> None:
    if channels not in (None, 1, 3):
        raise UserError(f"images can have 1 or 3 channels, not {channels}; use --channels 1 or --channels 3.")


def _holds_pairs(folder: Path) -> bool:
    """Images that lie in the folder itself go before its sub-folders, as in any other folder."""
    return all((folder / part).is_dir() for part in (CLEAN, NOISY)) and not _candidates(folder)


def _candidates(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if file.suffix.lower() in READERS and file.is_file()]


def _image_files(folder: Path, skip: Sequence[str]) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"the image folder {folder} does not exist or is not a folder; give the path of a folder.")
    found = _candidates(folder)
    files = [file for file in found if not file.name.startswith(".") and file.name not in skip]
    if not files:
        raise UserError(
            f"the folder {folder} holds no images; it must directly contain files that end in {', '.join(READERS)}, "
            f"or else recorded pairs in two folders, {NOISY} and {CLEAN}."
        )
    seen: dict[str, Path] = {}
    for file in files:
        other = seen.setdefault(file.stem, file)
        if other is not file:
            raise UserError(
                f"{other.name} and {file.name} in {folder} would both be called {file.stem!r}; rename or remove one."
            )
    return files


def _within_memory(folder: Path, count: int, files: Iterator[list[tuple[str, Tensor]]]) -> list[tuple[str, Tensor]]:
    """All images of ``files``, unless the first ones already show that a set of ``count`` files will not fit."""
    most = MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    images: list[tuple[str, Tensor]] = []
    used = 0
    for number, pairs in enumerate(files, start=1):
        images += pairs
        used += sum(4 * image.numel() for _, image in pairs)
        expected = used * count / number if number >= 50 else used
        if expected > most:
            raise UserError(
                f"the images of {folder} would take about {expected / 2**30:.0f} GiB in memory, more than "
                f"{most / 2**30:.0f} GiB of this machine's; use fewer or smaller images, or a machine with more memory."
            )
    return images


def _refuse_mixture(folder: Path, names: Sequence[str], pixels: Sequence[Tensor]) -> None:
    by_channels = {image.shape[0]: name for name, image in zip(names, pixels, strict=True)}
    if len(by_channels) > 1:
        raise UserError(
            f"{folder} mixes gray images (such as {by_channels[1]}) and colour images (such as {by_channels[3]}); "
            "choose --channels 1 or --channels 3, or convert the files."
        )


def _with_channels(image: Tensor, channels: int) -> Tensor:
    if image.shape[0] == channels:
        return image
    if channels == 3:
        return image.expand(3, -1, -1).contiguous()
    # The weights sum to 0.9999, so white stays below 1 as it does in MATLAB before rounding.
    return torch.einsum("c,chw->hw", torch.tensor(GRAY_WEIGHTS), image)[None].clamp(0, 1)


def _read_file(path: Path, white: float | None = None) -> list[tuple[str, Tensor]]:
    """(id, pixels) of every page of a file."""
    try:
        arrays = list(READERS[path.suffix.lower()](path))
    except UserError:
        raise
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error on a damaged file
        reason = str(error).rstrip(".") or type(error).__name__
        raise UserError(
            f"cannot read the image {path}: it is damaged or of an unsupported kind ({reason}); "
            "save it again (TIFF: uncompressed or Deflate) or remove it from the folder."
        ) from error
    pages = len(arrays)
    names = [f"{path.stem}#{number:03d}" if pages > 1 else path.stem for number in range(pages)]
    return [(name, _to_tensor(array, path, white)) for name, array in zip(names, arrays, strict=True)]


def _read_pillow(path: Path, open_file: Callable[[Path], Image]) -> Iterator[Array]:
    # The plug-in classes are used directly because Image.open applies Pillow's own, lower and global, pixel limit.
    with open_file(path) as image:
        _check_size(path, image.height, image.width)
        if image.mode in ("P", "PA"):
            transparent = image.mode == "PA" or "transparency" in image.info
            yield np.asarray(image.convert("RGBA" if transparent else "RGB"))
        elif image.mode in ("L", "LA", "RGB", "RGBA", "I;16", "I;16B", "1"):
            yield np.asarray(image)
        else:
            raise UserError(f"{path} has the colour mode {image.mode}; convert it to gray or RGB.")


def _read_png(path: Path) -> Iterator[Array]:
    with path.open("rb") as file:
        header = file.read(26)
    bit_depth, colour_type = (header[24], header[25]) if len(header) == 26 else (8, 0)
    if bit_depth == 16 and colour_type != 0:  # Pillow would silently keep the upper 8 bits
        raise UserError(f"{path} is a 16-bit PNG with colour or alpha, which cannot be read exactly; save it as TIFF.")
    yield from _read_pillow(path, PngImageFile)


def _read_jpeg(path: Path) -> Iterator[Array]:
    yield from _read_pillow(path, JpegImageFile)


def _read_tiff(path: Path) -> Iterator[Array]:
    with tifffile.TiffFile(path) as tiff:
        if not tiff.series:
            raise ValueError("it holds no pages")
        for series in tiff.series:
            photometric = series.keyframe.photometric
            if photometric in (tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.PALETTE):
                raise UserError(f"{path} is a {photometric.name} TIFF; save it as ordinary gray or RGB.")
            sizes = dict(zip(series.axes, series.shape, strict=True))
            _check_size(path, sizes["Y"], sizes["X"])
            array, axes = series.asarray(), series.axes
            if "S" in axes:  # samples (colours) may come first; all other axes than Y and X count as pages
                array = np.moveaxis(array, axes.index("S"), -1)
            yield from array.reshape(-1, sizes["Y"], sizes["X"], sizes.get("S", 1))


def _read_npy(path: Path) -> Iterator[Array]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    coloured = array.ndim > 2 and array.shape[-1] <= 4
    if array.ndim - coloured not in (2, 3):
        raise UserError(
            f"{path} has the shape {array.shape}; an NPY file must hold (H, W), (H, W, C) or pages of these."
        )
    height, width = array.shape[-3:-1] if coloured else array.shape[-2:]
    _check_size(path, height, width)
    yield from array.reshape(-1, height, width, array.shape[-1] if coloured else 1)


READERS: dict[str, Callable[[Path], Iterator[Array]]] = {
    ".png": _read_png,
    ".jpg": _read_jpeg,
    ".jpeg": _read_jpeg,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
    ".npy": _read_npy,
}


def _check_size(path: Path, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UserError(
            f"{path} has {height} x {width} pixels, more than the limit of {MAX_PIXELS}; cut it into smaller images."
        )
    if height * width == 0:
        raise UserError(f"{path} holds no pixels (its size is {height} x {width}); remove it from the folder.")


def _to_tensor(array: Array, path: Path, white: float | None) -> Tensor:
    """(H, W) or (H, W, C) of a file's own type to (1 or 3, H, W) float32 in [0, 1]."""
    values = array[..., None] if array.ndim == 2 else array
    if values.shape[-1] in (2, 4):
        alpha = values[..., -1]
        if (alpha != alpha.flat[0]).any():
            raise UserError(f"{path} has a transparency (alpha) channel that is not constant; save it without alpha.")
        values = values[..., :-1]
    if values.shape[-1] not in (1, 3):
        raise UserError(f"{path} has {values.shape[-1]} channels; save it as gray (1) or RGB (3).")
    return torch.from_numpy(np.ascontiguousarray(_unit_range(values, path, white).transpose(2, 0, 1)))


def _unit_range(values: Array, path: Path, white: float | None) -> NDArray[np.float32]:
    whole = values.dtype.kind == "u" and values.dtype.itemsize <= 2
    if not whole and values.dtype.kind != "f":
        raise UserError(
            f"{path} has pixels of type {values.dtype.name}; save it as unsigned 8-bit or 16-bit, or float in [0, 1]."
        )
    full = float(np.iinfo(values.dtype).max) if whole else 1.0
    if white is not None and whole and white > full:
        raise UserError(
            f"{path} has pixels of type {values.dtype.name}, so white={white:g} is not allowed: give at most {full:g}."
        )
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(low + high):
        raise UserError(f"{path} holds NaN or infinite pixels; replace them by finite values in [0, 1].")
    if low < 0 or high > (white or full):
        _refuse_range(path, low, high, white)
    return values.astype(np.float32) / np.float32(white or full)


def _refuse_range(path: Path, low: float, high: float, white: float | None) -> NoReturn:
    if white is None:
        raise UserError(
            f"{path} has float pixels from {low:g} to {high:g}, but floats must lie in [0, 1]; write after the name of "
            "the set which value counts as 1 (the full range of the sensor), as @white=4095, or divide all images of "
            "the set by it."
        )
    raise UserError(
        f"{path} has pixels from {low:g} to {high:g}, but values from 0 to white={white:g} are expected; "
        + ("subtract what makes them positive from all images of the set." if low < 0 else "give a larger white.")
    )
