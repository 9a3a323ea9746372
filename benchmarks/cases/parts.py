"""Parts of a step and of an evaluation against the plain way to do the same."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from benchmarks.harness import Call, Comparison
from denoise_core import gaussian
from denoise_core.evaluation import CANONICAL
from denoise_core.images.generated import load_generated
from denoise_core.images.patches import extract
from denoise_core.images.smooth_rules import WaveletRule, plain_scores
from denoise_core.method import Context
from denoise_core.methods.danet import critic_terms
from denoise_core.methods.danet_config import SMALL, DANetConfig
from denoise_core.methods.neighbor2neighbor import draw_choices, sub_images
from denoise_core.metrics.full_reference import measure
from denoise_core.metrics.protocol import PROTOCOLS
from denoise_core.networks.danet import PairCritic
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator
from tests.core.published_steps import gradient_penalty, masked


def comparisons(device: str) -> Iterator[Comparison]:
    for shape in ((4, 3, 256, 256), (4, 1, 64, 64)):
        yield Comparison(f"sub-sampler {shape}", "boolean masks", partial(sub_sampler, shape, device))
    yield Comparison("DANet's critic, laptop's networks", "a pass a term, autograd's penalty",
                     partial(critic, DANetConfig(**SMALL), device))  # fmt: skip
    paper = DANetConfig(batch_size=2) if device == "cpu" else DANetConfig()
    yield Comparison("DANet's critic, paper's network", "a pass a term, autograd's penalty",
                     partial(critic, paper, device))  # fmt: skip
    yield Comparison("likelihood of D-BSN in colour", "batched 3 x 3 inverses", partial(likelihood, device))
    if device == "cpu":
        yield Comparison("smooth patches of 12 images", "a transform a window (pywt)", patches)
        yield Comparison("PSNR and SSIM of 512 x 512", "scikit-image", metrics)


def sub_sampler(shape: tuple[int, int, int, int], device: str) -> tuple[Call, Call]:
    image = torch.rand(shape, device=device)
    choices = draw_choices("random", True, image, Context(0, "train", 0, 1, torch.device(device), 0, 1))
    marks = [torch.nn.functional.one_hot(choices[:, which].flatten(), 4).bool().flatten() for which in range(2)]
    for ours, mask in zip(sub_images(image, choices), marks, strict=True):
        assert torch.equal(ours, masked(image, mask))

    def plain() -> None:
        for which in range(2):
            masked(image, torch.nn.functional.one_hot(choices[:, which].flatten(), 4).bool().flatten())

    return plain, lambda: sub_images(image, choices)


def critic(config: DANetConfig, device: str) -> tuple[Call, Call]:
    torch.manual_seed(0)
    network = PairCritic(3, config.critic_width, config.patch_size)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    shape = (config.batch_size, 6, config.patch_size, config.patch_size)
    real, *fakes = (torch.rand(shape, device=device).to(memory_format=torch.channels_last) for _ in range(3))
    mix = [torch.rand((config.batch_size, 1, 1, 1), device=device) for _ in fakes]

    def separate() -> Tensor:
        loss, score = torch.zeros((), device=device), network(real).mean()
        for fake, share in zip(fakes, mix, strict=True):
            loss = loss + 0.5 * (network(fake).mean() - score)
            loss = loss + 0.5 * config.penalty * gradient_penalty(network, real, fake, share)
        return loss

    def together() -> Tensor:
        distance, penalty = critic_terms(network, real, fakes, (0.5, 0.5), mix)
        return distance + config.penalty * penalty

    assert torch.allclose(separate(), together(), rtol=1e-3)

    def step(of: str) -> None:
        network.zero_grad(set_to_none=True)
        (separate() if of == "separate" else together()).backward()  # type: ignore[no-untyped-call]

    return lambda: step("separate"), lambda: step("together")


def likelihood(device: str) -> tuple[Call, Call]:
    side = 64
    draw = generator("likelihood")
    residual = (0.1 * torch.randn((1, 3, side, side), generator=draw)).to(device)
    factor = 0.05 * torch.randn((2, side * side, 3, 3), generator=draw).to(device)
    full = factor @ factor.mT + 1e-3 * torch.eye(3, device=device)
    entries = torch.stack([full[..., i, j] for i in range(3) for j in range(i, 3)], dim=1).view(2, 6, side, side)
    mean, noise = entries[:1].requires_grad_(), entries[1:]

    def plain() -> Tensor:
        at = torch.tensor([[0, 1, 2], [1, 3, 4], [2, 4, 5]], device=device)
        total = (mean + noise)[0].flatten(1).T[:, at]
        pixels = residual[0].flatten(1).T[:, :, None]
        quadratic = (pixels.mT @ torch.linalg.inv(total) @ pixels).flatten()
        loss = (quadratic + torch.linalg.slogdet(total).logabsdet).mean() / 2
        return torch.autograd.grad(loss, mean)[0]

    def ours() -> Tensor:
        return torch.autograd.grad(gaussian.ordinary(residual, mean, noise).loss, mean)[0]

    assert torch.allclose(plain(), ours(), rtol=1e-2, atol=1e-4)
    return plain, ours


def patches() -> tuple[Call, Call]:
    rule, noise, clean = WaveletRule(), parse_noise("gauss25"), load_generated("em_generated")
    images = [noise(image[None], generator("benchmark", i))[0] for i, image in enumerate(clean.pixels[:12])]
    ids = [str(at) for at in range(len(images))]
    return (
        lambda: [plain_scores(rule, image) for image in images],
        lambda: extract(images, ids, rule, cache_parts=None).scores,
    )


def metrics() -> tuple[Call, Call]:
    draw = generator("metrics")
    clean = torch.rand((1, 512, 512), generator=draw)
    noisy = (clean + 0.1 * torch.randn(clean.shape, generator=draw)).clamp(0, 1)

    def plain() -> tuple[float, float]:
        one, other = (image[0].numpy().astype(np.float64) for image in (clean, noisy))
        found = structural_similarity(
            one, other, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        return peak_signal_noise_ratio(one, other, data_range=1.0), found

    def ours() -> tuple[float, float]:
        found = measure(PROTOCOLS[CANONICAL], noisy, clean)
        return found["psnr"], found["ssim"]

    return plain, ours
