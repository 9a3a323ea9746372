"""Image sets that a program draws, kept in the cache: it takes seconds, in every process that a study starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from denoise_core.cache import Part, remembered


def drawn(name: str, draw: Callable[[], Iterable[Tensor]], programs: Sequence[str]) -> tuple[Tensor, ...]:
    """What ``draw`` draws: images (C, H, W) of one size, on the CPU. They share their memory: do not write into them.

    ``programs`` are the files (``__file__``) that the drawing depends on: where one of them differs it is drawn anew.
    """
    parts: list[Part] = ["drawn", name, np.__version__, *(Path(one).read_bytes() for one in programs)]
    return remembered(parts, lambda: torch.stack(tuple(draw()))).unbind()
