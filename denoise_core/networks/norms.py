"""Batch normalisation over all processes, and batch-instance normalisation (Nam & Kim 2018) as ISCL uses it."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

Statistics = Literal["batch", "track", "running"]
"""``batch``: moments of the current batch. ``track``: the same, and they enter the running moments. ``running``: the
batch part uses the running moments; the instance part always uses the image's own."""

EPSILON = 1e-7
SLOPE = 0.2
"""Of every LeakyReLU of ISCL."""


class BatchNorm(nn.BatchNorm2d):
    """PyTorch's, with the moments of the global batch where several processes train together, on any device."""

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(images)
        values = wide(images)
        moments = torch.stack([values.mean((0, 2, 3)), values.square().mean((0, 2, 3))])
        first, second = _MeanOverRanks.apply(moments)  # type: ignore[no-untyped-call]
        variance = (second - first.square()).clamp_min(0)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        with torch.no_grad():
            count = dist.get_world_size() * images.numel() / images.shape[1]
            self.running_mean.lerp_(first, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        factor = self.weight * torch.rsqrt(variance + self.eps)
        offset = self.bias - first * factor
        result: Tensor = (values * factor[:, None, None] + offset[:, None, None]).to(images.dtype)
        return result


class BatchInstanceNorm(nn.Module):
    """``scale * (rho * BN(x) + (1 - rho) * IN(x)) + shift`` per channel, for (N, C, H, W), optionally activated.

    BN uses the mean and the population variance over N, H and W, IN those over H and W, both with 1e-7 inside the root.
    ``rho`` starts at 1 and is kept in [0, 1] by :meth:`clip`. Both parts are linear in x, so they are folded into one
    factor and one offset per image and channel: one pass over the data, and one backward. Where several processes train
    together, BN's moments are those of the global batch.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, activate: bool = True, momentum: float = 0.05):
        super().__init__()
        self.rho = nn.Parameter(torch.ones(channels))
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.slope = SLOPE if activate else 1.0
        self.momentum = momentum

    def forward(self, images: Tensor, statistics: Statistics = "batch") -> Tensor:
        """See the class."""
        result: Tensor
        if statistics == "running":
            return self._plain(images, (self.running_mean, self.running_var))[0]
        if torch.compiler.is_compiling():  # a compiler fuses the passes by itself, and cannot trace _Fold
            result, mean, var = self._plain(images, None)
        else:
            result, mean, var = _Fold.apply(images, self.rho, self.scale, self.shift, self.slope, self.training)  # type: ignore[no-untyped-call]
        if statistics == "track":
            with torch.no_grad():
                self.running_mean.lerp_(mean.detach(), self.momentum)
                self.running_var.lerp_(var.detach(), self.momentum)
        return result

    @torch.no_grad()
    def clip(self) -> None:
        """Keeps rho in [0, 1]; call it after each update."""
        self.rho.clamp_(0, 1)

    def _plain(self, images: Tensor, moments: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """The result and the moments of the batch part: those given, else the batch's own."""
        centred, mean, var = _centred(images)
        batch_mean, batch_var = batch_moments(mean, var, self.training) if moments is None else moments
        factor, offset = fold(mean, var, batch_mean, batch_var, self.rho, self.scale, self.shift)
        return _activated(centred, mean, factor, offset, self.slope).to(images.dtype), batch_mean, batch_var


def fold(
    mean: Tensor, var: Tensor, batch_mean: Tensor, batch_var: Tensor, rho: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """(factor, offset), each (N, C), of the normalisation with these moments; ``mean`` and ``var`` are (N, C)."""
    batch_part = rho * torch.rsqrt(batch_var + EPSILON)
    instance_part = (1 - rho) * torch.rsqrt(var + EPSILON)
    factor = scale * (batch_part + instance_part)
    return factor, shift - scale * (batch_part * batch_mean + instance_part * mean)


def batch_moments(mean: Tensor, var: Tensor, training: bool) -> tuple[Tensor, Tensor]:
    """Mean and population variance (C,) of the whole batch from those of its images (N, C).

    In training the batch is that of all processes; at test time each process has images of its own.
    """
    first, second = mean.mean(0), (var + mean.square()).mean(0)
    if training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        both = _MeanOverRanks.apply(torch.stack([first, second]))  # type: ignore[no-untyped-call]
        first, second = both[0], both[1]
    # rounding may leave a constant channel a little below zero
    return first, (second - first.square()).clamp_min(0)


def wide(images: Tensor) -> Tensor:
    """The same in single precision at least: for moments and losses of half-precision values."""
    return images.float() if images.element_size() < 4 else images


def _centred(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(images minus their means, means (N, C), population variances (N, C)).

    In two passes, which is exact where a mean is large, and several times as fast as torch.var_mean on a CPU.
    """
    images = wide(images)
    mean = images.mean((2, 3), keepdim=True)
    centred = images - mean
    return centred, mean[..., 0, 0], _dots(centred, centred) / (images.shape[2] * images.shape[3])


def _dots(first: Tensor, second: Tensor) -> Tensor:
    """Sums of products over H and W: (N, C)."""
    count, channels = first.shape[:2]
    rows, columns = first.reshape(count * channels, 1, -1), second.reshape(count * channels, -1, 1)
    return torch.bmm(rows, columns).view(count, channels)


def _activated(centred: Tensor, mean: Tensor, factor: Tensor, offset: Tensor, slope: float) -> Tensor:
    offset = offset + factor * mean
    result = torch.addcmul(offset[..., None, None], centred, factor[..., None, None])
    return F.leaky_relu_(result, slope) if slope != 1 else result


class _Fold(torch.autograd.Function):
    """Normalisation and activation with one backward pass over the data.

    The small algebra from the moments to factor and offset is left to autograd, on tensors of (N, C); only the passes
    over the images are written out: with y = act(a x + b) and d = dL/d(a x + b), the moments add p (x - mean) + q to
    a d.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, rho: Tensor, scale: Tensor, shift: Tensor, slope: float, training: bool
    ) -> Any:
        centred, mean, var = _centred(images)
        with torch.enable_grad():
            leaves = [one.detach().requires_grad_() for one in (mean, var, rho, scale, shift)]
            batch_mean, batch_var = batch_moments(leaves[0], leaves[1], training)
            factor, offset = fold(leaves[0], leaves[1], batch_mean, batch_var, *leaves[2:])
        result = _activated(centred, mean, factor.detach(), offset.detach(), slope).to(images.dtype)
        ctx.save_for_backward(centred, result)
        ctx.small, ctx.slope = (leaves, factor, offset), slope
        batch_mean, batch_var = batch_mean.detach(), batch_var.detach()
        ctx.mark_non_differentiable(batch_mean, batch_var)
        return result, batch_mean, batch_var

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:  # type: ignore[override]
        centred, result = ctx.saved_tensors
        leaves, factor, offset = ctx.small
        if ctx.slope != 1:  # the sign of the output is that of its argument
            gradient = torch.ops.aten.leaky_relu_backward(gradient, result, ctx.slope, True)
        wanted, gradient = gradient.dtype, wide(gradient)
        mean = leaves[0].detach()
        along_offset = gradient.sum((2, 3))
        along_factor = _dots(gradient, centred) + mean * along_offset
        mean_g, var_g, rho_g, scale_g, shift_g = torch.autograd.grad(
            (factor, offset), leaves, (along_factor, along_offset), retain_graph=True
        )
        images_g = None
        if ctx.needs_input_grad[0]:
            count = centred.shape[2] * centred.shape[3]
            slope, start, factor = (
                one[..., None, None] for one in (2 * var_g / count, mean_g / count, factor.detach())
            )
            images_g = torch.addcmul(start, centred, slope).addcmul_(gradient, factor).to(wanted)
        return images_g, rho_g, scale_g, shift_g, None, None


class _MeanOverRanks(torch.autograd.Function):
    """The mean over all processes; so is its gradient, since the trainer averages gradients over the processes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient / dist.get_world_size()
