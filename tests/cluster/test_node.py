"""The command that starts Ray on a machine, with something in Ray's place."""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from cluster.commands import node
from denoise_core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

RAY = """#!{python}
import json, os, signal, subprocess, sys, time
left = subprocess.Popen(["sleep", "300"])  # as Ray may leave one behind
ours = {{name: value for name, value in os.environ.items() if name.startswith("RAY_")}}
about = {{"args": sys.argv[1:], "left": left.pid, "session": os.getsid(0), **ours}}
def over(number, frame):
    open("ended", "w").close()
    sys.exit(1)
signal.signal(signal.SIGTERM, {on_term})
open("started.part", "w").write(json.dumps(about))
os.rename("started.part", "started")
{then}
"""
WRAPPER = """
import argparse, importlib.util, os, sys, time
sys.path.insert(0, {root!r})
found = importlib.util.spec_from_file_location("node", {module!r})  # without the package, which loads PyTorch
node = importlib.util.module_from_spec(found)
found.loader.exec_module(node)

class Console:
    def say(self, text, style=""): print(text, flush=True)
    warn = say

class Place:
    def __init__(self, address, name):
        {place}
        self.name = name
    def drain(self, end, reason):
        open("drained", "w").write(f"{{end - time.time()}} {{self.name}}")
    def busy(self):
        return not os.path.exists("free")

node.Place = Place
started = node.ray_start
node.ray_start = lambda flags, name: ["./ray", *started(flags, name)[1:]]
{settings}
parser = argparse.ArgumentParser()
node.configure(parser)
sys.exit(node.run(parser.parse_args(sys.argv[1:]), Console()))
"""


class Console:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str, style: str = "") -> None:
        self.said.append(text)

    warn = say


