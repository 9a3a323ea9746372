"""Image files that are denoised: read where they lie, and written in their own kind, type, axes and metadata.

TIFF and NPY files whose values lie uncompressed in one piece are mapped anew for each part that is read or written, so
that an image of any size takes the memory of a tile. Results are written aside and renamed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from denoise_core.errors import UserError
from denoise_core.images.folder import READERS
from denoise_core.planes import Array, Pixels

SUFFIXES = (".tif", ".tiff", ".png", ".npy")
LOSSY = (".jpg", ".jpeg")
IMAGEJ_FROM_SHAPE = ("ImageJ", "images", "channels", "slices", "frames", "hyperstack", "axes")
"""Metadata of ImageJ that tifffile writes by the shape."""


@dataclass(frozen=True)
class Mapped:
    """Values that lie in one piece in a file; every part is mapped for itself, so none stays in memory."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int = 0
    fortran: bool = False
    """Whether the first axis varies fastest."""

    def __getitem__(self, key: Any) -> Array:
        """A copy of a part."""
        return np.array(self._open("r")[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._open("r+")[key] = value

    def reserve(self) -> None:
        """Takes the disk space now: a full disk is an OSError here, where a mapping would be killed for it."""
        size = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        with self.path.open("r+b") as file:
            if hasattr(os, "posix_fallocate") and size:
                os.posix_fallocate(file.fileno(), 0, self.offset + size)
            else:
                file.truncate(max(self.offset + size, self.path.stat().st_size))

    def _open(self, mode: Any) -> Array:
        return np.memmap(self.path, self.dtype, mode, self.offset, self.shape, "F" if self.fortran else "C")


@dataclass(frozen=True)
class Picture:
    """An image file: its values, its axes where it tells them, and how to make another of its kind."""

    path: Path
    pixels: Pixels
    axes: str | None
    create: Callable[[Path], Pixels]
    """Makes a file of the same kind, type, shape and metadata, to be filled."""
    finish: Callable[[Path, Pixels], None] = field(default=lambda path, pixels: None)
    """Called with what :attr:`create` made when it is filled."""
    own_axes: bool = False
    """Whether the file leaves no doubt about its axes."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Picture]:
    """The image file while the block runs. Raises UserError where it cannot be used."""
    suffix = path.suffix.lower()
    if suffix in LOSSY:
        raise UserError(f"{path} is a JPEG file, which would lose quality when it is written: save it as PNG or TIFF.")
    if suffix not in SUFFIXES:
        raise UserError(f"{path} is no image file that can be denoised: give files that end in {', '.join(SUFFIXES)}.")
    with contextlib.ExitStack() as stack:
        try:
            picture = _png(path) if suffix == ".png" else _npy(path) if suffix == ".npy" else _tiff(path, stack)
        except UserError:
            raise
        except Exception as error:  # decoders raise anything on a damaged file
            reason = (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__
            raise UserError(
                f"cannot read the image {path}: it is damaged or of an unsupported kind ({reason}); save it again "
                "(TIFF: uncompressed or Deflate) or remove it."
            ) from error
        yield picture


@contextlib.contextmanager
def written(picture: Picture, target: Path) -> Iterator[Pixels]:
    """What is to be filled in the block; then it becomes ``target``, or nothing is left of it where the block raises.

    Raises UserError where that would overwrite the picture itself, OSError.
    """
    if target.exists() and target.samefile(picture.path):
        raise UserError(f"{target} would overwrite its own input: give another output.")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{uuid.uuid4().hex}{target.suffix}")
    try:
        pixels = picture.create(aside)
        yield pixels
        picture.finish(aside, pixels)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


# ---- NPY ----


def _npy(path: Path) -> Picture:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.memmap):
        raise UserError(f"{path} holds no array of numbers: save it with numpy.save.")
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    pixels = Mapped(path, array.dtype, array.shape, array.offset, fortran)

    def create(aside: Path) -> Mapped:
        new = np.lib.format.open_memmap(aside, "w+", pixels.dtype, pixels.shape, fortran)  # type: ignore[no-untyped-call]
        made = Mapped(aside, pixels.dtype, pixels.shape, new.offset, fortran)
        made.reserve()
        return made

    return Picture(path, pixels, None, create)


# ---- PNG ----


def _png(path: Path) -> Picture:
    with PngImageFile(path) as image:
        if image.mode in ("P", "PA"):
            raise UserError(f"{path} has a palette of colours: save it as gray or RGB.")
        info = dict(image.info)
    (array,) = READERS[".png"](path)
    alpha = array[..., -1:] if array.ndim == 3 and array.shape[-1] in (2, 4) else None
    if alpha is not None:
        if (alpha != alpha.flat[0]).any():
            raise UserError(f"{path} has a transparency (alpha) channel that is not constant: save it without alpha.")
        array = array[..., :-1]
    coloured = array.ndim == 3 and array.shape[-1] == 3
    pixels = array if coloured else array.reshape(array.shape[:2])

    def finish(aside: Path, result: Pixels) -> None:
        values = np.asarray(result)
        if alpha is not None:
            values = np.concatenate([values.reshape(*values.shape[:2], -1), alpha], axis=2)
        text = PngInfo()
        for name, value in info.items():
            if isinstance(value, str):
                text.add_text(str(name), value)
        kept = {name: info[name] for name in ("dpi", "icc_profile") if name in info}
        Image.fromarray(values).save(aside, "PNG", pnginfo=text, **kept)

    def create(aside: Path) -> Array:
        return np.empty(pixels.shape, pixels.dtype)

    return Picture(path, pixels, "YXC" if coloured else "YX", create, finish, own_axes=True)


# ---- TIFF ----


def _tiff(path: Path, stack: contextlib.ExitStack) -> Picture:
    tiff = stack.enter_context(tifffile.TiffFile(path))
    if not tiff.series:
        raise ValueError("it holds no pages")
    if len(tiff.series) != 1:
        raise UserError(
            f"{path} holds {len(tiff.series)} series of images of different kinds: save each as a file of its own."
        )
    series = tiff.series[0]
    if series.keyframe.photometric in (tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.PALETTE):
        raise UserError(f"{path} is a {series.keyframe.photometric.name} TIFF: save it as ordinary gray or RGB.")
    stored = series.dtype.newbyteorder(tiff.byteorder)
    if series.dataoffset is not None and series.keyframe.is_memmappable:
        pixels = Mapped(path, stored, tuple(series.shape), series.dataoffset)
    else:
        pixels = _decoded(series, stack)
    options = _tiff_options(tiff, series)

    def create(aside: Path) -> Mapped:
        offset, _ = tifffile.imwrite(aside, shape=series.shape, dtype=series.dtype, returnoffset=True, **options)
        made = Mapped(aside, stored, tuple(series.shape), offset)
        made.reserve()
        return made

    return Picture(path, pixels, series.axes, create)


def _decoded(series: Any, stack: contextlib.ExitStack) -> Mapped:
    """Compressed or scattered values, unpacked into a file that is removed afterwards."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="denoise-")))
    unpacked = Mapped(folder / "values", series.dtype, tuple(series.shape))
    unpacked.path.touch()
    unpacked.reserve()
    series.asarray(out=unpacked._open("r+"))
    return unpacked


def _tiff_options(tiff: Any, series: Any) -> dict[str, Any]:
    """What makes :func:`tifffile.imwrite` write a file with the same metadata, as far as that can be kept."""
    page = series.keyframe
    options: dict[str, Any] = {"byteorder": tiff.byteorder, "photometric": page.photometric}
    if page.samplesperpixel > 1:
        options["planarconfig"] = page.planarconfig
    if "XResolution" in page.tags:
        options["resolution"], options["resolutionunit"] = page.resolution, page.resolutionunit
    if page.iccprofile is not None:
        options["iccprofile"] = page.iccprofile
    if "DateTime" in page.tags:
        options["datetime"] = page.tags["DateTime"].value
    if tiff.is_imagej:
        known = tiff.imagej_metadata or {}
        kept = {name: value for name, value in known.items() if name not in IMAGEJ_FROM_SHAPE}
        return {**options, "imagej": True, "metadata": {**kept, "axes": series.axes}}
    options["software"] = page.software or False
    options["bigtiff"] = tiff.is_bigtiff or None
    if tiff.is_shaped:  # written by tifffile, which counts the shape as metadata
        known = (tiff.shaped_metadata or ({},))[0]
        return {**options, "metadata": {name: value for name, value in known.items() if name != "shape"}}
    # an OME description counts the planes, which are the same
    return {**options, "metadata": None, "description": page.description.encode() or None}
