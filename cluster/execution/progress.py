"""What a training has measured and spent so far: its curves and times."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

VALIDATED = "validation_"
"""How the names of curves of validation values begin; the metric follows."""


class Progress:
    """Points of curves are ``{"phase", "step", "name", "value"}``; times are in seconds."""

    def __init__(self) -> None:
        self.curves: list[dict[str, Any]] = []
        self.train_s = self.eval_s = 0.0
        self.shared_s = 0.0
        """Of ``train_s``, what other trainings spent on phases that this one shares."""
        self._phase_s = 0.0
        self._first_point = 0

    @property
    def measured(self) -> dict[str, float]:
        """The last validation value of every metric."""
        return last_measured(self.curves)

    def spend(self, seconds: float) -> None:
        """On training steps."""
        self.train_s += seconds
        self._phase_s += seconds

    def point(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """A point of each curve."""
        self.curves += [{"phase": phase, "step": step, "name": name, "value": value} for name, value in values.items()]

    def take_up(self, records: Sequence[Mapping[str, Any]], trial_id: str) -> None:
        """Stored phases that the training goes on from; the next phase begins."""
        for record in records:
            self.curves += record["curves"]
            self.train_s += record["train_s"]
            self.shared_s += record["train_s"] if record["trial_id"] != trial_id else 0.0
        self._first_point, self._phase_s = len(self.curves), 0.0

    def of_phase(self) -> dict[str, Any]:
        """What is stored with the phase in work when it ends."""
        return {"train_s": self._phase_s, "curves": self.curves[self._first_point :]}

    def so_far(self) -> dict[str, Any]:
        """What goes along with a checkpoint."""
        return {
            "curves": self.curves,
            "phase_s": self._phase_s,
            "eval_s": self.eval_s,
            "first_point": self._first_point,
        }

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Goes on from what :meth:`so_far` gave.

        The checkpoint may be another training's that began alike: the phases before this one are known already.
        """
        began = self.train_s
        self.curves[self._first_point :] = saved["curves"][saved["first_point"] :]
        self._phase_s = saved["phase_s"]
        self.train_s, self.eval_s = began + self._phase_s, saved["eval_s"]


def judged(measured: Mapping[str, float], objectives: Sequence[str] = ()) -> float | None:
    """By which of its validation values a training is judged: the only objective of its search, without a search or
    with several objectives PSNR, or what there is instead. None where it is not measured."""
    if len(objectives) == 1:
        return measured.get(objectives[0])
    return measured.get("psnr", next(iter(measured.values()), None))


def at_rungs(
    curves: Iterable[Mapping[str, Any]], rungs: Container[int], objectives: Sequence[str]
) -> Iterator[tuple[int, float]]:
    """(step, value) of each of these steps in a training's curves, as :func:`judged`."""
    measured: dict[int, dict[str, float]] = {}
    for one in curves:
        if one["step"] in rungs and one["name"].startswith(VALIDATED):
            measured.setdefault(one["step"], {})[one["name"].removeprefix(VALIDATED)] = one["value"]
    for step, values in sorted(measured.items()):
        if (value := judged(values, objectives)) is not None:
            yield step, value


def last_measured(curves: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The last validation value of every metric in a training's curves."""
    points = [one for one in curves if one["name"].startswith(VALIDATED)]
    return {one["name"].removeprefix(VALIDATED): one["value"] for one in sorted(points, key=lambda one: one["step"])}
