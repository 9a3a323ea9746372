"""Repeated frames: several noisy recordings of each of some scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tifffile
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.images.folder import READERS, load_folder
from denoise_core.images.image_set import ImageSet

PREFIX = "frames:"
"""Before the path of a folder, it says that the folder holds repeated frames."""
FRAMES = "one sub-folder, or one TIFF stack, of frames for each scene"


def load_frames_set(folder: Path, channels: int | None, white: float | None = None) -> ImageSet:
    """The scenes of a folder as noisy images: the first frame of each, with the further ones. Raises UserError."""
    names, scenes = load_frames(folder, channels, white)
    for name, frames in zip(names, scenes, strict=True):
        if len(frames) < 2 or len({frame.shape for frame in frames}) > 1:
            raise UserError(
                f"The scene {name} of {folder} has {len(frames)} frame(s) of "
                f"{len({frame.shape for frame in frames})} size(s): repeats are two or more frames of one size."
            )
    further = tuple(tuple(frames[1:]) for frames in scenes)
    return ImageSet(folder.resolve().name, tuple(names), tuple(frames[0] for frames in scenes), frames=further)


def load_frames(
    folder: Path, channels: int | None, white: float | None = None
) -> tuple[Sequence[str], list[list[Tensor]]]:
    """Names of the scenes, and the frames of each. Raises UserError for a folder that is laid out otherwise."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; with --repeats it must hold {FRAMES}.")
    below = [one for one in sorted(folder.iterdir()) if one.is_dir() and not one.name.startswith(".")]
    files = [one for one in sorted(folder.iterdir()) if one.suffix.lower() in READERS and not one.name.startswith(".")]
    if below and files:
        raise UserError(
            f"{folder} holds images and sub-folders, so it is not clear which are the frames; with --repeats it must "
            f"hold {FRAMES}, and nothing else."
        )
    if below:
        return [one.name for one in below], [list(load_folder(one, channels, white=white).pixels) for one in below]
    for file in files:
        _check_axes(file)
    loaded = load_folder(folder, channels, white=white)
    scenes: dict[str, list[Tensor]] = {}
    for name, frame in zip(loaded.ids, loaded.pixels, strict=True):
        scenes.setdefault(name.rpartition("#")[0] or name, []).append(frame)
    if all(len(frames) == 1 for frames in scenes.values()):
        raise UserError(
            f"{folder} holds single images; with --repeats it must hold {FRAMES}. Are these frames of one scene? Move "
            "them into a sub-folder."
        )
    return list(scenes), list(scenes.values())


def _check_axes(file: Path) -> None:
    """Raises UserError for a TIFF file with more than one axis that may count its frames."""
    if file.suffix.lower() not in (".tif", ".tiff"):
        return
    try:
        with tifffile.TiffFile(file) as tiff:
            series = [(one.axes, one.shape) for one in tiff.series]
    except Exception:  # load_folder tells what is wrong with it
        return
    for axes, shape in series:
        pages = [axis for axis, length in zip(axes, shape, strict=True) if axis not in "YXS" and length > 1]
        if len(pages) > 1 or "C" in pages:
            raise UserError(
                f"{file} has the axes {axes} of {' x '.join(map(str, shape))}, so it is not clear which of "
                f"{', '.join(pages)} counts the frames; save it as TYX (frames, height, width), or TYXS in colour, or "
                "put each frame into a file of its own in a sub-folder."
            )
