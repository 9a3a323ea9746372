"""Nodes and drivers that die again and again: does every trial end, once, with the same numbers?

    sudo python benchmarks/faults.py [--trials 24] [--every 20] [--s3 --outage 30]

Makes a cluster of a head and three hosts (network namespaces of this machine, so it needs Linux and root), runs the
gamma study of Neighbor2Neighbor at the smoke budget undisturbed, then once more while a node is unplugged every
``--every`` seconds (and comes back 5 s later) and the driver is killed once. With ``--s3`` the store lies on an S3
server of the head that refuses every request for ``--outage`` seconds. Printed: times, attempts, what was done twice,
whether all values are the same bits, and what is free at the end. Exit status 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
from tensorboardX.proto.event_pb2 import Event, SessionLog

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cluster.execution.one_training import CHECKPOINT_S  # noqa: E402
from cluster.results.store import Store  # noqa: E402
from tests.cluster.test_events import records  # noqa: E402
from tests.s3 import BUCKET, VARIABLES  # noqa: E402
from tests.studies.hosts import Hosts  # noqa: E402

SCRIPT = str(ROOT / "studies" / "neighbor2neighbor_gamma.py")
GAMMAS = (0, 1, 2, 4, 8, 12, 16, 20)
OUTAGE_AFTER_S = 45.0
WRITTEN_S = 5.0
"""A checkpoint or a point may be so late."""
COPY = """
import sys
import pyarrow.fs as fs
source, root = fs.FileSystem.from_uri(sys.argv[1])
fs.LocalFileSystem().create_dir(sys.argv[2])
fs.copy_files(root, sys.argv[2], source_filesystem=source, destination_filesystem=fs.LocalFileSystem())
"""


class Study:
    """The study as its driver on the head runs it."""

    def __init__(self, hosts: Hosts, store: str, trials: int, steps: int, environment: dict[str, str]):
        self.hosts, self.environment = hosts, environment
        seeds = max(1, trials // len(GAMMAS))
        gammas = ",".join(str(one) for one in GAMMAS[: trials // seeds])
        self.command = [
            sys.executable, SCRIPT, "--budget", "smoke", "--seeds", str(seeds), "--set", f"gamma={gammas}",
            "--references", "none", "--steps", str(steps), "--store", store, "--address", hosts.head_address,
        ]  # fmt: skip
        self.printed: list[str] = []

    def start(self) -> subprocess.Popen[str]:
        process = self.hosts.run(
            0, self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.environment
        )
        threading.Thread(target=self._read, args=(process,), daemon=True).start()
        return process

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.printed.append(line.rstrip())


def values(store: Store) -> pd.DataFrame:
    rows = store.read("measurements", store.names("measurements")).to_pandas()
    return rows.sort_values(list(rows.columns)).reset_index(drop=True)


def trained(logs: Sequence[Path]) -> tuple[int, int]:
    """(how often a training began or went on, how often at a step above 0)."""
    texts = [path.read_text(errors="replace") for path in logs]
    begun = sum(text.count(" trains ") for text in texts)
    return begun, sum(text.count("goes on at step") for text in texts)


def repeated(events: Path) -> list[float]:
    """Seconds of work that each attempt after the first did again: from where it began to where the one before it was.

    From the event files for TensorBoard, which have a point every hundredth of a training and reach the disk every 5 s.
    """
    found = []
    for folder in sorted({path.parent for path in events.rglob("events.out.tfevents.*")}):
        attempts: list[list[tuple[int, float]]] = []
        for event in written(folder):
            if event.session_log.status == SessionLog.START:
                attempts.append([])
            else:
                attempts[-1].append((event.step, event.wall_time))
        attempts = [points for points in attempts if points]
        for earlier, later in pairwise(attempts):
            done = [wall for step, wall in earlier if step < later[0][0]]
            found.append(earlier[-1][1] - max(done, default=earlier[0][1]))
    return found


def written(folder: Path) -> Iterator[Any]:
    """The events of a folder, in order; a kill may have cut the last record of a file."""
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(struct.error, AssertionError):
            for body in records(path):
                if not (event := Event.FromString(body)).file_version:
                    yield event


def disturb(hosts: Hosts, study: Study, every: float, kill_driver: bool, limit: float) -> tuple[int, int, float]:
    """(kills of nodes, kills of the driver, seconds): runs the study to its end, whatever it takes."""
    began, process, kills, driver_kills = time.monotonic(), study.start(), 0, 0
    next_kill = began + every + 15
    while process.poll() is None or process.returncode < 0:
        if process.poll() is not None:  # the driver was killed: the same command again
            process = study.start()
        time.sleep(0.2)
        if time.monotonic() - began > limit:
            process.kill()
            raise SystemExit("\n".join([*study.printed[-40:], f"not finished after {limit:.0f} s"]))
        if every and time.monotonic() > next_kill:
            node = 1 + kills % hosts.count
            hosts.kill_node(node)
            kills += 1
            print(f"  {time.monotonic() - began:5.0f} s: node {node} unplugged", flush=True)
            threading.Timer(5.0, hosts.start_node, (node,)).start()
            next_kill += every
            if kills == 3 and kill_driver:
                process.kill()
                process.wait()
                driver_kills += 1
                print(f"  {time.monotonic() - began:5.0f} s: driver killed", flush=True)
    assert process.returncode == 0, "\n".join(study.printed[-40:])
    return kills, driver_kills, time.monotonic() - began


def outage(away: Path, seconds: float) -> None:
    """The S3 server refuses everything for a while."""
    away.touch()
    print(f"        S3 refuses everything for {seconds:.0f} s", flush=True)
    time.sleep(seconds)
    away.unlink()


def holding(secret: str, folder: Path) -> list[str]:
    """The files below ``folder`` that hold the secret."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and secret.encode() in path.read_bytes():
                found.append(str(path.relative_to(folder)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two kills of a node; 0: none")
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--s3", action="store_true", help="store on an S3 server that is away for a while")
    parser.add_argument("--outage", type=float, default=30.0)
    parser.add_argument("--limit", type=float, default=1500.0, help="seconds after which it is given up")
    flags = parser.parse_args()
    if reason := Hosts.why_not():
        sys.exit(reason)
    os.environ.update(VARIABLES)  # what every host has; only a store on S3 needs it
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        run(flags, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(flags: argparse.Namespace, folder: Path) -> None:
    failed = []

    def check(name: str, good: bool, found: object) -> None:
        print(f"{'ok' if good else 'BROKEN':>7}  {name}: {found}")
        failed.extend([name] * (not good))

    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(Hosts(folder / "hosts", flags.hosts))
        hosts.start_head()
        for node in range(1, flags.hosts + 1):
            hosts.start_node(node)
        hosts.wait_for_nodes(flags.hosts + 1)
        environment = hosts.environment()
        calm = Study(hosts, str(folder / "calm"), flags.trials, flags.steps, environment)
        _, _, seconds = disturb(hosts, calm, 0, False, flags.limit)
        print(f"undisturbed: {seconds:.0f} s, {flags.trials} trials of {flags.steps} steps on {flags.hosts} nodes")
        location = str(folder / "rough")
        if flags.s3:
            away = folder / "away"
            command = [sys.executable, "-m", "tests.s3", Hosts.address(0), "9000", str(away)]
            server = hosts.run(0, command, cwd=str(ROOT), stdout=subprocess.PIPE)
            assert server.stdout is not None and server.stdout.readline() == "ready\n"
            location = f"s3://{BUCKET}/rough?endpoint_override={Hosts.address(0)}:9000&scheme=http"
            threading.Timer(OUTAGE_AFTER_S, outage, (away, flags.outage)).start()
        rough = Study(hosts, location, flags.trials, flags.steps, environment)
        kills, drivers, seconds = disturb(hosts, rough, flags.every, True, flags.limit)
        print(f"disturbed: {seconds:.0f} s, {kills} kills of nodes, {drivers} of the driver")
        time.sleep(6)  # the last timer may still start a node
        if flags.s3:  # this process is on none of the hosts, so one of them fetches what is in the bucket
            copy = hosts.run(0, [sys.executable, "-c", COPY, location, str(folder / "rough")])
            assert copy.wait(timeout=300) == 0
            found = holding(VARIABLES["AWS_SECRET_ACCESS_KEY"], folder)
            check("the secret key is written nowhere", not found, found or "stores, logs and Ray's files searched")
        before, after = Store(str(folder / "calm")), Store(str(folder / "rough"))
        rows = after.trials(after.names("trials"))
        statuses = [row["status"] for row in rows.values()]
        check("every trial done", statuses == ["done"] * flags.trials, f"{statuses.count('done')} of {flags.trials}")
        measured = values(after)
        once = not measured.duplicated(
            ["trial_id", "dataset", "image_id", "repeat", "output", "metric", "protocol"]
        ).any()
        check("each recorded once", once, f"{len(measured)} rows")
        check("values are the same bits", values(before).equals(measured), f"{len(measured)} values")
        logs = [*(folder / "rough" / "logs").glob("*.log"), *(folder / "hosts").glob("*/**/logs/*.log")]
        begun, went_on = trained(logs)
        again = sum(row["train_s"] for row in rows.values())
        print(f"         trainings begun {begun} times for {flags.trials}, {went_on} of them from a checkpoint")
        attempts = pd.Series([row["attempts"] for row in rows.values()]).value_counts().sort_index().to_dict()
        print(f"         attempts {attempts}, {again:.0f} s of training recorded")
        if not flags.s3:  # event files are written to local stores only
            again_s = repeated(folder / "rough" / "tensorboard")
            text = f"{len(again_s)} times, {max(again_s, default=0):.1f} s at most, {sum(again_s):.0f} s in all"
            # the time between two checkpoints, and what became of it before the kill was noticed
            check("work done again", max(again_s, default=0) < CHECKPOINT_S + WRITTEN_S, text)
        left = list((folder / "rough" / "checkpoints").glob("*/*"))
        check("no checkpoint left", not left, len(left))
        for _ in range(60):
            whole, free, groups = hosts.resources()
            if whole == free and not groups and whole.get("CPU") == flags.hosts:
                break
            time.sleep(1)
        check(
            "everything is free", whole == free and not groups, f"{free.get('CPU', 0):g} of {whole.get('CPU', 0):g} CPU"
        )
    if failed:
        sys.exit(f"broken: {', '.join(failed)}")
    print(f"{os.cpu_count()} cores")


if __name__ == "__main__":
    main()
