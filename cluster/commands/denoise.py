"""Denoise image files with a trained model: a file, or a folder with its sub-folders.

MODEL is a file that ``denoise-studies export`` wrote, or the beginning of a training's id with --store. IN is a TIFF,
PNG or NPY file of any size, or a folder of these; stacks are denoised plane by plane. Results have the type, range,
axes and metadata of their inputs. A file that cannot be used is told, the others are denoised; the exit status is then
1. Large images go through in tiles, so that a TIFF or NPY file of any size needs little memory.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cluster.console import Console, duration
from cluster.watching.stored import add_store
from denoise_core.errors import UserError

FAILURES = 1
DEFAULT_PIXELS = 2**20
"""As denoise_core.inference.MAX_PIXELS, which would load PyTorch."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a model file, or the beginning of a training's id")
    add("input", metavar="IN", type=Path, help="an image file, or a folder of image files")
    add("output", metavar="OUT", type=Path, help="the file or folder that is written")
    add_store(parser)
    add("--axes", metavar="LETTERS", help="a letter an axis of stacks, where files do not tell: TYX, ZYX, YXC, ...")
    add("--white", type=float, metavar="VALUE", help="the value that counts as 1 (default: 255, 65535 or 1 by type)")
    add("--set", metavar="NAME=VALUE", action="append", default=[], help="a parameter that acts at inference")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    add(
        "--max-pixels", type=int, default=DEFAULT_PIXELS, metavar="N",
        help="largest height times width that is denoised at once; larger planes go through in tiles (%(default)s)",
    )  # fmt: skip
    add(
        "--data-root",
        metavar="PATH",
        help="folder of named image sets that MODEL was trained on (default: $DENOISE_DATA)",
    )


def run(flags: argparse.Namespace, console: Console) -> int:
    """Denoises; the exit status is 1 where a file failed. Raises UserError."""
    from cluster.models import find_model

    if flags.max_pixels < 1:
        raise UserError(f"--max-pixels {flags.max_pixels} is not allowed: give a whole number of at least 1.")
    jobs = planned(flags.input, flags.output)
    model = find_model(flags.model, flags.store, data_root(flags.data_root), device(flags.device))
    model.set_parameters(dict(map(setting, flags.set)))
    if model.info.values is None:
        console.warn("The range of the model's training images is not known, so that of the images is not compared.")
    failed, began = 0, time.perf_counter()
    inputs = {job.source.resolve() for job in jobs}
    with _progress(console) as report:
        for number, job in enumerate(jobs, start=1):
            label = f"{job.name} ({number} of {len(jobs)})" if len(jobs) > 1 else job.name
            try:
                said = _denoised(job, model, flags, inputs, report(label), console)
            except (UserError, OSError) as error:
                failed += 1
                console.complain(str(error))
            else:
                console.say(f"{label}: {said}")
    seconds = duration(time.perf_counter() - began)
    console.say(f"{len(jobs) - failed} of {len(jobs)} file(s) denoised in {seconds}: {flags.output}")
    return FAILURES if failed else 0


@dataclass(frozen=True)
class Job:
    """One file and where its result goes; ``name`` is shown."""

    source: Path
    target: Path
    name: str


def planned(source: Path, target: Path) -> list[Job]:
    """The files that are to be denoised. Raises UserError where there are none or an input would be overwritten."""
    from denoise_core.image_io import LOSSY, SUFFIXES

    if source.is_file():
        goal = target / source.name if target.is_dir() else target
        if goal.suffix.lower() != source.suffix.lower() and {goal.suffix.lower(), source.suffix.lower()} != {
            ".tif",
            ".tiff",
        }:
            raise UserError(f"{goal} is not of the kind of {source}: give an output that ends in {source.suffix}.")
        if goal.exists() and goal.samefile(source):
            raise UserError(f"{goal} would overwrite its own input: give another output.")
        return [Job(source, goal, source.name)]
    if not source.is_dir():
        raise UserError(f"There is no file or folder {source}: give the path of an image file or a folder.")
    if target.is_file():
        raise UserError(f"{target} is a file, but {source} is a folder: give a folder for the results.")
    inside, outside = target.resolve(), source.resolve()
    if inside == outside or outside in inside.parents:
        raise UserError(f"The results would lie among the inputs in {source}: give a folder outside of it.")
    found = [
        path for path in sorted(source.rglob("*"))
        if path.is_file() and path.suffix.lower() in (*SUFFIXES, *LOSSY)
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    ]  # fmt: skip
    if not found:
        raise UserError(f"The folder {source} holds no images: give files that end in {', '.join(SUFFIXES)}.")
    return [Job(path, target / path.relative_to(source), str(path.relative_to(source))) for path in found]


def data_root(text: str | None) -> Path | None:
    """The folder of named image sets, by the flag or DENOISE_DATA; None where there is none."""
    named = text or os.environ.get("DENOISE_DATA")
    return Path(named).expanduser().absolute() if named else None


def device(name: str | None) -> str:
    """The device of this name, by default a GPU where there is one. Raises UserError where it is not there."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"--device {name} cannot be used ({reason}): give cpu, or a GPU that PyTorch sees.") from None
    return name


def setting(text: str) -> tuple[str, Any]:
    """``name=value`` as a pair; numbers and true, false are taken as such. Raises UserError."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise UserError(f"--set {text} is not understood: it looks like --set gamma=0.5.")
    try:
        return name.strip(), json.loads(value.strip().lower())
    except ValueError:
        return name.strip(), value.strip()


def _denoised(
    job: Job,
    model: Any,
    flags: argparse.Namespace,
    inputs: set[Path],
    begin: Callable[[int], Callable[[int], None]],
    console: Console,
) -> str:
    """Denoises one file and says what it was."""
    from denoise_core.image_io import opened, written
    from denoise_core.planes import planes

    if job.target.resolve() in inputs:
        raise UserError(f"{job.target} is one of the inputs and would be overwritten: give another output.")
    began = time.perf_counter()
    with opened(job.source) as picture:
        axes = picture.axes if picture.own_axes or not flags.axes else flags.axes
        layout = planes(picture.pixels.shape, axes, model.method.channels, str(job.source))
        advance = begin(len(layout) * layout.height * layout.width)
        with written(picture, job.target) as result:
            model.denoise_into(
                picture.pixels, result, layout,
                white=flags.white, max_pixels=flags.max_pixels, name=str(job.source), advance=advance,
                warn=console.warn,
            )  # fmt: skip
    size = " x ".join(map(str, layout.shape))
    return f"{size} ({layout.axes}), {picture.pixels.dtype.name}, {duration(time.perf_counter() - began)}"


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], Callable[[int], Callable[[int], None]]]]:
    """Shows a bar of the file in work on a terminal, nothing on a pipe."""
    columns: Sequence[Any] = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console.out, transient=True, disable=not console.out.is_terminal) as bar:

        def report(label: str) -> Callable[[int], Callable[[int], None]]:
            for task in bar.task_ids:
                bar.remove_task(task)

            def begin(total: int) -> Callable[[int], None]:
                task = bar.add_task(label.replace("[", r"\["), total=total)
                return lambda pixels: bar.advance(task, pixels)

            return begin

        yield report
