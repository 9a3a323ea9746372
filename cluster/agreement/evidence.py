"""Rank agreement and regret of each criterion, by noise and test images, with intervals over the images."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau

from cluster.results.schema import DONE
from cluster.results.store import Store
from denoise_core.metrics.clean_free import criteria

Array = npt.NDArray[np.float64]
LEAST_CANDIDATES = 3
"""Fewer have no rank agreement to speak of."""
RESAMPLES, LEVEL, SEED = 400, 0.95, 0
TRUE = "psnr"


@dataclass(frozen=True)
class Estimate:
    """A value and its interval over the images."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Evidence:
    """What a criterion was worth on one noise and set: Kendall's tau with true PSNR, and what its choice loses in dB.

    ``bias`` is the mean of criterion minus true PSNR in dB.
    """

    noise: str
    dataset: str
    criterion: str
    candidates: int
    images: int
    tau: Estimate
    regret: Estimate
    bias: float


@dataclass(frozen=True)
class Measured:
    """Values of one noise and set: (candidates, images) of each metric, in the same order."""

    noise: str
    dataset: str
    labels: tuple[str, ...]
    values: Mapping[str, Array]


def evidence(groups: Sequence[Measured]) -> list[Evidence]:
    """Every criterion on every noise and set where three or more candidates were measured by it."""
    found = []
    for group in groups:
        for name in criteria():
            if name not in group.values:
                continue
            both = np.isfinite(group.values[name]).all(1) & np.isfinite(group.values[TRUE]).all(1)
            if both.sum() >= LEAST_CANDIDATES:
                said, true = group.values[name][both], group.values[TRUE][both]
                found.append(_evidence(group, name, said, true))
    return found


def measured(store: Store) -> list[Measured]:
    """What the store holds of trained and evaluated candidates, whose clean images are known, by noise and set."""
    rows = store.trials(store.names("trials"), ["trial_id", "status", "data_json", "method", "seed"])
    names = {*criteria(), TRUE}
    columns = ["trial_id", "params_json", "dataset", "image_id", "repeat", "output", "metric", "protocol", "value"]
    wanted = [one for one in store.names("measurements") if rows.get(one.split("-")[0], {}).get("status") == DONE]
    cells: dict[tuple[str, str], dict[str, dict[tuple[str, str], float]]] = defaultdict(lambda: defaultdict(dict))
    for row in store.read("measurements", wanted, columns).to_pylist():
        if row["output"] != "denoised" or row["protocol"] != "canonical" or row["metric"] not in names or row["repeat"]:
            continue
        params = json.loads(row["params_json"])
        data = json.loads(rows[row["trial_id"]]["data_json"])
        noise = params.get("test_noise") or data.get("test_noise") or data["noise"]
        inference = {key: value for key, value in params.items() if key != "criteria"}
        label = f"{row['trial_id']} {json.dumps(inference, sort_keys=True)}"
        cells[noise, row["dataset"]][label][row["metric"], row["image_id"]] = row["value"]
    return [_group(noise, dataset, candidates) for (noise, dataset), candidates in sorted(cells.items())]


def _group(noise: str, dataset: str, candidates: Mapping[str, Mapping[tuple[str, str], float]]) -> Measured:
    """Of the candidates that some criterion measured, the values as arrays; what is missing is NaN."""
    judged = {label: cell for label, cell in candidates.items() if any(metric != TRUE for metric, _ in cell)}
    images = sorted({image for cell in judged.values() for _, image in cell})
    metrics = sorted({metric for cell in judged.values() for metric, _ in cell})
    values = {
        metric: np.array([[cell.get((metric, image), np.nan) for image in images] for cell in judged.values()])
        for metric in {*metrics, TRUE}
    }
    empty = np.empty((0, len(images)))
    return Measured(
        noise, dataset, tuple(judged), {name: one if len(judged) else empty for name, one in values.items()}
    )


def _evidence(group: Measured, name: str, said: Array, true: Array) -> Evidence:
    draw = np.random.default_rng(SEED)
    images = said.shape[1]
    taus, regrets = [], []
    for _ in range(RESAMPLES):
        chosen = draw.integers(images, size=images)
        tau, regret = _compared(said[:, chosen].mean(1), true[:, chosen].mean(1))
        taus.append(tau)
        regrets.append(regret)
    tau, regret = _compared(said.mean(1), true.mean(1))
    return Evidence(
        group.noise, group.dataset, name, len(said), images,
        _estimate(tau, taus), _estimate(regret, regrets), float((said - true).mean()),
    )  # fmt: skip


def _compared(said: Array, true: Array) -> tuple[float, float]:
    tau = float(kendalltau(said, true).statistic)
    return (0.0 if np.isnan(tau) else tau), float(true.max() - true[int(said.argmax())])


def _estimate(value: float, drawn: Sequence[float]) -> Estimate:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))
