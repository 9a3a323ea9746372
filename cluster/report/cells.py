"""Selections that verdict, figures and tables share: what was measured for each cell, in paired arrays."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cluster.report import measures
from cluster.report.measured import cube, one_a_trial
from denoise_core.diagnostics import GENERATED

if TYPE_CHECKING:
    from cluster.report.results import StudyResults

Array = npt.NDArray[np.float64]
Cell = tuple[Any, ...]  # one value per axis
SEARCH = 12  # more distinct cells than this are read as a search, not as a grid
DENOISED, NOISY = "denoised", "noisy"
INFINITE = "inf"
"""A value that may stand among the numbers of an axis, behind all of them."""

REFERENCES = {"n2c": "N2C (clean targets)", "n2n": "N2N (noisy pairs)"}
ADDITIVE = {
    "mixa": "mixture A, s", "mixb": "mixture B, s",
    "corr": "correlated, σ", "corrn": "correlated (normalised), σ",
}  # fmt: skip
HETEROSCEDASTIC = {
    "hg": "heteroscedastic", "hgt": "heteroscedastic (training code)", "hgv": "heteroscedastic (validation code)",
}  # fmt: skip
MULTIVARIATE = {"mg": "multivariate", "mgdraw": "multivariate (drawn for each image)"}
DATASETS = {
    "kodak24": "Kodak24", "bsd300_test": "BSD300 test", "bsd68": "BSD68", "cbsd68": "CBSD68", "set14": "Set14",
    "mcmaster18": "McMaster", "cc15": "CC15", "dnd": "DND",
    "sidd_validation": "SIDD validation", "sidd_testing": "SIDD testing", "sidd_benchmark": "SIDD benchmark",
    "nam": "Nam",
    "ldct_abdomen": "the paper's CT, abdomen", "ldct_chest": "the paper's CT, chest",
    "em_synthetic": "the paper's EM",
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One kind of noise on one test set."""

    noise: str
    dataset: str

    def __str__(self) -> str:
        return f"{noise_name(self.noise)}, {dataset_name(self.dataset)}"


@dataclass(frozen=True, eq=False)
class Grid:
    """Paired values of one setting: an array (seeds, images) per cell and per reference, all in the same order.

    Cells without any finished training in common with the others are in ``dropped``, seeds that not every cell has
    in ``left_out``. A reference that lacks some of the seeds or images has another shape: it cannot be paired.
    """

    setting: Setting
    seeds: tuple[int, ...]
    images: tuple[str, ...]
    cells: Mapping[Cell, Array]
    references: Mapping[str, Array]
    noisy: float | None  # mean over images of the noisy input
    noisy_images: Mapping[str, float]
    dropped: tuple[Cell, ...] = ()
    left_out: tuple[int, ...] = ()
    metric: str = "psnr"

    def mean(self, cell: Cell) -> float:
        """Over seeds and images."""
        return float(self.cells[cell].mean())

    def ranked(self) -> list[Cell]:
        """The cells, best first in the direction of the metric."""
        sign = measures.sign(self.metric)
        return sorted(self.cells, key=lambda cell: sign * self.mean(cell), reverse=True)


def settings(results: StudyResults) -> list[Setting]:
    """Noise and test set pairs in the order in which they were measured."""
    return [Setting(noise, dataset) for noise, dataset in results.measured.values("noise", "dataset")]


def grid(results: StudyResults, setting: Setting, *, metric: str = "", protocol: str = "") -> Grid:
    """The paired arrays of a setting; by default the study's metric under the canonical protocol.

    Only finished trainings count. Repeats of an image are averaged first: they are no further images.
    """
    return _grid(results, setting, metric or results.metric, protocol or results.canonical_protocol)


@lru_cache(maxsize=64)
def _grid(results: StudyResults, setting: Setting, metric: str, protocol: str) -> Grid:
    rows = done_rows(results, setting, metric, protocol)
    outputs = of_trainings(rows)
    ours = outputs[outputs["role"] == "cell"]
    keys = [cell_of(row) for row in one_a_trial(ours)[list(results.axes)].itertuples(index=False)]
    found = cube(ours, keys)
    places = {key: place for place, key in enumerate(found.keys)}
    finished = {cell: set(found.seeds[found.measured[places[cell]]]) for cell in _ordered(results, found.keys)}
    seeds, dropped = _common_seeds(finished)
    cells = [cell for cell in finished if cell not in set(dropped)]
    paired = found.values[[places[cell] for cell in cells]][:, np.isin(found.seeds, seeds)]
    common = ~np.isnan(paired).any(axis=(0, 1))  # images that all of them have
    images = [str(image) for image in found.images[common]] if cells else []
    noisy = rows[rows["output"] == NOISY].groupby("image_id", observed=True)["value"].mean()
    noisy = noisy.loc[[image for image in images if image in noisy.index]] if images else noisy
    return Grid(
        setting=setting,
        seeds=tuple(int(seed) for seed in seeds),
        images=tuple(images),
        cells={cell: paired[place][:, common] for place, cell in enumerate(cells) if images},
        references=_references(outputs[outputs["role"] == "reference"], images, seeds),
        noisy=float(noisy.mean()) if len(noisy) else None,
        noisy_images={str(image): float(value) for image, value in noisy.items()},
        dropped=tuple(dropped),
        left_out=tuple(sorted({int(seed) for known in finished.values() for seed in known} - set(seeds))),
        metric=metric,
    )


