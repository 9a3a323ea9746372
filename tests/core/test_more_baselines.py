"""Baselines of a race: Noise2Void, Noise2Self, Noisier2Noise, fits to single images, and what learns nothing."""

from __future__ import annotations

import importlib
import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.restoration import estimate_sigma
from torch import Tensor, nn

from denoise_core import checkpoint as checkpoints
from denoise_core.errors import UserError
from denoise_core.evaluation import denoise
from denoise_core.images.image_set import ImageSet
from denoise_core.images.named import load_images
from denoise_core.images.source import SimulatedNoiseSource
from denoise_core.inference import denoise_image
from denoise_core.method import Context, create, method_class, methods, outline
from denoise_core.methods.classical import noise_levels
from denoise_core.methods.deep_image_prior import Hourglass
from denoise_core.methods.noise2self import means_of_neighbours, part_of_grid
from denoise_core.methods.noise2void import medians, neighbourhood, neighbours, stratified
from denoise_core.methods.self2self import DropoutUNet
from denoise_core.metrics.full_reference import psnr
from denoise_core.noise.evaluation import noisy_test_images
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator
from denoise_core.trainer import Trainer

CPU = torch.device("cpu")
Array = NDArray[np.float64]
HAS_BM3D = importlib.util.find_spec("bm3d") is not None
needs_bm3d = pytest.mark.skipif(not HAS_BM3D, reason="the package bm3d is not installed")
CLASSICAL = ["non_local_means", "total_variation", "wavelets", pytest.param("bm3d", marks=needs_bm3d)]
FITTED = ["deep_image_prior", "self2self"]


def smooth(side: int = 96, channels: int = 1) -> Tensor:
    """A picture (1, C, H, W) of slow waves and an edge, in [0.2, 0.8]."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    waves = 0.15 * torch.sin(rows / 9) * torch.cos(columns / 7) + 0.3 * (rows + columns > side) + 0.35
    return torch.stack([waves * (1 - 0.1 * one) for one in range(channels)])[None]


def with_noise(clean: Tensor, sigma: float = 25 / 255) -> Tensor:
    return clean + sigma * torch.randn(clean.shape, generator=generator("noise"))


def source(noise: str = "gauss25", sides: tuple[int, ...] = (96, 96)) -> SimulatedNoiseSource:
    images = ImageSet("smooth", tuple(map(str, range(len(sides)))), tuple(smooth(side)[0] for side in sides))
    return SimulatedNoiseSource(images, parse_noise(noise), "frozen", 7, CPU)


def tiny(name: str, channels: int = 1, **values: Any) -> Any:
    return create(name, {**methods()[name].recipes["smoke"].config, **values}, channels, 7)


def context(step: int = 0, seed: int = 7) -> Context:
    return Context(seed, "train", step, 100, CPU, 0, 1)


def loss_of(method: Any, noisy: Tensor, step: int = 0) -> Tensor:
    (update,) = method.updates("train", {"noisy": noisy}, context(step))
    result: Tensor = update.loss
    return result


class Probe(nn.Module):
    """Stands for a network: keeps its inputs; what it gives is its input times a number."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor, self.inputs = factor, list[Tensor]()

    def forward(self, images: Tensor) -> Tensor:
        self.inputs.append(images.detach().clone())
        return self.factor * images


# ---- Noise2Void ----


@pytest.mark.parametrize(("share", "side"), [(0.00198, 22), (0.03, 6), (0.25, 2)])
def test_one_pixel_of_each_square_is_hidden(share: float, side: int) -> None:
    mask = stratified(torch.zeros(3, 2, 66, 88), share, context()).numpy()
    assert mask.shape == (3, 66, 88)
    for image in mask:
        for top in range(0, 66, side):
            for left in range(0, 88, side):
                square = image[top : top + side, left : left + side]
                assert square.sum() == 1 if square.shape == (side, side) else square.sum() <= 1


def test_every_pixel_is_hidden_equally_often() -> None:
    masks = torch.stack([stratified(torch.zeros(4, 1, 64, 64), 0.03, context(step)) for step in range(300)])
    often = masks.float().mean((0, 1))
    assert often.mean().item() == pytest.approx(1 / 36, rel=0.02)
    # 1200 draws: five standard deviations
    assert (often - 1 / 36).abs().max() < 5 * math.sqrt(1 / 36 / 1200)


