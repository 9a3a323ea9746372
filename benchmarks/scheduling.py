"""How fast trainings are handed out: 100 to 10,000 that do nothing but report, on simulated CPUs.

    python benchmarks/scheduling.py [--trials 100 1000 10000] [--cpus 4]

A training reports at four rungs, as real ones do, and ends. Printed for each number: seconds from the first training
handed out to the last one ended, trainings a second, memory of the driver and of the board, and the time of one call of
the board, which bounds the rest. Each number runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def nothing(task: Any, settings: Any, store: Any, line: Any, ranks: Any) -> bool:
    """A training without work."""
    from cluster.execution.one_training import rung_steps

    for step, rung in rung_steps(task.spec.steps).items():
        line.report(step, rung, 20.0)
    line.finish("done", {"psnr": 20.0})
    return True


def memory_mb(process: int) -> float:
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def measure(trials: int, cpus: int) -> dict[str, float]:
    from cluster.execution.session import prepare_environment

    prepare_environment(None)
    import ray

    from cluster.console import Console
    from cluster.execution import run
    from cluster.execution.board import Task
    from cluster.execution.hosted import Work
    from cluster.execution.placement import Resources
    from cluster.results.store import Store
    from denoise_core.method import methods
    from denoise_core.specification import DataSpec, specify

    class Quiet(Console):
        """Keeps what the board said last."""

        def watching(self, board: Any, *others: Any) -> Any:
            self.board = board
            return super().watching(board, *others)

        def _ended(self, ended: Any) -> None:
            pass

    recipe = methods()["n2c"].recipes["smoke"]
    began = time.perf_counter()
    specs = [specify("n2c", {}, DataSpec(), (), recipe, seed) for seed in range(trials)]
    tasks = [Task(spec, f"seed {spec.seed}", (spec.params,)) for spec in specs]
    planned = time.perf_counter() - began
    port = 20000 + os.getpid() % 20000
    os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    ray.init(
        address="local", num_cpus=cpus, include_dashboard=True, dashboard_port=port, log_to_driver=False,
        logging_level="ERROR", object_store_memory=256 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )  # fmt: skip
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"{folder}/store")
        console, kill = Quiet(), ray.kill

        def look(board: Any, *options: Any, **more: Any) -> None:
            """When the study is over and before its board goes."""
            snapshot = ray.get(board.snapshot.remote())
            times = [one[4] for one in snapshot.finished]
            started = time.perf_counter()
            for _ in range(200):
                ray.get(board.pending.remote("nobody"))
            found["call_ms"] = (time.perf_counter() - started) * 5
            actors = [one for one in ray._private.state.actors().values() if one["ActorClassName"] == "HostedBoard"]
            found["board_mb"] = memory_mb(actors[0]["Pid"])
            found["done"], found["trial_ms"] = snapshot.done, 1000 * sum(times) / max(1, len(times))
            kill(board, *options, **more)

        ray.kill = look
        began = time.perf_counter()
        run.execute(
            Work("nothing", "smoke", tasks), store, None, Resources(1, 1.0, 0.0), None, 0.01, console, do=nothing
        )
        found["seconds"] = time.perf_counter() - began
        ray.kill = kill
    found["driver_mb"], found["planned_s"] = memory_mb(os.getpid()), planned
    ray.shutdown()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--cpus", type=int, default=4, help="simulated CPUs, so runs at a time")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        print("RESULT", json.dumps(measure(flags.one, flags.cpus)))
        return
    print(f"{os.cpu_count()} cores, {flags.cpus} simulated CPUs")
    print("trainings   all s  a second  ms each  board ms a call  driver MB  board MB")
    for count in flags.trials:
        command = [sys.executable, __file__, "--one", str(count), "--cpus", str(flags.cpus)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        one = json.loads(done.stdout.partition("RESULT ")[2])
        assert one["done"] == count, one
        print(
            f"{count:9,} {one['seconds']:7.1f} {count / one['seconds']:9.1f} {one['trial_ms']:8.1f} "
            f"{one['call_ms']:16.2f} {one['driver_mb']:10.0f} {one['board_mb']:9.0f}"
        )


if __name__ == "__main__":
    main()
