"""Training steps with networks that torch.compile has compiled, against the same steps without.

How long compiling takes is not in these figures: it is a minute or more for some networks on a processor, so that only
long trainings gain by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.cases.training import PLAIN, TIMED, trained
from benchmarks.harness import Call, Comparison
from denoise_core.method import method_class


def comparisons(device: str) -> Iterator[Comparison]:
    for method, phases in TIMED.items():
        for phase in phases:
            yield Comparison(
                f"{method} {phase}, laptop's networks", "not compiled", partial(pair, method, phase, device)
            )


def pair(name: str, phase: str, device: str) -> tuple[Call, Call]:
    recipe = method_class(name).recipes["laptop"]
    config = {**recipe.config, **PLAIN.get(name, {})}
    plain, compiled = (
        trained(name, phase, config, device, channels_last=recipe.channels_last, compile=compile)
        for compile in (False, True)
    )
    return plain, compiled
