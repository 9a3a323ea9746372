"""Every study script can be planned at the budgets that no test can train, on sets of the papers' names and numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.cli import parse
from cluster.console import Console
from cluster.runner import Runner
from denoise_core.noise.models import parse_noise

from .test_every_study import SCRIPTS, study

SETS = {
    "train400": (202, 176, 1), "bsd68": (2, 64, 1), "cbsd400_train": (202, 176, 3), "cbsd68": (2, 64, 3),
    "kodak24": (2, 64, 3), "mcmaster18": (2, 64, 3), "set14": (2, 64, 3), "bsd300_test": (2, 64, 3),
    "imagenet_val": (14, 256, 3),
}  # fmt: skip
PUBLISHED = (
    "dbsn_photographs", "dbsn_stages", "gan2gan_extraction", "gan2gan_patch_lambda", "iscl_dose", "iscl_gamma",
    "neighbor2neighbor_gamma", "noisy_n2n",
)  # fmt: skip
"""One script for each kind of images that the budget ``paper`` takes."""
PAIRS = {"polyu_sample": (4, 512), "cc15": (2, 512)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root of drawn images: flat, with an edge, each with a brightness of its own."""
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)

    def save(name: str, count: int, side: int, channels: int, noise: float = 0.0) -> None:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            image = np.full((side, side, channels), 40 + draw.uniform(0, 150), np.float32)
            image[: side // 3] += 30
            image += noise * draw.standard_normal(image.shape)
            image[0, :4, 0] = (index % 256, index // 256, len(name), ord(name[-1]))  # no two images are equal
            np.save(folder / name / f"{index:03}.npy", image.clip(0, 255).astype(np.uint8).squeeze())

    for name, (count, side, channels) in SETS.items():
        save(name, count, side, channels)
    for name, (count, side) in PAIRS.items():
        save(f"{name}/gt", count, side, 3)
        save(f"{name}/noisy", count, side, 3, noise=8.0)
    return folder


CASES = [(script, "gpu") for script in SCRIPTS] + [(script, "paper") for script in SCRIPTS if script in PUBLISHED]


@pytest.mark.parametrize(("script", "budget"), CASES)
def test_larger_budgets_are_planned(script: str, budget: str, root: Path, tmp_path: Path) -> None:
    one = study(script)
    arguments = ["--budget", budget, "--seeds", "1", "--store", str(tmp_path), "--data-root", str(root)]
    runner = Runner(one, parse(one, arguments), "", Console())
    runner._check_trials()
    assert runner._plan().left
    assert all(parse_noise(spec.noise) for spec in (data.spec for data in runner.data) if spec.noise != "recorded")
