"""The plain input of a report: what a study asked and everything that was measured for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import pandas as pd

from cluster.report.controls import Control
from cluster.report.figures import Bars, Curve
from cluster.report.measured import Measured
from cluster.report.papers import PaperTable

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "trials": (
        "trial_id", "training_id", "training_label", "role", "method", "label", "seed", "noise", "status", "error",
        "log_path",
        "train_s", "shared_s", "eval_s", "wall_s", "steps", "parameters", "device",
    ),
    "measurements": (
        "trial_id", "role", "method", "label", "seed", "noise", "dataset", "image_id", "repeat",
        "output", "metric", "protocol", "value",
    ),
    "curves": ("trial_id", "label", "seed", "noise", "step", "name", "value"),
    "diagnostics": ("trial_id", "label", "seed", "noise", "figure", "series", "x", "y"),
    "previews": ("trial_id", "label", "seed", "noise", "dataset", "image_id", "kind", "png"),
}  # fmt: skip


class Deviation(Protocol):
    """Where paper and code differ and what was done here (``denoise_core.method.Deviation`` is one)."""

    @property
    def topic(self) -> str:
        """What it is about."""
        ...

    @property
    def paper(self) -> str:
        """What the paper says."""
        ...

    @property
    def code(self) -> str:
        """What the paper's code does."""
        ...

    @property
    def ours(self) -> str:
        """What is done here."""
        ...


@dataclass(frozen=True, eq=False)  # equal to itself only, so that what is found in it can be kept
class StudyResults:
    """Everything a report shows. The tables hold at least ``COLUMNS``; empty ones may be left at their default.

    ``trials`` (one row a planned evaluation) and ``measurements`` (one row a value) also have one column per axis,
    which is NaN or None for references. ``trial_id`` names an evaluation, and several may share a ``training_id`` (and
    ``training_label``). ``role`` is ``cell`` or ``reference``; ``status`` is ``done``, ``pruned``, ``failed``,
    ``trained`` (not evaluated with these values) or ``missing``; ``output`` is ``denoised``, ``noisy`` or, for metrics
    of generated noise, ``generated``; ``kind`` is ``clean``, ``noisy`` or ``denoised``, and where noise is generated
    also ``generated``, ``noise`` and ``generated noise``; times are in seconds; ``png`` holds bytes; ``label`` names
    the cell or reference for a person.
    """

    name: str
    question: str
    budget: str
    axes: tuple[str, ...]
    plot: Curve | Bars
    trials: pd.DataFrame
    measurements: pd.DataFrame
    metric: str = "psnr"
    searched: bool | None = None  # None: to be told from the number of cells
    paper: PaperTable | None = None
    paper_protocol: str = ""
    canonical_protocol: str = "canonical"
    like_for_like: tuple[str, ...] = ()  # how this run differs from the paper's; empty: it does not
    caveats: tuple[str, ...] = ()  # what every reader must know before comparing any value
    deviations: Sequence[Deviation] = ()
    curves: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS["curves"])))
    diagnostics: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS["diagnostics"])))
    previews: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS["previews"])))
    manifests: Sequence[Mapping[str, Any]] = ()
    command: str = ""
    created: str = ""
    default: Mapping[str, Any] = field(default_factory=dict)  # the paper's value of each axis
    control: Control | None = None
    reload_s: int = 0  # of a study that is running: seconds after which an open page loads itself anew
    pareto: tuple[str, str] | None = None  # two metrics that pull against one another, x and y of their own figure

    def __post_init__(self) -> None:
        """Raises ValueError when a table lacks a column: a mistake of the caller, not of the user."""
        for table, columns in COLUMNS.items():
            wanted = columns + (self.axes if table in ("trials", "measurements") else ())
            absent = [column for column in wanted if column not in getattr(self, table).columns]
            if absent:
                raise ValueError(f"the table '{table}' lacks: {', '.join(absent)}")

    @cached_property
    def measured(self) -> Measured:
        """The measurements by what they are of."""
        return Measured(self.measurements)

    @cached_property
    def _views(self) -> dict[str, StudyResults]:
        return {self.metric: self}

    def of(self, metric: str) -> StudyResults:
        """The same results with another metric as the study's own."""
        if metric not in self._views:
            other = replace(self, metric=metric)
            other.__dict__.update(measured=self.measured, _views=self._views)
            self._views[metric] = other
        return self._views[metric]
