"""Ray's start-up, in one place: a private local cluster by default, an existing one with an address."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from denoise_core.errors import UserError

TOKEN_HINT = "if it wants a token, put it into ~/.ray/auth_token (or RAY_AUTH_TOKEN) and set RAY_AUTH_MODE=token"
PASSED_ON = (
    "RAY_API_SERVER_ADDRESS", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER",
    "RAY_TRAIN_ENABLE_STATE_TRACKING", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION",
)  # fmt: skip
"""What workers get of the driver's environment. Ray shows it to everyone on the dashboard: so no credentials."""


@dataclass(frozen=True)
class Session:
    """A connection to Ray. ``dashboard`` is an address to open in a browser."""

    dashboard: str
    local: bool


@contextlib.contextmanager
def session(address: str | None) -> Iterator[Session]:
    """Connects to ``address``, or starts a private cluster; disconnects at the end. Raises UserError."""
    with starting(address) as ready:
        yield ready()


@contextlib.contextmanager
def starting(address: str | None) -> Iterator[Callable[[], Session]]:
    """Starts a private cluster beside what this process does next; disconnects at the end.

    What it gives waits for the cluster, or connects to ``address``; it raises UserError. Call prepare_environment
    first.
    """
    with ThreadPoolExecutor(1) as beside:
        early = beside.submit(_connected, None) if address is None else None
        try:
            yield early.result if early is not None else partial(_connected, address)
        finally:
            if early is not None:
                wait([early])
            if (ray := sys.modules.get("ray")) is not None:
                ray.shutdown()


def _connected(address: str | None) -> Session:
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
        raise UserError(_refused(address, error)) from None
    url = context.dashboard_url
    return Session(f"http://{url}" if url else "", local=address is None)


def prepare_environment(address: str | None) -> None:
    """Settings that Ray reads from the environment: call it before anything imports Ray."""
    chosen = {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon the end of a run is noticed; polling costs CPU time
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process more for each run; the board watches the nodes
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # so that Train runs are seen on the dashboard
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "PYTHONWARNINGS": "ignore",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results go to the store
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # resuming is ours, from the store
    }
    if address is None:
        # a dozen small processes of a cluster of our own, each with its metrics, take their time from the training
        chosen["RAY_metrics_report_interval_ms"] = "30000"
        # processes without the study's environment, which none of its tasks can use
        chosen["RAY_prestart_worker_first_driver"] = "0"
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
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
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
    if address in ("auto", "local"):
        return
    if "://" in address:
        raise UserError(
            f"--address {address} is not the address of a cluster's head, HOST:6379: through Ray Client (ray://) a "
            "study would end with its connection. Run it on a machine of the cluster, or hand it in with "
            "`ray job submit --working-dir . -- python studies/...`."
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--address {address} is no address of a Ray cluster: it looks like HOST:6379.")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as head:
            web = _speaks_http(head)
    except OSError as error:
        raise UserError(
            f"No Ray cluster answers at {address} ({error.strerror or error}): start one with "
            "`denoise-studies node --head`, correct --address (or RAY_ADDRESS), or leave it out to use this machine."
        ) from None
    if web:
        raise UserError(
            f"At {address} answers a web server, perhaps the cluster's dashboard: --address is the port of its head, "
            "usually 6379."
        )


def _speaks_http(connection: socket.socket) -> bool:
    """Whether a plain web server is at the other end, which Ray would wait for without an end."""
    connection.settimeout(1.0)
    try:
        connection.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
        return connection.recv(8).startswith(b"HTTP/1")
    except OSError:
        return False


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


def _refused(address: str, error: Exception) -> str:
    """Why a cluster could not be joined, and what to do."""
    text = str(error)
    if "Version mismatch" in text:
        found = re.findall(r"(Ray|Python): (\S+)", text)  # first the cluster's, then ours
        theirs, mine = (" and ".join(f"{name} {one}" for name, one in part) for part in (found[:2], found[2:4]))
        return (
            f"The cluster at {address} runs {theirs}, this program {mine}: install the same versions on both sides "
            "(pip install -c constraints.txt does)."
        )
    return (
        f"The Ray cluster at {address} did not let us in ({_first_line(error)}): check the address; {TOKEN_HINT}; and "
        "run this on a machine of the cluster, or hand it in with `ray job submit`."
    )


def _has_token() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
