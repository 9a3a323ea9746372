"""One call of a study: check everything, plan, train what is left, report. The order is the promise: nothing is trained
before all input was read and found good."""

from __future__ import annotations

import hashlib
import json
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.announcement import Announcement
from cluster.checks import check_trials
from cluster.cli import Options
from cluster.console import Console
from cluster.costs import estimate
from cluster.ending import INTERRUPTED
from cluster.execution import probe
from cluster.execution.checkpoints import checkpoint_faults
from cluster.execution.placement import Cluster, Resources, lanes, waiting
from cluster.execution.session import Session, prepare_environment, starting
from cluster.execution.suggestions import Outcome, SearchSettings
from cluster.execution.survey import Needs, check, survey
from cluster.inputs import inputs
from cluster.live import LiveReport
from cluster.numerics import AUTO, Numerics
from cluster.plan import (
    TRAINED,
    DataInUse,
    Plan,
    PlannedTrial,
    Planner,
    task_of,
    training_label,
)
from cluster.results.schema import FAILED
from cluster.results.store import Store
from cluster.searching import known_outcomes, search_settings, suggested
from cluster.settings import recipe_of, with_settings
from cluster.study import Study
from denoise_core.errors import UserError
from denoise_core.images.named import folder_of
from denoise_core.method import Recipe
from denoise_core.specification import DataSpec

if TYPE_CHECKING:
    from cluster.report.results import StudyResults

OK, FAILURES = 0, 1
MANY_LOOSE = 1_000
"""Files of a table that are packed at the end of a study, without being asked to."""
RELOAD_S = 30
"""After how many seconds the page of a running study loads itself anew."""


