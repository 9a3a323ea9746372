"""Clipping of gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ShrinkingClip(nn.Module):
    """Clips the norm of all gradients to a bound that only shrinks: at the end of each epoch of ``every`` steps it
    becomes the mean norm of the epoch, where that is smaller (official code of DANet).

    The bound is part of the weights that it is kept with, so a resumed training goes on with it.
    """

    bound: Tensor
    total: Tensor
    count: Tensor

    def __init__(self, bound: float):
        super().__init__()
        self.every = 1
        self.register_buffer("bound", torch.tensor(bound, dtype=torch.float64))
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, parameters: Sequence[nn.Parameter]) -> None:
        """Clips the gradients of ``parameters`` in place, before their optimizer's step."""
        norm = nn.utils.clip_grad_norm_(parameters, float(self.bound))
        self.total += norm
        self.count += 1
        if int(self.count) >= self.every:
            self.bound.copy_(torch.minimum(self.bound, self.total / self.count))
            self.total.zero_()
            self.count.zero_()
