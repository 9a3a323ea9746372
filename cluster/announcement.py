"""What a study is about to do, in sentences for the terminal: images, what is stored, what is left, what it costs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.cli import Options
from cluster.console import duration
from cluster.costs import Costs, makespan
from cluster.plan import TRAINED, Plan, PlannedTrial
from cluster.results.schema import DONE, FAILED, PRUNED
from cluster.study import Study
from denoise_core.specification import LoadedData

RAY_S = 25.0
"""What a study takes on one machine beside its trainings: Ray's start and end, and the report
(benchmarks/study_time.py)."""


@dataclass(frozen=True)
class Announcement:
    """Sentences about a plan. ``default`` is a trial with all settings at their default; ``in_use`` counts the data."""

    study: Study
    options: Options
    data: Sequence[LoadedData]
    in_use: int
    default: PlannedTrial

    @property
    def images(self) -> list[str]:
        """Budget, images and noises."""
        lines = []
        for one in {one.contents: one for one in self.data}.values():
            sets = [("images" if one.clean is None else "noisy", one.train), ("clean", one.clean)]
            sets += [("test", images) for images in one.test]
            shown = ", ".join(f"{name} {images.name} ({len(images)})" for name, images in sets if images is not None)
            used = [two.spec for two in self.data[: self.in_use] if two.contents == one.contents]
            noises = ", ".join(dict.fromkeys(spec.noise for spec in used))
            tested = ", ".join(dict.fromkeys(spec.test_noise for spec in used if spec.test_noise))
            noises += f", tested with {tested}" if tested else ""
            if used:
                lines.append(f"Budget {self.options.budget}: {self._steps}; {shown}; noise {noises}.")
        return lines

    def counts(self, plan: Plan, left: int, suggestions: int | None = None) -> str:
        """How many trainings and evaluations there are, stored and left; ``suggestions`` are those of a search."""
        searching = suggestions is not None
        fits = {key for key, group in plan.trainings.items() if group[0].spec.method in self.study.baselines}
        trainings = {key: group for key, group in plan.trainings.items() if key not in fits}
        evaluations = sum(len(group) for group in trainings.values())
        statuses = [plan.status(group[0]) for group in trainings.values()]
        done = sum(1 for one in statuses if one in (DONE, TRAINED))
        what = f"{suggestions} suggestions" if searching else plural(len(trainings), "training")
        if evaluations > len(trainings):
            what += f", {plural(evaluations, 'evaluation')}"
        stored = f"{done} stored"
        stored += f", {statuses.count(PRUNED)} pruned" if PRUNED in statuses else ""
        if FAILED in statuses and not searching:
            stored += f", {statuses.count(FAILED)} failed before and tried again"
        untrained = left if searching else sum(1 for s in statuses if s not in (DONE, TRAINED))
        todo = f"{untrained} to train"
        waiting = {key: group for key, group in plan.trainings_left.items() if key in trainings}
        again = sum(1 for group in waiting.values() if plan.status(group[0]) == TRAINED)
        todo += f", {again} to evaluate from stored weights" if again else ""
        todo += f"; {len(fits & set(plan.trainings_left))} baselines" if fits & set(plan.trainings_left) else ""
        return f"{what} with {plural(len(self.options.seeds), 'seed')}: {stored}, {todo}."

    def costs(self, costs: Costs, left: int) -> list[str]:
        """What sharing phases saves, and how long it may take."""
        options, lines = self.options, []
        searching = options.search == "optuna"
        mean = sum(costs.shared.values()) / len(costs.shared)
        cores = 1 if options.address else int((os.cpu_count() or 1) // options.cpus)
        lanes = max(1, min(left, cores, options.max_concurrent or left))
        if costs.steps < costs.steps_alone and not searching:
            saved = f", {duration(costs.saved)} on one CPU" if costs.saved >= 1 and not options.gpus else ""
            lines.append(
                f"Shared: phases that several trainings need are trained once, {costs.steps:,} steps instead of "
                f"{costs.steps_alone:,}; that saves {1 - costs.steps / costs.steps_alone:.0%} of the steps{saved}."
            )
        if mean:
            every = [mean] * left if searching else list(costs.shared.values())
            each, all_of_it = duration(max(every)), makespan(every, lanes)
            if options.address:
                how = f"{duration(all_of_it)} in all, on the cluster's CPUs, one at a time"
            else:
                how = f"all of it about {duration(all_of_it + RAY_S)} on this machine, {lanes} at a time"
            lines.append(f"Estimated: up to {each} a training on one CPU, {how}.")
        return lines

    @property
    def _steps(self) -> str:
        """``1,000 steps``, or those of each phase."""
        links = self.default.spec.links
        if len(links) == 1:
            return f"{links[0].steps:,} steps"
        parts = ", ".join(f"{link.phase} {link.steps:,}" for link in links)
        return f"{sum(link.steps for link in links):,} steps ({parts})"


def plural(count: int, noun: str) -> str:
    """``1 training``, ``2 trainings``."""
    return f"{count} {noun}{'s' * (count != 1)}"
