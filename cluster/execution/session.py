"""Ray's start-up, in one place: a private local cluster by default, an existing one with an address."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denoise_core.errors import UserError

TOKEN_HINT = "if it wants a token, put it into ~/.ray/auth_token (or RAY_AUTH_TOKEN) and set RAY_AUTH_MODE=token"


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


@dataclass(frozen=True)
class Session:
    """A connection to Ray. ``dashboard`` is an address to open in a browser."""

    dashboard: str
    local: bool


@contextlib.contextmanager
def session(address: str | None) -> Iterator[Session]:
    """Connects to ``address``, or starts a private cluster; disconnects at the end. Raises UserError."""
    if address is not None:
        _knock(address)
    port = _free_port()
    import ray

    try:
        if address is None:
            dashboard = f"127.0.0.1:{port}"
        else:  # a first look: where its dashboard is, must be known when the job begins
            with _quiet():
                dashboard = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR).dashboard_url
                ray.shutdown()
        context = ray.init(**_arguments(address, port, dashboard))
    except Exception as error:  # Ray raises many kinds, ConnectionError and AuthenticationError among them
        if address is None:
            raise UserError(f"Ray could not start on this machine: {_first_line(error)}.") from error
        raise UserError(
            f"The Ray cluster at {address} did not let us in ({_first_line(error)}): check the address; {TOKEN_HINT}."
        ) from None
    try:
        url = context.dashboard_url
        yield Session(f"http://{url}" if url else "", local=address is None)
    finally:
        ray.shutdown()


def lanes(resources: Resources, limit: int | None) -> int:
    """How many trials run at a time. Raises UserError when not even one fits."""
    import ray

    if resources.gpus_per_worker > 1 and resources.gpus_per_worker % 1:
        raise UserError(
            f"{resources.gpus_per_worker:g} GPUs a worker cannot be had: a worker takes whole GPUs or a part of one; "
            "change --gpus-per-trial."
        )
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    slots = sum(_workers_on(node, resources) for node in nodes)
    fit = slots // resources.workers
    if fit < 1:
        total = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
        raise UserError(
            f"A trial asks for {resources.workers} worker(s) with {resources.cpus_per_worker:g} CPU and "
            f"{resources.gpus_per_worker:g} GPU each, but the cluster has {total['CPU']:g} CPU and "
            f"{total['GPU']:g} GPU on {len(nodes)} node(s), which holds {slots} such worker(s): "
            "lower --workers-per-trial, --cpus-per-trial or --gpus-per-trial, or add nodes."
        )
    return min(fit, limit) if limit else fit


def _workers_on(node: dict[str, float], resources: Resources) -> int:
    fits = [math.floor(node.get("CPU", 0) / resources.cpus_per_worker + 1e-9)]
    if resources.gpus:
        share = resources.gpus_per_worker
        gpus = node.get("GPU", 0)
        # a share of a GPU cannot be put together from the rests of two
        fits.append(math.floor(gpus) * math.floor(1 / share + 1e-9) if share < 1 else math.floor(gpus / share + 1e-9))
    return min(fits)


def prepare_environment(address: str | None) -> None:
    """Settings that Ray reads from the environment: call it before anything imports Ray."""
    chosen = {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon the end of a run is noticed; polling costs CPU time
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process more for each run
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "PYTHONWARNINGS": "ignore",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results go to the store
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # resuming is ours, from the store
    }
    if address is None:
        # a dozen small processes of a cluster of our own, each with its metrics, take their time from the training
        chosen["RAY_metrics_report_interval_ms"] = "30000"
    for name, value in chosen.items():
        os.environ.setdefault(name, value)
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C is ours: workers save and return
    if address is not None and "RAY_AUTH_MODE" not in os.environ and _has_token():
        os.environ["RAY_AUTH_MODE"] = "token"  # Ray turns it on by itself for clusters of its own only
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _arguments(address: str | None, port: int, dashboard: str) -> dict[str, Any]:
    if dashboard:
        # Ray Train's clean-up asks the dashboard; without the address it searches for seconds, and finds other clusters
        os.environ["RAY_API_SERVER_ADDRESS"] = f"http://{dashboard}"
    passed_on = ("RAY_API_SERVER_ADDRESS", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER")
    variables = {name: os.environ[name] for name in passed_on if name in os.environ}
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        return {
            **quiet,
            "address": "local",
            "include_dashboard": True,  # Ray Train's clean-up needs it
            "dashboard_port": port,
            "object_store_memory": 256 * 2**20,
            "runtime_env": {"env_vars": variables},
        }
    packages = [str(Path(__file__).resolve().parents[2] / name) for name in ("denoise_core", "cluster")]
    return {**quiet, "address": address, "runtime_env": {"env_vars": variables, "py_modules": packages}}


def _knock(address: str) -> None:
    """Asks the port first: Ray itself waits long before it gives up."""
    if address in ("auto", "local") or "://" in address:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--address {address} is no address of a Ray cluster: it looks like HOST:6379.")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise UserError(
            f"No Ray cluster answers at {address} ({error.strerror or error}): start one with `ray start --head`, "
            "correct --address (or RAY_ADDRESS), or leave it out to use this machine."
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what Ray's C++ prints at every attempt to connect; the error that it ends with says it all."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _has_token() -> bool:
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or (Path.home() / ".ray" / "auth_token").is_file()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
