"""Measures what things cost against named references, keeps the figures and draws the page of their history.

    python -m benchmarks                                 # everything: about half an hour on a processor
    python -m benchmarks training parts --rounds 9       # some groups
    python -m benchmarks training --only dbsn            # what has this in its name
    python -m benchmarks training --device cuda          # on a GPU, with the papers' batches
    python -m benchmarks --page-only                     # the page alone

Needs the packages of the extra test, since the published steps stand among the tests.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks import history, page
from benchmarks.harness import Result, compare, comparisons, curves, groups, trace
from benchmarks.machine import describe, peak
from cluster.report.document import write
from denoise_core.memory import keep_freed_memory

HERE = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"some of {', '.join(groups())} (default: all)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only what has this in its name")
    parser.add_argument("--rounds", type=int, default=5, help="how often both take turns (%(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--history", type=Path, default=HERE / "history", help="folder of results (%(default)s)")
    parser.add_argument("--page", type=Path, default=HERE / "history" / "index.html", help="the page (%(default)s)")
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    flags = parser.parse_args(arguments)
    unknown = sorted(set(flags.groups) - set(groups()))
    if unknown or flags.rounds < 1:
        parser.error(f"no group {unknown[0]}: use {', '.join(groups())}" if unknown else "--rounds is at least 1")
    if flags.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here; leave it out")
    torch.set_num_threads(1)
    keep_freed_memory()  # as in a training
    if not flags.page_only:
        measure(flags)
    rows = history.read(flags.history)
    if rows.empty:
        parser.error(f"{flags.history} holds no results: leave out --page-only")
    print(f"page: {write(flags.page, page.page(rows, describe(flags.device)))}")
    return 0


def measure(flags: argparse.Namespace) -> None:
    run, results = history.Run.now(flags.device), list[Result]()
    print(f"{run.device}, torch {run.torch}, commit {run.commit[:12]}{' with changes' if run.changed else ''}")
    peaks: set[str] = set()
    for group in flags.groups or groups():
        for one in comparisons(group, flags.device):
            if flags.only in one.name:
                results.append(compare(group, one, flags.rounds, flags.device))
                if results[-1].share_of_peak is not None and one.precision not in peaks:
                    peaks.add(one.precision)
                    most = peak(one.precision, flags.device) / 1e9
                    print(f"peak of a 3x3 convolution, {one.precision}: {most:,.0f} GFLOP/s")
                print(_said(results[-1]), flush=True)
                history.keep(flags.history, run, results)
        for curve in curves(group) if flags.device == "cpu" else []:
            if flags.only in curve.name:
                for result in trace(curve, group):
                    results.append(result)
                    print(_said(result), flush=True)
                    history.keep(flags.history, run, results)
    print(f"results: {flags.history}" if results else "nothing has that in its name")


def _said(one: Result) -> str:
    if one.size is not None:
        memory = "" if one.memory_mb is None else f", {one.memory_mb:.0f} MiB"
        return f"{one.group}: {one.name}, {one.size:,} {one.reference}: {one.ours_ms:,.3g} ms{memory}"
    share = "" if one.share_of_peak is None else f", {100 * one.share_of_peak:.0f} % of the peak"
    missed = ", goal missed" if one.goal is not None and (one.ratio or 0) < one.goal else ""
    return (
        f"{one.group}: {one.name}: {one.reference_ms:,.3g} ms {one.reference}, {one.ours_ms:,.3g} ms ours, "
        f"{one.ratio:.2f} [{one.low:.2f}, {one.high:.2f}] times as fast{share}{missed}"
    )


if __name__ == "__main__":
    sys.exit(main())
