"""Whole and tiled denoising, and the padding rule of Neighbor2Neighbor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from denoise_core.errors import UserError
from denoise_core.inference import denoise_image, pad_to_multiple
from denoise_core.networks.unet import UNet


class Small(nn.Module):
    """Convolutions with a pooling grid of 4 pixels; receptive field below 32 pixels on each side; pads for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.calls = 0
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(2, 4, 5, padding=2)
            self.second = nn.Conv2d(4, 4, 3, padding=1)
            self.last = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        self.calls += 1
        self.largest = max(self.largest, height * width)
        padded = nn.functional.pad(x, (0, -width % 4, 0, -height % 4))
        hidden = nn.functional.max_pool2d(torch.relu(self.first(padded)), 4)
        hidden = nn.functional.interpolate(torch.relu(self.second(hidden)), scale_factor=4)
        result: Tensor = self.last(hidden)[..., :height, :width]
        return result + x


@pytest.mark.parametrize(("height", "width"), [(150, 203), (128, 160), (301, 40), (1, 9500), (97, 129)])
def test_tiles_equal_the_whole_image(height: int, width: int) -> None:
    noisy = torch.rand(2, 2, height, width, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        network = Small()
        whole = network(noisy)
    tiled = denoise_image(network, noisy, max_pixels=96 * 96, halo=30, multiple=16)
    assert network.calls > 2
    torch.testing.assert_close(tiled, whole, atol=1e-6, rtol=0)


def test_tiles_stay_below_the_limit() -> None:
    network = Small()
    denoise_image(network, torch.rand(2, 500, 700), max_pixels=250 * 250, halo=64, multiple=32)
    assert network.largest <= 250 * 250
    assert network.calls > 4


def test_a_halo_that_is_too_small_shows() -> None:
    noisy = torch.rand(1, 2, 100, 100, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        network = Small()
        whole = network(noisy)
    assert not torch.allclose(denoise_image(network, noisy, max_pixels=64 * 64, halo=0, multiple=16), whole, atol=1e-6)


def test_small_images_go_through_whole_and_without_gradient() -> None:
    network = Small()
    noisy = torch.rand(2, 33, 47)
    result = denoise_image(network, noisy)
    assert (network.calls, result.shape) == (1, noisy.shape)
    assert not result.requires_grad
    with torch.inference_mode():
        assert torch.equal(result, network(noisy[None])[0])


def test_bad_input() -> None:
    with pytest.raises(UserError, match=r"max_pixels = 16384 leaves no room .* halo of 128; use at least 82944"):
        denoise_image(Small(), torch.rand(2, 300, 300), max_pixels=128 * 128)
    denoise_image(Small(), torch.rand(2, 300, 300), max_pixels=82944)
    with pytest.raises(ValueError, match="the sizes must agree"):
        denoise_image(lambda x: x[..., 1:], torch.rand(1, 8, 8))
    with pytest.raises(ValueError, match="expected"):
        denoise_image(lambda x: x, torch.rand(8, 8))


@pytest.mark.parametrize(("height", "width"), [(321, 481), (32, 32), (33, 5), (3, 100), (1, 40), (2, 70), (64, 96)])
@pytest.mark.parametrize("square", [True, False])
def test_padding_equals_numpy_reflect(height: int, width: int, square: bool) -> None:
    images = torch.rand(2, 3, height, width)
    padded = pad_to_multiple(images, square=square)
    down, right = ((max(height, width) if square else side) + 31 for side in (height, width))
    pads = ((0, 0), (0, 0), (0, down // 32 * 32 - height), (0, right // 32 * 32 - width))
    np.testing.assert_array_equal(padded.numpy(), np.pad(images.numpy(), pads, mode="reflect"))
    assert torch.equal(padded[..., :height, :width], images)


def test_tiles_of_the_papers_network_are_seamless() -> None:
    torch.manual_seed(0)
    network = UNet(1, 4, init_scale=1.0).double()

    def padded(image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        return network(pad_to_multiple(image))[..., :height, :width]

    image = torch.rand(1, 700, 450, dtype=torch.float64)
    whole = denoise_image(padded, image)
    assert whole.std() > 1e-3
    torch.testing.assert_close(denoise_image(padded, image, max_pixels=400 * 400), whole, rtol=0, atol=1e-9)
    assert (denoise_image(padded, image, max_pixels=400 * 400, halo=32) - whole).abs().max() > 1e-6
