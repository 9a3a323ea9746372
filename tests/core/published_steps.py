"""Training steps as the published codes order them, to compare and time against: nothing shared, nothing batched.

Networks, batch and draws are given, so that a step differs from ours only by what is computed how often. Every network
is evaluated where a formula names it, sub-images come from boolean masks, penalties go through autograd, and Adam is
PyTorch's default. Those of GAN2GAN and ISCL stand in files of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_core.images.augment import dihedral
from denoise_core.method import Context, Method
from denoise_core.methods.danet import DANet
from denoise_core.methods.dbsn import DBSN, Teacher
from denoise_core.methods.neighbor2neighbor import Neighbor2Neighbor

PAIRS = torch.tensor([[0, 1], [0, 2], [1, 3], [2, 3], [1, 0], [2, 0], [3, 1], [3, 2]])
Step = Callable[[Mapping[str, Tensor], Context], float]
"""A step on a batch with a context's draws: the (last) loss."""


def published(method: Method, phase: str) -> Step | None:
    """The published step of a phase with the method's own networks, which it trains; None where there is none here."""
    match method:
        case Neighbor2Neighbor():
            return Neighbor2NeighborStep(method)
        case DBSN() if phase in ("mu", "joint"):
            return DBSNTeacherStep(method, phase)
        case DBSN() if phase == "student":
            return DBSNStudentStep(method)
        case DANet() if phase == "plain":
            return DANetPlainStep(method)
        case DANet() if phase == "game":
            return DANetGameStep(method)
    return None


