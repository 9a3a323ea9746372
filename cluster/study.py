"""A study: one question, the settings that it compares, the images, the paper's table; a script declares it.

::

    study = Study(name="neighbor2neighbor_gamma", question="How strongly ...?", method="neighbor2neighbor",
                  axes=[grid("gamma", [0, 2, 8, 20])], data=Photographs(),
                  paper=PaperTable("neighbor2neighbor", "table3"), plot=Curve(x="gamma", facet="noise"))
    if __name__ == "__main__":
        study.main()
"""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from cluster.imagery import Imagery, Photographs
from cluster.report.controls import Control
from cluster.report.figures import Bars, Curve
from cluster.report.papers import PaperTable
from denoise_core.config import Search
from denoise_core.errors import UserError


@dataclass(frozen=True)
class Axis:
    """What a study varies: values of one or several (``joint``) parameters, or a space to search in.

    A name is a parameter of the method or a field of the data (``noise_realisation``). The budgets smoke and laptop
    take the first ``small`` values only, where it is not 0.
    """

    names: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...] = ()
    space: Search | None = None
    small: int = 0

    def settings(self) -> list[dict[str, Any]]:
        """Each value as {name: value}."""
        return [dict(zip(self.names, value, strict=True)) for value in self.values]


def grid(name: str, values: Sequence[Any]) -> Axis:
    """Every value of one parameter."""
    return Axis((name,), tuple((value,) for value in values))


def joint(names: Sequence[str], values: Sequence[Sequence[Any]], small: int = 0) -> Axis:
    """Several parameters that change together; small budgets take the first ``small`` values only."""
    return Axis(tuple(names), tuple(tuple(value) for value in values), small=small)


def uniform(name: str, low: float, high: float) -> Axis:
    """A parameter to search in [low, high] (``--search optuna``)."""
    return Axis((name,), space=Search("uniform", low, high))


def log(name: str, low: float, high: float) -> Axis:
    """A positive parameter to search in [low, high], uniform in its logarithm."""
    return Axis((name,), space=Search("log", low, high))


def choice(name: str, values: Sequence[Any]) -> Axis:
    """A parameter to search among ``values``."""
    return Axis((name,), tuple((value,) for value in values), Search("choice", choices=tuple(values)))


@dataclass(frozen=True)
class Study:
    """See the module. ``search`` names the parameters of ``--search optuna``.

    ``objectives`` are the metrics by whose validation values a search chooses, in the words of
    :data:`denoise_core.metrics.kinds.METRICS`. A single one is ``psnr`` or, with ``--criterion``, a criterion; of
    several there is no single best setting, so such a search looks for those that no other beats in all of them, and
    prunes nothing.

    ``base`` are settings beside the axes, ``small`` further ones of the budgets smoke and laptop; for the name of an
    axis it holds the list of values that these budgets take instead.

    ``by_noise`` holds settings that belong to a kind of noise, by the beginning of its name: a method may have one form
    for each. ``--set`` overrides them, as it does ``base``.

    ``references`` are methods, the most telling first, that are trained beside, with the same images, steps and shared
    parameters, as lines to compare with. ``baselines`` are such lines that cost next to nothing and are always drawn.
    """

    name: str
    question: str
    method: str
    axes: Sequence[Axis]
    data: Imagery = field(default_factory=Photographs)
    base: Mapping[str, Any] = field(default_factory=dict)
    small: Mapping[str, Any] = field(default_factory=dict)
    by_noise: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    search: Sequence[str | Axis] = ()
    objectives: Sequence[str] = ("psnr",)
    references: Sequence[str] = ()
    baselines: Sequence[str] = ()
    paper: PaperTable | None = None
    plot: Curve | Bars | None = None
    control: Control | None = None
    """Which cells tell how much of a gain is only training time."""

    def cells(self) -> list[dict[str, Any]]:
        """Every combination of the axes' values."""
        lacking = [axis.names[0] for axis in self.axes if not axis.values]
        if lacking:
            raise UserError(
                f"{self.name} has no values for {lacking[0]}, only a space: add --search optuna, "
                f"or give values with --set {lacking[0]}=1,2,3."
            )
        combinations = itertools.product(*(axis.settings() for axis in self.axes))
        return [{name: value for part in combination for name, value in part.items()} for combination in combinations]

    def settings_for(self, noise: str) -> dict[str, Any]:
        """``base`` and the settings of this noise."""
        found = next((values for family, values in self.by_noise.items() if noise.startswith(family)), {})
        return {**self.base, **found}

    def main(self, arguments: Sequence[str] | None = None) -> NoReturn:
        """Runs the study as its command line says and ends the process: 0 done, 1 failed trials, 2 bad input."""
        from cluster.cli import run  # here, so that a declared study costs no imports of what runs it

        status = run(self, sys.argv[1:] if arguments is None else list(arguments))
        gc.freeze()  # the process ends: to look for garbage among all that was imported would take a second and more
        sys.exit(status)
