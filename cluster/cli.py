"""The command line that every study script has."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.console import Console
from cluster.ending import ended
from cluster.imagery import BUDGETS, Budget
from cluster.numerics import AUTO
from cluster.study import Study
from denoise_core.errors import UserError

STOPPED = "Interrupted. What is stored stays stored; the same command goes on."
LAYOUTS = {"channels_last": True, "contiguous": False}


@dataclass(frozen=True)
class Options:
    """The command line, checked as far as it can be without data. See ``--help`` for the meanings."""

    budget: Budget
    seeds: tuple[int, ...]
    search: str
    trials: int
    workers: int
    gpus: float
    auto_gpus: bool
    """Whether measured memory decides about ``gpus``."""
    cpus: float
    max_concurrent: int | None
    address: str | None
    store: str
    data_root: Path | None
    dry_run: bool
    report_only: bool
    open_report: bool
    references: str | None
    steps: int | None
    numerics: Mapping[str, Any]
    """Fields of the recipe among cluster.numerics.NAMES; AUTO where a measurement decides."""
    settings: Mapping[str, list[Any]]
    data: Mapping[str, Any]
    noises: tuple[str, ...]
    criterion: str | None = None


def run(study: Study, arguments: Sequence[str]) -> int:
    """Runs ``study`` as ``arguments`` say. Exit status: 0, 1 failed trials, 2 bad input, 130 interrupted."""
    from cluster.runner import Runner

    console = Console()
    return ended(
        lambda: Runner(study, parse(study, arguments), command_line(arguments), console).run(), console, STOPPED
    )


def parse(study: Study, arguments: Sequence[str]) -> Options:
    """Reads the command line. Raises UserError; ``--help`` and unknown flags end as argparse does."""
    flags = _parser(study).parse_args(list(arguments))
    workers = _at_least("--workers-per-trial", flags.workers_per_trial, 1)
    auto = flags.gpus_per_trial == "auto"
    gpus = float(workers) if auto else _number("--gpus-per-trial", flags.gpus_per_trial)
    address = flags.address or os.environ.get("RAY_ADDRESS") or None
    budget: Budget = flags.budget or ("gpu" if gpus or torch.cuda.is_available() else "laptop")
    if gpus is None:
        gpus = float(workers) if budget in ("gpu", "paper") and (torch.cuda.is_available() or address) else 0.0
    cpus = flags.cpus_per_trial if flags.cpus_per_trial is not None else float(workers)
    for name, value in (("--gpus-per-trial", gpus), ("--cpus-per-trial", cpus)):
        if not 0 <= value < math.inf or (name == "--cpus-per-trial" and value == 0):
            raise UserError(f"{name} {value:g} is not allowed: give a positive number.")
    data = {
        name: value for name in ("train", "clean", "test", "channels") if (value := getattr(flags, name)) is not None
    }
    return Options(
        budget=budget,
        seeds=tuple(range(_at_least("--seeds", flags.seeds, 1))),
        search=flags.search,
        trials=_at_least("--trials", flags.trials, 1),
        workers=workers,
        gpus=gpus,
        auto_gpus=auto,
        cpus=cpus,
        max_concurrent=None if flags.max_concurrent is None else _at_least("--max-concurrent", flags.max_concurrent, 1),
        address=address,
        store=flags.store,
        data_root=_data_root(flags.data_root or os.environ.get("DENOISE_DATA")),
        dry_run=flags.dry_run,
        report_only=flags.report_only,
        open_report=flags.open,
        references=flags.references,
        steps=None if flags.steps is None else _at_least("--steps", flags.steps, 1),
        numerics=_numerics(flags),
        settings=dict(_setting(text) for text in flags.set),
        data={**data, **({"test": tuple(data["test"])} if "test" in data else {})},
        noises=tuple(flags.noise or ()),
        criterion=flags.criterion,
    )


def command_line(arguments: Sequence[str]) -> str:
    """The command that a reader can type again, from the repository's folder."""
    script = Path(sys.argv[0])
    shown = f"studies/{script.name}" if script.parent.name == "studies" else script.name
    named = f"DENOISE_DATA={shlex.quote(os.environ['DENOISE_DATA'])} " if os.environ.get("DENOISE_DATA") else ""
    return f"{named}python {shown} {shlex.join(arguments)}".strip()


