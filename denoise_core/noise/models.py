"""Noise models and their names.

A module of this package that defines a concrete :class:`NoiseModel` adds its names to :func:`parse_noise` by existing.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
from abc import ABC, abstractmethod
from functools import cache
from typing import ClassVar, Self

import torch
from torch import Tensor

from denoise_core import noise as noise_package
from denoise_core.errors import UserError, nearest

NUMBER = r"-?\d+(?:\.\d+)?"
"""A level inside a name. The sign is matched so that a negative level gets its own error."""

RECORDED = "recorded"
"""The name of noise that is not simulated: images are noisy as they are."""


class NoiseModel(ABC):
    """A family of random degradations y of clean images x, with numbers filled in.

    Concrete families set ``pattern`` (a regular expression for whole names) and ``example``, and build themselves from
    a match in :meth:`from_match`.
    """

    pattern: ClassVar[str]
    example: ClassVar[str]
    whole_image: ClassVar[bool] = False
    """Whether it is made of a whole image (a scanner's), so that it cannot be drawn for a crop."""
    version: ClassVar[int] = 1
    """Part of what remembered results are kept by: to be raised when the same seed gives other noise."""
    name: str
    description: str

    @classmethod
    @abstractmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        """The model that a name stands for; UserError for numbers out of range."""

    @abstractmethod
    def __call__(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A noisy version of ``clean`` (N, C, H, W) in [0, 1]: the same shape and type, not rounded.

        It is not clipped, except where the description says so.

        All randomness comes from ``generator``, which must live on the device of ``clean``.
        """


class _Levelled(NoiseModel):
    """A family with one level: fixed, or drawn uniformly from [low, high] for each image of a batch."""

    family: ClassVar[str]
    zero_allowed: ClassVar[bool]

    def __init__(self, low: float, high: float | None = None) -> None:
        self.low, self.high = low, low if high is None else high
        self.name = f"{self.family}{low:g}" + ("" if high is None else f"_{self.high:g}")
        bound = "0 or more" if self.zero_allowed else "more than 0"
        if not all(math.isfinite(v) and (v > 0 or (v == 0 and self.zero_allowed)) for v in (self.low, self.high)):
            raise UserError(
                f"the noise {self.name!r} has a level out of range; levels must be {bound}: {self.example}."
            )
        if self.low > self.high:
            raise UserError(f"the noise {self.name!r} has low > high; write the smaller level first: {self.example}.")

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        return cls(float(match["low"]), float(match["high"]) if match["high"] else None)

    def _level(self, clean: Tensor, generator: torch.Generator) -> float | Tensor:
        """The level: a number, or (N, 1, 1, 1) with one draw per image."""
        if self.low == self.high:
            return self.low
        draw = torch.rand((clean.shape[0], 1, 1, 1), generator=generator, device=clean.device, dtype=clean.dtype)
        return self.low + (self.high - self.low) * draw

    def _level_text(self, symbol: str, unit: str) -> str:
        if self.low == self.high:
            return f"{symbol} = {self.low:g}{unit}"
        return f"{symbol} ~ U({self.low:g}, {self.high:g}){unit} for each image"


class Gaussian(_Levelled):
    """Additive white Gaussian noise, y = x + N(0, (sigma/255)^2), with sigma in units of 0..255."""

    family = "gauss"
    zero_allowed = True
    pattern = rf"gauss(?P<low>{NUMBER})(?:_(?P<high>{NUMBER}))?"
    example = "gauss25 or gauss5_50"

    def __init__(self, low: float, high: float | None = None) -> None:
        super().__init__(low, high)
        self.description = f"Gaussian noise, y = x + N(0, sigma^2), {self._level_text('sigma', '/255')}, not clipped."

    def __call__(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`NoiseModel`."""
        level = self._level(clean, generator)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
        return noise.mul_(level / 255).add_(clean)


class Poisson(_Levelled):
    """Shot noise, y = Poisson(lambda x) / lambda: lambda is the mean count at x = 1. ``clean`` must not be negative."""

    family = "poisson"
    zero_allowed = False
    pattern = rf"poisson(?P<low>{NUMBER})(?:_(?P<high>{NUMBER}))?"
    example = "poisson30 or poisson5_50"

    def __init__(self, low: float, high: float | None = None) -> None:
        super().__init__(low, high)
        self.description = (
            f"Poisson noise, y = Poisson(lambda x)/lambda, {self._level_text('lambda', '')}, not clipped."
        )

    def __call__(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """See :class:`NoiseModel`."""
        level = self._level(clean, generator)
        return torch.poisson(clean * level, generator=generator).div_(level)


@cache
def noise_families() -> tuple[type[NoiseModel], ...]:
    """The concrete noise models that the modules of this package define, sorted by class name."""
    found: list[type[NoiseModel]] = []
    for info in pkgutil.iter_modules(noise_package.__path__, noise_package.__name__ + "."):
        for _, member in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
            if issubclass(member, NoiseModel) and member.__module__ == info.name and not inspect.isabstract(member):
                found.append(member)
    return tuple(sorted(found, key=lambda family: family.__name__))


def parse_noise(name: str) -> NoiseModel:
    """The noise model of a name such as ``gauss25``, ``gauss5_50``, ``poisson30`` or ``poisson5_50``.

    Raises UserError for an unknown name and for levels out of range.
    """
    for family in noise_families():
        if match := re.fullmatch(family.pattern, name):
            return family.from_match(match)
    examples = [example for family in noise_families() for example in family.example.split(" or ")]
    raise UserError(f"unknown noise {name!r}: {nearest(name, [*examples, RECORDED])} (with levels of your choice).")


def simulated_noise(name: str) -> NoiseModel | None:
    """The noise model of a name, None for :data:`RECORDED` noise. Raises UserError as :func:`parse_noise` does."""
    return None if name == RECORDED else parse_noise(name)
