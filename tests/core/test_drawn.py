"""Sets that a program draws are drawn once and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from denoise_core.images import generated, phantom
from denoise_core.images.drawn import drawn
from denoise_core.images.image_set import ImageSet

SETS: list[tuple[ModuleType, str, Callable[[], ImageSet], str]] = [
    (phantom, "_drawn", phantom.load_phantom, "_slices"),
    (generated, "_generated", lambda: generated.load_generated("em_generated"), "draw_scene"),
]


@pytest.mark.parametrize(("module", "kept", "load", "draws"), SETS, ids=["ct_phantom", "em_generated"])
def test_what_is_kept_is_what_was_drawn(
    module: ModuleType,
    kept: str,
    load: Callable[[], ImageSet],
    draws: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = load()  # without a cache: the tests switch it off
    monkeypatch.setenv("DENOISE_CACHE", str(tmp_path))
    again = getattr(module, kept)
    again.cache_clear()
    load()
    assert len(list(tmp_path.glob("*.npy"))) == 1
    again.cache_clear()
    monkeypatch.setattr(module, draws, None)
    found = load()
    assert found.ids == expected.ids and found.seen == expected.seen
    assert all(torch.equal(one, other) for one, other in zip(found.pixels, expected.pixels, strict=True))


def test_it_is_drawn_anew_by_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENOISE_CACHE", str(tmp_path / "cache"))
    program = tmp_path / "program.py"
    found = []
    for number in (1, 1, 2):
        program.write_text(f"# {number}")
        (image,) = drawn("toy", lambda: [torch.full((1, 2, 2), float(len(found)))], (str(program),))
        found.append(float(image[0, 0, 0]))
    assert found == [0.0, 0.0, 2.0]
