"""Measure the noise of a folder of noisy images, and tell which methods it suits.

PATH is a folder of images, or the name of a set. With --repeats it holds frames of the same scenes: one sub-folder, or
one TIFF stack, of frames for each scene; differences of frames tell level, line and correlation of the noise exactly.
Frames that are not aligned are refused, with how far they are apart; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.console import Console
from cluster.watching.aligned import say_table
from denoise_core.errors import UserError

if TYPE_CHECKING:  # they load PyTorch
    from torch import Tensor

    from denoise_core.noise.report import NoiseReport

REFUSED = 1
FRAMES = "one sub-folder, or one TIFF stack, of frames for each scene"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument("path", metavar="PATH", help="a folder of noisy images, or the name of a set")
    parser.add_argument("--repeats", action="store_true", help=f"PATH holds {FRAMES}")
    parser.add_argument("--channels", type=int, choices=(1, 3), help="make them gray (1) or colour (3)")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a page with figures")
    parser.add_argument("--data-root", metavar="FOLDER", help="where sets lie (default: DENOISE_DATA)")


def run(flags: argparse.Namespace, console: Console) -> int:
    """Reports; the exit status is 1 where repeats are refused. Raises UserError."""
    from cluster.report.noise_page import write_noise_page
    from denoise_core.images.frames import load_frames
    from denoise_core.images.named import parted
    from denoise_core.noise.report import noise_report

    if flags.html is not None and flags.html.is_dir():
        raise UserError(f"--html {flags.html} is a folder; give the name of a file, such as {flags.html}/noise.html.")
    if flags.repeats:
        folder, view = parted(flags.path)
        if view.parts is not None:
            raise UserError(f"Frames are measured whole: leave parts={view.parts} out.")
        names, scenes = load_frames(Path(folder).expanduser(), flags.channels, view.white)
        images: Sequence[Tensor] = [scene[0] for scene in scenes]
    else:
        scenes = []
        names, images = _images(flags)
    report = noise_report(images, scenes, names=names)
    _say(report, console)
    if flags.html is not None:
        try:
            written = write_noise_page(report, images, str(flags.path), flags.html)
        except OSError as error:
            raise UserError(f"{flags.html} cannot be written ({error.strerror}); choose another place.") from None
        console.say(f"Report: {written.resolve()}")
    if report.zero_mean is not None and not report.zero_mean.aligned:
        console.complain(
            f"the repeated frames are up to {report.zero_mean.shift_pixels:.2f} pixels apart, so they are no repeats, "
            "and what is reported is that of single images: align them, or record again without anything moving."
        )
        return REFUSED
    return 0


def _images(flags: argparse.Namespace) -> tuple[Sequence[str], Sequence[Tensor]]:
    """Names and noisy images of a folder or a set; of recorded pairs the noisy ones."""
    from denoise_core.images.named import load_images

    path = Path(flags.path).expanduser()
    if path.is_file():
        raise UserError(f"{path} is a file; give the folder that holds it, alone if it is to be measured alone.")
    named = flags.data_root or os.environ.get("DENOISE_DATA", "")
    given = str(path) + os.sep if path.is_dir() else flags.path
    loaded = load_images(given, channels=flags.channels, data_root=Path(named) if named else None)
    return loaded.ids, loaded.pixels if loaded.noisy is None else loaded.noisy


def _say(report: NoiseReport, console: Console) -> None:
    from cluster.report.noise_page import HEAD, suits
    from denoise_core.noise.wording import headline

    sizes = ", ".join(f"{height} x {width}" for height, width in report.sizes[:4]) + ", ..." * (len(report.sizes) > 4)
    kind = "gray" if report.channels == 1 else f"{report.channels} channels"
    console.say(headline(report), style="bold")
    what = "scene" if report.zero_mean is not None else "image"
    console.say(f"{report.images} {what}{'s' * (report.images != 1)}, {kind}, {sizes}.")
    for sentence in report.sentences():
        console.say(f"- {sentence}")
    console.say("")
    rows = [(f"{intensity:.4f}", f"{deviation:.5f}", f"{255 * deviation:.2f}") for intensity, deviation in report.curve]
    say_table(console, ("intensity", "deviation", "of 255"), rows, right="intensity, deviation, of 255")
    console.say("")
    say_table(console, HEAD, [one.row for one in suits(report)])
