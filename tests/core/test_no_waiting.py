"""Inside a step the host never asks for a value of the device, or it would wait for all that the device has to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from denoise_core.method import Update

from .test_trainer import NAMES, trainer

ASKING = {
    "item", "tolist", "numpy", "cpu", "nonzero", "argwhere", "masked_select", "unique", "equal", "allclose",
    "is_nonzero", "__bool__", "__float__", "__int__", "__index__",
}  # fmt: skip
ASKING_OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "aten.equal", "is_nonzero")


class Waited(AssertionError):
    """The host waited for the device."""


class NoCalls(TorchFunctionMode):
    """Refuses what Python calls to have a tensor's values."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in ASKING:
            raise Waited(func.__name__)
        return func(*args, **(kwargs or {}))


class NoOperations(TorchDispatchMode):
    """Refuses operations whose answer the host needs, also where autograd or another operation calls them."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = str(func)
        given = args[1] if name.startswith("aten.index") and len(args) > 1 else ()
        indices = given if isinstance(given, list | tuple) else ()
        by_mask = any(isinstance(one, Tensor) and one.dtype == torch.bool for one in indices)
        if by_mask or any(one in name for one in ASKING_OPERATIONS):
            raise Waited(f"{name}{' with a mask' if by_mask else ''}")
        return func(*args, **(kwargs or {}))


class Drawn:
    """A source whose batches were made before: where crops lie is drawn on the host, which asks no device."""

    def __init__(self, batch: Mapping[str, Tensor]):
        self._batch = batch

    def batch(self, **asked: Any) -> Mapping[str, Tensor]:
        return self._batch


def step_without_waiting(name: str, phase: int, **changes: object) -> None:
    """The second step of a phase, since the first may measure what the phase begins with."""
    one = trainer(name, **changes)
    stretch = one.stretches[phase]
    one.step = stretch.first
    one._enter(stretch, fresh=True)
    one._train_step(stretch)
    one.step += 1
    part = stretch.phase
    batch = one.source.batch(size=part.batch, patch=part.patch, seed=one.seed, step=one.step, fields=part.needs)
    one.source = Drawn(batch)  # type: ignore[assignment]
    for optimizer in one._optimizers.values():  # they keep their numbers of steps where they need them
        step = optimizer.step

        def outside(step: Any = step) -> None:
            with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
                step()

        optimizer.step = outside  # type: ignore[method-assign]
    with NoCalls(), NoOperations():
        one._train_step(stretch)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_no_step_waits_for_the_device(name: str, precision: str) -> None:
    for phase in range(len(trainer(name).stretches)):
        step_without_waiting(name, phase, precision=precision)


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: float(x.sum()),
        lambda x: torch.masked_select(x, x > 0),
    ],
)
def test_what_waits_is_noticed(waiting: Any) -> None:
    with pytest.raises(Waited), NoCalls(), NoOperations():
        waiting(torch.ones(3))


def test_only_a_fused_optimizer_can_refuse_an_update() -> None:
    one = trainer("iscl")  # whose RAdam would step whatever it is told
    loss = sum((part.square().sum() for part in one._parameters["critics"]), torch.zeros(()))
    update = Update("critics", loss, valid=torch.tensor(False))
    before = [part.clone() for part in one._parameters["critics"]]
    with pytest.raises(ValueError, match="give it a fused optimizer"):
        one._apply(one.stretches[0].phase.groups["critics"], update, 0.5)
    assert all(torch.equal(old, new) for old, new in zip(before, one._parameters["critics"], strict=True))
