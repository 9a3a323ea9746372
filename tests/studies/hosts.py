"""Several hosts on one machine, for the tests of what happens when one of them fails.

Every host has namespaces of its own: network, processes, host name, mounts and shared memory. They hang on a bridge in
one more network namespace, so nothing of this is seen from the machine or reaches its network, and the names and
addresses of two test runs cannot collide. Host 0 is the head of a Ray cluster, the following are its nodes; a host that
was not started as a node is a stranger to the cluster. All see the same files, except for ``/tmp/ray`` and ``$TMPDIR``:
the same names everywhere, but a folder of each host's own (``<folder>/<host>/ray`` and ``<folder>/<host>/tmp``). The
first process of a host ends when its standard input does, and the whole host with it: nothing outlives the tests, not
even if they are killed.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from .conftest import environment

RAY = str(Path(sys.executable).with_name("ray"))
PREEMPTION = "DRAIN_NODE_REASON_PREEMPTION"
NAMESPACES = ("--net", "--uts", "--mount", "--ipc", "--pid")
ISOLATED = ("unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc")
ROOT = os.geteuid() == 0
AS_ROOT = () if ROOT else ("--user", "--map-root-user")
"""Who is not root is root in a namespace of users, where the machine allows it."""

SET_UP = """set -e
mkdir -p /tmp/ray
mount --bind {own}/ray /tmp/ray
mount --bind {own}/tmp {shared}/tmp
mount --bind {shared}/hosts /etc/hosts
mount --bind {shared}/nsswitch.conf /etc/nsswitch.conf
mount -t tmpfs -o size=512m tmpfs /dev/shm
hostname {name}
ip link set lo up
echo ready
exec 3<&0
cat <&3 &
wait $!
"""
"""What the first process of a host does. It waits, so that no orphan stays as a zombie, until its input ends."""

ASK = """
import json, logging, time, ray, ray.util
ray.init(address={address!r}, log_to_driver=False, logging_level=logging.CRITICAL)
alive = lambda: {{one["NodeManagerAddress"]: one["NodeID"] for one in ray.nodes() if one["Alive"]}}
keep = lambda one: {{name: value for name, value in one.items() if name in ("CPU", "memory")}}
groups = lambda: [key for key, one in ray.util.placement_group_table().items() if one["state"] != "REMOVED"]
state = lambda: [keep(ray.cluster_resources()), keep(ray.available_resources()), groups()]
answer = lambda found: print("ANSWER", json.dumps(found))
{lines}
"""
WAIT = """
for _ in range({tenths}):
    if len(alive()) == {count}: break
    time.sleep(0.1)
