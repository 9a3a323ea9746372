"""What a plan will cost: seconds of each phase, from the store or measured, and what sharing phases saves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from cluster.execution.one_training import RUNGS, validated_pixels
from cluster.plan import TRAINED, Plan, PlannedTrial, grouped
from cluster.results.schema import DONE
from cluster.results.store import Store
from cluster.speed import jump
from denoise_core.evaluation import CANONICAL, denoise, middle, pixels_of, side_of
from denoise_core.images.image_set import ImageSet
from denoise_core.memory import keep_freed_memory
from denoise_core.method import Method, create
from denoise_core.metrics.clean_free import criterion
from denoise_core.metrics.full_reference import measure
from denoise_core.metrics.protocol import PROTOCOLS
from denoise_core.scenes import scenes
from denoise_core.specification import LoadedData, TrialSpec
from denoise_core.trainer import Trainer

CLOCK = time.thread_time
"""PyTorch has one thread while it is measured, and Ray starts in another: what that takes is no part of a step."""
BESIDE_OTHERS = 1.15
"""By the clock, a training on every core takes so many times its own time alone (benchmarks/study_time.py)."""
MEASURED_S = 2.0
"""Spent on measuring one setting at most, half on steps, which its phases share."""


@dataclass(frozen=True)
class Costs:
    """Estimated seconds of the trainings that are left, by trial id; 0 where nothing is known.

    ``alone`` is what each would take if it shared nothing but what is stored, ``shared`` what it adds when every phase
    is trained once. ``steps`` and ``steps_alone`` are the numbers of training steps, which are known exactly.
    """

    alone: Mapping[str, float]
    shared: Mapping[str, float]
    steps: int
    steps_alone: int

    @property
    def saved(self) -> float:
        """Seconds that sharing saves."""
        return sum(self.alone.values()) - sum(self.shared.values())


def estimate(
    trials: Sequence[PlannedTrial], data: Sequence[LoadedData], plan: Plan, store: Store, *, measure: bool
) -> Costs:
    """Costs of ``trials``: from stored phases and trials of their settings, else measured on one CPU thread.

    ``measure`` runs a few real steps and one real image of each distinct setting, a second or two each at the laptop
    budget. Without it (a GPU's time cannot be told from a CPU's), what is not stored counts as the mean of the rest.
    """
    groups = grouped(trials)
    seconds = _known(groups, plan, store)
    evaluation = {row["group_id"]: float(row["eval_s"]) for row in plan.stored.values() if row["status"] == DONE}
    loaded = {one.contents: one for one in data}
    for group in groups.values():
        spec = group[0].spec
        lacking = [link for link in plan.to_train(group[0]) if link.group_id not in seconds]
        if measure and (lacking or spec.group_id not in evaluation):
            images = replace(loaded[spec.contents], spec=spec.data)
            found = measured(spec, images, evaluations=len(group))
            if found is not None:
                seconds = {**found[0], **seconds}
                evaluation.setdefault(spec.group_id, found[1])
    lengths = {link.group_id: link.steps for group in groups.values() for link in group[0].spec.links}
    known = [one for one in seconds if one in lengths]
    usual = sum(seconds[one] for one in known) / sum(lengths[one] for one in known) if known else 0.0
    alone: dict[str, float] = {}
    shared: dict[str, float] = {}
    counted: set[str] = set()
    steps = steps_alone = 0
    for trial_id, group in sorted(groups.items(), key=lambda one: -sum(k.steps for k in plan.to_train(one[1][0]))):
        links = plan.to_train(group[0])
        own = {link.phase_id: seconds.get(link.group_id, usual * link.steps) for link in links}
        tested = evaluation.get(group[0].spec.group_id, 0.0)
        if plan.status(group[0]) == TRAINED:
            tested = float(plan.stored[trial_id]["eval_s"])
        alone[trial_id] = sum(own.values()) + tested
        shared[trial_id] = sum(cost for link, cost in own.items() if link not in counted) + tested
        steps_alone += sum(link.steps for link in links)
        steps += sum(link.steps for link in links if link.phase_id not in counted)
        counted |= set(own)
    return Costs(alone, shared, steps, steps_alone)


def makespan(seconds: Sequence[float], lanes: int) -> float:
    """How long ``lanes`` take for these trainings, the longest first, each lane taking the next when it is free."""
    busy = [0.0] * lanes
    for one in sorted(seconds, reverse=True):
        busy[busy.index(min(busy))] += one
    return max(busy)


def _known(groups: Mapping[str, Sequence[PlannedTrial]], plan: Plan, store: Store) -> dict[str, float]:
    """Seconds of phases that were trained with another seed, by group id."""
    wanted = {link.group_id for group in groups.values() for link in group[0].spec.links}
    rows = store.read("phases", plan.phases, ["group_id", "train_s"]).to_pylist() if plan.phases else []
    known = {row["group_id"]: float(row["train_s"]) for row in rows if row["group_id"] in wanted}
    whole = {row["group_id"]: float(row["train_s"]) for row in plan.stored.values() if row["status"] == DONE}
    return {**whole, **known}


def measured(spec: TrialSpec, data: LoadedData, evaluations: int) -> tuple[dict[str, float], float] | None:
    """Seconds of each phase by its group id, and of the evaluations; None where this process cannot train it."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        method = create(spec.method, spec.config, spec.data.channels, spec.seed)
        # not compiled: compiling every setting here would take minutes, more than it makes the estimate better
        recipe = replace(spec.recipe, compile=False)
        trainer = Trainer(method, data.source(spec.seed, torch.device("cpu")), recipe, spec.seed)
        limit = MEASURED_S / 2 / len(trainer.stretches)
        per_step = [_seconds_of_a_step(trainer, index, limit) for index in range(len(trainer.stretches))]
        denoised, compared = _seconds_of_a_pixel(method, data)
    except (RuntimeError, MemoryError):
        return None  # out of memory, for example: whether the workers can is not for the driver to say
    finally:
        torch.set_num_threads(threads)
    lengths = [stretch.last - stretch.first for stretch in trainer.stretches]
    costs = [step * length for step, length in zip(per_step, lengths, strict=True)]
    rungs = len(RUNGS) + len(lengths) - 1  # and at the end of every phase
    pixels = sum(map(pixels_of, data.test)) * spec.data.repeats * evaluations
    if data.validation is not None:
        pixels += min(pixels_of(data.validation), validated_pixels(spec.recipe)) * rungs
    more, beside = _of_criteria(data, evaluations, rungs, validated_pixels(spec.recipe))
    groups = [link.group_id for link in spec.links]
    phases = dict(zip(groups, costs, strict=True)) if len(groups) == len(costs) else {groups[0]: sum(costs)}
    return phases, (denoised + compared) * pixels + denoised * more + beside