def _parser(study: Study) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=study.question,
        epilog="The same command goes on where an interrupted one ended, and trains nothing that the store holds.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--budget", choices=BUDGETS, help="how much to compute (default: gpu on a machine with a GPU, else laptop)")
    add("--seeds", type=int, default=3, metavar="N", help="repetitions of every setting, seeds 0 to N-1")
    add("--search", choices=("grid", "optuna"), default="grid", help="every cell, or suggestions with pruning")
    add("--trials", type=int, default=16, metavar="N", help="suggestions of --search optuna, earlier ones included")
    add("--workers-per-trial", type=int, default=1, metavar="N", help="processes that train one trial together")
    add("--gpus-per-trial", metavar="X", help="GPUs of a trial, all workers together; 0.5 shares one; auto: by memory")
    add("--cpus-per-trial", type=float, metavar="X", help="CPUs of a trial, all workers together (default: one each)")
    add("--max-concurrent", type=int, metavar="N", help="trials at a time (default: as many as fit)")
    add("--address", metavar="HOST:PORT", help="a running Ray cluster (default: $RAY_ADDRESS, else this machine)")
    add("--store", default="results", metavar="PATH", help="results store: a folder or s3://..., gs://...")
    add("--data-root", metavar="PATH", help="folder of named image sets (default: $DENOISE_DATA)")
    add("--train", metavar="SET", help="training images: a named set or a folder")
    add("--clean", metavar="SET", help="clean images of other scenes, for methods that learn from unpaired images")
    add("--test", metavar="SET", action="append", help="test images: a named set or a folder (repeatable)")
    add("--channels", type=int, choices=(1, 3), help="gray or colour")
    add("--noise", metavar="NAME", action="append", help="gauss25, poisson30, film, ldct5e4, ... (repeatable)")
    add("--criterion", metavar="NAME", help="judge without clean images: auto, upsnr, sure, ... (see docs/criteria.md)")
    add("--set", metavar="NAME=VALUE", action="append", default=[], help="a parameter; NAME=1,2,3 replaces an axis")
    add("--steps", type=int, metavar="N", help="training steps, instead of the budget's")
    add(
        "--precision", choices=("fp32", "bf16", AUTO),
        help="numbers of the forward passes; auto: bf16 where it is faster here and as good (default: the budget's)",
    )  # fmt: skip
    add("--layout", choices=(*LAYOUTS, AUTO), help="memory of images and weights (default: the budget's)")
    add(
        "--compile", nargs="?", const="yes", choices=("yes", AUTO),
        help="compile the networks with torch.compile; auto: where long trainings gain by it",
    )  # fmt: skip
    add("--fast", action="store_true", help="auto for --precision, --layout and --compile: measured before training")
    add(
        "--references",
        choices=("none", "first", "all"),
        help="reference methods (default: first for laptop, all for gpu)",
    )
    add("--dry-run", action="store_true", help="show the plan and its cost, train nothing")
    add("--report-only", action="store_true", help="write the report from what is stored, train nothing")
    add("--open", action="store_true", help="open the report in a browser")
    return parser


def _numerics(flags: argparse.Namespace) -> dict[str, Any]:
    layout, compiled = flags.layout, flags.compile
    given = {
        "precision": flags.precision,
        "channels_last": LAYOUTS.get(layout, layout),
        "compile": True if compiled == "yes" else compiled,
    }
    given = {name: AUTO if value is None and flags.fast else value for name, value in given.items()}
    return {name: value for name, value in given.items() if value is not None}


def _data_root(text: str | None) -> Path | None:
    if not text:
        return None
    path = Path(text).expanduser().absolute()
    if not path.is_dir():
        raise UserError(f"The data root {text} is not a folder: point --data-root or DENOISE_DATA to one.")
    return path


def _setting(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not equals or not name.strip() or not values.strip():
        raise UserError(f"--set {text} is not understood: it looks like --set gamma=2 or --set gamma=0,2,8.")
    return name.strip(), [_value(one.strip()) for one in values.split(",")]


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _number(flag: str, text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        raise UserError(f"{flag} {text} is not understood: give a number, as 1 or 0.5, or auto.") from None


def _at_least(flag: str, value: int, least: int) -> int:
    if value < least:
        raise UserError(f"{flag} {value} is not allowed: give a whole number of at least {least}.")
    return value
