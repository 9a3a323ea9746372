"""How many trainings fit a cluster at a time, what cannot ever fit, and what is waited for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from denoise_core.errors import UserError

Amounts = Mapping[str, float]


@dataclass(frozen=True)
class Resources:
    """What one trial asks for: ``workers`` processes, with CPUs and GPUs for all of them together."""

    workers: int
    cpus: float
    gpus: float

    @property
    def cpus_per_worker(self) -> float:
        """CPUs of one worker."""
        return self.cpus / self.workers

    @property
    def gpus_per_worker(self) -> float:
        """GPUs of one worker; below 1 several share one."""
        return self.gpus / self.workers

    def __str__(self) -> str:
        gpus = f" and {self.gpus_per_worker:g} GPU" if self.gpus else ""
        return f"{self.workers} worker(s) with {self.cpus_per_worker:g} CPU{gpus} each"


@dataclass(frozen=True)
class Cluster:
    """Resources by node, what is free of them, and the most that an autoscaler may bring them to (None: no scaler)."""

    nodes: Sequence[Amounts]
    free: Amounts
    most: Amounts | None = None
    queued: bool = False
    """Whether workers of somebody wait for their resources."""

    @classmethod
    def now(cls) -> Cluster:
        """The cluster that this process is connected to, without the nodes that are about to leave."""
        import ray
        import ray.util

        from cluster.execution.survey import draining

        leaving = draining()
        nodes = [one["Resources"] for one in ray.nodes() if one["Alive"] and one["NodeID"] not in leaving]
        try:
            most = ray._private.state.state.get_max_resources_from_cluster_config()
        except Exception:  # Ray's public interface has no such question: another version may lack it
            most = None
        queued = any(one["state"] == "PENDING" for one in ray.util.placement_group_table().values())
        return cls(nodes, ray.available_resources(), most, queued)

    def total(self, name: str) -> float:
        """Of all nodes together."""
        return sum(node.get(name, 0.0) for node in self.nodes)


def lanes(resources: Resources, limit: int | None, cluster: Cluster, may_grow: bool = False) -> tuple[int, str]:
    """How many trials run at a time, and what a person should know of it. Raises UserError when not one ever fits.

    What an autoscaler may add is not always known. So on a cluster that ``may_grow`` a ``limit`` above what fits is
    taken at its word, also where there are no workers at all yet: more is asked for than there is.
    """
    if resources.gpus_per_worker > 1 and resources.gpus_per_worker % 1:
        raise UserError(
            f"{resources.gpus_per_worker:g} GPUs a worker cannot be had: a worker takes whole GPUs or a part of one; "
            "change --gpus-per-trial."
        )
    slots = sum(workers_on(node, resources) for node in cluster.nodes)
    fit = slots // resources.workers
    scaled = workers_on(cluster.most, resources) // resources.workers if cluster.most else 0
    empty = not any(node.get("CPU", 0) for node in cluster.nodes)
    asked = limit or 0 if may_grow and (fit or empty) else 0
    if max(fit, scaled, asked) < 1:
        more = "" if cluster.most is None else f", and its autoscaler may bring it to {_shown(cluster.most)}"
        hint = ", or say with --max-concurrent how many to ask an autoscaler for" if may_grow and empty else ""
        raise UserError(
            f"A trial asks for {resources}, but the cluster has {cluster.total('CPU'):g} CPU and "
            f"{cluster.total('GPU'):g} GPU on {len(cluster.nodes)} node(s), which holds {slots} such worker(s){more}: "
            f"lower --workers-per-trial, --cpus-per-trial or --gpus-per-trial, or add nodes{hint}."
        )
    count = min(max(fit, scaled, asked), limit or max(fit, scaled))
    if count > fit:
        return count, f"The cluster holds {fit} trial(s) at a time now: more nodes are asked for, up to {count} trials."
    return count, ""


def workers_on(node: Amounts, resources: Resources) -> int:
    """How many workers such resources hold."""
    fits = [math.floor(node.get("CPU", 0) / resources.cpus_per_worker + 1e-9)]
    if resources.gpus:
        share = resources.gpus_per_worker
        gpus = node.get("GPU", 0)
        # a share of a GPU cannot be put together from the rests of two
        fits.append(math.floor(gpus) * math.floor(1 / share + 1e-9) if share < 1 else math.floor(gpus / share + 1e-9))
    return min(fits)


def waiting(resources: Resources, cluster: Cluster) -> str:
    """What a study waits for that has begun and has no worker yet; empty where enough is free."""
    lacking = [
        f"{cluster.free.get(name, 0.0):g} of {cluster.total(name):g} {name} are free"
        for name, wanted in (("CPU", resources.cpus), ("GPU", resources.gpus))
        if wanted and cluster.free.get(name, 0.0) < wanted
    ]
    if not lacking or not cluster.queued:  # workers that are starting hold what they need already
        return ""
    return (
        f"Waiting for {resources}: {', '.join(lacking)}, the rest is in use. The study begins when others give some "
        "back; Ctrl-C is safe."
    )


def _shown(amounts: Amounts) -> str:
    return f"{amounts.get('CPU', 0):g} CPU and {amounts.get('GPU', 0):g} GPU"
