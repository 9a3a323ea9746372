"""The command line: ``python studies/criterion_agreement.py --store results``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.agreement.evidence import Evidence, evidence, measured
from cluster.agreement.fill import data_of, fill, licences
from cluster.agreement.page import markdown, write_page
from cluster.console import Console
from cluster.ending import ended
from cluster.results.store import Store

NAME = "criterion_agreement"
FEW = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares and reports. Exit status: 0, 1 where there is nothing to compare, 2 bad input, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    console = Console()
    stopped = "Interrupted. What was measured stays stored."
    return ended(lambda: _run(_parser().parse_args(given), given, console), console, stopped)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="How far criteria without clean images agree with true PSNR, over all trainings of a store whose "
        "clean images are known: Kendall's tau, and what the choice by each criterion loses, by noise.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--store", default="results", metavar="PATH", help="results store: a folder or s3://..., gs://...")
    add("--measure", type=int, default=100, metavar="N", help="trainings that no criterion has measured yet: so many")
    add("--data-root", metavar="PATH", help="folder of named image sets (default: $DENOISE_DATA)")
    add("--markdown", metavar="FILE", type=Path, help="also write the table as Markdown")
    return parser


def _run(flags: argparse.Namespace, given: Sequence[str], console: Console) -> int:
    root = flags.data_root or os.environ.get("DENOISE_DATA")
    data_root = Path(root).expanduser().absolute() if root else None
    store = Store.open(flags.store)
    if flags.measure > 0:
        count = fill(store, data_root, flags.measure, console)
        console.say(f"{count} trainings were measured by the criteria that they lacked.")
    found = evidence(measured(store))
    if not found:
        console.complain(
            f"The store {flags.store} has no three trainings on the same noise and test images whose clean images are "
            "known and that a criterion measured: run a study or which_method.py --noise first."
        )
        return FEW
    refused = {
        (noise, name, one): why for data in data_of(store, data_root) for noise, name, one, why in licences(data)
    }
    console.table("", HEAD, [row(one, refused) for one in found])
    command = f"python studies/{NAME}.py {shlex.join(given)}".strip()
    folder = (store.local or Path("results")) / "reports"
    path = write_page(found, refused, command, folder / f"{NAME}.html")
    if flags.markdown is not None:
        flags.markdown.parent.mkdir(parents=True, exist_ok=True)
        flags.markdown.write_text(markdown(HEAD, [row(one, refused) for one in found]), encoding="utf-8")
    console.say("")
    console.say(f"Report: {path}", style="bold")
    return 0


HEAD = ("noise", "test images", "criterion", "licensed", "tau [95 %]", "regret, dB [95 %]", "bias, dB", "candidates")


def row(one: Evidence, refused: Mapping[tuple[str, str, str], str | None]) -> tuple[str, ...]:
    """A line of the table."""
    key = (one.noise, one.dataset, one.criterion)
    licensed = "not known" if key not in refused else ("yes" if refused[key] is None else "no")
    return (
        one.noise, f"{one.dataset} ({one.images})", one.criterion, licensed, str(one.tau), str(one.regret),
        f"{one.bias:+.2f}", str(one.candidates),
    )  # fmt: skip
