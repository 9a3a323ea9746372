"""The measurements of a report, found by what they are of. A study of ten thousand trainings has millions of them, so
they are sorted once, and what is asked of them is answered for all trainings at a time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

KEYS = ("noise", "dataset", "metric", "protocol", "output")
AT_ONCE = 2**20
"""Rows that are sorted at a time, to take little memory."""


class Measured:
    """Rows of measurements, and those among them that have certain values of ``KEYS``."""

    def __init__(self, rows: pd.DataFrame):
        self.all = rows
        combined, count = np.zeros(len(rows), np.int32), 1
        for key in KEYS:
            texts = rows[key].astype("category").cat
            combined += np.int32(count) * texts.codes.to_numpy()
            count *= max(1, len(texts.categories))
        number = np.full(count, -1, np.int16)
        firsts: list[int] = []
        for start in range(0, len(combined), AT_ONCE):
            some = combined[start : start + AT_ONCE]
            for kind in pd.unique(some):
                if number[kind] < 0:
                    number[kind] = len(firsts)
                    firsts.append(start + int(np.argmax(some == kind)))
        self._codes = number[combined]
        self._kinds = [
            dict(zip(KEYS, map(str, kind), strict=True))
            for kind in rows[list(KEYS)].iloc[firsts].itertuples(index=False)
        ]

    def values(self, *keys: str, **wanted: str) -> list[tuple[str, ...]]:
        """The values of ``keys`` among rows with the ``wanted`` values of others, in the order in which they come."""
        return list(dict.fromkeys(tuple(kind[key] for key in keys) for kind in self._kinds if _fits(kind, wanted)))

    def rows(self, **wanted: str) -> pd.DataFrame:
        """The rows with the ``wanted`` values of keys, in their order."""
        fitting = np.array([_fits(kind, wanted) for kind in self._kinds], dtype=bool)
        return self.all.iloc[np.flatnonzero(fitting[self._codes])] if len(fitting) else self.all

    @cached_property
    def images(self) -> int:
        """How many test images there are."""
        dataset, image = (self.all[name].astype("category").cat for name in ("dataset", "image_id"))
        pairs = dataset.codes.to_numpy() * np.int32(len(image.categories) + 1) + image.codes.to_numpy()
        return len(pd.unique(pairs))

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row of each evaluation: what does not differ between its rows."""
        return self.all[~self.all["trial_id"].duplicated()]


@dataclass(frozen=True)
class Cube:
    """Values by key, seed and image, repeats averaged; NaN where nothing was measured. Seeds and images are sorted."""

    keys: Sequence[Any]
    seeds: npt.NDArray[Any]
    images: npt.NDArray[Any]
    values: npt.NDArray[np.float64]

    @property
    def measured(self) -> npt.NDArray[np.bool_]:
        """Which seeds each key has, of shape (keys, seeds)."""
        found: npt.NDArray[np.bool_] = np.logical_not(np.isnan(self.values).all(axis=2))
        return found


def cube(rows: pd.DataFrame, keys: Sequence[Hashable]) -> Cube:
    """``rows`` of one metric; ``keys`` are those of ``one_a_trial(rows)``, whose order the cube keeps."""
    trials, _ = pd.factorize(rows["trial_id"])
    known = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    of_trial = np.array([known[key] for key in keys], np.int64)
    seeds, seed_values = pd.factorize(rows["seed"], sort=True)
    images, image_values = pd.factorize(rows["image_id"], sort=True)
    shape = (len(known), len(seed_values), len(image_values))
    places = np.ravel_multi_index((of_trial[trials], seeds, images), shape) if len(rows) else np.zeros(0, np.int64)
    means = pd.Series(rows["value"].to_numpy(dtype=np.float64)).groupby(places).mean()
    values = np.full(shape, np.nan)
    values.reshape(-1)[means.index.to_numpy(dtype=np.int64)] = means.to_numpy()
    return Cube(list(known), np.asarray(seed_values), np.asarray(image_values), values)


def one_a_trial(rows: pd.DataFrame) -> pd.DataFrame:
    """The first row of each trial."""
    codes, trials = pd.factorize(rows["trial_id"])
    return rows.iloc[_firsts(codes, len(trials))]


def _firsts(codes: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Where each of ``count`` codes comes first."""
    places = np.zeros(count, np.int64)
    places[codes[::-1]] = np.arange(len(codes))[::-1]  # of several the last one written stays
    return places


def _fits(kind: dict[str, str], wanted: dict[str, str]) -> bool:
    return all(kind[key] == value for key, value in wanted.items())
