"""A study whose store is on S3: it waits out an outage, and its credentials are found nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from cluster.results.store import Store
from tests.s3 import BUCKET, SECRET, Gate, server

from .conftest import ROOT


@pytest.fixture
def gate() -> Iterator[Gate]:
    with server() as found:
        yield found


def holding(folder: Path) -> list[str]:
    """The files that hold the secret key."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path) for path in files if SECRET.encode() in path.read_bytes()]


def test_an_outage_is_waited_out_and_the_secret_is_written_nowhere(gate: Gate, tmp_path: Path) -> None:
    location, here = f"s3://{BUCKET}/study", tmp_path / "here"
    for name in ("here", "home"):
        (tmp_path / name).mkdir()
    ray = Path("/tmp") / f"s3-{os.getpid()}"  # sockets need short paths
    (ray / "tmp").mkdir(parents=True)
    variables = {name: value for name, value in os.environ.items() if name not in ("DENOISE_DATA", "RAY_ADDRESS")}
    variables["RAY_worker_niceness"] = "0"  # as in conftest.environment
    variables |= {"HOME": str(tmp_path / "home"), "TMPDIR": str(ray / "tmp"), "RAY_TMPDIR": str(ray)}
    script = str(ROOT / "studies" / "neighbor2neighbor_gamma.py")
    command = [sys.executable, script, "--budget", "smoke", "--seeds", "1", "--set", "gamma=0,2", "--store", location]
    command += ["--references", "none", "--steps", "150", "--max-concurrent", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=here, env=variables
    )
    try:
        store = Store.open(location)
        while not store.names("trials") and process.poll() is None:
            time.sleep(0.2)
        with gate.shut(6):
            time.sleep(6)
        printed = process.communicate(timeout=200)[0]
        assert process.returncode == 0, printed
        assert gate.refused, "nothing asked for the store while it was away"
        assert {row["status"] for row in store.trials(store.names("trials")).values()} == {"done"}
        assert len(store.names("trials")) == 2 and store.files.entries("checkpoints") == []
        # what lies in the bucket, what Ray wrote, what the study wrote here and into the home folder
        copy = str(tmp_path / "bucket")
        pafs.copy_files(
            store.files.root, copy, source_filesystem=store.files.filesystem,
            destination_filesystem=pafs.LocalFileSystem(),
        )  # fmt: skip
        assert list((here / "results" / "reports").glob("*.html")) and any(Path(copy).rglob("*.parquet"))
        assert SECRET not in printed and holding(tmp_path) == [] and holding(ray) == []
    finally:
        process.kill()
        subprocess.run(["rm", "-rf", str(ray)], check=True)
