"""Make this machine a node of a Ray cluster, which leaves without losing work.

At SIGTERM, SIGINT or SIGUSR1, or at the cloud's notice with ``--watch-spot``, the cluster is told that this node goes:
its trainings save at their next step and go on elsewhere. Ray stops here when no CPU or GPU of the node is taken any
more, at the latest at the deadline; a second signal stops it at once. ``ray start`` alone waits for every small process
of the cluster that happens to be here, and ``ray stop`` would end the other clusters of the machine too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from denoise_core.errors import UserError

if TYPE_CHECKING:
    from cluster.console import Console

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
JOIN_S = 60.0
"""How long a node waits for its head: the machines of a cluster start in any order."""
TELL_S, STOP_S, POLL_S, NOTICE_S, RPC_S = 10.0, 15.0, 0.5, 5.0, 5.0
METADATA = "http://169.254.169.254"
"""Where a machine of AWS or Google Cloud asks about itself."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of ``denoise-studies node``."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--head", action="store_true", help="start a new cluster here")
    where.add_argument("--address", metavar="HOST:PORT", help="join the cluster whose head listens there")
    add = parser.add_argument
    add("--port", type=int, default=6379, metavar="N", help="where the head listens (default: 6379)")
    add("--cpus", type=int, metavar="N", help="CPUs for trainings (default: all; 0 for a head that only manages)")
    add("--gpus", type=int, metavar="N", help="GPUs for trainings (default: all that CUDA shows)")
    add("--deadline", type=float, default=60.0, metavar="S", help="seconds that trainings have to leave (default: 60)")
    add("--dashboard-host", default="127.0.0.1", metavar="IP", help="where the head's dashboard listens")
    add("--watch-spot", action="store_true", help="leave when AWS or Google Cloud says it will take this machine")
    add("extra", nargs=argparse.REMAINDER, metavar="-- ARGUMENTS", help="for ray start: -- --temp-dir /scratch/ray")


def run(flags: argparse.Namespace, console: Console) -> int:
    """Runs the node until it is told to leave (exit status 0) or Ray ends by itself (Ray's). Raises UserError."""
    if flags.deadline < 0:
        raise UserError(f"--deadline {flags.deadline:g} is not allowed: give the seconds that trainings have to leave.")
    _use_token(flags.head, console)
    if flags.head:
        _check_free(flags.port)
    else:
        _wait_for(flags.address)
    address = f"127.0.0.1:{flags.port}" if flags.head else flags.address
    name = f"{socket.gethostname()}-{secrets.token_hex(4)}"
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",  # what a study has to save in, when `ray job stop` ends it
        **os.environ,
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # this process drains, so Ray need not wait once more
    }
    with _signals() as received:
        # a session of its own: Ctrl-C in the terminal is for this process, and what Ray leaves behind can be found
        child = subprocess.Popen(ray_start(flags, name), env=variables, start_new_session=True)
        try:
            noticed = _watch(child, received, flags.watch_spot)
            if child.poll() is not None:
                console.warn(f"Ray ended by itself with status {child.returncode}: what it printed above says why.")
                return child.returncode if child.returncode > 0 else 1
            console.say(f"{noticed}: this node leaves within {flags.deadline:g} s. A second signal stops it at once.")
            _leave(child, Farewell(address, name, flags.deadline), flags.deadline, received, console)
            return 0
        finally:
            _stop(child)


def ray_start(flags: argparse.Namespace, name: str) -> list[str]:
    """The command that starts Ray. The name comes last: it is how this node is found again."""
    beside = Path(sys.executable).with_name("ray")  # the versions of a virtual environment, activated or not
    command = [str(beside) if beside.exists() else shutil.which("ray") or "ray", "start", "--block"]
    if flags.head:
        # the port of Ray Client, which nothing here uses, would collide with another head on this machine
        command += ["--head", f"--port={flags.port}", f"--dashboard-host={flags.dashboard_host}"]
        command += ["--include-dashboard=true", f"--ray-client-server-port={_free_port()}"]
    else:
        command += [f"--address={flags.address}"]
    command += [f"--num-cpus={flags.cpus}"] if flags.cpus is not None else []
    command += [f"--num-gpus={flags.gpus}"] if flags.gpus is not None else []
    extra = flags.extra[1:] if flags.extra[:1] == ["--"] else flags.extra
    return [*command, *extra, f"--node-name={name}"]


class Place:
    """This node as the cluster sees it; asked without a driver, which would be one more process on a node that goes."""

    def __init__(self, address: str, name: str):
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=2).close()  # Ray's client takes 40 s to give up
        import ray

        self._cluster = ray._raylet.GcsClient(address=address)
        nodes = self._cluster.get_all_node_info(timeout=RPC_S)
        ids = [key.hex() for key, node in nodes.items() if node.node_name == name]
        if not ids:
            raise LookupError("this node has not joined yet")
        self._id = ids[0]

    def drain(self, end: float, reason: str) -> None:
        """Takes no new work, and lets what runs here know that the node is gone at the time ``end``."""
        from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

        preempted, end_ms = DRAIN_NODE_REASON_PREEMPTION, int(end * 1000)
        done, why = self._cluster.drain_node(self._id, preempted, reason, end_ms, timeout=RPC_S)
        if not done:
            raise RuntimeError(why)

    def busy(self) -> bool:
        """Whether a CPU or GPU of this node is taken, as every training's are."""
        for one in self._cluster.get_all_resource_usage(timeout=RPC_S).resource_usage_data.batch:
            if one.node_id.hex() == self._id:
                return any(one.resources_available[name] < one.resources_total[name] for name in ("CPU", "GPU"))
        return False


