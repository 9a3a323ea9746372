"""Randomness as a pure function of names and numbers.

Every random draw of a training comes from ``generator(seed, ..., step)``. No sampler state exists anywhere, so a run
that is resumed at any step continues bit for bit, and two configurations with the same seed see the same images, crops
and noise (a paired comparison).
"""

from __future__ import annotations

import hashlib

import torch


def seed_from(*parts: str | int | float) -> int:
    """A 63-bit seed from names and numbers; the same parts give the same seed on every machine and Python."""
    text = "\x1f".join(f"{type(part).__name__}:{part!r}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(*parts: str | int | float, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on ``device``, seeded by :func:`seed_from`."""
    return torch.Generator(device=device).manual_seed(seed_from(*parts))