def of_trainings(rows: pd.DataFrame) -> pd.DataFrame:
    """What was measured of trainings in rows of one metric: of their denoised images or else of the noise they make."""
    denoised = rows[rows["output"] == DENOISED]
    return denoised if len(denoised) else rows[rows["output"] == GENERATED]


def of_noise(results: StudyResults, metric: str) -> bool:
    """Whether the metric was measured of generated noise."""
    outputs = {output for (output,) in results.measured.values("output", metric=metric)}
    return GENERATED in outputs and DENOISED not in outputs


def further_metrics(results: StudyResults) -> list[str]:
    """Metrics that the plot names beside the study's own and that have their own verdict: those of generated noise,
    and PSNR where the study's own is one of these."""
    others = [metric for metric in results.plot.metrics if metric != results.metric]
    return [metric for metric in others if metric == "psnr" or of_noise(results, metric)]


@lru_cache(maxsize=16)
def planned_cells(results: StudyResults) -> tuple[Cell, ...]:
    """Every cell that the study planned or measured, in the order of its values."""
    frames = [frame[frame["role"] == "cell"] for frame in (results.trials, results.measured.trials)]
    found = {cell_of(row) for frame in frames for row in frame[list(results.axes)].itertuples(index=False)}
    return tuple(_ordered(results, [cell for cell in found if any(value is not None for value in cell)]))


def is_search(results: StudyResults) -> bool:
    """Whether configurations were suggested one by one (a search) and not laid out on a grid."""
    if results.searched is not None:
        return results.searched
    return bool((results.trials["status"] == "pruned").any()) or len(planned_cells(results)) > SEARCH


@lru_cache(maxsize=16)
def default_cell(results: StudyResults) -> Cell | None:
    """The cell with the paper's values, where the study has it."""
    cell = tuple(results.default.get(axis) for axis in results.axes)
    return next((planned for planned in planned_cells(results) if planned == cell), None)


def paper_value(results: StudyResults, setting: Setting, cell: Cell, metric: str = "") -> tuple[float, str] | None:
    """What the paper prints for a cell and on which test set: this one or, failing that, the only one it has."""
    if results.paper is None:
        return None
    table = results.paper.load()
    keys: dict[str, Any] = {"noise": setting.noise} if "noise" in table.keys else {}
    for axis, value in zip(results.axes, cell, strict=True):
        if axis in table.keys:
            keys[axis] = value
        elif value != results.default.get(axis):
            return None  # the table does not vary this axis, so it speaks of the default only
    if "method" in table.keys and len(methods := _methods(results)) == 1:
        keys["method"] = methods[0]
    found = [value for value in table.find(**keys) if (metric or results.metric) in value.values]
    here = [value for value in found if value.keys.get("dataset", setting.dataset) == setting.dataset]
    datasets = {str(value.keys.get("dataset", "")) for value in found}
    usable = here or (found if len(datasets) == 1 else [])
    if len(usable) != 1:  # nothing printed, or not clear which
        return None
    dataset = str(usable[0].keys.get("dataset", setting.dataset))
    return usable[0].values[metric or results.metric], dataset


def paper_reference(results: StudyResults, noise: str, dataset: str, method: str, metric: str = "") -> float | None:
    """What the paper prints for another method on this noise and test set, in any of its tables."""
    if results.paper is None:
        return None
    value = results.paper.lookup_anywhere(method=method, noise=noise, dataset=dataset)
    return value.values.get(metric or results.metric) if value else None


def cell_of(row: Sequence[Any]) -> Cell:
    """Axis values as plain Python values (None for absent ones), so that 2, 2.0 and numpy's 2.0 are one cell."""
    return tuple(_plain(value) for value in row)


def cell_label(results: StudyResults, cell: Cell) -> str:
    """``gamma = 2, sampler = random``."""
    return ", ".join(f"{axis} = {value_text(value)}" for axis, value in zip(results.axes, cell, strict=True))


def value_text(value: Any) -> str:
    """An axis value for a person: ``2`` for 2.0, ``0.00314`` for a sampled number."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, tuple):
        return "(" + ", ".join(value_text(entry) for entry in value) + ")"
    return "none" if value is None else str(value)


def is_number(value: Any) -> bool:
    """Whether an axis value has a place among numbers: all but flags and names."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def tick(value: Any) -> str:
    """An axis value as the label of a tick."""
    return "∞" if value == INFINITE else value_text(value)


