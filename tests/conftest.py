"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

os.environ["DENOISE_CACHE"] = "off"  # tests leave nothing behind in the home folder
# more threads than cores wait for one another and take several times as long
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


STUDIES = "tests/studies/"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The studies take longest, so they begin."""
    items.sort(key=lambda item: not item.nodeid.startswith(STUDIES))


class OneForStudies(LoadScopeScheduling):
    """One process runs the studies, which share a Ray cluster, the others the rest, a file at a time."""

    def _split_scope(self, nodeid: str) -> str:
        return STUDIES if nodeid.startswith(STUDIES) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneForStudies:
    """See OneForStudies."""
    return OneForStudies(config, log)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real image sets: $DENOISE_DATA, else shared/data next to the repository; skips without either."""
    named = os.environ.get("DENOISE_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data pack not found at {named or '../shared/data'} (set DENOISE_DATA to its folder)")
    return folder
