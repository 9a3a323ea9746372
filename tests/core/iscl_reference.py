"""ISCL (Lee and Jeong, IEEE TMI 2021) written down literally in plain PyTorch and NumPy, to compare and time against.

Equation numbers are the paper's. Where it leaves something open or the authors' TensorFlow code does otherwise, this
follows the code ("code" below). Images lie in [-1, 1]. F removes noise, G adds it, H extracts it; DX and DY judge noisy
and clean images. Names: x noisy, y clean, yhat = F(x), xhat = G(y), ybar = x - H(x), xbar = y + H(x).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.floating]
EPSILON = 1e-7  # of the normalisation and of RAdam (code)
SLOPE = 0.2  # of every LeakyReLU (code)


# Padding as TensorFlow does it


def symmetric_pad(image: Tensor, pad: int) -> Tensor:
    """(N, C, H, W) -> (N, C, H + 2 pad, W + 2 pad), mirrored with the edge pixel repeated; pad <= H, W (code)."""
    wide = torch.cat([image[..., :pad].flip(-1), image, image[..., -pad:].flip(-1)], dim=-1)
    return torch.cat([wide[..., :pad, :].flip(-2), wide, wide[..., -pad:, :].flip(-2)], dim=-2)


def symmetric_pad_numpy(image: Array, pad: int) -> Array:
    """(N, C, H, W) -> (N, C, H + 2 pad, W + 2 pad), the same by NumPy."""
    return np.pad(image, ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="symmetric")


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis, so that a convolution gives ceil(size / stride); the odd one comes after."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def same_pad(image: Tensor, kernel: int, stride: int) -> Tensor:
    """(N, C, H, W) -> (N, C, H + top + bottom, W + left + right), zeros for a "same" convolution (code)."""
    top, bottom = same_padding(image.shape[-2], kernel, stride)
    left, right = same_padding(image.shape[-1], kernel, stride)
    return F.pad(image, (left, right, top, bottom))


def transposed_same(convolution: nn.ConvTranspose2d, image: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C', 2 H, 2 W): TensorFlow's "same" for kernel 3 and stride 2 crops at the end only (code)."""
    height, width = image.shape[-2:]
    return convolution(image)[..., : 2 * height, : 2 * width]  # type: ignore[no-any-return]


def transposed_same_numpy(image: Array, weight: Array, bias: Array) -> Array:
    """(N, C, H, W), (C, C', 3, 3), (C',) -> (N, C', 2 H, 2 W): the gradient of a stride-2 "same" convolution.

    That convolution maps 2 H x 2 W to H x W; its output (i, j) reads the padded input at (2 i + a, 2 j + b) with weight
    (a, b). Its gradient adds to that place (i, j)'s value times the same weight, unless it lies in the padding.
    """
    count, _, height, width = image.shape
    top, left = same_padding(2 * height, 3, 2)[0], same_padding(2 * width, 3, 2)[0]
    output = np.zeros((count, weight.shape[1], 2 * height, 2 * width)) + bias[:, None, None]
    for i in range(height):
        for j in range(width):
            for a in range(3):
                for b in range(3):
                    row, column = 2 * i + a - top, 2 * j + b - left
                    if 0 <= row < 2 * height and 0 <= column < 2 * width:
                        output[:, :, row, column] += image[:, :, i, j] @ weight[:, :, a, b]
    return output


# Networks (figure 3; sizes from the code)