class Farewell(threading.Thread):
    """Tells the cluster that this node leaves, and ends when nothing of it is taken any more.

    A thread: Ray's client may take 40 s to see that its cluster is gone, and a second signal must be heard meanwhile.
    """

    def __init__(self, address: str, name: str, seconds: float):
        super().__init__(daemon=True)
        self.told, self.error = threading.Event(), "it did not answer"
        self._address, self._name, self._end = address, name, time.time() + seconds

    def run(self) -> None:
        """See the class."""
        try:
            here = Place(self._address, self._name)
            here.drain(self._end, "the machine is taken away")
        except Exception as error:  # whatever it is, nothing is gained by staying
            self.error = str(error)
            return
        self.told.set()
        busy = True
        while busy:
            with contextlib.suppress(Exception):  # the head may be slow; the deadline holds anyway
                busy = here.busy()
            time.sleep(POLL_S if busy else 0)


def spot_notice() -> bool:
    """Whether the cloud has said that it will take this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy

    def ask(path: str, method: str = "GET", **headers: str) -> str:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(METADATA + path, method=method, headers=named)
        with opener.open(request, timeout=1) as answer:
            return str(answer.read().decode())

    with contextlib.suppress(OSError):  # no such service, or no notice, which AWS answers with 404
        token = ask("/latest/api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="60")
        return bool(ask("/latest/meta-data/spot/instance-action", X_aws_ec2_metadata_token=token))
    with contextlib.suppress(OSError):
        return ask("/computeMetadata/v1/instance/preempted", Metadata_Flavor="Google").strip() == "TRUE"
    return False


def _use_token(head: bool, console: Console) -> None:
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    if not os.environ.get("RAY_AUTH_TOKEN"):
        if path.is_file():
            if path.stat().st_mode & 0o077:
                console.warn(f"Others on this machine can read the cluster's token: chmod 600 {path}.")
        elif named:
            raise UserError(f"RAY_AUTH_TOKEN_PATH names {path}, which is no file: correct it, or unset it.")
        elif head:
            raise UserError(
                "A head listens on the network, where everybody could run programs on this machine without a token: "
                "make one with `umask 077; ray get-auth-token --generate >/dev/null`, and copy ~/.ray/auth_token to "
                "the cluster's other machines."
            )
        else:
            return  # Ray says so if the cluster wants one
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # with an address, Ray does not turn it on by itself


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"A head cannot listen on port {port} ({reason}): choose another with --port.") from None


def _wait_for(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--address {address} is no address of a Ray cluster: it looks like HOST:6379.")
    give_up = time.monotonic() + JOIN_S
    while True:
        try:
            return socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            if time.monotonic() > give_up:
                raise UserError(
                    f"No head answered at {address} within {JOIN_S:g} s ({getattr(error, 'strerror', None) or error}): "
                    "start one there with `denoise-studies node --head`, or correct --address."
                ) from None
            time.sleep(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals as they come. Nothing is done in a handler: it could interrupt what the process is doing anywhere."""
    received: list[int] = []
    before = {number: signal.signal(number, lambda caught, frame: received.append(caught)) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(child: subprocess.Popen[bytes], received: list[int], spot: bool) -> str:
    """Waits for Ray's end or a reason to leave, and says which."""
    asked = time.monotonic()
    while child.poll() is None and not received:
        if spot and time.monotonic() - asked > NOTICE_S:
            if spot_notice():
                return "The cloud takes this machine"
            asked = time.monotonic()
        time.sleep(POLL_S)
    return signal.Signals(received[0]).name if received else ""


def _leave(
    child: subprocess.Popen[bytes], farewell: Farewell, seconds: float, received: list[int], console: Console
) -> None:
    """Waits until the node's trainings are elsewhere, but no longer than told."""
    began, heard = time.monotonic(), len(received)
    farewell.start()
    while farewell.is_alive() and child.poll() is None and len(received) == heard:
        if time.monotonic() - began > (seconds if farewell.told.is_set() else min(seconds, TELL_S)):
            break
        farewell.join(0.1)
    if not farewell.told.is_set():
        console.warn(f"The cluster could not be told that this node leaves ({farewell.error}): it stops now.")
        return
    state = "with trainings that had not left" if farewell.is_alive() and child.poll() is None else "free"
    console.say(f"After {time.monotonic() - began:.1f} s this node stops, {state}.")


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ends Ray here and nothing else: it stops its own processes, and what is left of its session is killed."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
