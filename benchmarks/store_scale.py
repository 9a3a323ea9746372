"""What a store of many trials costs: writing, packing, planning, listing and the report, with 68 test images each.

    python benchmarks/store_scale.py                          # 10 to 10,000 trials: some minutes
    python benchmarks/store_scale.py --largest 100000         # an hour
    python benchmarks/store_scale.py --keep /scratch/stores   # uses what is there already

The trials are those of ``studies/neighbor2neighbor_gamma.py`` with more values of gamma and more seeds, so that
planning finds them; their rows are made up. All but the newest 300 are packed, a thousand at a time as they come.
Everything is measured in a process of its own, without its imports, in seconds of the clock and (in brackets) of the
processor, which a busy machine disturbs less; memory is the peak of that process. The exponents say how the latter
grow from one size to the next: 1 is in proportion. The unpacked stores show what packs bring.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIZES = {10: (5, 2), 100: (10, 10), 1_000: (100, 10), 10_000: (100, 100), 100_000: (1_000, 100)}
"""Trials: values of gamma, seeds."""
NEWEST, AT_ONCE = 300, 1_000
IMAGES = [f"test{number:03d}" for number in range(1, 69)]
STEPS = 1_500
MEASURED = ("write", "list", "plan 12", "plan all", "report")
Spent = tuple[float, float]
"""Seconds of the clock and of the processor."""


def arguments(gammas: int, seeds: int, store: str) -> list[str]:
    """The command line of a study whose first values are those of the paper."""
    values = [0, 2, 8, 20, *(value for value in range(1, gammas + 4) if value not in (2, 8, 20))][:gammas]
    listed = ",".join(map(str, values))
    study = ["--budget", "laptop", "--references", "none", "--store", store]
    return [*study, "--seeds", str(seeds), "--set", f"gamma={listed}"]


def runner(gammas: int, seeds: int, store: str) -> Any:
    sys.path.insert(0, str(ROOT / "studies"))
    import neighbor2neighbor_gamma

    from cluster.cli import parse
    from cluster.console import Console
    from cluster.runner import Runner

    study = neighbor2neighbor_gamma.study
    return Runner(study, parse(study, arguments(gammas, seeds, store)), "benchmark", Console())


# ---- rows that look like those of a training ----


class Rows:
    """Made-up rows of trials: images differ by 2 dB, seeds by 0.02 dB, gamma costs 0.01 dB for each unit."""

    def __init__(self) -> None:
        import numpy as np

        self.random = np.random.default_rng(0)
        self.images = {image: self.random.normal(0, 2) for image in IMAGES}
        self.noisy = {image: 20.2 + self.random.normal(0, 0.2) for image in IMAGES}
        self.pictures = {kind: [self.random.bytes(size) for _ in range(2)] for kind, size in PICTURES.items()}

    def write(self, store: Any, trial: Any) -> None:
        spec, now = trial.spec, datetime.now(UTC)
        level = 28.5 - 0.01 * abs(trial.cell["gamma"] - 2) + self.random.normal(0, 0.02)
        name = {"trial_id": spec.trial_id, "params_json": json.dumps(spec.params)}
        row = {
            "trial_id": spec.trial_id, "group_id": spec.group_id, "study": "neighbor2neighbor_gamma",
            "method": spec.method, "method_version": 1, "config_json": json.dumps(dict(spec.config), sort_keys=True),
            "data_json": spec.data.model_dump_json(), "recipe_json": json.dumps({"steps": STEPS}), "seed": spec.seed,
            "budget": "laptop", "status": "done", "error": "", "log_path": f"logs/{spec.trial_id}.log",
            "objective": level, "steps": STEPS, "total_steps": STEPS, "parameters": 314_000, "workers": 1,
            "device": "cpu", "train_s": 61 + self.random.random(), "shared_s": 0.0, "eval_s": 4 + self.random.random(),
            "wall_s": 66 + self.random.random(), "peak_memory_mb": 574 + self.random.random(), "attempts": 1,
            "started_at": now, "finished_at": now, "manifest_id": "m",
        }  # fmt: skip
        curves = [{"trial_id": spec.trial_id, "phase": "train", **point} for point in self._points(level)]
        measured = [{**name, "phase": "train", **one} for one in self._measured(level)]
        store.write_trial(row, curves, {spec.evaluation_id: (measured, [{**name, **one} for one in self._previews()])})

    def _points(self, level: float) -> Iterator[dict[str, Any]]:
        for number in range(1, 101):
            step = number * STEPS // 100
            for term in ("loss", "reconstruction", "regulariser"):
                yield {"step": step, "name": term, "value": self.random.random() / number}
            if number % 25 == 0:
                yield {"step": step, "name": "validation_psnr", "value": level - 5 / number}

    def _measured(self, level: float) -> Iterator[dict[str, Any]]:
        for image, content in self.images.items():
            values = {"noisy": self.noisy[image], "denoised": level + content + self.random.normal(0, 0.05)}
            for protocol in ("neighbor2neighbor", "canonical"):
                for output, decibel in values.items():
                    for metric, value in (("psnr", decibel), ("ssim", 0.3 + decibel / 60)):
                        kind = {"output": output, "metric": metric, "protocol": protocol}
                        yield {"dataset": "bsd68", "image_id": image, "repeat": 0, **kind, "value": value}

    def _previews(self) -> Iterator[dict[str, Any]]:
        for number, image in enumerate(IMAGES[:2]):
            pictures = {**{kind: several[number] for kind, several in self.pictures.items()}}
            for kind, png in {**pictures, "denoised": self.random.bytes(6_000)}.items():
                yield {"dataset": "bsd68", "image_id": image, "kind": kind, "png": png}


PICTURES = {"clean": 5_500, "noisy": 8_150}
"""Bytes of the pictures that are the same for all trainings."""


def build(gammas: int, seeds: int, store: str, packed: bool) -> dict[str, dict[str, float]]:
    """Fills a store; what all compactions took, and the last one."""
    from cluster.results import files

    flush = files._flush
    files._flush = lambda stream: stream.flush()  # a power cut would only cost the benchmark
    made, rows = runner(gammas, seeds, store), Rows()
    trials, spent = made.planner.grid(made.options.seeds), [{"seconds": 0.0, "cpu_s": 0.0, "peak_mb": 0.0}]
    newest = min(NEWEST, len(trials) * 3 // 10)
    for number, trial in enumerate(trials, 1):
        rows.write(made.store, trial)
        left = len(trials) - number - newest
        if packed and left >= 0 and left % AT_ONCE == 0:
            spent.append(measured("compact", gammas, seeds, store))
    files._flush = flush
    total = {name: sum(one[name] for one in spent) for name in ("seconds", "cpu_s")}
    return {
        "compact all": {**total, "peak_mb": max(one["peak_mb"] for one in spent)},
        "compact last": spent[-1],
    }  # fmt: skip


# ---- what is measured, each in a process of its own ----


def compact(gammas: int, seeds: int, store: str) -> Spent:
    from cluster.execution.compaction import compact as pack
    from cluster.results.store import Store

    opened = Store(store)
    return seconds(lambda: pack(opened, min_files=1))


def write(gammas: int, seeds: int, store: str) -> Spent:
    """One trial, the median of twenty that replace the newest ones by the same."""
    made, rows = runner(gammas, seeds, store), Rows()
    newest = [one for one in made.planner.grid(made.options.seeds) if one.spec.trial_id in made.store.loose("trials")]
    spent = [seconds(lambda one=one: rows.write(made.store, one)) for one in newest[-20:]]
    return statistics.median(one for one, _ in spent), statistics.median(one for _, one in spent)


def listing(gammas: int, seeds: int, store: str) -> Spent:
    """All trials to a frame, and the mean over the seeds of every setting."""
    import pandas  # noqa: F401 - its import is not what is measured

    from cluster.results.store import Store

    opened = Store(store)

    def everything() -> None:
        trials = opened.read("trials", opened.names("trials")).to_pandas()
        assert len(trials.groupby("group_id")["objective"].mean()) == gammas

    return seconds(everything)


def planning(gammas: int, seeds: int, store: str) -> Spent:
    """From the command line to the plan on the screen, all images read."""
    with tempfile.TemporaryDirectory() as folder:
        made = runner(1, 1, f"{folder}/store")  # what is imported late is not what is measured
        made._check_trials()
        made._plan()
    return seconds(lambda: plan(runner(gammas, seeds, store)))


def plan(made: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        made._check_trials()
        found = made._plan()
        made._announce(found)
    assert not found.left
    return found


def report(gammas: int, seeds: int, store: str) -> Spent:
    """Page and verdict."""
    from cluster.report import collect, html  # noqa: F401 - Plotly's import is not what is measured
    from cluster.report.verdict import judge

    made = runner(gammas, seeds, store)
    found = plan(made)
    return seconds(lambda: str(judge(made._write_report(found)[0])))


WHAT: dict[str, Callable[[int, int, str], Spent]] = {
    "compact": compact, "write": write, "list": listing, "plan all": planning, "report": report,
    "plan 12": lambda gammas, seeds, store: planning(4, 3, store),
}  # fmt: skip


def seconds(call: Callable[[], Any]) -> Spent:
    began, worked = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - began, time.process_time() - worked


def measured(what: str, gammas: int, seeds: int, store: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--only", what, "--size", str(gammas), str(seeds), "--keep", store]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=10_000)
    parser.add_argument("--keep", help="folder of the stores, which are kept")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.only:
        spent, worked = WHAT[flags.only](*flags.size, flags.keep)
        print(json.dumps({"seconds": spent, "cpu_s": worked, "peak_mb": peak_mb()}))
        return
    with tempfile.TemporaryDirectory() as folder:
        for packed in (True, False):
            sizes = [count for count in SIZES if count <= (flags.largest if packed else min(flags.largest, 1_000))]
            show([(count, all_of(count, Path(flags.keep or folder), packed)) for count in sizes], packed)


def all_of(count: int, folder: Path, packed: bool) -> dict[str, dict[str, float]]:
    """Everything that is measured of one size."""
    gammas, seeds = SIZES[count]
    store = folder / f"{count}-{'packed' if packed else 'loose'}"
    found = {} if store.exists() else build(gammas, seeds, str(store), packed)
    return found | {what: measured(what, gammas, seeds, str(store)) for what in MEASURED}


def show(results: list[tuple[int, dict[str, dict[str, float]]]], packed: bool) -> None:
    print("packed, the newest loose" if packed else "not packed")
    for what in ("compact all", "compact last", *MEASURED):
        for (before, earlier), (count, found) in zip([(0, {}), *results], results, strict=False):
            if what in found and (packed or not what.startswith("compact")):
                one = found[what]
                line = f"  {what:12} {count:7,} trials {one['seconds']:9.3f} s ({one['cpu_s']:8.3f})"
                grown = growth(before, count, earlier.get(what), one)
                print(f"{line} {one['peak_mb']:6.0f} MB{grown}", flush=True)


def growth(before: int, count: int, earlier: dict[str, float] | None, one: dict[str, float]) -> str:
    if earlier is None or not earlier["cpu_s"]:
        return ""
    return f"   grows with exponent {math.log(one['cpu_s'] / earlier['cpu_s']) / math.log(count / before):5.2f}"


if __name__ == "__main__":
    main()
