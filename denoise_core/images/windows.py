"""CT images: how pixels code Hounsfield units (HU), and the windows in which they are looked at and measured.

CT pixels lie in [0, 1] like all others and code HU = 65535 * pixel - 1024. This is what an unsigned 16-bit file with
the usual offset of 1024 gives when it is loaded as a folder of images: its range is divided by 65535.
"""

from __future__ import annotations

from torch import Tensor

from denoise_core.errors import UserError, nearest

FULL_RANGE = 65535
OFFSET = 1024

WINDOWS: dict[str, tuple[int, int]] = {"abdomen": (-160, 240), "chest": (-400, 1000)}
"""Lowest and highest HU of each window (ISCL shows its abdomen and chest slices in these)."""


def hounsfield(pixels: Tensor) -> Tensor:
    """HU of coded pixels of any shape; 0 is -1024 HU."""
    return pixels * FULL_RANGE - OFFSET


def coded(hu: Tensor) -> Tensor:
    """Pixels that code ``hu``: in [0, 1] for -1024 to 64511 HU, and bit for bit what a 16-bit file of them loads as."""
    return (hu + OFFSET) / FULL_RANGE


def to_window(pixels: Tensor, name: str) -> Tensor:
    """Coded pixels of any shape as [0, 1] from the lowest to the highest HU of the window; what is outside is clipped.

    Raises UserError for an unknown window.
    """
    if name not in WINDOWS:
        raise UserError(f"unknown CT window {name!r}: {nearest(name, WINDOWS)}; choose one of these.")
    low, high = WINDOWS[name]
    return ((hounsfield(pixels) - low) / (high - low)).clamp(0, 1)
