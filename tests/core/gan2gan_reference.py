"""GAN2GAN (Cha et al., ICLR 2021) written down literally in plain PyTorch, to compare and time against.

Networks and steps follow the authors' code, not the paper where they differ. g1 makes noise, g2 removes it roughly, g3
goes back from there to the noisy image; f1 judges noise, f2 noisy images. Names: z noisy image, n noise of a smooth
patch, r standard normal vector. Every network runs where a formula names it, nothing is detached, nothing is kept.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

# Networks


class NoiseGenerator(nn.Module):
    """g1: (N, 128) -> (N, C, 64, 64) in [-1, 1]."""

    def __init__(self, channels: int, features: int = 8, latent: int = 128):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(latent, 8 * features, 4, 1, 0, bias=False),
            nn.BatchNorm2d(8 * features),
            nn.ReLU(),
            nn.ConvTranspose2d(8 * features, 4 * features, 4, 2, 1, bias=False),
            nn.BatchNorm2d(4 * features),
            nn.ReLU(),
            nn.ConvTranspose2d(4 * features, 2 * features, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * features),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * features, features, 4, 2, 1, bias=False),
            nn.BatchNorm2d(features),
            nn.ReLU(),
            nn.ConvTranspose2d(features, channels, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, r: Tensor) -> Tensor:
        """See the class."""
        return self.main(r.view(*r.shape, 1, 1))  # type: ignore[no-any-return]


class Critic(nn.Module):
    """f1 and f2: (N, C, 64, 64) -> (N, 1, 5, 5), linear."""

    def __init__(self, channels: int, width: int = 128):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1),
            nn.BatchNorm2d(4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 4, 1, 0),
        )

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return self.main(images)  # type: ignore[no-any-return]


class DnCNN(nn.Module):
    """g2 (15 layers, sigmoid), g3 and G2G_j (17 layers): (N, C, H, W) -> the same."""

    def __init__(self, channels: int, layers: int = 17, features: int = 64, sigmoid: bool = False):
        super().__init__()
        self.sigmoid = sigmoid
        self.first = nn.Conv2d(channels, features, 3, padding=1, bias=False)
        self.middle = nn.ModuleList(
            nn.Sequential(nn.Conv2d(features, features, 3, padding=1, bias=False), nn.BatchNorm2d(features))
            for _ in range(layers - 2)
        )
        self.last = nn.Conv2d(features, channels, 3, padding=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        hidden = torch.relu(self.first(images))
        for layer in self.middle:
            hidden = torch.relu(layer(hidden))
        noise: Tensor = self.last(hidden)
        return torch.sigmoid(images - noise) if self.sigmoid else images - noise


class UNet(nn.Module):
    """g2 (sigmoid), g3 and G2G_j for CT: (N, C, H, W) -> the same, sides multiples of 32; some blocks serve often."""

    def __init__(self, channels: int, sigmoid: bool = False):
        super().__init__()
        self.sigmoid = sigmoid
        self.e1a = nn.Conv2d(channels, 48, 3, padding=1)
        self.e1b = nn.Conv2d(48, 48, 3, padding=1)
        self.e2 = nn.Conv2d(48, 48, 3, padding=1)  # levels 2 to 5
        self.b3a = nn.Conv2d(48, 48, 3, padding=1)
        self.b3up = nn.ConvTranspose2d(48, 48, 3, 2, 1, 1)
        self.b4a = nn.Conv2d(96, 96, 3, padding=1)
        self.b4b = nn.Conv2d(96, 96, 3, padding=1)
        self.b4up = nn.ConvTranspose2d(96, 96, 3, 2, 1, 1)
        self.b5a = nn.Conv2d(144, 96, 3, padding=1)  # three times
        self.b5b = nn.Conv2d(96, 96, 3, padding=1)
        self.b5up = nn.ConvTranspose2d(96, 96, 3, 2, 1, 1)
        self.b6a = nn.Conv2d(96 + channels, 64, 3, padding=1)
        self.b6b = nn.Conv2d(64, 32, 3, padding=1)
        self.b6c = nn.Conv2d(32, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        relu, pool = torch.relu, nn.functional.max_pool2d
        pool1 = pool(relu(self.e1b(relu(self.e1a(x)))), 2)
        pool2 = pool(relu(self.e2(pool1)), 2)
        pool3 = pool(relu(self.e2(pool2)), 2)
        pool4 = pool(relu(self.e2(pool3)), 2)
        pool5 = pool(relu(self.e2(pool4)), 2)
        up5 = self.b3up(relu(self.b3a(pool5)))
        up4 = self.b4up(relu(self.b4b(relu(self.b4a(torch.cat([up5, pool4], 1))))))
        up3 = self.b5up(relu(self.b5b(relu(self.b5a(torch.cat([up4, pool3], 1))))))
        up2 = self.b5up(relu(self.b5b(relu(self.b5a(torch.cat([up3, pool2], 1))))))
        up1 = self.b5up(relu(self.b5b(relu(self.b5a(torch.cat([up2, pool1], 1))))))
        noise: Tensor = self.b6c(relu(self.b6b(relu(self.b6a(torch.cat([up1, x], 1))))))
        return torch.sigmoid(x - noise) if self.sigmoid else x - noise


# The W-GAN


class LambdaRate:
    """The factor of the generators' rate; the code hands its method ``step`` to PyTorch's LambdaLR."""

    def __init__(self, epochs: int, offset: int, decay_start: int):
        self.epochs, self.offset, self.decay_start = epochs, offset, decay_start

    def step(self, epoch: int) -> float:
        """1 up to ``decay_start``, then down in a straight line, which would reach 0 at ``epochs``."""
        return 1.0 - max(0, epoch + self.offset - self.decay_start) / (self.epochs - self.decay_start)


class GanStep:
    """One iteration of the W-GAN in the code's plain order, all networks in train mode; Algorithm 1.

    ``noisy_term`` and ``cycle_term`` drop L_Z (and the training of f2) and L_cyc (Fig. 6a). Weights are (alpha, beta,
    gamma) of Eq. 8.
    """

    def __init__(
        self,
        g1: nn.Module,
        g2: nn.Module,
        g3: nn.Module,
        f1: nn.Module,
        f2: nn.Module,
        *,
        weights: tuple[float, float, float] = (5.0, 1.0, 10.0),
        critic_steps: int = 5,
        clip: float = 0.02,
        generator_lr: float = 4e-4,
        critic_lr: float = 5e-5,
        noisy_term: bool = True,
        cycle_term: bool = True,
        epochs: int = 30,
        decay_start: int = 10,
    ):
        self.g1, self.g2, self.g3, self.f1, self.f2 = g1, g2, g3, f1, f2
        self.weights, self.critic_steps, self.clip = weights, critic_steps, clip
        self.noisy_term, self.cycle_term = noisy_term, cycle_term
        self.adams = [torch.optim.Adam(g.parameters(), lr=generator_lr, betas=(0.5, 0.999)) for g in (g1, g2, g3)]
        rate = LambdaRate(epochs, 0, decay_start)
        self.schedulers = [torch.optim.lr_scheduler.LambdaLR(adam, lr_lambda=rate.step) for adam in self.adams]
        self.rmsprop1 = torch.optim.RMSprop(f1.parameters(), lr=critic_lr)
        self.rmsprop2 = torch.optim.RMSprop(f2.parameters(), lr=critic_lr)
        self.epoch = 0

    def __call__(self, z: Tensor, n: Tensor, r: Tensor) -> None:
        """Noisy images and noise (N, C, 64, 64), r (N, 128); all updates are on this batch."""
        for _ in range(self.critic_steps):
            self.rmsprop1.zero_grad()
            real = self.f1(n).mean()
            fake = self.f1(self.g1(r)).mean()
            (-(real - fake)).backward()
            self.rmsprop1.step()
            self._clip(self.f1)
        for _ in range(self.critic_steps if self.noisy_term else 0):
            self.rmsprop2.zero_grad()
            real = self.f2(z).mean()
            fake = self.f2(self.g2(z) + self.g1(r)).mean()
            (-(real - fake)).backward()
            self.rmsprop2.step()
            self._clip(self.f2)
        for adam in self.adams:
            adam.zero_grad()
        generated, rough = self.g1(r), self.g2(z)
        alpha, beta, gamma = self.weights
        loss = alpha * -self.f1(generated).mean()
        if self.noisy_term:
            loss = loss + beta * -self.f2(rough + generated).mean()
        if self.cycle_term:
            loss = loss + gamma * (z - self.g3(rough)).abs().mean()
        loss.backward()
        for adam in self.adams:
            adam.step()

    def end_epoch(self) -> None:
        """The code steps its schedulers after epoch e with e, not with e + 1: the rate lags by one epoch."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch deprecates the argument
            for scheduler in self.schedulers:
                scheduler.step(self.epoch)
        self.epoch += 1

    def _clip(self, critic: nn.Module) -> None:
        for parameter in critic.parameters():
            parameter.data.clamp_(-self.clip, self.clip)


