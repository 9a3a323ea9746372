"""Neighbor2Neighbor against the paper: sub-samplers, loss, network, inference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.method import Context, create, methods
from denoise_core.methods import neighbor2neighbor as n2n
from denoise_core.networks.unet import UNet


def context(step: int = 0, steps: int = 100, rank: int = 0, world: int = 1) -> Context:
    return Context(3, "train", step, steps, torch.device("cpu"), rank, world)


def literal_sub_images(image: np.ndarray, choices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The paper's section 3.3, cell by cell: pixel ``choice`` of the 2x2 cell (i, j), counted row by row."""
    count, channels, height, width = image.shape
    outputs = np.zeros((2, count, channels, height // 2, width // 2), image.dtype)
    for n in range(count):
        for i in range(height // 2):
            for j in range(width // 2):
                cell = image[n, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(channels, 4)
                for which in range(2):
                    outputs[which, n, :, i, j] = cell[:, choices[n, which, i, j]]
    return outputs[0], outputs[1]


@settings(max_examples=20, deadline=None)
@given(
    channels=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    sampler=st.sampled_from(["random", "fix-location"]),
)
def test_sub_images_equal_the_literal_transcription(channels: int, height: int, width: int, sampler: str) -> None:
    image = torch.rand(2, channels, 2 * height, 2 * width)
    choices = n2n.draw_choices(sampler, True, image, context())
    expected = literal_sub_images(image.numpy(), choices.numpy())
    for ours, theirs in zip(n2n.sub_images(image, choices), expected, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)


def test_random_pairs_are_neighbours_and_uniform_over_all_eight() -> None:
    choices = n2n.draw_choices("random", True, torch.zeros(4, 1, 200, 200), context())
    first, second = choices[:, 0].flatten(), choices[:, 1].flatten()
    distance = (first // 2 - second // 2).abs() + (first % 2 - second % 2).abs()
    assert (distance == 1).all()
    counts = torch.bincount(first * 4 + second, minlength=16)
    used = counts[counts > 0]
    assert len(used) == 8
    expected = first.numel() / 8
    assert ((used - expected).abs() < 5 * (expected * 7 / 8) ** 0.5).all()


@pytest.mark.parametrize(("diagonal", "pairs"), [(True, 12), (False, 8)])
def test_fix_location_takes_one_pair_for_a_whole_image(diagonal: bool, pairs: int) -> None:
    seen = set()
    for step in range(60):
        choices = n2n.draw_choices("fix-location", diagonal, torch.zeros(4, 1, 8, 8), context(step))
        flat = choices.flatten(2)
        assert (flat == flat[..., :1]).all()
        seen |= {tuple(one) for one in flat[..., 0].tolist()}
    assert len(seen) == pairs and all(first != second for first, second in seen)


@pytest.mark.parametrize(("gamma", "step"), [(0.0, 0), (2.0, 0), (2.0, 57), (20.0, 99)])
def test_the_loss_equals_the_papers_equation(gamma: float, step: int) -> None:
    method, noisy = tiny(gamma=gamma), torch.rand(2, 1, 64, 64)
    update = next(iter(method.updates("train", {"noisy": noisy}, context(step))))
    choices = n2n.draw_choices("random", True, noisy, context(step)).numpy()
    with torch.no_grad():
        first, second = literal_sub_images(noisy.numpy(), choices)
        full_first, full_second = literal_sub_images(method.network(noisy).numpy(), choices)
        output = method.network(torch.from_numpy(first)).numpy()
    gamma_t = gamma * (step + 1) / 100  # epoch / n_epoch of the official code, 100 epochs of one step
    difference = output - second
    expected = np.mean(difference**2) + gamma_t * np.mean((difference - (full_first - full_second)) ** 2)
    assert update.loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_stops_at_the_full_image() -> None:
    method, noisy = tiny(gamma=20.0, ramp=False), torch.rand(2, 1, 64, 64)
    update = next(iter(method.updates("train", {"noisy": noisy}, context())))
    ours = torch.autograd.grad(update.loss, list(method.parameters()))
    choices = n2n.draw_choices("random", True, noisy, context())
    first, second = n2n.sub_images(noisy, choices)
    full = [one.detach() for one in n2n.sub_images(method.network(noisy), choices)]
    difference = method.network(first) - second
    loss = difference.square().mean() + 20 * (difference - (full[0] - full[1])).square().mean()
    for gradient, expected in zip(ours, torch.autograd.grad(loss, list(method.parameters())), strict=True):
        assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-9)


def test_ranks_draw_parts_of_the_same_global_choices() -> None:
    whole = n2n.draw_choices("random", True, torch.zeros(4, 1, 8, 8), context())
    parts = [n2n.draw_choices("random", True, torch.zeros(2, 1, 8, 8), context(rank=rank, world=2)) for rank in (0, 1)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize(("channels", "count"), [(1, 1_256_689), (3, 1_259_475), (4, 1_260_868)])
def test_parameter_counts_of_the_papers_network(channels: int, count: int) -> None:
    assert sum(parameter.numel() for parameter in UNet(channels).parameters()) == count


def test_initialisation_is_a_tenth_of_kaiming_with_zero_biases() -> None:
    torch.manual_seed(0)
    network = UNet(3)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
    weight = network.decoder_b[0].weight
    assert weight.std().item() == pytest.approx(0.1 * (2 / (96 * 9)) ** 0.5, rel=0.02)
    assert network(torch.rand(1, 3, 64, 64)).abs().max() < 1e-3


@pytest.mark.parametrize("padding", ["square", "minimal"])
@pytest.mark.parametrize("size", [(64, 64), (33, 70), (7, 100), (1, 1)])
def test_any_image_size_is_denoised_into_the_range(padding: str, size: tuple[int, int]) -> None:
    method = tiny(padding=padding)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.mul_(20)
        output = method.denoise(torch.randn(2, 1, *size))
    assert output.shape == (2, 1, *size) and output.min() >= 0 and output.max() <= 1


@pytest.mark.parametrize("name", sorted(methods()))
def test_a_misspelt_parameter_names_the_nearest(name: str) -> None:
    known = max(methods()[name].Config.model_fields, key=len)
    with pytest.raises(UserError, match=f"has no parameter '{known[:-1]}': did you mean '{known}'"):
        create(name, {known[:-1]: 3}, 1, 0)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"gamma": -1}, "gamma = -1 is not allowed: input should be greater than or equal to 0"),
        ({"sampler": "rnd"}, "sampler = 'rnd' is not allowed: use one of 'random', 'fix-location'"),
        ({"patch_size": 100}, "patch_size = 100 is not allowed: input should be a multiple of 64"),
        ({"gamma": "much"}, "gamma = 'much' is not allowed: input should be a valid number"),
    ],
)
def test_values_out_of_range_are_refused_in_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        create("neighbor2neighbor", values, 1, 0)


def tiny(**values: Any) -> Any:
    method = create("neighbor2neighbor", {"features": 4, **values}, 1, 5)
    with torch.no_grad():  # the initial output is all but zero: larger weights make a test that can fail
        for parameter in method.parameters():
            parameter.mul_(8)
    return method


def test_tiny_networks_answer_to_their_input() -> None:
    method: Any = tiny()
    first: Tensor = method.network(torch.rand(1, 1, 64, 64))
    assert first.std() > 1e-5
