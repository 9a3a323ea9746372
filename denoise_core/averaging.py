"""Averages of weights over a training: stochastic weight averaging and Lookahead. Their state is in the buffers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """The running mean of a network's parameters and buffers (SWA, Izmailov et al. 2018).

    It holds the mean of the states that it saw. Running moments of normalisation layers are averaged as the weights
    are.
    """

    count: Tensor

    def __init__(self, network: nn.Module):
        super().__init__()
        self._names = list(_state(network))
        for index, value in enumerate(_state(network).values()):
            self.register_buffer(f"mean{index}", value.detach().clone())
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, network: nn.Module, number: int) -> None:
        """Takes the network's present state into the mean, as the ``number``-th state, counted from 1."""
        values = [value.detach() for value in _state(network).values()]
        torch._foreach_lerp_(self._means, values, 1.0 / number)
        self.count.fill_(number)  # from the caller's number, so that no step waits for the device

    def apply_to(self, network: nn.Module, *arguments: Any) -> Any:
        """``network(*arguments)`` with the averaged weights, or with its own where nothing was averaged yet."""
        if not int(self.count):
            return network(*arguments)
        return torch.func.functional_call(network, dict(zip(self._names, self._means, strict=True)), arguments)

    @property
    def _means(self) -> list[Tensor]:
        return [getattr(self, f"mean{index}") for index in range(len(self._names))]


class Lookahead(nn.Module):
    """Slow weights that follow the fast ones (Zhang et al. 2019): every ``every`` steps slow += alpha (fast - slow),
    then the fast ones start again from there."""

    def __init__(self, networks: tuple[nn.Module, ...], every: int = 6, alpha: float = 0.5):
        super().__init__()
        self.every, self.alpha = every, alpha
        self._total = 0
        for network in networks:
            for parameter in network.parameters():
                self.register_buffer(f"slow{self._total}", parameter.detach().clone())
                self._total += 1

    @torch.no_grad()
    def after_step(self, networks: tuple[nn.Module, ...], step: int) -> None:
        """Call it after the ``step``-th optimizer step, counted from 1, of the networks that it was made of."""
        if step % self.every:
            return
        fast: list[Tensor] = [parameter for network in networks for parameter in network.parameters()]
        slow = [getattr(self, f"slow{index}") for index in range(self._total)]
        torch._foreach_lerp_(slow, fast, self.alpha)
        torch._foreach_copy_(fast, slow)


def _state(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and floating buffers by name."""
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: value for name, value in named.items() if value.is_floating_point()}