def literal_neighbours(image: Array, row: int, column: int, radius: int) -> list[float]:
    """A pixel's neighbours in rows, of the square around it that is moved inside of the image."""
    height, width = image.shape
    top, left = min(max(row - radius, 0), height - 2 * radius - 1), min(max(column - radius, 0), width - 2 * radius - 1)
    return [
        float(image[y, x])
        for y in range(top, top + 2 * radius + 1)
        for x in range(left, left + 2 * radius + 1)
        if (y, x) != (row, column)
    ]


@pytest.mark.parametrize("radius", [1, 2])
def test_a_hidden_pixel_gets_the_value_of_a_neighbour_never_its_own(radius: int) -> None:
    image = torch.arange(2 * 9 * 8, dtype=torch.float64).view(1, 2, 9, 8)
    own, count = neighbourhood(9, 8, radius, CPU)
    assert count == (2 * radius + 1) ** 2 - 1
    middle = medians(image, own, radius)
    for number in range(count):
        found = neighbours(image, own, torch.full((1, 9, 8), number), radius)[0].numpy()
        for channel, row, column in np.ndindex(2, 9, 8):
            near = literal_neighbours(image[0, channel].numpy(), row, column, radius)
            assert found[channel, row, column] == near[number]
            assert middle[0, channel, row, column] == np.median(near)


@pytest.mark.parametrize("replacement", ["neighbour", "median"])
def test_noise2voids_loss_is_that_of_the_paper(replacement: str) -> None:
    noisy = torch.rand(2, 3, 64, 64, generator=generator("images"))
    method, probe = tiny("noise2void", 3, replacement=replacement, share=0.03), Probe(0.5)
    method.network = probe
    loss = loss_of(method, noisy)
    shown, given = probe.inputs[0].numpy(), noisy.numpy()
    hidden = (shown != given).any(1)
    assert 0.02 < hidden.mean() < 0.04
    errors = [(0.5 * shown[n, :, y, x] - given[n, :, y, x]) ** 2 for n, y, x in zip(*hidden.nonzero(), strict=True)]
    assert loss.item() == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize("replacement", ["neighbour", "median"])
def test_noise2void_never_sees_the_value_that_it_is_asked_for(replacement: str) -> None:
    noisy = torch.rand(2, 1, 64, 64, generator=generator("images"), requires_grad=True)
    method = tiny("noise2void", replacement=replacement, share=0.03)
    seen: list[Tensor] = []
    method.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loss_of(method, noisy)
    mask = stratified(noisy, method.config.share, context())[:, None]  # the first draw of the step
    assert torch.equal((seen[0] != noisy) | ~mask, torch.ones_like(mask))
    answer = method.network(seen[0])
    row, column = mask[0, 0].nonzero()[10].tolist()
    (gradient,) = torch.autograd.grad(answer[0, 0, row, column], noisy)
    assert gradient[0, 0, row, column] == 0 and gradient.abs().sum() > 0


def test_a_neighbourhood_that_is_too_wide_is_refused() -> None:
    with pytest.raises(UserError, match="noise2void: radius = 40 is not allowed"):
        tiny("noise2void", radius=40)


# ---- Noise2Self ----


@pytest.mark.parametrize("side", [2, 3, 4])
def test_the_parts_are_a_partition(side: int) -> None:
    parts = torch.stack([part_of_grid(10, 7, side, part, CPU) for part in range(side**2)])
    assert (parts.sum(0) == 1).all()
    assert torch.equal(parts[side + 1].nonzero()[0], torch.tensor([1, 1]))


def test_the_replacement_is_the_weighted_mean_of_the_neighbours_that_there_are() -> None:
    image = np.random.default_rng(3).random((5, 6))
    found = means_of_neighbours(torch.from_numpy(image)[None, None])[0, 0].numpy()
    for row, column in np.ndindex(*image.shape):
        near = [
            (1.0 if 0 in (down, right) else 0.5, image[row + down, column + right])
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            if (down or right) and 0 <= row + down < 5 and 0 <= column + right < 6
        ]
        expected = sum(weight * value for weight, value in near) / sum(weight for weight, _ in near)
        assert found[row, column] == pytest.approx(expected, rel=1e-9)


def test_noise2selfs_loss_is_that_of_one_part_in_turn() -> None:
    noisy = torch.rand(2, 1, 64, 64, generator=generator("images"))
    method, probe = tiny("noise2self"), Probe(0.5)
    method.network = probe
    parts = []
    for step in range(17):
        loss = loss_of(method, noisy, step)
        hidden = probe.inputs[-1] != noisy
        assert loss.item() == pytest.approx((0.5 * probe.inputs[-1] - noisy)[hidden].square().mean().item(), rel=1e-5)
        parts.append(hidden[0, 0])
    assert (torch.stack(parts[:16]).sum(0) == 1).all() and torch.equal(parts[16], parts[0])


