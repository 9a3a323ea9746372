"""Who is ahead after the last round, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.race.entrants import Entrant
from cluster.race.rounds import Lap
from cluster.results.statistics import Interval, bonferroni, needed, paired_difference
from denoise_core.metrics.clean_free import Criterion

NOISY = "noisy"
"""The method that gives the noisy image itself: what nobody may lose against."""
LEVEL = 0.95


@dataclass(frozen=True)
class Place:
    """An entrant's mean over the images in dB, the best one's lead over it (None: it is the best), and its round."""

    entrant: Entrant
    value: float
    behind: Interval | None
    lap: int
    truth: float | None = None
    """Its true PSNR, where clean images are known."""

    @property
    def told_apart(self) -> bool:
        """Whether it is worse than the best, beyond chance."""
        return self.behind is not None and self.behind.low > 0


@dataclass(frozen=True)
class Standing:
    """The places, the best first: of the last round, then of those before it."""

    criterion: Criterion
    places: tuple[Place, ...]
    images: int
    over_noisy: Interval | None

    @property
    def best(self) -> Place:
        """The first."""
        return self.places[0]

    @property
    def tied(self) -> list[Place]:
        """Of the last round, which methods cannot be told apart from the best."""
        last = [one for one in self.places[1:] if one.lap == self.best.lap and one.entrant.method != NOISY]
        return [one for one in last if not one.told_apart]

    @property
    def useful(self) -> bool:
        """Whether the best is better than the noisy images, beyond chance."""
        return self.best.entrant.method != NOISY and (self.over_noisy is None or self.over_noisy.low > 0)

    def verdict(self) -> str:
        """The recommendation in a sentence or two, with its uncertainty."""
        name, count = self.best.entrant.label, f"{self.images} images"
        judged = f"by {self.criterion.title} ({self.best.value:.2f} dB)"
        if not self.useful:
            return (
                f"On {count} no method is better than the noisy images beyond chance, {judged}: use none of them yet."
            )
        gain = f", {_interval(self.over_noisy)} over the noisy images" if self.over_noisy is not None else ""
        if not self.tied:
            return f"Use {name}: the best on {count} {judged}{gain}."
        others = _listed([one.entrant.label for one in self.tied])
        return f"Use {name}: the best on {count} {judged}{gain}; it cannot be told apart from {others}."

    def limits(self) -> list[str]:
        """What the numbers do not say."""
        found = ["Every training ran with one seed: the luck of training is not in the intervals."]
        wide = [one.behind for one in self.tied if one.behind is not None]
        if wide:
            found.append(
                f"Differences below {max(one.half_width for one in wide):.2f} dB are not resolved on {self.images} "
                "images."
            )
        return found


def standing(criterion: Criterion, laps: Sequence[Lap], truth: Mapping[Entrant, float]) -> Standing:
    """Where everybody stands who was measured, by the last round that each ran in.

    Assumes at least one lap, and two images or more, since one says nothing about others.
    """
    last = laps[-1]
    order = last.order
    names = sorted(set.intersection(*(set(last.values[one]) for one in order)))
    best = _row(last, order[0], names)
    level = bonferroni(LEVEL, max(1, len(order) - 1))
    places = []
    for one in order:
        behind = None if one == order[0] else paired_difference(best, _row(last, one, names), level=level)
        places.append(Place(one, float(_row(last, one, names).mean()), behind, len(laps), truth.get(one)))
    for number in range(len(laps) - 1, 0, -1):
        lap, seen = laps[number - 1], {one.entrant for one in places}
        for one in lap.order:
            if one not in seen:
                places.append(Place(one, float(np.mean(list(lap.values[one].values()))), None, number, truth.get(one)))
    noisy = next((one for one in order if one.method == NOISY), None)
    over = paired_difference(best, _row(last, noisy, names)) if noisy not in (None, order[0]) else None
    return Standing(criterion, tuple(places), len(names), over)


def images_needed(place: Place, lap: Lap, best: Entrant) -> int | None:
    """About how many images would tell the best from this one; None where thousands would not."""
    names = sorted(lap.values[best])
    found = needed(_row(lap, best, names) - _row(lap, place.entrant, names))
    return None if found is None else found[1]


def _row(lap: Lap, entrant: Entrant | None, names: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    assert entrant is not None
    return np.array([[lap.values[entrant].get(name, np.nan) for name in names]])


def _interval(one: Interval | None) -> str:
    assert one is not None
    return f"{one.mean:+.2f} dB [{one.low:.2f}, {one.high:.2f}]"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
