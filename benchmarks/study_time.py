"""A study's wall time against the time of its training steps on the same cores, and where the rest of it goes.

    python benchmarks/study_time.py                          # 8 trainings of about 20 s, two of each setting
    python benchmarks/study_time.py --trainings 64           # a quarter of an hour
    python benchmarks/study_time.py --study gan2gan_losses --seconds 60 --precision bf16

Runs the study as a user does, in a new store, with so many steps that a training takes about so long; how many, is
measured first. Needs the packages of the study and nothing else. Prints one line of JSON:

``ratio``      wall time of the command, from its start to its last line, by the sum of all step times over the cores
``estimated``  what the command said that it would take, by what it took (1.2: a fifth too long)
``start``      seconds from the start of the command to the first training's beginning
``evaluation`` seconds of validation and test images, over the cores
``between``    seconds of a core in which it neither trained nor evaluated, from the first beginning to the last end
``end``        seconds from the last training's end to the end of the command
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
UNITS = {"h": 3600, "min": 60, "s": 1}


def steps_for(name: str, arguments: list[str], seconds: float) -> tuple[int, int]:
    """How many steps take ``seconds`` on one core, on average over the study's settings; and how many these are."""
    sys.path.insert(0, str(ROOT / "studies"))
    from cluster.cli import parse
    from cluster.console import Console
    from cluster.costs import measured
    from cluster.runner import Runner

    study = importlib.import_module(name).study
    with tempfile.TemporaryDirectory() as store:
        runner = Runner(study, parse(study, [*arguments, "--store", store]), "", Console())
        specs = {one.spec.group_id: one.spec for one in runner.planner.grid(runner.options.seeds[:1])}
        found = [measured(spec, runner.data[0], evaluations=1) for spec in specs.values()]
    costs = [sum(one[0].values()) / spec.steps for one, spec in zip(found, specs.values(), strict=True) if one]
    return max(20, round(seconds / (sum(costs) / len(costs)))), len(specs)


def run(command: list[str]) -> tuple[str, float, float]:
    """What the command printed, when it began and how many seconds it took."""
    began, clock = time.time(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout, began, time.perf_counter() - clock


def told(printed: str) -> float:
    """The estimate of the whole study in seconds."""
    line = next(one for one in printed.splitlines() if one.startswith("Estimated"))
    found = re.search(r"all of it about ([\dhmins ]+?) on", line)
    assert found is not None, line
    return float(sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+) (h|min|s)\b", found[1])))


def figures(store: Path, printed: str, began: float, wall: float, cores: int) -> dict[str, Any]:
    import pandas as pd

    rows = pd.read_parquet(store / "trials")
    own = (rows["train_s"] - rows["shared_s"]).sum()
    ends = rows["finished_at"].map(lambda one: one.timestamp())
    starts = rows["started_at"].map(lambda one: one.timestamp())
    inside = float(ends.max() - starts.min())
    return {
        "trainings": len(rows),
        "seconds_a_training": round(own / len(rows), 1),
        "wall": round(wall, 1),
        "ratio": round(wall * cores / own, 3),
        "estimated": round(told(printed) / wall, 2),
        "start": round(float(starts.min()) - began, 1),
        "evaluation": round(rows["eval_s"].sum() / cores, 1),
        "between": round(inside - (own + rows["eval_s"].sum()) / cores, 1),
        "end": round(began + wall - float(ends.max()), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="neighbor2neighbor_gamma")
    parser.add_argument("--trainings", type=int, default=6, help="at least (default: 6)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of one training (default: 20)")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="(default: all)")
    parser.add_argument("more", nargs="*", help="further arguments of the study, after --")
    flags = parser.parse_args()
    common = ["--references", "none", *flags.more]
    steps, settings = steps_for(flags.study, common, flags.seconds)
    seeds = math.ceil(flags.trainings / settings)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        common += ["--steps", str(steps), "--store", str(store), "--max-concurrent", str(flags.cores)]
        command = [sys.executable, str(ROOT / "studies" / f"{flags.study}.py"), *common, "--seeds", str(seeds)]
        found = figures(store, *run(command), flags.cores)
    print(json.dumps({"study": flags.study, "steps": steps, "cores": flags.cores, **found}))


if __name__ == "__main__":
    main()
