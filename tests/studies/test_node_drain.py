"""A node of a real cluster that is told to go: what runs there may end, and the cluster goes on without it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .conftest import ROOT, Cluster, environment

WORK = """
import json, logging, pathlib, sys, time, ray
address, folder = sys.argv[1], pathlib.Path(sys.argv[2])
ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)

@ray.remote(num_cpus=1, resources={"leaving": 1}, max_retries=0)
def work():
    (folder / "works").touch()
    while not (folder / "enough").exists():
        time.sleep(0.1)
    return "done"

running = work.remote()
for _ in range(600):
    if drained := ray._private.state.state.get_draining_nodes():
        break
    time.sleep(0.1)
(folder / "enough").touch()
print(json.dumps([len(drained), ray.get(running, timeout=30)]))
"""


def test_a_node_leaves_when_its_work_is_done(cluster: Cluster, tmp_path: Path) -> None:
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # names of sockets must be short
    command = ["node", "--address", cluster.address, "--cpus", "1", "--gpus", "0", "--deadline", "60", "--"]
    command += [f"--temp-dir={folder}", '--resources={"leaving": 1}', "--dashboard-agent-listen-port=0"]
    command += [f"--object-store-memory={80 * 2**20}"]
    program = "import sys; from cluster.commands import main; sys.exit(main())"
    with (tmp_path / "node.log").open("w") as log:
        node = subprocess.Popen(
            [sys.executable, "-c", program, *command], stdout=log, stderr=log, cwd=ROOT, env=environment()
        )
    work = subprocess.Popen(
        [sys.executable, "-c", WORK, cluster.address, str(tmp_path)],
        stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        while not (tmp_path / "works").exists():
            assert node.poll() is None, (tmp_path / "node.log").read_text()
            assert work.poll() is None
            time.sleep(0.1)
        node.terminate()
        printed = work.communicate(timeout=120)[0]
        assert json.loads(printed.splitlines()[-1]) == [1, "done"]
        assert node.wait(timeout=60) == 0
        assert "this node stops, free" in (tmp_path / "node.log").read_text()
    finally:
        work.kill()
        work.wait()
        node.terminate()  # the second time at the latest it stops Ray at once; killed, it would leave it behind
        node.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
    cluster.assert_free()
