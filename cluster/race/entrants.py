"""Which methods may run on some images, with which settings, and why the others may not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.plan import show
from cluster.report.noise_page import FIELDS, suits
from denoise_core.config import Search
from denoise_core.errors import UserError
from denoise_core.method import Method, create, method_class, outline
from denoise_core.noise.report import NoiseReport
from denoise_core.seeding import generator

DERIVED = {"smooth"}
"""Fields that a method makes itself from the noisy images."""
UNTOUCHED = ("features", "depth", "width", "blocks", "iterations", "batch_size", "patch_size", "lr")
"""Parameters that are not drawn: they change what a training costs, or need one of another length."""


@dataclass(frozen=True)
class Entrant:
    """A method with the (name, value) pairs in which it differs from its defaults."""

    method: str
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def values(self) -> dict[str, Any]:
        """The settings by name."""
        return dict(self.settings)

    @property
    def label(self) -> str:
        """What a person reads."""
        named = ", ".join(f"{name} = {show(value)}" for name, value in self.values.items())
        return f"{method_class(self.method).title}, {named}" if named else method_class(self.method).title


@dataclass(frozen=True)
class Starters:
    """Who runs, and who does not: (method, reason)."""

    running: tuple[Entrant, ...]
    out: tuple[tuple[str, str], ...]


def starters(
    report: NoiseReport, fields: frozenset[str], budget: str, *, settings: int, slow: bool, seed: int
) -> Starters:
    """Every method whose data there is and whose assumptions do not fail, each with ``settings`` settings.

    What is not trained, such as total variation, runs whatever it assumes: it is there to be compared with.
    The first setting is the default, the others change one parameter that declares a space. ``fields`` are what the
    images hold; methods that learn anew for each image run where ``slow``.
    """
    running: list[Entrant] = []
    out: list[tuple[str, str]] = []
    for one in suits(report):
        kind = method_class(one.method)
        if not kind.denoises:
            continue
        lacking = [FIELDS.get(name, name) for name in kind.assumes.fields if name not in fields | DERIVED]
        if lacking:
            out.append((one.method, f"it learns from {' and '.join(lacking)}"))
        elif reason := _cannot(kind, report.channels, budget, slow):
            out.append((one.method, reason))
        elif one.fails and trained(Entrant(one.method), report.channels, budget):  # a baseline costs nothing
            out.append((one.method, _failing(kind, report)))
        else:
            running += _settings(kind, budget, settings, seed)
    return Starters(tuple(running), tuple(out))


def trained(entrant: Entrant, channels: int, budget: str) -> bool:
    """Whether it has weights that are trained: others cost nothing but their evaluation."""
    kind = method_class(entrant.method)
    method = outline(entrant.method, {**kind.recipes[budget].config, **entrant.values}, channels)
    return any(phase.groups for phase in method.phases())


def _failing(kind: type[Method], report: NoiseReport) -> str:
    found = []
    if kind.assumes.pixel_independent and not report.pixel_independent:
        found.append(
            f"noise that is independent from pixel to pixel (neighbours measure {report.correlation.lag1:.2f})"
        )
    if kind.assumes.signal_independent and not report.signal_independent:
        found.append(f"noise of one strength (its variance changes {report.variance_ratio:.1f} times with intensity)")
    if kind.assumes.zero_mean and report.zero_mean is not None and not report.zero_mean.holds:
        found.append("noise that is zero-mean (repeated frames differ in brightness)")
    return f"it assumes {' and '.join(found)}" if found else "its assumptions do not hold"


def _cannot(kind: type[Method], channels: int, budget: str, slow: bool) -> str:
    """Why a method cannot be built or is too slow; empty where it can run."""
    try:
        method = create(kind.name, kind.recipes[budget].config, channels, 0)
    except (UserError, ImportError) as error:
        return str(error).rstrip(".")
    if method.learns_at_inference and not slow:
        return "it learns anew for every image, which takes minutes each: --slow lets it run"
    return ""


def _settings(kind: type[Method], budget: str, count: int, seed: int) -> list[Entrant]:
    """The default, and settings that differ from it in one parameter each."""
    found = [Entrant(kind.name)]
    spaces = {name: kind.Config.search_space(name) for name in kind.Config.model_fields if name not in UNTOUCHED}
    free = [(name, space) for name, space in spaces.items() if space is not None]
    draw = np.random.default_rng(generator("entrant", kind.name, seed).initial_seed() % 2**63)
    usual = kind.Config.build(dict(kind.recipes[budget].config), kind.name)
    for number in range(max(0, count - 1) if free else 0):
        name, space = free[number % len(free)]
        value = _drawn(space, draw)
        entrant = Entrant(kind.name, ((name, value),))
        if value != getattr(usual, name) and entrant not in found:
            found.append(entrant)
    return found


def _drawn(space: Search, draw: np.random.Generator) -> Any:
    """A value of a space, of two digits."""
    if space.kind == "choice":
        return space.choices[int(draw.integers(len(space.choices)))]
    if space.kind == "integer":
        return int(draw.integers(int(space.low), int(space.high) + 1))
    low, high = (np.log([space.low, space.high])) if space.kind == "log" else (space.low, space.high)
    value = float(draw.uniform(low, high))
    return float(f"{np.exp(value) if space.kind == 'log' else value:.2g}")