def _seconds_of_a_pixel(method: Method, data: LoadedData) -> tuple[float, float]:
    """Of what is denoised, and of comparing it and the noisy image with the clean one."""
    image = data.test[0].pixels[0][:, :256, :256].cpu()
    spent: list[tuple[float, float]] = []
    while not spent or (len(spent) < 3 and sum(map(sum, spent)) < MEASURED_S / 4):  # the first warms up
        started = CLOCK()
        denoised = denoise(method, image, torch.device("cpu"))
        between = CLOCK()
        for one in (denoised, image):
            measure(PROTOCOLS[CANONICAL], one, image)
        spent.append((between - started, CLOCK() - between))
    first, second = (BESIDE_OTHERS * min(column) / image[0].numel() for column in zip(*spent, strict=True))
    return first, second


def _of_criteria(data: LoadedData, evaluations: int, rungs: int, shown: int) -> tuple[float, float]:
    """What criteria without clean images take: pixels to denoise, and seconds for everything else.

    Counted with a denoiser that does nothing, on the first scene of each set.
    """
    if not data.spec.criteria:
        return 0.0, 0.0
    noise, pixels, seconds = data.spec.noise, 0.0, 0.0
    sets: list[tuple[ImageSet, str, float, int | None]] = [
        (images, data.spec.test_noise or noise, float(evaluations), None) for images in data.test
    ]
    if data.validation is not None:  # whole images at the end, before that their middle
        sets += [(data.validation, noise, 1.0, None), (data.validation, noise, rungs - 1.0, shown)]
    for images, kind, times, most in sets:
        seen = scenes(images, kind)
        part = None if most is None else partial(middle, side=side_of(images, most))
        counted: list[int] = []
        for name in data.spec.criteria:
            _ = seen.facts(criterion(name)).report  # known already when scenes are measured
        started = CLOCK()
        for _ in seen.values(data.spec.criteria, 0, partial(_counted, counted), part):
            pass
        pixels += times * len(images) * sum(counted)
        seconds += 2 * times * len(images) * (CLOCK() - started)  # of the noisy image as well
    return pixels, BESIDE_OTHERS * seconds


def _counted(pixels: list[int], noisy: Tensor) -> Tensor:
    pixels.append(noisy[0].numel())
    return noisy


def _seconds_of_a_step(trainer: Trainer, index: int, limit_s: float) -> float:
    """Of a phase, some way in."""
    stretch = trainer.stretches[index]
    jump(trainer, stretch)
    steps, started, began = 0, CLOCK(), time.perf_counter()
    for step in trainer.run():
        if steps == 0 and step < stretch.last:
            started, began = CLOCK(), time.perf_counter()  # the first step warms up
        steps += 1
        if step >= stretch.last or steps > 6 or time.perf_counter() - began > limit_s:
            break
    return BESIDE_OTHERS * (CLOCK() - started) / max(1, steps - 1)
