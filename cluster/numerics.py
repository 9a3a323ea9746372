"""Precision, memory layout and compiling of a study's trainings, where the command line leaves them to a measurement.

What wins is part of each trial's specification and stays with the store, so the same command goes on in the same
numbers. All networks of a method have the same.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from cluster.console import Console, duration
from cluster.plan import Plan, PlannedTrial
from cluster.results.store import Store
from cluster.speed import Timed
from denoise_core.method import Recipe, method_class
from denoise_core.specification import TrialSpec

AUTO = "auto"
NAMES = ("precision", "channels_last", "compile")
"""The fields of a recipe that are chosen here."""
LEAST_GAIN = 1.1
"""Others than the recipe's are taken only where they are so many times as fast."""
COMPILED_FROM_S = 600.0
"""Compiling takes minutes: it is tried only where a training takes so long without."""
Measure = Callable[[Sequence[TrialSpec]], tuple[list[Timed | None], str]]
"""Times trainings (:func:`cluster.speed.timed`) and names the device."""


@dataclass(frozen=True)
class Numerics:
    """Chooses a recipe's numerics, those that are ``left_open`` of NAMES, on the machine that ``measure`` measures."""

    left_open: frozenset[str]
    trials_of: Callable[[Recipe], Sequence[PlannedTrial]]
    store: Store
    study: str
    gpu: bool
    measure: Measure
    console: Console

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe with what is measured to be fastest. Says which and why; what the store has decides first."""
        spec = self.trials_of(recipe)[0].spec
        half = recipe.precision == "bf16" or method_class(spec.method).half_precision
        refused = ""
        if "precision" in self.left_open and not half:
            refused = f" bf16 was not tried: nobody has shown that {spec.method} gives the same results with it."
        choices = self._choices(recipe, half)
        if len(choices) == 1:
            self.console.say(f"Numerics: {spelled(recipe)}.{refused}")
            return recipe
        for one in choices:
            if Plan(self.trials_of(one)).read(self.store).stored:
                self.console.say(f"Numerics: {spelled(one)}, as in what is stored of this study.")
                return one
        name = self._name(spec)
        if (known := self._recorded(name)) is not None:
            self.console.say(f"Numerics: {spelled(replace(recipe, **known))}, as measured before.")
            return replace(recipe, **known)
        self.console.say("Numerics: timing a few steps of a training in each.", style="dim")
        chosen, why, device = self._measured(recipe, choices)
        self._record(name, chosen, why, device)
        self.console.say(f"Numerics: {spelled(chosen)}; {why}.{refused}")
        return chosen

    def _choices(self, recipe: Recipe, half: bool) -> list[Recipe]:
        """The recipe itself first."""
        precisions: list[Literal["fp32", "bf16"]] = [recipe.precision]
        layouts, compiled = [recipe.channels_last], [recipe.compile]
        if "precision" in self.left_open and half and recipe.precision == "fp32":
            precisions.append("bf16")
        if "channels_last" in self.left_open:
            layouts.append(not recipe.channels_last)
        if "compile" in self.left_open and not recipe.compile:
            compiled.append(True)
        return [
            replace(recipe, precision=precision, channels_last=layout, compile=compile)
            for compile, precision, layout in itertools.product(compiled, precisions, layouts)
        ]

    def _measured(self, recipe: Recipe, choices: Sequence[Recipe]) -> tuple[Recipe, str, str]:
        """The recipe that wins, why, and the device."""
        plain = [one for one in choices if one.compile == recipe.compile]
        found, device = self._times(plain)
        own = found[0]
        if own is None:
            return recipe, f"a training could not be tried on {device}, so the budget's own is kept", device
        others = [(one, time) for one, time in zip(plain, found, strict=True) if time is not None and time.agrees(own)]
        chosen, best = min(others, key=lambda one: one[1].seconds)
        if own.seconds < LEAST_GAIN * best.seconds:
            chosen, best = recipe, own
        why = [_compared(recipe, own, others, device)] if len(plain) > 1 else []
        if len(choices) > len(plain):
            chosen, sentence = self._compiled(chosen, best, device)
            why.append(sentence)
        return chosen, "; ".join(why), device

    def _compiled(self, chosen: Recipe, plain: Timed, device: str) -> tuple[Recipe, str]:
        """With compiled networks, where that is worth its time; and a sentence."""
        if plain.seconds < COMPILED_FROM_S:
            return chosen, f"a training takes {duration(plain.seconds)}, too short for compiling to pay"
        compiled = replace(chosen, compile=True)
        (again, time), _ = self._times([chosen, compiled])
        if again is None or time is None or not time.agrees(again):
            return chosen, f"compiled networks do not run, or not alike, on {device}"
        gain = again.seconds / (time.seconds + time.first_s)
        said = f"compiled, a training is {gain:.2f} times as fast ({duration(time.first_s)} of compiling counted)"
        return (compiled, said) if gain >= LEAST_GAIN else (chosen, f"{said}, not enough")

    def _times(self, recipes: Sequence[Recipe]) -> tuple[list[Timed | None], str]:
        return self.measure([self.trials_of(one)[0].spec for one in recipes])

    # ---- what was measured before ----

    def _name(self, spec: TrialSpec) -> str:
        """Of this question: a setting in the budget's own numerics, what was left open, and on what."""
        asked = json.dumps([spec.group_id, sorted(self.left_open), self.gpu])
        return hashlib.sha256(asked.encode()).hexdigest()[:16]

    def _recorded(self, name: str) -> dict[str, Any] | None:
        rows = self.store.read("numerics", [name]).to_pylist()
        chosen: dict[str, Any] = json.loads(rows[0]["chosen_json"]) if rows else {}
        return chosen if set(chosen) == set(NAMES) else None

    def _record(self, name: str, chosen: Recipe, why: str, device: str) -> None:
        row = {
            "numerics_id": name,
            "study": self.study,
            "created_at": datetime.now(UTC),
            "device": device,
            "chosen_json": json.dumps({one: getattr(chosen, one) for one in NAMES}),
            "why": why,
        }
        self.store.write("numerics", name, [row])


def spelled(recipe: Recipe) -> str:
    """A recipe's numerics in words."""
    layout = "channels_last" if recipe.channels_last else "contiguous"
    return f"{recipe.precision}, {layout}{', compiled' if recipe.compile else ''}"


def _compared(recipe: Recipe, own: Timed, others: Sequence[tuple[Recipe, Timed]], device: str) -> str:
    gains = [f"{spelled(one)} {own.seconds / time.seconds:.2f}" for one, time in others if one != recipe]
    if not gains:
        return f"nothing else runs, or not alike, on {device}"
    return f"on {device}, times as fast as {spelled(recipe)}: {'; '.join(gains)}"
