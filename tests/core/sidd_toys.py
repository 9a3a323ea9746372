"""SIDD in its own layout, in miniature."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from denoise_core.images import sidd
from denoise_core.images.image_set import ImageSet, LazyImages
from denoise_core.images.named import load_images

CPU = torch.device("cpu")
FIRST, SECOND = "0001_001_S6_00100_00060_3200_L", "0200_010_GP_01600_03200_5500_N"
TOPS, LEFTS = (0, 24, 38), (0, 24, 48)  # of 70 x 80 pixels: the last row of patches is moved, the last column fits
MEDIUM = "SIDD_Medium_Srgb"
Spoil = Callable[[Path], object]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DENOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sidd, "PATCH", 32)
    monkeypatch.setattr(sidd, "STRIDE", 24)
    monkeypatch.setattr(sidd, "BLOCKS", (2, 3, 16, 16, 3))
    return tmp_path / "cache"


def picture(name: str, height: int = 70, width: int = 80) -> np.ndarray:
    """(height, width, 3) 8 bit, other pixels for every name."""
    return np.random.default_rng(list(name.encode())).integers(0, 256, (height, width, 3), dtype=np.uint8)


def files(instance: str, number: str) -> tuple[str, str]:
    return tuple(f"{instance}/{instance[:4]}_{kind}_SRGB_{number}.PNG" for kind in ("GT", "NOISY"))  # type: ignore[return-value]


def write_medium(root: Path, instances: Sequence[str] = (FIRST, SECOND), height: int = 70, width: int = 80) -> Path:
    """The data folder: two pairs of every scene instance, whose pixels depend on their names."""
    for instance in instances:
        (root / MEDIUM / "Data" / instance).mkdir(parents=True)
        for name in [*files(instance, "010"), *files(instance, "011")]:
            Image.fromarray(picture(name, height, width)).save(root / MEDIUM / "Data" / name, "PNG")
    (root / MEDIUM / "Scene_Instances.txt").write_text("\n".join(instances))
    return root


def write_validation(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("Gt", "Noisy"):
        name = f"Validation{kind}BlocksSrgb"
        blocks = np.random.default_rng(len(kind)).integers(0, 256, (2, 3, 16, 16, 3), dtype=np.uint8)
        savemat(folder / f"{name}.mat", {changes.get("name", name): changes.get("change", lambda b: b)(blocks)})
    return folder


def medium(root: Path) -> ImageSet:
    return load_images("sidd_medium", channels=3, data_root=root)


def versions(images: ImageSet) -> tuple[LazyImages, LazyImages]:
    assert isinstance(images.pixels, LazyImages)
    assert isinstance(images.noisy, LazyImages)
    return images.pixels, images.noisy


def in_memory(images: ImageSet) -> ImageSet:
    return ImageSet(images.name, images.ids, tuple(images.pixels), tuple(images.noisy or ()))


def same(image: torch.Tensor, pixels: np.ndarray) -> bool:
    return torch.equal(image, torch.from_numpy(pixels.astype(np.float32) / np.float32(255)).permute(2, 0, 1))


# --- image sets -------------------------------------------------------------------------------------------------------


def kept(cache: Path) -> list[str]:
    return sorted(one.name for one in cache.iterdir() if one.is_dir())


@pytest.fixture(autouse=True)
def nothing_half_written(cache: Path) -> Iterator[None]:
    yield
    if cache.is_dir():
        assert [one for one in cache.iterdir() if one.is_dir() and one.name.startswith(".")] == []