class Neighbor2NeighborStep:
    """Eq. 7: the network sees the whole image without a gradient, then one sub-image."""

    def __init__(self, method: Neighbor2Neighbor):
        self.network, self.config = method.network, method.config
        self.adam = torch.optim.Adam(self.network.parameters(), lr=self.config.lr, betas=(0.9, self.config.beta2))

    def __call__(self, batch: Mapping[str, Tensor], context: Context) -> float:
        noisy = batch["noisy"]
        count, _, height, width = noisy.shape
        drawn = context.randint(len(PAIRS), (count, height // 2, width // 2)).flatten()
        chosen = PAIRS.to(noisy.device)[drawn]
        masks = [F.one_hot(chosen[:, which], 4).bool().flatten() for which in range(2)]
        first, second = (masked(noisy, mask) for mask in masks)
        with torch.no_grad():
            whole = self.network(noisy)
        whole_first, whole_second = (masked(whole, mask) for mask in masks)
        self.adam.zero_grad()
        difference = self.network(first) - second
        weight = self.config.gamma * ((int(context.progress * 100) + 1) / 100 if self.config.ramp else 1)
        loss = (difference**2).mean() + weight * ((difference - (whole_first - whole_second)) ** 2).mean()
        loss.backward()
        self.adam.step()
        return loss.item()


def masked(image: Tensor, mask: Tensor) -> Tensor:
    """The pixels of (N, C, H, W) that a mask over all cells of a channel marks, (N, C, H / 2, W / 2)."""
    count, channels, height, width = image.shape
    result = torch.zeros(count, channels, height // 2, width // 2, dtype=image.dtype, device=image.device)
    for channel in range(channels):
        cells = F.pixel_unshuffle(image[:, channel : channel + 1], 2).permute(0, 2, 3, 1).reshape(-1)
        result[:, channel] = cells[mask].view(count, height // 2, width // 2)
    return result


class DBSNTeacherStep:
    """The squared error of mu, or the likelihood of Eq. 6 with three optimizers."""

    def __init__(self, method: DBSN, phase: str):
        assert len(method.teachers) == 1 and method.config.noise_form == "homoscedastic"
        teacher = method.teachers[0]
        assert isinstance(teacher, Teacher)
        self.teacher, self.joint = teacher, phase == "joint"
        lr = method.config.joint_lr if self.joint else method.config.lr
        trained: list[nn.Module] = [teacher.mean]
        if self.joint:
            trained += [teacher.mean_variance, teacher.noise_level]
        self.adams = [torch.optim.Adam(one.parameters(), lr=lr) for one in trained]

    def __call__(self, batch: Mapping[str, Tensor], context: Context) -> float:
        (noisy,) = dihedral((batch["noisy"],), context)
        mu, features = self.teacher.mean(noisy)
        for adam in self.adams:
            adam.zero_grad()
        if self.joint:
            mean, noise = self.teacher.mean_variance(features), self.teacher.noise_level(noisy)
            total = mean + noise
            loss = ((noisy - mu) ** 2 / total + torch.log(total)).mean() / 2
        else:
            loss = ((noisy - mu) ** 2).mean()
        loss.backward()
        for adam in self.adams:
            adam.step()
        return loss.item()


class DBSNStudentStep:
    """Eq. 4: the student goes over clean crops with simulated noise, then over noisy crops with labels."""

    def __init__(self, method: DBSN):
        assert method.config.labels == "crop" and len(method.teachers) == 1
        self.method, self.adam = method, torch.optim.Adam(method.student.parameters(), lr=method.config.student_lr)

    def __call__(self, batch: Mapping[str, Tensor], context: Context) -> float:
        config, teacher = self.method.config, self.method.teachers[0]
        assert isinstance(teacher, Teacher)
        clean, noisy = dihedral((batch["clean_unpaired"], batch["noisy"]), context)
        factor = context.rand((len(clean), 1, 1, 1))
        with torch.no_grad():
            level = teacher.noise_level(clean)
            simulated = clean + (1 + config.disturbance * (2 * factor - 1)) * level.sqrt() * context.randn(clean.shape)
        count = max(1, round(len(noisy) * config.noisy_share))
        chosen = torch.tensor([(k + 1) * count // len(noisy) > k * count // len(noisy) for k in range(len(noisy))])
        with torch.no_grad():
            shown = noisy[chosen]
            mu, features = teacher.mean(shown)
            mean, noise = teacher.mean_variance(features), teacher.noise_level(shown)
            label = (shown * mean + mu * noise) / (mean + noise)
        self.adam.zero_grad()
        loss = ((self.method.student(simulated[~chosen]) - clean[~chosen]) ** 2).mean()
        loss = loss + config.distillation_lambda * ((self.method.student(shown) - label) ** 2).mean()
        loss.backward()
        self.adam.step()
        return loss.item()


class DANetPlainStep:
    """|R(y) - x|."""

    def __init__(self, method: DANet):
        self.network, self.adam = method.plain, torch.optim.Adam(method.plain.parameters(), lr=method.config.lr)

    def __call__(self, batch: Mapping[str, Tensor], context: Context) -> float:
        self.adam.zero_grad()
        loss = (batch["noisy"] - self.network(batch["noisy"]) - batch["clean"]).abs().mean()
        loss.backward()
        self.adam.step()
        return loss.item()


class DANetGameStep:
    """Algorithm 1: the critic at every step, denoiser and generator, made anew, at every third."""

    def __init__(self, method: DANet):
        config = method.config
        assert method.denoiser is not None and method.generator is not None and config.augmentation == "none"
        self.config, self.denoiser, self.generator, self.critic = (
            config,
            method.denoiser,
            method.generator,
            method.critic,
        )
        self.step = 0
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), lr=config.critic_lr, betas=(config.momentum, 0.9))
        self.denoiser_adam = torch.optim.Adam(self.denoiser.parameters(), lr=config.lr)
        betas = (config.momentum, 0.9)
        self.generator_adam = torch.optim.Adam(self.generator.parameters(), lr=config.generator_lr, betas=betas)

    def __call__(self, batch: Mapping[str, Tensor], context: Context) -> float:
        noisy, clean, config = batch["noisy"], batch["clean"], self.config
        with torch.no_grad():
            denoised = noisy - self.denoiser(noisy)
            generated = self._generated(clean, context)
        real = torch.cat([clean, noisy], 1)
        fakes = [torch.cat([denoised, noisy], 1), torch.cat([clean, generated], 1)]
        weights = [config.alpha, 1 - config.alpha]
        shares = [context.rand((len(clean), 1, 1, 1)) for _ in fakes]
        self.critic_adam.zero_grad()
        real_score = self.critic(real).mean()
        loss = torch.zeros((), dtype=clean.dtype, device=clean.device)
        for fake, weight, share in zip(fakes, weights, shares, strict=True):
            loss = loss + weight * (self.critic(fake).mean() - real_score)
            loss = loss + config.penalty * weight * gradient_penalty(self.critic, real, fake, share)
        loss.backward()  # type: ignore[no-untyped-call]
        self.critic_adam.step()
        self.step += 1
        if self.step % config.critic_steps == 0:
            self._denoiser_step(clean, noisy)
            self._generator_step(clean, noisy, context)
        return loss.item()

    def _generated(self, clean: Tensor, context: Context) -> Tensor:
        latent = context.randn((len(clean), 1, *clean.shape[-2:]))
        return clean + self.generator(torch.cat([clean, latent], 1))  # type: ignore[no-any-return]

    def _denoiser_step(self, clean: Tensor, noisy: Tensor) -> None:
        self.denoiser_adam.zero_grad()
        denoised = noisy - self.denoiser(noisy)
        score = self._size() * self.config.alpha * self.critic(torch.cat([denoised, noisy], 1)).mean()
        (float(self.config.tau1) * (denoised - clean).abs().mean() - score).backward()
        self.denoiser_adam.step()

    def _generator_step(self, clean: Tensor, noisy: Tensor, context: Context) -> None:
        self.generator_adam.zero_grad()
        generated = self._generated(clean, context)
        score = self._size() * (1 - self.config.alpha) * self.critic(torch.cat([clean, generated], 1)).mean()
        error = (blur(generated - clean) - blur(noisy - clean)).abs().mean()
        (float(self.config.tau2) * error - score).backward()
        self.generator_adam.step()

    def _size(self) -> float:
        return 128 / self.config.patch_size


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """The mean of (|gradient| - 1)^2 at points between real and fake pairs."""
    point = (share * real + (1 - share) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(point).sum(), point, create_graph=True)
    norms = (gradient.square().sum(dim=(1, 2, 3)) + 1e-12).sqrt()
    return ((norms - 1) ** 2).mean()


def blur(noise: Tensor) -> Tensor:
    """OpenCV's 5x5 Gaussian, one window for both axes, borders reflected."""
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=noise.dtype, device=noise.device) / 16
    window = torch.outer(taps, taps).expand(noise.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(noise, (2, 2, 2, 2), mode="reflect"), window, groups=noise.shape[1])