class BatchInstanceNorm(nn.Module):
    """(N, C, H, W) -> the same: scale * (rho * batch norm + (1 - rho) * instance norm) + shift, one of each a channel.

    Always with the statistics of the images at hand, as population variances; there are no running averages (code).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.rho = nn.Parameter(torch.ones(channels))
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, hidden: Tensor) -> Tensor:
        """See the class."""
        batch_mean = hidden.mean(dim=(0, 2, 3), keepdim=True)
        batch_variance = hidden.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
        by_batch = (hidden - batch_mean) / torch.sqrt(batch_variance + EPSILON)
        instance_mean = hidden.mean(dim=(2, 3), keepdim=True)
        instance_variance = hidden.var(dim=(2, 3), keepdim=True, unbiased=False)
        by_instance = (hidden - instance_mean) / torch.sqrt(instance_variance + EPSILON)
        rho, scale, shift = (p.view(1, -1, 1, 1) for p in (self.rho, self.scale, self.shift))
        return scale * (rho * by_batch + (1 - rho) * by_instance) + shift  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """(N, C, H, W) -> the same: input + two 3x3 convolutions, nothing after the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3)
        self.norm1 = BatchInstanceNorm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3)
        self.norm2 = BatchInstanceNorm(channels)

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        hidden = F.leaky_relu(self.norm1(self.conv1(symmetric_pad(image, 1))), SLOPE)
        return image + self.norm2(self.conv2(symmetric_pad(hidden, 1)))  # type: ignore[no-any-return]


class Generator(nn.Module):
    """F and G: (N, C, H, W) -> the same, H and W multiples of 4; no skip from input to output, tanh at the end."""

    def __init__(self, channels: int, width: int = 32, blocks: int = 3):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 7)
        self.first_norm = BatchInstanceNorm(width)
        self.down1 = nn.Conv2d(width, 2 * width, 4, stride=2)
        self.down1_norm = BatchInstanceNorm(2 * width)
        self.down2 = nn.Conv2d(2 * width, 4 * width, 4, stride=2)
        self.down2_norm = BatchInstanceNorm(4 * width)
        self.blocks = nn.ModuleList(ResidualBlock(4 * width) for _ in range(blocks))
        self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 3, stride=2)
        self.up1_norm = BatchInstanceNorm(2 * width)
        self.up2 = nn.ConvTranspose2d(2 * width, width, 3, stride=2)
        self.up2_norm = BatchInstanceNorm(width)
        self.last = nn.Conv2d(width, channels, 7)
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        hidden = F.leaky_relu(self.first_norm(self.first(symmetric_pad(image, 3))), SLOPE)
        hidden = F.leaky_relu(self.down1_norm(self.down1(symmetric_pad(hidden, 1))), SLOPE)
        hidden = F.leaky_relu(self.down2_norm(self.down2(symmetric_pad(hidden, 1))), SLOPE)
        for block in self.blocks:
            hidden = block(hidden)
        hidden = F.leaky_relu(self.up1_norm(transposed_same(self.up1, hidden)), SLOPE)
        hidden = F.leaky_relu(self.up2_norm(transposed_same(self.up2, hidden)), SLOPE)
        return torch.tanh(self.last(symmetric_pad(hidden, 3)))


class Extractor(nn.Module):
    """H: (N, C, H, W) -> the noise in it, the same shape; DnCNN with another norm, zero padding (section IV.A)."""

    def __init__(self, channels: int, width: int = 32, layers: int = 20):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(channels, width, 3, padding=1)])
        for _ in range(layers - 2):
            self.convs.append(nn.Sequential(nn.Conv2d(width, width, 3, padding=1), BatchInstanceNorm(width)))
        self.convs.append(nn.Conv2d(width, channels, 3, padding=1))
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        hidden = image
        for convolution in self.convs[:-1]:
            hidden = F.leaky_relu(convolution(hidden), SLOPE)
        return self.convs[-1](hidden)  # type: ignore[no-any-return]