# The denoisers


class DenoiserStep:
    """One step of G2G_j; ``estimator`` is g2 or G2G_(j-1), None for Z itself. ``pair = False``: the target is that.

    The rate is halved after every ``decay`` epochs (the paper: 20 of 50).
    """

    def __init__(
        self,
        denoiser: nn.Module,
        g1: nn.Module,
        estimator: nn.Module | None,
        *,
        pair: bool = True,
        lr: float = 1e-3,
        decay: int = 20,
    ):
        self.denoiser, self.g1, self.estimator, self.pair = denoiser.train(), g1.eval(), estimator, pair
        if estimator is not None:
            estimator.eval()
        self.adam = torch.optim.Adam(denoiser.parameters(), lr=lr)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.adam, decay, gamma=0.5)

    def __call__(self, z: Tensor, r1: Tensor, r2: Tensor) -> float:
        """Noisy images (N, C, 64, 64) and two vectors (N, 128) -> the loss before the update; Eq. 9 and 10."""
        with torch.no_grad():
            estimate = z if self.estimator is None else self.estimator(z)
            source = estimate + self.g1(r1)
            target = estimate + self.g1(r2) if self.pair else estimate
        self.adam.zero_grad()
        loss = nn.functional.mse_loss(self.denoiser(source), target)
        loss.backward()  # type: ignore[no-untyped-call]
        self.adam.step()
        return loss.item()

    def end_epoch(self) -> None:
        """As the code does."""
        self.scheduler.step()


def parameter_count(network: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(parameter.numel() for parameter in network.parameters())
