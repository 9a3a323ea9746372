"""A study as its command line wants it: other values of its axes, fewer references, another recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cluster.cli import Options
from cluster.numerics import AUTO
from cluster.study import Study
from denoise_core.method import Recipe, method_class


def with_settings(study: Study, options: Options) -> Study:
    """The study with an axis's values replaced by those of ``--set``, or by those of the small budgets."""
    cheap = options.budget in ("smoke", "laptop")
    small = study.small if cheap else {}
    axes = []
    for axis in study.axes:
        name = axis.names[0]
        axis = replace(axis, values=axis.values[: axis.small]) if cheap and axis.small else axis
        given = options.settings.get(name, small.get(name)) if len(axis.names) == 1 else None
        axes.append(replace(axis, values=tuple((value,) for value in given)) if given else axis)
    varied = {name for axis in study.axes for name in axis.names}
    base = {**study.base, **{name: value for name, value in small.items() if name not in varied}}
    return replace(study, axes=axes, base=base, references=_references(study, options))


def _references(study: Study, options: Options) -> Sequence[str]:
    """A small budget pays for one reference line, as it does for one noise."""
    small = options.budget in ("smoke", "laptop")
    count = {"none": 0, "first": 1, "all": len(study.references)}[options.references or ("first" if small else "all")]
    return study.references[:count]


def recipe_of(study: Study, options: Options) -> Recipe:
    """The budget's recipe with what the flags change; what they leave to a measurement stays."""
    recipe = method_class(study.method).recipes[options.budget]
    changes = {name: value for name, value in options.numerics.items() if value != AUTO}
    if options.steps is not None:
        changes["steps"] = options.steps
    return replace(recipe, **changes)