class Critic(nn.Module):
    """DX and DY: (N, C, H, W) -> (N, 1, h, w) scores; 64 x 64 gives 1 x 1, the least side is 49."""

    def __init__(self, channels: int, width: int = 32):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 4, stride=2)
        widths = [(width, 2 * width), (2 * width, 4 * width), (4 * width, 8 * width)]
        self.halvings = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 4, stride=2), BatchInstanceNorm(after)) for before, after in widths
        )
        self.wide = nn.Conv2d(8 * width, 16 * width, 4)
        self.wide_norm = BatchInstanceNorm(16 * width)
        self.last = nn.Conv2d(16 * width, 1, 1)
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        hidden = F.leaky_relu(self.first(same_pad(image, 4, 2)), SLOPE)
        for halving in self.halvings:
            hidden = F.leaky_relu(halving(same_pad(hidden, 4, 2)), SLOPE)
        hidden = F.leaky_relu(self.wide_norm(self.wide(hidden)), SLOPE)
        return self.last(hidden)  # type: ignore[no-any-return]


def initialise(network: nn.Module) -> None:
    """Kernels from a normal of deviation 0.05 cut at two deviations, zero biases (code)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.trunc_normal_(module.weight, std=0.05, a=-0.1, b=0.1)
            assert module.bias is not None
            nn.init.zeros_(module.bias)


# Losses in NumPy: arrays of any equal shapes in, one float out


def l1(first: Array, second: Array) -> float:
    """Mean absolute difference over all elements."""
    return float(np.mean(np.abs(first - second)))


def critic_loss(
    dx_x: Array,
    dx_xhat: Array,
    dy_y: Array,
    dy_yhat: Array,
    dx_xbar: Array | None = None,
    dy_ybar: Array | None = None,
    margin: float = 0.0,
) -> float:
    """Eq. 7 to 9 with the signs of the code, of critic scores; the last two of Eq. 9 only where given.

    ``margin``: fakes are pushed below -margin; 0 in the code, 1 in the usual hinge loss.
    """
    total = 0.0
    for real in (dx_x, dy_y):
        total += float(np.mean(np.maximum(0, 1 - real)))
    for fake in (dx_xhat, dy_yhat, dx_xbar, dy_ybar):
        if fake is not None:
            total += float(np.mean(np.maximum(0, margin + fake)))
    return total


def generator_loss(
    dx_xhat: Array,
    dy_yhat: Array,
    x: Array,
    g_yhat: Array,
    y: Array,
    f_xhat: Array,
    yhat: Array | None = None,
    ybar: Array | None = None,
    f_xbar: Array | None = None,
    weight: float = 30.0,
) -> float:
    """Eq. 1 to 6 of critic scores and images; the two bypass terms (Eq. 6) only where their arrays are given."""
    nested = l1(x, g_yhat) + l1(y, f_xhat)
    if yhat is not None and ybar is not None:
        nested += l1(yhat, ybar)
    if f_xbar is not None:
        nested += l1(y, f_xbar)
    return float(-np.mean(dy_yhat) - np.mean(dx_xhat) + weight * nested)


def extractor_loss(
    h_x: Array,
    x: Array,
    f_x: Array,
    xhat: Array | None = None,
    y: Array | None = None,
    h_xhat: Array | None = None,
) -> float:
    """Eq. 10 to 12 of images; noise-consistency (Eq. 11) only where its arrays are given."""
    total = l1(h_x, x - f_x)
    if xhat is not None and y is not None and h_xhat is not None:
        total += l1(xhat - y, h_xhat)
    return total


# One iteration


class ReferenceStep:
    """One iteration of the training in the code's order: critics, then F and G, then H; no Lookahead, no averaging.

    Nothing is kept from one of the three updates to the next, and H(x) is computed for ybar and again for xbar. The
    three RAdam are PyTorch's; their eps acts before the bias correction of the second moment, TensorFlow's after it.
    """

    def __init__(
        self,
        f: nn.Module,
        g: nn.Module,
        h: nn.Module,
        dx: nn.Module,
        dy: nn.Module,
        *,
        lr: float = 1e-4,
        weight: float = 30.0,
        margin: float = 0.0,
        bypass: bool = True,
        boosting: bool = True,
        noise_consistency: bool = True,
    ):
        self.f, self.g, self.h, self.dx, self.dy = f, g, h, dx, dy
        self.weight, self.margin = weight, margin
        self.bypass, self.boosting, self.noise_consistency = bypass, boosting, noise_consistency
        self.critic_optimizer = radam([dx, dy], lr)
        self.generator_optimizer = radam([f, g], lr)
        self.extractor_optimizer = radam([h], lr)

    def __call__(self, x: Tensor, y: Tensor) -> tuple[float, float, float]:
        """Noisy and clean (N, C, H, W), unpaired -> the losses of critics, F and G, H, each before its own update."""
        return self.update_critics(x, y), self.update_generators(x, y), self.update_extractor(x, y)

    def update_critics(self, x: Tensor, y: Tensor) -> float:
        """Eq. 7 to 9."""
        with torch.no_grad():
            xhat, yhat = self.g(y), self.f(x)
        loss = F.relu(1 - self.dx(x)).mean() + F.relu(self.margin + self.dx(xhat)).mean()
        loss = loss + F.relu(1 - self.dy(y)).mean() + F.relu(self.margin + self.dy(yhat)).mean()
        if self.boosting:
            with torch.no_grad():
                xbar, ybar = y + self.h(x), x - self.h(x)
            loss = loss + F.relu(self.margin + self.dx(xbar)).mean() + F.relu(self.margin + self.dy(ybar)).mean()
        return update(loss, self.critic_optimizer, [self.dx, self.dy])

    def update_generators(self, x: Tensor, y: Tensor) -> float:
        """Eq. 1 to 6; gradients pass through the critics and both generators, not through H."""
        set_trainable([self.dx, self.dy], False)
        xhat, yhat = self.g(y), self.f(x)
        nested = (x - self.g(yhat)).abs().mean() + (y - self.f(xhat)).abs().mean()
        if self.bypass:
            with torch.no_grad():
                xbar, ybar = y + self.h(x), x - self.h(x)
            nested = nested + (yhat - ybar).abs().mean() + (y - self.f(xbar)).abs().mean()
        loss = -self.dx(xhat).mean() - self.dy(yhat).mean() + self.weight * nested
        value = update(loss, self.generator_optimizer, [self.f, self.g])
        set_trainable([self.dx, self.dy], True)
        return value

    def update_extractor(self, x: Tensor, y: Tensor) -> float:
        """Eq. 10 to 12."""
        with torch.no_grad():
            yhat = self.f(x)
        loss = (self.h(x) - (x - yhat)).abs().mean()
        if self.noise_consistency:
            with torch.no_grad():
                xhat = self.g(y)
            loss = loss + (xhat - y - self.h(xhat)).abs().mean()
        return update(loss, self.extractor_optimizer, [self.h])


def radam(networks: list[nn.Module], lr: float) -> torch.optim.RAdam:
    """The optimizer of section IV.A over all parameters of some networks."""
    parameters = [parameter for network in networks for parameter in network.parameters()]
    return torch.optim.RAdam(parameters, lr=lr, betas=(0.9, 0.999), eps=EPSILON)


def update(loss: Tensor, optimizer: torch.optim.Optimizer, networks: list[nn.Module]) -> float:
    """One optimizer step, then rho into [0, 1] (code); returns the loss."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    with torch.no_grad():
        for network in networks:
            for module in network.modules():
                if isinstance(module, BatchInstanceNorm):
                    module.rho.clamp_(0, 1)
    return loss.item()


def set_trainable(networks: list[nn.Module], trainable: bool) -> None:
    """Whether gradients are computed for the parameters."""
    for network in networks:
        network.requires_grad_(trainable)


def parameter_count(network: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(parameter.numel() for parameter in network.parameters())


if __name__ == "__main__":
    assert parameter_count(Generator(1)) == 1_148_225
    assert parameter_count(Extractor(1)) == 168_801
    assert parameter_count(Critic(1)) == 2_790_177
    print("parameter counts agree")
