"""What a cluster has, node by node, as a task on each of them sees it.

A node whose packages differ from the driver's, or that does not see the store or the images, would fail in the middle
of the night; so it is asked before anything is trained. The module imports little, since it must also load on a node
whose packages are wrong.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from denoise_core.errors import UserError

COMPARED = (
    "ray", "torch", "numpy", "scipy", "scikit-image", "pydantic", "pyarrow", "optuna", "safetensors", "pywavelets",
)  # fmt: skip
"""Packages in which a difference between machines can change results, or break what one sends to the other."""
ANSWER_S = 60.0
"""How long a node may take to answer; the first task on a node unpacks the program there."""
SKEW_S = 60.0
"""Clocks that differ by more than this are reported. Nothing here depends on them, but logs and credentials do."""
LOW_DISK = 2 * 10**9
"""Bytes of free space below which a node is reported."""


@dataclass(frozen=True)
class Needs:
    """What a study needs of every node: the store's address and folders that have to be there."""

    store: str | None = None
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """One node of the cluster. Memory and disk are in bytes; ``problems`` are sentences."""

    name: str
    node_id: str
    address: str
    resources: Mapping[str, float]
    draining: bool = False
    silent: bool = False
    """Whether it did not answer in time."""
    versions: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()
    """Name and memory of each, as the driver software tells."""
    free_disk: int = 0
    skew_s: float = 0.0
    problems: tuple[str, ...] = ()

    @property
    def cpus(self) -> float:
        """CPUs that Ray may use there."""
        return self.resources.get("CPU", 0.0)


def survey(needs: Needs) -> list[Node]:
    """Asks every living node of the cluster that this process is connected to."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = sorted((one for one in ray.nodes() if one["Alive"]), key=lambda one: str(one["NodeManagerAddress"]))
    drained = draining()
    asked = []
    for one in alive:
        there = NodeAffinitySchedulingStrategy(one["NodeID"], soft=False)
        task = ray.remote(num_cpus=0, max_retries=1, scheduling_strategy=there)(_look)
        asked.append((one, time.time(), task.remote(needs)))
    found, deadline = [], time.monotonic() + ANSWER_S
    for one, sent, answer in asked:
        node = Node(
            one["NodeManagerHostname"], one["NodeID"], one["NodeManagerAddress"], one["Resources"],
            draining=one["NodeID"] in drained,
        )  # fmt: skip
        try:
            seen = ray.get(answer, timeout=max(1.0, deadline - time.monotonic()))
        except ray.exceptions.GetTimeoutError:
            found.append(replace(node, silent=True))  # perhaps it was unplugged: the cluster notices after a while
            continue
        except Exception as error:  # a task that cannot start there raises one of many kinds
            if one["NodeID"] not in {now["NodeID"] for now in ray.nodes() if now["Alive"]}:
                continue  # it has left since it was asked
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1][:200]
            found.append(replace(node, problems=(f"The node {node.name} does not run what is sent to it ({reason}).",)))
            continue
        found.append(_judged(node, seen, sent, time.time()))
    return found


def check(nodes: Sequence[Node]) -> list[str]:
    """:func:`warnings`. Raises UserError for what would fail on a node, or give other results there."""
    for node in nodes:
        if node.problems and not node.draining:
            raise UserError(node.problems[0])
    return warnings(nodes)


def warnings(nodes: Sequence[Node]) -> list[str]:
    """What a person should know of the nodes and what does not stop a study."""
    found = []
    for node in nodes:
        if node.silent:
            found.append(f"The node {node.name} did not answer for {ANSWER_S:.0f} s: it may be lost.")
        if node.draining:
            found.append(f"The node {node.name} is about to leave the cluster: nothing new starts there.")
        if abs(node.skew_s) > SKEW_S:
            found.append(f"The clock of {node.name} is {abs(node.skew_s):.0f} s {_way(node.skew_s)}.")
        if 0 < node.free_disk < LOW_DISK:
            found.append(f"The disk of {node.name} has only {node.free_disk / 1e9:.1f} GB left.")
    return found


def draining() -> dict[str, int]:
    """The nodes that are about to leave (id -> deadline in ms, 0 where none is known)."""
    import ray

    try:
        return dict(ray._private.state.state.get_draining_nodes())
    except Exception:  # Ray's public interface has no such question: another version may lack it
        return {}


def versions() -> dict[str, str]:
    """Python and the packages whose difference matters, without local labels: 2.13.0+cpu is 2.13.0."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in COMPARED:
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _judged(node: Node, seen: Mapping[str, Any], sent: float, heard: float) -> Node:
    """What a node answered, with what is wrong with it."""
    mine, theirs, problems = versions(), seen["versions"], []
    for name, version in mine.items():
        if theirs.get(name) != version:
            problems.append(
                f"The node {node.name} has {name} {theirs.get(name)}, this program has {name} {version}: install the "
                "same versions on every machine (pip install -c constraints.txt does), and start it again."
            )
    problems += seen["problems"]
    # the task ran at some time between question and answer
    skew = seen["clock"] - min(max(seen["clock"], sent), heard)
    return replace(
        node, versions=theirs, gpus=tuple(seen["gpus"]), free_disk=seen["free_disk"], skew_s=skew,
        problems=tuple(problems),
    )  # fmt: skip


def _look(needs: Needs) -> dict[str, Any]:
    """Runs on a node."""
    name, problems = platform.node(), []
    if needs.store is not None:
        problems += _store_problems(name, needs.store)
    for folder in needs.folders:
        if not os.path.isdir(folder):
            problems.append(
                f"The node {name} does not have the folder {folder}: put the images at the same place on every node, "
                "or in a folder that all of them share."
            )
    return {
        "versions": versions(),
        "gpus": _gpus(),
        "free_disk": shutil.disk_usage(tempfile.gettempdir()).free,
        "clock": time.time(),
        "problems": problems,
    }


def _store_problems(name: str, location: str) -> list[str]:
    try:
        from cluster.results.store import Store

        store = Store.existing(location)
        probe = f".probe-{uuid.uuid4().hex}"
        store.files.patience_s = 10.0
        store.files.write(probe, b"probe", durable=False)
        store.files.delete(probe)
    except UserError as error:
        return [str(error)]
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        return [
            f"The node {name} cannot write to the store {location} ({reason}): give it the same access as this "
            "machine (credentials in its environment, or the shared folder)."
        ]
    return []


def _gpus() -> list[str]:
    """Name and memory of each GPU. Ray hides them from a task that asks for none, the driver software does not."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _way(skew: float) -> str:
    return "fast" if skew > 0 else "slow"