def noise_name(noise: str) -> str:
    """``gauss5_50`` as ``Gaussian σ 5–50``; a name of another pattern as it is."""
    if (additive := re.fullmatch(r"(mixa|mixb|corrn?)(\d+(?:\.\d+)?)", noise)) is not None:
        return f"{ADDITIVE[additive[1]]} = {additive[2]}"
    if (levels := re.fullmatch(r"(hg[tv]?)(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)", noise)) is not None:
        return f"{HETEROSCEDASTIC[levels[1]]} α = {levels[2]}, δ = {levels[3]}"
    if (level := re.fullmatch(r"(mg|mgdraw)(\d+(?:\.\d+)?)", noise)) is not None:
        return f"{MULTIVARIATE[level[1]]}, {level[2]}"
    if (entries := re.fullmatch(r"cov" + "_".join([r"(-?\d+(?:\.\d+)?)"] * 6), noise)) is not None:
        return "multivariate, covariance {} {} {}, {} {}, {}".format(*entries.groups())
    if (dose := re.fullmatch(r"ldct(.+)", noise)) is not None:
        return f"low dose, {float(dose[1]):,.0f} photons"
    match = re.fullmatch(r"(gauss|poisson)(\d+(?:\.\d+)?)(?:_(\d+(?:\.\d+)?))?", noise)
    if match is None:
        named = {
            "real": "real noise", "recorded": "recorded noise",
            "film": "film noise (surrogate)", "charge": "charge noise (surrogate)",
        }  # fmt: skip
        return named.get(noise, noise)
    family, symbol = ("Gaussian", "σ") if match[1] == "gauss" else ("Poisson", "λ")
    return f"{family} {symbol} {match[2]}–{match[3]}" if match[3] else f"{family} {symbol} = {match[2]}"


def dataset_name(dataset: str) -> str:
    """A test set's printed name."""
    return DATASETS.get(dataset, dataset)


def reference_name(label: str) -> str:
    """``N2C (clean targets)`` for ``n2c``; any other label as it is."""
    return REFERENCES.get(label.lower(), label)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(_plain(entry) for entry in value)
    return None if pd.isna(value) else value


def done_rows(results: StudyResults, setting: Setting, metric: str, protocol: str) -> pd.DataFrame:
    """What was measured of a setting, by trainings that have finished."""
    rows = results.measured.rows(
        noise=setting.noise, dataset=setting.dataset, metric=metric, protocol=protocol
    )  # fmt: skip
    done = set(results.trials.loc[results.trials["status"] == "done", "trial_id"])
    return rows[rows["trial_id"].isin(done)]


@lru_cache(maxsize=16)
def _methods(results: StudyResults) -> tuple[str, ...]:
    """The methods of the cells that were measured."""
    trials = results.measured.trials
    return tuple(str(one) for one in trials.loc[trials["role"] == "cell", "method"].unique())


def _common_seeds(finished: Mapping[Cell, Collection[Any]]) -> tuple[list[Any], list[Cell]]:
    """The seeds that all cells have. Cells with the fewest are dropped while nothing is common."""
    left = dict(finished)
    dropped: list[Cell] = []
    while left:
        common = set.intersection(*(set(seeds) for seeds in left.values()))
        if common:
            return sorted(common), dropped
        fewest = min(left, key=lambda cell: len(left[cell]))
        dropped.append(fewest)
        del left[fewest]
    return [], dropped


def _references(rows: pd.DataFrame, images: Sequence[str], seeds: Sequence[Any]) -> dict[str, Array]:
    """A reference's values on the cells' images and, as far as it has them, the cells' seeds; else on its own."""
    found = cube(rows, [str(label) for label in one_a_trial(rows)["label"]])
    arrays: dict[str, Array] = {}
    for label, measured, values in zip(found.keys, found.measured, found.values, strict=True):
        known = set(found.seeds[measured])
        values = values[np.isin(found.seeds, seeds) if seeds and set(seeds) <= known else measured]
        whole = ~np.isnan(values).any(axis=0)
        seen = found.images[~np.isnan(values).all(axis=0)]
        wanted = np.isin(found.images, images) if images and set(images) <= set(seen) else whole
        if (values := values[:, wanted & whole]).size:
            arrays[str(label)] = values
    return arrays


def _ordered(results: StudyResults, cells: Sequence[Cell]) -> list[Cell]:
    """Numbers by size, names in the order in which the study plans them."""
    planned = results.trials[results.trials["role"] == "cell"]
    places = [{_plain(value): place for place, value in enumerate(planned[axis].unique())} for axis in results.axes]

    def key(cell: Cell) -> list[tuple[int, float, str]]:
        return [
            (0, float(value), "") if isinstance(value, int | float) else (1, place.get(value, len(place)), str(value))
            for value, place in zip(cell, places, strict=True)
        ]

    return sorted(cells, key=key)