class Runner:
    """Runs a study once. Raises UserError for bad input."""

    def __init__(self, study: Study, options: Options, command: str, console: Console):
        self.options, self.command, self.console = options, command, console
        self.study = with_settings(study, options)
        self.recipe = recipe_of(self.study, options)
        self.store = Store.open(options.store)
        self.study, self.data = inputs(self.study, options, console)
        if left_open := frozenset(name for name, value in options.numerics.items() if value == AUTO):
            self.recipe = self._numerics(left_open).of(self.recipe)
        self.planner = self._planner(self.recipe)

    def run(self) -> int:
        """Everything, in order; returns the exit status."""
        self._check_trials()
        plan = self._plan()
        finished = True
        if self.options.dry_run and not self.options.report_only:
            self._announce(plan)
            return OK
        if not self.options.report_only:
            if self._left(plan):
                finished = self._train(plan)
                self._pack()
                plan = self._plan()
            else:
                self._announce(plan)
                self.console.say("Everything is stored already: nothing to train.")
        return self._report(plan, finished)

    def needs(self) -> Needs:
        """What every node must have."""
        sets = [name for one in self.data for name in (one.spec.train, one.spec.clean, *one.spec.test) if name]
        folders = [str(folder) for name in sets if (folder := folder_of(name)).is_absolute()]
        folders += [str(self.options.data_root)] if self.options.data_root else []
        return Needs(self.store.location, tuple(dict.fromkeys(folders)))

    def usage(self, cluster: Cluster) -> list[str]:
        """What the study would use of a cluster, in sentences; trains nothing. Raises UserError where it never fits."""
        self._check_trials()
        plan = self._plan()
        left = self._left(plan)
        resources = Resources(self.options.workers, self.options.cpus, self.options.gpus)
        fit, note = lanes(resources, self.options.max_concurrent, cluster, self.options.address is not None)
        lines = [f"{self.study.name}: {self._counts(plan, left)}", f"A trial asks for {resources}."]
        lines.append(f"At a time: {min(fit, max(1, left))} of {left}." if left else "Nothing is left to train.")
        return [*lines, *(one for one in (note, waiting(resources, cluster)) if one)]

    # ---- input ----

    def _planner(self, recipe: Recipe) -> Planner:
        return Planner(self.study, recipe, self._fixed(), self._in_use)

    def _first_trials(self, recipe: Recipe) -> list[PlannedTrial]:
        """Every cell with the first seed."""
        return self._planner(recipe).grid(self.options.seeds[:1])

    def _numerics(self, left_open: frozenset[str]) -> Numerics:
        gpu = self.options.gpus > 0
        there = partial(probe.on_gpu, self.options.address, self.options.data_root)
        measure = there if gpu else partial(probe.here, self.data)
        return Numerics(left_open, self._first_trials, self.store, self.study.name, gpu, measure, self.console)

    @property
    def _in_use(self) -> list[DataInUse]:
        used = self.data[:1] if self.options.search == "optuna" else self.data
        return [DataInUse(one.spec, one.contents) for one in used]

    def _fixed(self) -> dict[str, Any]:
        """The settings that are no axis and no field of the data: one value each."""
        axes = {name for axis in self.study.axes for name in axis.names}
        searched = {one if isinstance(one, str) else one.names[0] for one in self.study.search}
        searched = searched if self.options.search == "optuna" else set()
        fixed = {}
        for name, values in self.options.settings.items():
            if name in axes:
                joint = next(axis.names for axis in self.study.axes if name in axis.names)
                if len(joint) > 1:
                    raise UserError(
                        f"{self.study.name} varies {', '.join(joint)} together, so --set cannot change {name} alone: "
                        "leave it out, or copy the script and change its axes."
                    )
                continue
            if len(values) > 1 and name not in searched:
                raise UserError(
                    f"--set {name} has {len(values)} values, but {name} is no axis of this study: give one."
                )
            if name not in DataSpec.model_fields:
                fixed[name] = values[0]
        return fixed

    def _check_trials(self) -> None:
        """Says now what cannot be trained, and what may go wrong."""
        trials = self.planner.grid(self.options.seeds) if self.options.search == "grid" else self._corners()
        for warning in check_trials(trials, self.data, self.options.seeds[0], self.options.workers):
            self.console.warn(warning)

    def _corners(self) -> list[PlannedTrial]:
        """The first and the last setting of a search's space."""
        ends = [
            {
                name: one.choices[end] if one.kind == "choice" else (one.low, one.high)[end]
                for name, one in space.items()
            }
            for space in [self._search.space]
            for end in (0, -1)
        ]
        return [self.planner.trial(params, self._in_use[0], 0) for params in ends]

    @property
    def _default_trial(self) -> PlannedTrial:
        return self.planner.trial({}, self._in_use[0], 0)

    # ---- plan ----

    def _plan(self) -> Plan:
        trials = self._searched if self.options.search == "optuna" else self.planner.grid(self.options.seeds)
        faults = self.store.damaged([one.spec.trial_id for one in trials], [one.spec.evaluation_id for one in trials])
        for fault in faults:
            self.console.warn(fault)
        plan = Plan(trials).read(self.store)
        return plan.without_given_up() if self.options.search == "optuna" else plan

    @cached_property
    def _search(self) -> SearchSettings:
        return search_settings(self.study, self.planner, self._in_use[0], self.options, self.store)

    @property
    def _searched(self) -> list[PlannedTrial]:
        """Every suggestion so far with every seed."""
        make = partial(self.planner.trial, data=self._in_use[0])
        asked = suggested(self.store, self._search)
        return [make(params, seed=seed) for _, params in asked for seed in self.options.seeds]

    def _left(self, plan: Plan) -> int:
        if self.options.search == "grid":
            return len(plan.trainings_left)
        ended = sum(1 for one in self._known(plan) if one.number is not None and one.state.is_finished())
        return max(0, self._search.trials - ended) * len(self.options.seeds)

    def _known(self, plan: Plan) -> list[Outcome]:
        return known_outcomes(self.store, self._search, self.planner, self._in_use[0], plan)

    @property
    def _announcement(self) -> Announcement:
        return Announcement(self.study, self.options, self.data, len(self._in_use), self._default_trial)

    def _counts(self, plan: Plan, left: int) -> str:
        suggestions = self._search.trials if self.options.search == "optuna" else None
        return self._announcement.counts(plan, left, suggestions)

    def _announce(self, plan: Plan) -> float:
        """Prints the plan; returns the mean estimated seconds of a training that is left."""
        options, left = self.options, self._left(plan)
        self.console.say(self.study.question, style="bold")
        for line in [*self._announcement.images, self._counts(plan, left)]:
            self.console.say(line)
        if not left:
            return 0.0
        trials = [self._default_trial] if options.search == "optuna" else plan.left
        self._costs = costs = estimate(trials, self.data, plan, self.store, measure=not options.gpus)
        for line in self._announcement.costs(costs, left):
            self.console.say(line)
        return sum(costs.shared.values()) / len(costs.shared)

    # ---- training ----

    def _train(self, plan: Plan) -> bool:
        """Says what it will cost and trains it, while Ray starts. False when it was interrupted."""
        options = self.options
        prepare_environment(options.address)
        with starting(options.address) as ray_is_up:
            seconds = self._announce(plan)
            unfinished = {link.phase_id for trial in plan.left for link in plan.to_train(trial)}
            for fault in checkpoint_faults(self.store, sorted(unfinished)):
                self.console.warn(fault)
            return self._execute(plan, seconds, ray_is_up)

    def _execute(self, plan: Plan, seconds: float, ray_is_up: Callable[[], Session]) -> bool:
        options = self.options
        from cluster.execution.hosted import Work
        from cluster.execution.run import execute  # here: Ray is slow to import and not always needed

        resources = Resources(options.workers, options.cpus, options.gpus)
        work = Work(self.study.name, options.budget, self._tasks(plan))
        if options.search == "optuna":
            make = partial(_make, self.planner, self._in_use[0])
            work = replace(work, tasks=(), search=self._search, known=self._known(plan), make=make)
        current = ray_is_up()
        if current.dashboard:
            self.console.say(f"Ray dashboard: {current.dashboard}", style="dim")
        if not current.local:
            for warning in check(survey(self.needs())):
                self.console.warn(warning)
        if options.auto_gpus:
            resources = self._shared_gpu(resources, plan)
        with self._live.running():
            return execute(
                work, self.store, options.data_root, resources, options.max_concurrent, seconds, self.console,
                may_grow=not current.local,
            )  # fmt: skip

    def _pack(self) -> None:
        """Packs what lies loose, where that is a lot: thousands of small files are slow to plan against."""
        from cluster.execution.compaction import compact

        try:
            answer = compact(self.store, MANY_LOOSE, self.console.say)
        except OSError as error:
            self.console.warn(f"The store could not be packed; the next study tries again. {error}")
        else:
            if answer:
                self.console.say(answer, style="dim")

    def _shared_gpu(self, resources: Resources, plan: Plan) -> Resources:
        """With the share of a GPU that the settings' measured memory leaves to each worker."""
        from cluster.execution.gpu_share import gpus_per_training

        trials = self._corners() if self.options.search == "optuna" else plan.left
        part, sentence = gpus_per_training([one.spec for one in trials], self.options.data_root)
        self.console.say(sentence)
        return replace(resources, gpus=part * resources.workers)

    def _tasks(self, plan: Plan) -> list[Any]:
        """What is left, the longest first, so that the last ones to end are short."""
        if self.options.search == "optuna":
            return []
        order = sorted(plan.trainings_left.items(), key=lambda one: -self._costs.alone[one[0]])
        return [task_of(group) for _, group in order]

    # ---- report ----

    def _write_report(self, plan: Plan, reload_s: int = 0) -> tuple[StudyResults, Path]:
        from cluster.report.collect import collect  # here: Plotly is slow to import
        from cluster.report.html import render

        searched = self.options.search == "optuna"
        results = collect(self.study, plan, self.store, self.options.budget, self.command, searched)
        folder = (self.store.local or Path("results")) / "reports"
        results = replace(results, reload_s=reload_s)
        return results, render(results, folder / f"{self._report_name()}.html")

    @property
    def _live(self) -> LiveReport:
        def write() -> Path:
            return self._write_report(self._plan(), RELOAD_S)[1]

        return LiveReport(write, lambda: len(self.store.names("trials")), self.console)

    def _report(self, plan: Plan, finished: bool) -> int:
        from cluster.report.verdict import judge

        results, path = self._write_report(plan)
        self.console.say("")
        self.console.say(str(judge(results)))
        for caveat in results.caveats:
            self.console.warn(caveat)
        failed = [one for one in plan.trials if plan.status(one) == FAILED]
        for trial in {one.spec.trial_id: one for one in failed}.values():
            row = plan.stored[trial.spec.trial_id]
            label = training_label(trial)
            self.console.warn(f"{label}, seed {trial.spec.seed} failed: {row['error']} (log: {row['log_path']})")
        unmeasured = [one for one in plan.trials if plan.status(one) == TRAINED]
        if unmeasured and finished and not self.options.report_only:
            logs = self.store.local / "logs" if self.store.local else "the nodes' log folders"
            self.console.warn(f"{len(unmeasured)} evaluations are missing: they failed; see {logs}.")
            failed += unmeasured
        self.console.say("")
        self.console.say(f"Report: {path}", style="bold")
        if self.options.open_report:
            webbrowser.open(path.absolute().as_uri())
        if not finished:
            self.console.say("Interrupted: the same command goes on where this one ended.", style="yellow")
            return INTERRUPTED
        return FAILURES if failed else OK

    def _report_name(self) -> str:
        """One report for each question that was put: other images, settings or searches do not overwrite it."""
        asked = {
            "data": [one.contents for one in self.data],
            "settings": {name: list(values) for name, values in self.options.settings.items()},
            "steps": self.recipe.steps,
            "noises": [one.spec.noise for one in self.data],
        }
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:6]
        return f"{self.study.name}-{self.options.budget}-{self.options.search}-{digest}"


def _make(planner: Planner, data: DataInUse, params: Mapping[str, Any], seed: int) -> Any:
    return task_of([planner.trial(params, data, seed)])
