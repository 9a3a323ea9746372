"""The blind-spot networks: no output pixel depends on its own input pixel, and the test would notice if one did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from denoise_core.networks.blindspot import CentreMaskedConv2d, DilatedBlindSpot, Masking, RotatedBlindSpot, WideBranch

SIZES = [(13, 17), (1, 7), (8, 1), (1, 1), (8, 6)]


def dependence(
    network: Callable[[Tensor], Tensor], channels: int, height: int, width: int, pixels: Tensor | None = None
) -> Tensor:
    """(P, H*W): how much the output at each of ``pixels`` (default: all) depends on each input pixel, as |gradient|.

    One copy of the image per output pixel, one backward pass; random weights keep output channels from cancelling.
    """
    pixels = torch.arange(height * width) if pixels is None else pixels
    images = torch.rand(1, channels, height, width).repeat(len(pixels), 1, 1, 1).requires_grad_()
    outputs = network(images).flatten(2)
    chosen = outputs[torch.arange(len(pixels)), :, pixels]
    (chosen * torch.rand(chosen.shape[1])).sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    return images.grad.flatten(2).abs().sum(1)


def both_outputs(network: DilatedBlindSpot) -> Callable[[Tensor], Tensor]:
    """mu and the features in one tensor."""
    return lambda noisy: torch.cat(network(noisy), dim=1)


def with_padding(network: nn.Module, mode: Literal["reflect", "replicate"]) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.dilation[0] > 1:
            module.padding_mode = mode


@pytest.fixture(autouse=True)
def seeded_and_single_threaded() -> Iterator[None]:
    """Threads hinder each other in networks this small: ten times slower where other work runs beside the tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wide_branch", ["5x5", "3x3"])
@pytest.mark.parametrize("masking", ["mask", "trimmed"])
def test_dilated_is_blind(masking: Masking, wide_branch: WideBranch, size: tuple[int, int]) -> None:
    network = DilatedBlindSpot(2, 5, 2, wide_branch=wide_branch, masking=masking)
    assert dependence(both_outputs(network), 2, *size).diagonal().max() == 0


@pytest.mark.parametrize("branch", [0, 1])
def test_each_branch_is_blind_and_sees_its_neighbours(branch: int) -> None:
    network = DilatedBlindSpot(1, 8, 1)
    found = dependence(nn.Sequential(network.head, network.branches[branch]), 1, 13, 17)
    centre = 6 * 17 + 8
    assert found.diagonal().max() == 0
    for neighbour in (centre - 1, centre + 1, centre - 17, centre + 17):
        assert found[centre, neighbour] > 0


@pytest.mark.parametrize(("branch", "mode"), [(1, "reflect"), (0, "replicate"), (1, "replicate")])
def test_other_padding_leaks_and_is_noticed(branch: int, mode: Literal["reflect", "replicate"]) -> None:
    """Only branch 0 with reflection does not leak: a reflection keeps odd distances odd, and its steps are even."""
    network = DilatedBlindSpot(1, 5, 2)
    with_padding(network.branches[branch], mode)
    assert dependence(both_outputs(network), 1, 13, 13).diagonal().max() > 0


def test_an_unmasked_centre_is_noticed() -> None:
    network = DilatedBlindSpot(1, 8, 1)
    for module in network.modules():
        if isinstance(module, CentreMaskedConv2d):
            module.centre_mask.fill_(1)
    assert dependence(both_outputs(network), 1, 5, 5).diagonal().min() > 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_rotated_is_blind(depth: int, size: tuple[int, int]) -> None:
    assert dependence(RotatedBlindSpot(2, 3, 3, depth=depth), 2, *size).diagonal().max() == 0