def test_the_invariant_output_depends_on_no_pixels_own_value() -> None:
    method = tiny("noise2self", output="invariant").eval()
    noisy = torch.rand(1, 1, 19, 33, generator=generator("images"))
    with torch.no_grad():  # the clipping of an untrained network's output would hide a fault
        method.network.tail[-1].bias.fill_(0.5)
        method.network.tail[-1].weight.mul_(0.05)
        before = method.denoise(noisy)
        assert before.min() > 0 and before.max() < 1
        for row, column in ((0, 0), (18, 32), (7, 12), (0, 9)):
            other = noisy.clone()
            other[0, 0, row, column] += 0.7
            after = method.denoise(other)
            assert after[0, 0, row, column] == before[0, 0, row, column]
            assert not torch.equal(after, before)
            method.reconfigure({"output": "network"})
            assert method.denoise(other)[0, 0, row, column] != method.denoise(noisy)[0, 0, row, column]
            method.reconfigure({"output": "invariant"})


# ---- Noisier2Noise ----


def test_noisier2noise_learns_the_noisy_image_for_a_noisier_one() -> None:
    noisy = torch.rand(4, 1, 64, 64, generator=generator("images"))
    method, probe = tiny("noisier2noise", sigma=51.0, alpha=0.5), Probe(0.5)
    method.network = probe
    loss = loss_of(method, noisy)
    added = probe.inputs[0] - noisy
    assert added.std().item() == pytest.approx(0.5 * 51 / 255, rel=0.03) and added.mean().abs() < 0.003
    assert loss.item() == pytest.approx((0.5 * probe.inputs[0] - noisy).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_its_output_is_the_papers(alpha: float) -> None:
    noisy = torch.full((1, 1, 32, 40), 0.5)
    method, probe = tiny("noisier2noise", sigma=5.0, alpha=alpha, repeats=3), Probe(0.9)
    method.network = probe
    found = method.denoise(noisy).numpy()
    shown = [one.numpy()[..., :40] for one in probe.inputs]
    assert len(shown) == 3 and not np.array_equal(shown[0], shown[1])
    expected = np.mean([((1 + alpha**2) * 0.9 * z - z) / alpha**2 for z in shown], 0)
    assert np.allclose(found, expected.clip(0, 1), atol=1e-5)
    assert np.array_equal(found, method.denoise(noisy).numpy())


def test_the_best_network_gives_the_mean_of_the_clean_image() -> None:
    """White images x ~ N(0.5, s^2): with the best f, linear here, the output must be E[x | z]."""
    s, sigma, alpha = 0.08, 0.1, 0.5
    method = tiny("noisier2noise", sigma=255 * sigma, alpha=alpha, repeats=1)
    total, seen = s**2 + sigma**2 * (1 + alpha**2), s**2 + sigma**2
    inputs: list[Tensor] = []

    class Best(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            inputs.append(z)
            return 0.5 + seen / total * (z - 0.5)

    method.network = Best()
    found = method.denoise(torch.full((1, 1, 64, 64), 0.5))
    assert torch.allclose(found, 0.5 + s**2 / total * (inputs[0] - 0.5), atol=1e-5)


def test_the_noise_level_is_estimated_once_and_kept_with_the_weights(tmp_path: Path) -> None:
    recipe = replace(methods()["noisier2noise"].recipes["smoke"], steps=2)
    trainer = Trainer(tiny("noisier2noise"), source(), recipe, 7)
    list(trainer.run())
    level = float(trainer.method.level)
    assert level == pytest.approx(25 / 255, rel=0.05)
    path = checkpoints.save(tmp_path, trainer.checkpoint())
    loaded = tiny("noisier2noise")
    assert float(loaded.level) == 0
    loaded.load_state_dict(checkpoints.load(path).weights)
    assert float(loaded.level) == level
    told = Trainer(tiny("noisier2noise", sigma=10.0), source(), recipe, 7)
    assert float(told.method.level) == pytest.approx(10 / 255)


def test_crops_that_do_not_fit_are_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="has 32 x 32 pixels, less than the patch of 64 x 64"):
        Trainer.check(outline("noisier2noise", {"patch_size": 64}, 1), source(sides=(96, 32)))


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
