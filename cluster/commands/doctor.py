"""What a cluster has, whether every node can work for a study, and what a study would use of it.

Nothing is trained. The exit status is 1 where something would fail.
"""

from __future__ import annotations

import argparse
import os
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.console import Console
from denoise_core.errors import UserError

FAILURES = 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="a Ray cluster (default: $RAY_ADDRESS, else this machine)"
    )
    parser.add_argument("--store", metavar="PATH", help="a results store that every node has to reach")
    parser.add_argument("study", nargs="?", metavar="SCRIPT", help="a study, as studies/iscl_gamma.py")
    parser.add_argument("flags", nargs=argparse.REMAINDER, metavar="...", help="the study's own flags")


def run(flags: argparse.Namespace, console: Console) -> int:
    """Prints nodes, warnings and the study's use of the cluster. Raises UserError."""
    from cluster.execution.placement import Cluster
    from cluster.execution.session import prepare_environment, session
    from cluster.execution.survey import Needs, Node, survey, versions, warnings

    runner = _runner(flags, console) if flags.study else None
    address = flags.address or (runner.options.address if runner else None) or os.environ.get("RAY_ADDRESS") or None
    needs = runner.needs() if runner else Needs(_store(flags.store))
    prepare_environment(address)
    with session(address) as current:
        nodes = survey(needs)
        cluster = Cluster.now()

        def row(node: Node) -> list[str]:
            state = "leaves" if node.draining else "silent" if node.silent else "wrong" if node.problems else "ready"
            gpus = f"{node.resources.get('GPU', 0):g}" + (f" ({'; '.join(node.gpus)})" if node.gpus else "")
            memory = f"{node.resources.get('memory', 0) / 1e9:.1f} GB"
            skew = f"{node.skew_s:+.0f} s"
            disk = f"{node.free_disk / 1e9:.0f} GB"
            return [node.name, node.address, f"{node.cpus:g}", gpus, memory, disk, skew, state]

        where = f"The cluster at {address}" if address else "This machine"
        console.table(
            f"{where}: {len(nodes)} node(s)",
            ["node", "address", "CPU", "GPU", "memory", "free disk", "clock", "state"],
            [row(node) for node in nodes],
        )
        free = ", ".join(f"{cluster.free.get(name, 0):g} of {cluster.total(name):g} {name}" for name in ("CPU", "GPU"))
        console.say(f"Free: {free}.")
        if cluster.most is not None:
            most = ", ".join(f"{cluster.most.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
            console.say(f"Its autoscaler may bring it to {most}.")
        console.say("Versions here: " + ", ".join(f"{name} {one}" for name, one in versions().items()) + ".")
        if current.dashboard:
            console.say(f"Ray dashboard: {current.dashboard}")
        for warning in warnings(nodes):
            console.warn(warning)
        problems = [problem for node in nodes if not node.draining for problem in node.problems]
        for problem in problems:
            console.complain(problem)
        if runner is not None:
            for line in runner.usage(cluster):
                console.say(line)
        if not problems:
            console.say("Every node can work for a study.", style="green")
        return FAILURES if problems else 0


def _runner(flags: argparse.Namespace, console: Console) -> Any:
    """The study as its script and flags say, with its images read and checked."""
    from cluster.cli import command_line, parse
    from cluster.runner import Runner

    script = Path(flags.study)
    if not script.is_file():
        raise UserError(f"{flags.study} is no file: name a study's script, as studies/iscl_gamma.py.")
    study = runpy.run_path(str(script), run_name="denoise_studies_doctor").get("study")
    if study is None:
        raise UserError(f"{flags.study} declares no study: a script has `study = Study(...)`.")
    arguments: Sequence[str] = flags.flags
    if flags.store:
        arguments = ["--store", flags.store, *arguments]
    return Runner(study, parse(study, arguments), command_line(arguments), console)


def _store(location: str | None) -> str | None:
    """The absolute address of a store that exists."""
    if location is None:
        return None
    from cluster.results.store import Store

    return Store.open(location).location
