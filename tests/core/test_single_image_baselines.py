"""Baselines that need no training set: the noise level, classical denoisers, fits to single images."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from skimage.restoration import estimate_sigma
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.evaluation import denoise
from denoise_core.images.named import load_images
from denoise_core.inference import denoise_image
from denoise_core.method import create, method_class, methods, outline
from denoise_core.methods.classical import noise_levels
from denoise_core.methods.deep_image_prior import Hourglass
from denoise_core.methods.self2self import DropoutUNet
from denoise_core.metrics.full_reference import psnr
from denoise_core.noise.evaluation import noisy_test_images
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator
from denoise_core.trainer import Trainer
from tests.core.baseline_toys import (
    CLASSICAL,
    CPU,
    FITTED,
    smooth,
    source,
    tiny,
    with_noise,
)

# ---- the noise level, and what learns nothing ----


@pytest.mark.parametrize("sigma", [2.0, 25.0, 75.0])
def test_the_noise_level_is_found(sigma: float) -> None:
    noisy = with_noise(smooth(128, 3), sigma / 255)
    (found,) = (255 * noise_levels(noisy)).tolist()
    assert found == pytest.approx(sigma, rel=0.06)
    theirs = estimate_sigma(noisy[0].double().numpy(), channel_axis=0, average_sigmas=True)
    assert found / 255 == pytest.approx(theirs, rel=0.06)


def test_blank_places_do_not_hide_the_noise_and_blank_images_have_none() -> None:
    noisy = with_noise(smooth(128))
    noisy[..., :80] = 0
    assert float(noise_levels(noisy)) == pytest.approx(25 / 255, rel=0.1)
    for blank in (torch.full((2, 1, 20, 20), 0.3), torch.rand(2, 1, 3, 50)):
        assert noise_levels(blank).tolist() == [0, 0]


def test_the_noisy_image_is_the_noisy_image() -> None:
    image = torch.randn(2, 3, 9, 8)
    assert torch.equal(tiny("noisy", 3).denoise(image), image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CLASSICAL)
def test_classical_methods_denoise_and_repeat_themselves(name: str, channels: int) -> None:
    clean = smooth(40, channels)
    noisy = with_noise(clean)
    method = tiny(name, channels, **({"profile": "fast"} if name == "bm3d" else {}))
    first = denoise(method, noisy[0], CPU)
    assert psnr(first, clean[0], 1.0) > psnr(noisy[0], clean[0], 1.0) + 4
    assert torch.equal(first, denoise(method, noisy[0], CPU))
    assert first.dtype == noisy.dtype and first.min() >= 0 and first.max() <= 1


@pytest.mark.parametrize("name", CLASSICAL[:3])
def test_strength_and_level_say_how_smooth_it_becomes(name: str) -> None:
    noisy = with_noise(smooth(48))
    method = tiny(name)

    def roughness(**values: Any) -> float:
        method.reconfigure(values)
        return float(method.denoise(noisy).diff(dim=-1).square().mean())

    assert roughness(strength=0.5) > roughness(strength=1.0) > roughness(strength=2.0)
    told = roughness(strength=1.0, sigma=255 * float(noise_levels(noisy)))
    assert told == pytest.approx(roughness(sigma=0.0), rel=1e-6)
    assert roughness(sigma=5.0) > told
    assert torch.equal(tiny(name, strength=0.0).denoise(noisy), noisy.clamp(0, 1))


def test_the_level_of_the_training_images_may_stand_for_that_of_the_image() -> None:
    kind = methods()["total_variation"]
    trainer = Trainer(tiny("total_variation"), source("gauss50"), kind.recipes["smoke"], 7)
    list(trainer.run())
    method: Any = trainer.method
    assert method.measured == pytest.approx(50 / 255, rel=0.05)
    noisy = with_noise(smooth(48))
    method.reconfigure({"estimated_from": "training"})
    of_training = method.denoise(noisy)
    method.reconfigure({"estimated_from": "image", "sigma": 255 * method.measured})
    assert torch.allclose(of_training, method.denoise(noisy))


@pytest.mark.parametrize("name", ["noisy", *CLASSICAL[:3], *FITTED, "noise2void", "noise2self", "noisier2noise"])
@pytest.mark.parametrize("size", [(5, 9), (33, 50)])
def test_images_of_any_size(name: str, size: tuple[int, int]) -> None:
    images = 0.5 + 0.1 * torch.randn(2, 1, *size, generator=generator("images"))
    result = denoise_image(tiny(name).eval().denoise, images)
    assert result.shape == images.shape and result.isfinite().all()


# ---- fits to single images ----


@pytest.mark.parametrize("name", FITTED)
def test_a_fit_is_a_matter_of_image_and_seed(name: str) -> None:
    images = torch.rand(2, 1, 40, 36, generator=generator("images"))
    method = tiny(name)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    both = denoise_image(method.denoise, images)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(denoise_image(method.denoise, images[1]), both[1])
    again = tiny(name)
    again.load_state_dict(method.state_dict())
    assert torch.equal(denoise_image(again.denoise, images), both)
    other = create(name, method.config.model_dump(), 1, 8)
    assert not torch.equal(denoise_image(other.denoise, images), both)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("deep_image_prior", {"width": 8, "depth": 3, "iterations": 80, "memory": 0.9}),
        ("self2self", {"features": 8, "iterations": 80, "lr": 1e-2, "predictions": 8, "dropout": 0.1}),
    ],
)
def test_a_fit_of_some_steps_denoises(name: str, values: dict[str, Any]) -> None:
    clean = smooth(64)
    noisy = with_noise(clean)
    found = denoise(tiny(name, **values), noisy[0], CPU)
    assert psnr(found, clean[0], 1.0) > psnr(noisy[0], clean[0], 1.0) + 1.5


def test_deep_image_prior_stops_at_the_noise() -> None:
    noisy = with_noise(smooth(32), 0.2)
    method = tiny("deep_image_prior", width=8, depth=3, iterations=60, stop_at_noise=True, memory=0.0)
    steps: list[int] = []
    forward = Hourglass.forward

    def counted(self: Hourglass, hidden: Tensor) -> Tensor:
        steps.append(1)
        return forward(self, hidden)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hourglass, "forward", counted)
        found = method.denoise(noisy)
        stopped = len(steps)
        method.reconfigure({"stop_at_noise": False})
        method.denoise(noisy)
    assert stopped < 60 and len(steps) == stopped + 60
    assert (found - noisy).square().mean().sqrt().item() == pytest.approx(0.2, rel=0.1)


def test_hidden_pixels_are_out_of_self2selfs_sight() -> None:
    torch.manual_seed(0)
    network = DropoutUNet(2, 4, 1.0, 2)
    image, shown = torch.rand(1, 2, 16, 16, requires_grad=True), (torch.rand(1, 2, 16, 16) > 0.3).float()
    (gradient,) = torch.autograd.grad(network(image, shown, 0.0).square().sum(), image)
    assert (gradient[shown == 0] == 0).all() and (gradient[shown == 1] != 0).float().mean() > 0.9
    # with equal weights, the partial convolution of a constant image is constant, whatever is hidden
    with torch.no_grad():
        network.first.weight.copy_(network.first.weight.mean((2, 3), keepdim=True).mean(1, keepdim=True))
        flat = network._partial(torch.ones(1, 2, 16, 16) * shown, shown)
    assert torch.allclose(flat, flat[..., :1, :1].expand_as(flat), atol=1e-5)
    assert not torch.equal(network(image, shown, 0.3), network(image, shown, 0.3))


# ---- BM3D's package ----


def test_bm3d_without_its_package_is_listed_and_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def without(name: str, package: str | None = None) -> Any:
        if name == "bm3d":
            raise ImportError("No module named 'bm3d'")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    assert method_class("bm3d").title == "BM3D"
    with pytest.raises(UserError, match=r"install it with pip install 'denoise-studies\[bm3d\]' if its licence"):
        outline("bm3d", {}, 1)


# ---- real images ----


@pytest.mark.parametrize("name", CLASSICAL[:3])
def test_real_images_gain(name: str, data_root: Path) -> None:
    images = load_images("bsd68[0:2]", channels=1, data_root=data_root)
    for _, _, noisy, clean in noisy_test_images(images, parse_noise("gauss25")):
        gain = psnr(denoise(tiny(name), noisy, CPU), clean, 1.0) - psnr(noisy, clean, 1.0)
        assert gain > 4
