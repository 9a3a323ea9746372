"""Baselines that hide pixels or add noise: Noise2Void, Noise2Self, Noisier2Noise."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from denoise_core import checkpoint as checkpoints
from denoise_core.errors import UserError
from denoise_core.method import methods, outline
from denoise_core.methods.noise2self import means_of_neighbours, part_of_grid
from denoise_core.methods.noise2void import medians, neighbourhood, neighbours, stratified
from denoise_core.seeding import generator
from denoise_core.trainer import Trainer
from tests.core.baseline_toys import (
    CPU,
    Array,
    Probe,
    context,
    loss_of,
    source,
    tiny,
)

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
