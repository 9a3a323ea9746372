"""Image sets by name or by path, whole or in part."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from denoise_core.errors import UserError, nearest
from denoise_core.images.bundled import BUNDLED, load_bundled
from denoise_core.images.folder import load_folder
from denoise_core.images.frames import PREFIX, load_frames_set
from denoise_core.images.generated import GENERATED, load_generated
from denoise_core.images.image_set import ImageSet
from denoise_core.images.phantom import PHANTOM, load_phantom
from denoise_core.images.sidd import holds_medium, holds_validation, load_medium, load_validation, validation_folder
from denoise_core.images.view import View, cut, split_view


@dataclass(frozen=True)
class NamedSet:
    """What is known about the sub-folder of the data folder that has this name.

    ``channels`` is the default. A set with ``channels=1`` has no colour. ``skip_in_colour`` names its gray files.
    ``instead`` is a set of the same kind that needs no data folder; empty means bundled_train or bundled_test.
    """

    channels: Literal[1, 3]
    role: Literal["train", "test"]
    description: str
    folder: str = ""  # the sub-folder, where it is not called like the set
    skip_in_colour: tuple[str, ...] = ()
    instead: str = ""


OWN_PAIRS = "a folder of your own that holds the folders noisy and gt"
"""What does instead of recorded pairs."""

KNOWN: dict[str, NamedSet] = {
    "train400": NamedSet(1, "train", "400 gray crops 180x180 of BSDS500 photographs"),
    "cbsd400_train": NamedSet(3, "train", "400 colour BSDS500 photographs without the BSDS300 test images"),
    "imagenet_val": NamedSet(3, "train", "ImageNet validation images with sides of 256 to 512 pixels"),
    "em_isbi2012": NamedSet(
        1, "train", "30 TEM slices; 00-14 are smoother than 15-29, which hold real grain", instead="em_generated"
    ),
    "ct_sample": NamedSet(1, "test", "28 CT slices of chest and abdomen, coded HU + 1024", instead=PHANTOM),
    "bsd68": NamedSet(1, "test", "68 gray BSDS300 test images"),
    "cbsd68": NamedSet(3, "test", "the colour originals of bsd68"),
    "bsd300_test": NamedSet(3, "test", "100 colour BSDS300 test images, which include cbsd68"),
    "kodak24": NamedSet(3, "test", "24 colour photographs 768x512"),
    "mcmaster18": NamedSet(3, "test", "18 colour crops 500x500"),
    "set14": NamedSet(3, "test", "14 classic test images, 13 in colour", skip_in_colour=("bridge.png",)),
    "set14_rgb12": NamedSet(
        3, "test", "Set14 as Neighbor2Neighbor uses it", folder="set14", skip_in_colour=("bridge.png", "man.png")
    ),
    "cc15": NamedSet(3, "test", "15 recorded pairs of three cameras, 512x512 (Cross-Channel)", instead=OWN_PAIRS),
    "polyu_sample": NamedSet(3, "test", "20 recorded pairs of five cameras, 512x512, JPEG", instead=OWN_PAIRS),
    "sidd_sample": NamedSet(3, "test", "one recorded pair of a smartphone, 256x256", instead=OWN_PAIRS),
    "sidd_medium": NamedSet(
        3,
        "train",
        "320 recorded pairs of smartphones, cut to 512x512",
        folder="SIDD_Medium_Srgb",
        instead=OWN_PAIRS,
    ),
    "sidd_validation": NamedSet(
        3, "test", "1280 recorded pairs of smartphones, 256x256", folder="SIDD_Validation_Srgb", instead=OWN_PAIRS
    ),
    "w2s": NamedSet(
        1, "test", "15 recorded pairs of a microscope, white noise", folder="wf_sample/w2s", instead=OWN_PAIRS
    ),
    "fmd": NamedSet(
        1, "test", "3 recorded pairs of a microscope, correlated noise", folder="wf_sample/fmd", instead=OWN_PAIRS
    ),
}

SIDD = {"sidd_medium": load_medium, "sidd_validation": load_validation}
"""Sets that are laid out in a way of their own."""

INDEX = r"-?\d{1,9}"
SLICE = re.compile(rf"(?P<index>{INDEX})|(?P<start>{INDEX})?:(?P<stop>{INDEX})?(?::(?P<step>{INDEX})?)?")
"""One of the comma-separated parts of a selection: an index or a slice."""


def load_images(name_or_path: str, *, channels: int | None, data_root: Path | None) -> ImageSet:
    """The images called ``name_or_path``: a bundled or generated set, a set below ``data_root``, or a folder.

    A name of :data:`KNOWN` or any other sub-folder of ``data_root`` that holds images is a set. A text that contains a
    path separator, or else is an existing folder, is a path. ``channels=None`` means the default of a known set (1 for
    the bundled and generated sets) and the files' own number otherwise. In colour the gray files of a set are skipped,
    which is logged: bridge.png in set14. ``cc15``, ``polyu_sample``, ``sidd_sample``, ``w2s`` and ``fmd`` are recorded
    pairs, as is any folder with ``noisy`` and ``gt``. So are ``sidd_medium``, which stays on disk, ``sidd_validation``,
    and any folder that is laid out like them (denoise_core.images.sidd). ``frames:PATH`` are repeated frames
    (denoise_core.images.frames).

    How the images are to be taken may follow, ``my/camera@white=4095,parts=512`` (denoise_core.images.view), and then a
    selection, ``em_isbi2012[0:6]`` or ``bsd68[::2,1]``: indices and slices of the images in their order as in Python,
    each image at most once. Both become part of the set's name. A folder whose own name looks so is that folder.

    Raises UserError for an unknown or missing set, colour wanted from a gray set, a selection that is malformed or
    selects nothing or an image twice, a white for a set that is not read from files, and what load_folder refuses.
    """
    whole, bracket, selection = _split_selection(name_or_path, data_root)
    if bracket and not selection.endswith("]"):
        raise UserError(
            f"the selection of images in {name_or_path!r} does not end in ]; write it like {whole}[0:6] or "
            f"{whole}[::2]."
        )
    name, view = parted(whole, data_root)
    images = _load_whole(name, channels, data_root, view.white)
    if view.parts is not None:
        images = cut(images, view.parts)
    if str(view):
        images = replace(images, name=f"{images.name}{view}")
    if not bracket:
        return images
    indices = _selected(images, selection[:-1])
    return images.subset(indices, f"{images.name}[{selection}")


def absolute(name_or_path: str) -> str:
    """The same images for whoever works in another folder: a path becomes absolute, a name stays."""
    if name_or_path.startswith(PREFIX):
        return PREFIX + str(Path(name_or_path.removeprefix(PREFIX)).expanduser().absolute())
    is_path = os.sep in name_or_path or (name_or_path and folder_of(name_or_path).is_dir())
    return str(Path(name_or_path).expanduser().absolute()) if is_path else name_or_path


def folder_of(name_or_path: str) -> Path:
    """The folder that a path means: without view and selection, and without ``frames:``."""
    whole = _split_selection(name_or_path.removeprefix(PREFIX), None)[0]
    return Path(parted(whole)[0]).expanduser()


def view_of(name_or_path: str, data_root: Path | None) -> View:
    """How the images are to be taken. Raises UserError for a view that is malformed."""
    return parted(_split_selection(name_or_path, data_root)[0], data_root)[1]


def parted(text: str, data_root: Path | None = None) -> tuple[str, View]:
    """Name or path, and view, of a text without selection. Raises UserError for a view that is malformed."""
    return (text, View()) if _is_folder(text, data_root) else split_view(text)


def check_same_view(names: Sequence[str], data_root: Path | None) -> None:
    """Raises UserError where a set is taken in two ways: nobody could tell whether its images are apart."""
    seen: dict[str, tuple[str, View]] = {}
    for given in filter(None, names):
        name, view = parted(_split_selection(given, data_root)[0], data_root)
        below = data_root / name if data_root else Path(name)
        key = str((below if below.is_dir() else Path(name).expanduser()).absolute())
        other, its = seen.setdefault(key, (given, view))
        if its != view:
            raise UserError(
                f"{other} and {given} are the same images taken in two ways, so it cannot be told whether some are "
                f"learned from and measured on: write {its or 'nothing'} or {view or 'nothing'} after both names."
            )


def _is_folder(text: str, data_root: Path | None) -> bool:
    return bool(text) and any(one.is_dir() for one in (Path(text).expanduser(), (data_root or Path()) / text))


def _split_selection(text: str, data_root: Path | None) -> tuple[str, str, str]:
    """(name or path, "[" or nothing, the rest)."""
    if "[" not in text.rpartition(os.sep)[2] or _is_folder(text, data_root):
        return text, "", ""
    return text.rpartition("[")


def _selected(images: ImageSet, selection: str) -> list[int]:
    """The indices that ``selection`` (the text between the brackets) means for ``images``."""
    total = len(images)
    chosen: list[int] = []
    where = f"the selection [{selection}] of {images.name}, which has {total} images,"
    for part in selection.split(","):
        match = SLICE.fullmatch(part)
        if match is None or (match["step"] and int(match["step"]) == 0):
            raise UserError(
                f"{where} is malformed at {part!r}; write indices and slices as in Python, without blanks: "
                "[0:6], [::2] or [0:8,12:16] (a step must not be 0)."
            )
        number = {name: int(text) if text else None for name, text in match.groupdict().items()}
        index = number["index"]
        places = range(total)[slice(number["start"], number["stop"], number["step"])]
        if index is not None:
            places = range(index % total, index % total + 1) if -total <= index < total else range(0)
        if not places:
            raise UserError(f"{where} selects nothing with {part!r}; images are numbered from 0 to {total - 1}.")
        chosen += places
    if len(set(chosen)) < len(chosen):
        twice = next(index for index in chosen if chosen.count(index) > 1)
        raise UserError(f"{where} selects the image {twice} more than once; give each image once.")
    return chosen


def _load_whole(name_or_path: str, channels: int | None, data_root: Path | None, white: float | None) -> ImageSet:
    if name_or_path.startswith(PREFIX):
        return load_frames_set(Path(name_or_path.removeprefix(PREFIX)).expanduser(), channels, white)
    if name_or_path in (*BUNDLED, *GENERATED, PHANTOM, *KNOWN):
        _refuse_white(name_or_path, white)
    if name_or_path in BUNDLED:
        return load_bundled(name_or_path, channels)
    if name_or_path in GENERATED:
        return load_generated(name_or_path, channels)
    if name_or_path == PHANTOM:
        return load_phantom(channels)
    if name_or_path in KNOWN:
        return _load_known(name_or_path, channels, data_root)
    if "/" in name_or_path or os.sep in name_or_path:
        return _load_path(Path(name_or_path).expanduser(), channels, white)
    for folder in [data_root / name_or_path] if data_root and name_or_path else []:
        if folder.is_dir():
            return _load_path(folder, channels, white)
    if name_or_path and Path(name_or_path).is_dir():
        return _load_path(Path(name_or_path), channels, white)
    raise UserError(
        f"unknown image set {name_or_path!r}: {nearest(name_or_path, [*BUNDLED, *GENERATED, PHANTOM, *KNOWN])}; "
        "give one of these names or the path of a folder."
    )


def _refuse_white(name: object, white: float | None) -> None:
    if white is not None:
        raise UserError(f"the range of {name} is known: leave @white={white:g} out.")


def _load_path(folder: Path, channels: int | None, white: float | None) -> ImageSet:
    for holds, load in ((holds_medium, load_medium), (holds_validation, load_validation)):
        if holds(folder):
            _refuse_white(folder, white)
            return load(folder, channels)
    return load_folder(folder, channels, white=white)


def _load_known(name: str, channels: int | None, data_root: Path | None) -> ImageSet:
    known = KNOWN[name]
    folder = data_root / (known.folder or name) if data_root else None
    if data_root and name == "sidd_validation":
        folder = validation_folder(data_root) or folder
    if folder is None or not folder.is_dir():
        where = f"was not found in {data_root}" if data_root else "needs the data folder, which is not set"
        raise UserError(
            f"the image set {name!r} {where}: set DENOISE_DATA or --data-root to the folder that contains "
            f"{known.folder or name!r}, or use {known.instead or f'bundled_{known.role}'}."
        )
    if name in SIDD:
        return replace(SIDD[name](folder, channels), name=name)
    channels = known.channels if channels is None else channels
    if channels == 3 and known.channels == 1:
        raise UserError(f"the image set {name!r} is gray and has no colour version; use --channels 1 or a colour set.")
    skip = known.skip_in_colour if channels == 3 else ()
    if skip:
        logging.getLogger(__name__).info("%s: skipped in colour because gray: %s", name, ", ".join(skip))
    return replace(load_folder(folder, channels, skip=skip), name=name)