def flags(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    node.configure(parser)
    return parser.parse_args(arguments)


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        node.run(flags(*arguments), Console())  # type: ignore[arg-type]
    return str(caught.value)


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home folder without a token."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)


# ---- what is started ----


def test_a_head_serves_its_dashboard_to_this_machine_only() -> None:
    command = node.ray_start(flags("--head", "--cpus", "0", "--", "--temp-dir", "/scratch/ray"), "me")
    assert command[1:5] == ["start", "--block", "--head", "--port=6379"]
    assert "--dashboard-host=127.0.0.1" in command
    assert "--num-cpus=0" in command
    assert not [one for one in command if one.startswith("--num-gpus")]
    assert command[-3:] == ["--temp-dir", "/scratch/ray", "--node-name=me"]


def test_a_node_joins_with_what_it_is_told() -> None:
    command = node.ray_start(flags("--address", "head:6379", "--cpus", "4", "--gpus", "1"), "me")
    assert command[1:] == ["start", "--block", "--address=head:6379", "--num-cpus=4", "--num-gpus=1", "--node-name=me"]


# ---- what is refused ----


def test_a_head_without_a_token_is_refused() -> None:
    assert "ray get-auth-token --generate" in refused("--head")


def test_a_token_file_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere/token")
    assert "/nowhere/token, which is no file" in refused("--head")


def test_a_token_that_others_can_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("x" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    for mode, said in ((0o644, 1), (0o600, 0)):
        token.chmod(mode)
        console = Console()
        node._use_token(True, console)  # type: ignore[arg-type]
        assert len(console.said) == said
    assert os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.delenv("RAY_AUTH_MODE")


def test_a_port_that_is_taken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with socket.create_server(("", 0)) as taken:
        assert "choose another with --port" in refused("--head", "--port", str(taken.getsockname()[1]))
    assert "choose another with --port" in refused("--head", "--port", "70000")


def test_addresses_and_deadlines_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "it looks like HOST:6379" in refused("--address", "head")
    assert "--deadline -1" in refused("--address", "head:6379", "--deadline", "-1")
    monkeypatch.setattr(node, "JOIN_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "No head answered at 127.0.0.1:" in refused("--address", f"127.0.0.1:{port}")


# ---- what happens when it has to go ----


class Wrapper:
    """The command with a ``ray`` that does nothing, in a folder of its own."""

    def __init__(self, folder: Path, *arguments: str, place: str = "pass", settings: str = "", **ray: str):
        self.folder = folder
        text = RAY.format(python=sys.executable, **{"on_term": "over", "then": "time.sleep(60)", **ray})
        (folder / "ray").write_text(text)
        (folder / "ray").chmod(0o755)
        self.server = socket.create_server(("127.0.0.1", 0))
        program = WRAPPER.format(root=str(ROOT), module=node.__file__, place=place, settings=settings)
        address = f"127.0.0.1:{self.server.getsockname()[1]}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, "--address", address, *arguments],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "RAY_AUTH_TOKEN": "x" * 64},
        )  # fmt: skip
        self.wait_for("started")
        self.about = json.loads((folder / "started").read_text())

    def wait_for(self, name: str) -> None:
        until(lambda: (self.folder / name).exists() or self.process.poll() is not None)

    def ended(self, status: int = 0) -> str:
        """What it printed; nothing that it started is left."""
        printed = self.process.communicate(timeout=20)[0]
        self.server.close()
        assert self.process.returncode == status, printed
        until(lambda: not alive(self.about["left"]))
        return printed


def alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    return False


def until(ready: Callable[[], bool]) -> None:
    for _ in range(400):
        if ready():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_node_that_goes_waits_until_its_trainings_are_elsewhere(number: int, tmp_path: Path) -> None:
    wrapper = Wrapper(tmp_path, "--deadline", "30")
    assert wrapper.about["RAY_AUTH_MODE"] == "token"
    assert wrapper.about["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == "0"
    assert wrapper.about["RAY_USAGE_STATS_ENABLED"] == "0"
    assert wrapper.about["RAY_JOB_STOP_WAIT_TIME_S"] == "60"
    assert wrapper.about["session"] not in (os.getsid(0), os.getsid(wrapper.process.pid))

    wrapper.process.send_signal(number)
    wrapper.wait_for("drained")
    seconds, name = (tmp_path / "drained").read_text().split()
    assert 25 < float(seconds) <= 30
    assert wrapper.about["args"][-1] == f"--node-name={name}"
    time.sleep(0.6)
    assert wrapper.process.poll() is None and not (tmp_path / "ended").exists()

    (tmp_path / "free").touch()
    printed = wrapper.ended()
    assert (tmp_path / "ended").exists(), "Ray itself was asked to end"
    assert "this node stops, free" in printed


def test_the_deadline_ends_the_wait(tmp_path: Path) -> None:
    wrapper = Wrapper(tmp_path, "--deadline", "1")
    wrapper.process.terminate()
    assert "with trainings that had not left" in wrapper.ended()


def test_a_second_signal_ends_the_wait(tmp_path: Path) -> None:
    wrapper = Wrapper(tmp_path)
    wrapper.process.terminate()
    wrapper.wait_for("drained")
    wrapper.process.terminate()
    assert "with trainings that had not left" in wrapper.ended()


@pytest.mark.parametrize("place", ["raise ConnectionError('no answer')", "time.sleep(60)"])
def test_a_cluster_that_is_gone_is_not_waited_for(place: str, tmp_path: Path) -> None:
    wrapper = Wrapper(tmp_path, place=place, settings="node.TELL_S = 0.5")
    wrapper.process.terminate()
    assert "could not be told" in wrapper.ended()


def test_ray_that_does_not_end_is_killed(tmp_path: Path) -> None:
    wrapper = Wrapper(tmp_path, "--deadline", "0", settings="node.STOP_S = 0.5", on_term="signal.SIG_IGN")
    wrapper.process.terminate()
    wrapper.ended()
    assert not (tmp_path / "ended").exists()


def test_ray_that_ends_by_itself_is_said(tmp_path: Path) -> None:
    wrapper = Wrapper(tmp_path, then="sys.exit(3)")
    assert "Ray ended by itself with status 3" in wrapper.ended(status=3)


# ---- notices of clouds ----


class Cloud(http.server.BaseHTTPRequestHandler):
    """The metadata services; ``answers`` holds what they say at each path."""

    answers: ClassVar[dict[str, str]] = {}

    def do_PUT(self) -> None:
        self._answer("x-aws-ec2-metadata-token-ttl-seconds")

    def do_GET(self) -> None:
        aws = self.path.startswith("/latest")
        self._answer("x-aws-ec2-metadata-token" if aws else "metadata-flavor")

    def _answer(self, needed: str) -> None:
        found = self.answers.get(self.path) if needed in self.headers else None
        self.send_response(200 if found is not None else 404)
        self.end_headers()
        self.wfile.write((found or "").encode())

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    answers: dict[str, str] = {}
    monkeypatch.setattr(Cloud, "answers", answers)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cloud)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(node, "METADATA", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    yield answers
    server.shutdown()
    server.server_close()


def test_the_notice_of_aws_is_heard(cloud: dict[str, str]) -> None:
    cloud["/latest/api/token"] = "secret"
    assert not node.spot_notice()
    cloud["/latest/meta-data/spot/instance-action"] = '{"action": "terminate", "time": "2026-11-27T10:00:00Z"}'
    assert node.spot_notice()


def test_the_notice_of_google_is_heard(cloud: dict[str, str]) -> None:
    cloud["/computeMetadata/v1/instance/preempted"] = "FALSE"
    assert not node.spot_notice()
    cloud["/computeMetadata/v1/instance/preempted"] = "TRUE"
    assert node.spot_notice()


def test_no_cloud_gives_no_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "METADATA", "http://127.0.0.1:9")
    assert not node.spot_notice()


def test_a_notice_makes_the_node_leave(cloud: dict[str, str], tmp_path: Path) -> None:
    settings = f"node.METADATA, node.NOTICE_S = {node.METADATA!r}, 0.1"
    wrapper = Wrapper(tmp_path, "--watch-spot", settings=settings)
    (tmp_path / "free").touch()
    time.sleep(1)
    assert wrapper.process.poll() is None
    cloud["/computeMetadata/v1/instance/preempted"] = "TRUE"
    assert "The cloud takes this machine" in wrapper.ended()
    assert (tmp_path / "drained").exists()
