"""The Haar transform and MWCNN."""

from __future__ import annotations

import pytest
import pywt
import torch

from denoise_core.networks.mwcnn import MWCNN, haar, inverse_haar


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(1)


def test_haar_is_that_of_pywavelets() -> None:
    images = torch.rand(2, 3, 8, 6)
    bands = haar(images)
    assert bands.shape == (2, 12, 4, 3)
    for image in range(2):
        for channel in range(3):
            mean, details = pywt.dwt2(images[image, channel].numpy(), "haar")
            for offset, expected in enumerate((mean, *details)):
                torch.testing.assert_close(bands[image, 4 * channel + offset], torch.from_numpy(expected))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_haar_round_trips_and_norm(memory_format: torch.memory_format) -> None:
    images = torch.rand(2, 8, 10, 6).contiguous(memory_format=memory_format)
    bands = haar(images)
    assert (inverse_haar(bands) - images).abs().max() < 1e-6
    assert (haar(inverse_haar(bands)) - bands).abs().max() < 1e-6
    torch.testing.assert_close(bands.square().sum(), images.square().sum())


def test_haar_gradients() -> None:
    images = torch.rand(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(haar, [images])
    assert torch.autograd.gradcheck(inverse_haar, [haar(images.detach()).requires_grad_()])


def test_haar_rejects_odd_sides() -> None:
    with pytest.raises(RuntimeError):
        haar(torch.rand(1, 1, 4, 5))


def test_parameter_counts() -> None:
    with torch.device("meta"):
        gray, colour = MWCNN(1), MWCNN(3)
    count = sum(parameter.numel() for parameter in gray.parameters())
    assert count == 16_145_892
    # Colour has 8 more sub-bands, at the first convolution and at the last one with its bias.
    assert sum(parameter.numel() for parameter in colour.parameters()) == count + 2 * 8 * 160 * 9 + 8


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 24), (13, 17), (1, 7), (1, 1)])
def test_any_size(channels: int, size: tuple[int, int]) -> None:
    network = MWCNN(channels, (8, 12, 12), depth=2)
    images = torch.rand(2, channels, *size)
    denoised = network(images)
    assert denoised.shape == images.shape
    denoised.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_silent_network_returns_the_image() -> None:
    """The stages only correct the sub-bands: with the last convolution of every way up at 0, nothing changes."""
    network = MWCNN(1, (8, 12, 12), depth=2)
    torch.nn.init.zeros_(network.up[0][-1].weight)  # type: ignore[index, arg-type]
    images = torch.rand(1, 1, 19, 21)
    torch.testing.assert_close(network(images), images)


def test_structure_and_initialisation() -> None:
    network = MWCNN(1, (8, 12, 12), depth=3)
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    rectifiers = [module for module in network.modules() if isinstance(module, torch.nn.ReLU)]
    assert (len(convolutions), len(rectifiers)) == (18, 17)
    for convolution in convolutions:
        matrix = convolution.weight.detach().flatten(1)
        small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        torch.testing.assert_close(small, torch.eye(len(small)), atol=1e-5, rtol=0)
        assert convolution.bias is not None and not convolution.bias.any()