answer(len(alive()))
"""


class Program(subprocess.Popen[str]):
    """A program on a host. It runs below ``nsenter``: signals go to itself."""

    def send_signal(self, sig: int) -> None:
        while self.poll() is None:
            if inner := _children(self.pid):
                return os.kill(inner[0], sig)
            time.sleep(0.01)


class Hosts:
    """A head and ``count`` nodes of ``cpus`` CPUs each; ``folder`` gets their logs and what each keeps for itself."""

    def __init__(self, folder: Path, count: int, cpus: int = 1, head_cpus: int = 0):
        self.folder, self.count, self.cpus, self.head_cpus = folder.resolve(), count, cpus, head_cpus
        self.head_address = f"{self.address(0)}:6379"
        self._token, self._log = secrets.token_hex(32), self.folder / "namespaces.log"
        self._switch: subprocess.Popen[str] | None = None
        self._hosts: dict[int, subprocess.Popen[str]] = {}
        self._rays: dict[int, Program] = {}

    @staticmethod
    @lru_cache
    def why_not() -> str:
        """Why there cannot be hosts on this machine; empty where there can."""
        probe = "mount -t tmpfs tmpfs /dev/shm && ip link add type veth && ip link add type bridge"
        try:
            done = subprocess.run([*ISOLATED, *AS_ROOT, "sh", "-c", probe], capture_output=True, text=True)
        except OSError as error:
            return f"no namespaces: {error}"
        return f"no namespaces: {done.stderr.strip() or done.returncode}" if done.returncode else ""

    @classmethod
    def available(cls) -> bool:
        """Whether there can be hosts: Linux with iproute2, util-linux and namespaces that we may make."""
        return not cls.why_not()

    @staticmethod
    def address(host: int) -> str:
        return f"10.77.0.{host + 1}"

    @staticmethod
    def name(host: int) -> str:
        return f"node{host}" if host else "head"

    def __enter__(self) -> Hosts:
        """Makes the hosts; Ray runs on none of them yet."""
        atexit.register(self.close)
        (self.folder / "tmp").mkdir(parents=True)
        self._switch = _begin(["unshare", *AS_ROOT, "--net", "sh", "-c", "echo ready; exec cat"], self._log)
        self._on_switch("ip link add bridge0 type bridge && ip link set bridge0 up")
        names = "".join(f"{self.address(host)} {self.name(host)}\n" for host in range(self.count + 1))
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        (self.folder / "nsswitch.conf").write_text("hosts: files\n")  # nobody waits for a name server
        for host in range(self.count + 1):
            self._make(host)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process of every host; the networks vanish with them."""
        atexit.unregister(self.close)
        for host in list(self._hosts):
            self._destroy(host, unplugged=True)
        if self._switch is not None:
            self._switch.kill()
            self._switch.wait()
            self._switch = None

    def start_head(self, *options: str) -> None:
        """Starts Ray on host 0, with a dashboard that the nodes reach; ``options`` of ``ray start`` come last."""
        dashboard = ["--include-dashboard", "true", "--dashboard-host", self.address(0), "--dashboard-port", "8265"]
        self._start(0, self.head_cpus, ["--head", "--port", "6379", *dashboard, *options])

    def start_node(self, index: int, *options: str) -> None:
        """Starts Ray on a host, or again on one that was killed."""
        self._start(index, self.cpus, ["--address", self.head_address, *options])

    def kill_head(self, unplugged: bool = True) -> None:
        """See :meth:`kill_node`."""
        self.kill_node(0, unplugged)

    def kill_node(self, index: int, unplugged: bool = True) -> None:
        """Ends every process of a host at once. ``unplugged``: its network went first, so nobody hears of its end."""
        self._destroy(index, unplugged)
        self._make(index)

    def terminate_node(self, index: int) -> None:
        """SIGTERM to ``ray start --block``, as a service manager sends it."""
        self._rays[index].terminate()

    def drain_node(self, index: int, seconds: int, reason: str = PREEMPTION) -> str:
        """Announces that a node will be taken away; returns what ``ray drain-node`` printed."""
        node = self._ask("answer(alive())")[self.address(index)]
        command = [RAY, "drain-node", "--address", self.head_address, "--node-id", node, "--reason", reason]
        command += ["--reason-message", "a test", "--deadline-remaining-seconds", str(seconds)]
        done = self.run(0, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        printed = done.communicate(timeout=60)[0]
        assert done.returncode == 0, printed
        return printed

    def run(self, host: int, command: Sequence[str], **options: Any) -> Program:
        """Starts a program on a host, in the tests' environment unless ``env`` is given, in / unless ``cwd`` is."""
        entered = [*_entering(self._first(host)), *NAMESPACES, f"--wd={options.pop('cwd', '/')}", "--"]
        return Program([*entered, *command], text=True, **{"env": self.environment(), **options})

    def environment(self) -> dict[str, str]:
        """The environment of every program on the hosts."""
        folders = {"TMPDIR": str(self.folder / "tmp"), "RAY_TMPDIR": "/tmp"}  # Ray's sockets need short paths
        return {**environment(), "RAY_AUTH_TOKEN": self._token, **folders}

    def resources(self) -> tuple[dict[str, float], dict[str, float], list[str]]:
        """(all, free, placement groups that are not removed), as another process on the head sees them."""
        whole, free, groups = self._ask("answer(state())")
        return whole, free, groups

    def wait_for_nodes(self, count: int, seconds: float = 60.0) -> None:
        """Waits until so many nodes, the head among them, belong to the cluster."""
        seen = self._ask(WAIT.format(count=count, tenths=int(10 * seconds)))
        assert seen == count, f"{seen} nodes instead of {count} after {seconds:g} s"

    def assert_free(self) -> None:
        """Everything that a study took is given back, within a few seconds of its end."""
        for _ in range(10):
            whole, free, groups = self.resources()
            if whole == free and not groups:
                return
            time.sleep(1)
        raise AssertionError(f"of {whole} only {free} are free; groups {groups}")

    def _ask(self, lines: str) -> Any:
        """What a short program on the cluster answers, among what Ray prints. A head that starts may refuse it."""
        program = ASK.format(address=self.head_address, lines=lines)
        for _ in range(5):
            asked = self.run(0, [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            printed, errors = asked.communicate(timeout=120)
            if asked.returncode == 0:
                return json.loads(printed.partition("ANSWER ")[2].splitlines()[0])
        raise AssertionError(errors)

    def _make(self, host: int) -> None:
        assert self._switch is not None
        own = self.folder / self.name(host)
        for kept in ("ray", "tmp"):
            (own / kept).mkdir(parents=True, exist_ok=True)
        script = SET_UP.format(own=own, shared=self.folder, name=self.name(host))
        self._hosts[host] = _begin([*_entering(self._switch.pid), *ISOLATED, "sh", "-c", script], self._log)
        first = self._first(host)
        self._on_switch(f"ip link add to{host} type veth peer name eth0 netns {first}")
        self._on_switch(f"ip link set to{host} master bridge0 up")
        # nothing answers beyond the bridge, but programs ask for the way out to learn their own address
        commands = f"ip addr add {self.address(host)}/24 dev eth0; ip link set eth0 up; ip route add default dev eth0"
        subprocess.run([*_entering(first), "--net", "sh", "-ec", commands], check=True)

    def _destroy(self, host: int, unplugged: bool) -> None:
        if unplugged:
            self._on_switch(f"ip link del to{host}")
        os.kill(self._first(host), signal.SIGKILL)  # all others of its host die before it does
        self._hosts.pop(host).wait()
        if host in self._rays:
            self._rays.pop(host).wait(timeout=30)
        if not unplugged:
            self._on_switch(f"ip link del to{host} 2>/dev/null || true")

    def _start(self, host: int, cpus: int, options: Sequence[str]) -> None:
        command = [RAY, "start", "--block", "--node-ip-address", self.address(host), "--num-cpus", str(cpus)]
        command += ["--object-store-memory", str(128 * 2**20), "--disable-usage-stats", *options]
        with (self.folder / self.name(host) / "ray.log").open("a") as log:
            self._rays[host] = self.run(host, command, stdout=log, stderr=log)

    def _first(self, host: int) -> int:
        """A host's first process, as the machine numbers it."""
        return _children(self._hosts[host].pid)[0]

    def _on_switch(self, commands: str) -> None:
        assert self._switch is not None
        subprocess.run([*_entering(self._switch.pid), "--net", "sh", "-c", commands], check=True)


def _begin(command: Sequence[str], log: Path) -> subprocess.Popen[str]:
    """Starts the first process of namespaces and waits until they are set up."""
    with log.open("a") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n", log.read_text()
    return process


def _entering(process: int) -> list[str]:
    return ["nsenter", "--target", str(process), *(() if ROOT else ("--user", "--preserve-credentials"))]


def _children(process: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