@pytest.mark.parametrize("size", [(13, 17), (1, 7), (33, 5)])
def test_rotated_is_blind_and_sees_everything_around(size: tuple[int, int]) -> None:
    """With all five poolings, at the corners, in the middle and at some other pixels."""
    height, width = size
    count = height * width
    pixels = torch.tensor([0, width - 1, count - width, count - 1, count // 2, count // 3, count // 5])
    found = dependence(RotatedBlindSpot(2, 3, 6), 2, height, width, pixels)
    own = torch.arange(count) == pixels[:, None]
    assert torch.equal(found == 0, own)


def test_rotated_would_leak_with_reflected_images() -> None:
    network = RotatedBlindSpot(1, 1, 4, depth=2)

    def reflecting(noisy: Tensor) -> Tensor:
        result: Tensor = network(nn.functional.pad(noisy, (0, 3, 0, 3), mode="reflect"))
        return result[..., :13, :13]

    assert dependence(reflecting, 1, 13, 13).diagonal().max() > 0


def test_batch_of_one_pixel_moves_with_its_neighbour_only() -> None:
    network = DilatedBlindSpot(1, 8, 1)
    before = torch.rand(1, 1, 9, 9)
    after = before.clone()
    after[0, 0, 4, 4] += 1
    change = (network(after)[0] - network(before)[0])[0, 0]
    assert change[4, 4] == 0
    assert change[4, 5] != 0


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts_of_the_papers() -> None:
    assert parameters(DilatedBlindSpot(1)) == 6_612_289
    assert parameters(DilatedBlindSpot(3)) == 6_612_675
    assert parameters(DilatedBlindSpot(1, blocks=7)) == 5_836_609
    assert parameters(DilatedBlindSpot(3, blocks=7)) == 5_836_995
    assert parameters(RotatedBlindSpot(3, 3)) == 1_425_651


def test_receptive_field_of_the_released_network() -> None:
    """101 pixels with eight blocks: the gradient of the middle pixel, one channel wide, ends 50 pixels from it."""
    network = DilatedBlindSpot(1, 2, 8)
    for parameter in network.parameters():
        parameter.data.abs_()  # no ReLU is off
    noisy = torch.rand(1, 1, 121, 121, requires_grad=True)
    network(noisy)[0][0, 0, 60, 60].backward()
    assert noisy.grad is not None
    rows, columns = noisy.grad[0, 0].nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 110, 10, 110)
    assert noisy.grad[0, 0, 60, 60] == 0


def test_trimmed_rescales_by_valid_taps() -> None:
    layer = CentreMaskedConv2d(1, 3, "trimmed")
    nn.init.ones_(layer.weight)
    nn.init.constant_(layer.bias, 0.5)  # type: ignore[arg-type]
    # All-ones images and kernel: the sum is the number of valid taps, the rescaled sum 9 everywhere.
    torch.testing.assert_close(layer(torch.ones(1, 1, 4, 5)), torch.full((1, 1, 4, 5), 9.5))
    assert layer(torch.ones(1, 1, 1, 1)) == 0  # no tap is valid: neither sum nor bias


def test_initialisation_and_state() -> None:
    network = DilatedBlindSpot(1, 64, 1)
    masked = [module for module in network.modules() if isinstance(module, CentreMaskedConv2d)][1]
    assert float(masked.weight.detach().std()) == pytest.approx((2 / (64 * 25)) ** 0.5, rel=0.05)
    biased = [name for name, value in network.named_parameters() if name.endswith("bias") and value.any()]
    assert biased == ["join.bias"]
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}
    with pytest.raises(ValueError, match="masking='centre'"):
        DilatedBlindSpot(1, 8, masking="centre")  # type: ignore[arg-type]


def test_bfloat16_channels_last_is_close_to_float32() -> None:
    network = DilatedBlindSpot(1, 24, 1)
    noisy = torch.rand(2, 1, 16, 16)

    def gradients(*, low: bool) -> Tensor:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            mu = network(noisy.contiguous(memory_format=torch.channels_last) if low else noisy)[0]
        mu.float().square().mean().backward()
        return torch.cat([value.grad.flatten() for value in network.parameters() if value.grad is not None])

    expected = gradients(low=False)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert (gradients(low=True) - expected).norm() < 0.2 * expected.norm()


def test_dilated_convolutions_leave_channels_last_in_bfloat16() -> None:
    """Their backward pass would be wrong on some CPUs, not on all: see the network."""
    network = DilatedBlindSpot(1, 24, 1)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    dilated = [module for module in network.modules() if isinstance(module, nn.Conv2d) and module.dilation[0] > 1]
    assert len(dilated) == 4
    hidden = torch.rand(2, 24, 8, 8).contiguous(memory_format=torch.channels_last)
    for convolution in dilated:
        with torch.autocast("cpu", torch.bfloat16):
            assert convolution(hidden).is_contiguous()
        assert convolution(hidden).is_contiguous(memory_format=torch.channels_last)
