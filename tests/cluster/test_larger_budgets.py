"""Every study script can be planned at the budget gpu, which no test can train, on sets of the papers' names."""

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
    "train400": (202, 180, 1), "bsd68": (2, 64, 1), "cbsd400_train": (202, 128, 3), "cbsd68": (2, 64, 3),
    "kodak24": (2, 64, 3), "mcmaster18": (2, 64, 3),
}  # fmt: skip
PAIRS = {"polyu_sample": (20, 400, 3), "cc15": (15, 400, 3), "wf_sample/w2s": (15, 160, 1)}


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
    for name, (count, side, channels) in PAIRS.items():
        save(f"{name}/gt", count, side, channels)
        save(f"{name}/noisy", count, side, channels, noise=8.0)
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_gpu_budget_is_planned(script: str, root: Path, tmp_path: Path) -> None:
    one = study(script)
    arguments = ["--budget", "gpu", "--seeds", "1", "--store", str(tmp_path), "--data-root", str(root)]
    runner = Runner(one, parse(one, arguments), "", Console())
    runner._check_trials()
    assert runner._plan().left
    assert all(parse_noise(spec.noise) for spec in (data.spec for data in runner.data) if spec.noise != "recorded")
