"""A Ray cluster that the tests of studies share, and a way to run a study against it as a user does."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

TOKEN = secrets.token_hex(32)
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Cluster:
    address: str

    def start(self, script: Path | str, *arguments: str) -> subprocess.Popen[str]:
        """Starts a study; ``script`` is a name in studies/ or a path."""
        path = ROOT / "studies" / script if isinstance(script, str) else script
        command = [sys.executable, str(path), "--budget", "smoke", "--address", self.address, *arguments]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/", env=environment()
        )

    def run(self, script: Path | str, *arguments: str, expect: int = 0) -> str:
        """Runs a study to its end and returns what it printed."""
        process = self.start(script, *arguments)
        printed = process.communicate(timeout=240)[0]
        assert process.returncode == expect, printed
        return printed

    def resources(self) -> tuple[dict[str, float], dict[str, float], list[str]]:
        """(all, free, placement groups that are not removed), as another process sees them."""
        assert self.watcher.stdin is not None and self.watcher.stdout is not None
        self.watcher.stdin.write("\n")
        self.watcher.stdin.flush()
        whole, free, groups = json.loads(self.watcher.stdout.readline())
        return whole, free, groups

    @cached_property
    def watcher(self) -> subprocess.Popen[str]:
        """A process that is part of the cluster and says what is free whenever it is asked."""
        program = f"""
import json, logging, sys, ray, ray.util
ray.init(address={self.address!r}, log_to_driver=False, logging_level=logging.CRITICAL)
keep = lambda one: {{name: value for name, value in one.items() if name in ("CPU", "memory")}}
for _ in sys.stdin:
    groups = [key for key, one in ray.util.placement_group_table().items() if one["state"] != "REMOVED"]
    print(json.dumps([keep(ray.cluster_resources()), keep(ray.available_resources()), groups]), flush=True)
"""
        return subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )

    def answers(self) -> bool:
        """Whether it runs a task with an environment of its own, as every study asks for."""
        program = f"""
import logging, ray
environment = {{"env_vars": {{"PROBE": "1"}}}}
ray.init(address={self.address!r}, runtime_env=environment, log_to_driver=False, logging_level=logging.CRITICAL)
assert ray.get(ray.remote(num_cpus=0)(lambda: 1).remote(), timeout=60) == 1
"""
        return subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment()).returncode == 0

    def assert_free(self) -> None:
        """Everything that a study took is given back, within a few seconds of its end."""
        for _ in range(40):
            whole, free, groups = self.resources()
            if whole == free and not groups:
                return
            time.sleep(0.5)
        raise AssertionError(f"of {whole} only {free} are free; groups {groups}")


def environment() -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if name not in ("DENOISE_DATA", "RAY_ADDRESS")}
    # Ray's workers would give way to the tests that run beside these, which take longest
    variables |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "RAY_worker_niceness": "0"}
    # workers that no study could use, since each has packages of its own
    variables |= {"RAY_prestart_worker_first_driver": "0", "RAY_enable_worker_prestart": "0"}
    # a token of the tests' own: the home folder is left alone
    return {**variables, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    port, ray = free_port(), str(Path(sys.executable).with_name("ray"))
    options = [
        "--port",
        str(port),
        "--num-cpus",
        "2",
        "--object-store-memory",
        str(128 * 2**20),
        "--disable-usage-stats",
    ]
    options += ["--dashboard-port", str(free_port()), "--include-dashboard", "true", "--block"]
    log = (tmp_path_factory.mktemp("ray") / "head.log").open("w")
    head = subprocess.Popen(
        [ray, "start", "--head", *options], stdout=log, stderr=log, env=environment(), start_new_session=True
    )
    for _ in range(120):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.5)
    ready = Cluster(f"127.0.0.1:{port}")
    for _ in range(5):  # an open port is not yet a cluster that starts workers
        if ready.answers():
            break
    yield ready
    if "watcher" in vars(ready):
        ready.watcher.kill()
        ready.watcher.wait()
    os.killpg(head.pid, signal.SIGTERM)
    time.sleep(3)
    os.killpg(head.pid, signal.SIGKILL)
    head.wait(timeout=30)
