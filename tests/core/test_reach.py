"""How far methods look: tiles that overlap by so much give what the whole image gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from denoise_core.inference import ALIGNED, HALO, denoise_image
from denoise_core.method import Method, create, methods
from denoise_core.networks.blindspot import DilatedBlindSpot, RotatedBlindSpot
from denoise_core.networks.danet import ResidualUNet
from denoise_core.networks.dncnn import DnCNN
from denoise_core.networks.gan2gan import SharedUNet
from denoise_core.networks.mwcnn import MWCNN
from denoise_core.networks.unet import UNet

NETWORKS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    **{f"unet{depth}": (UNet, {"features": 2, "depth": depth}) for depth in range(1, 6)},
    **{f"residual{depth}": (ResidualUNet, {"channels": 1, "width": 2, "depth": depth}) for depth in range(2, 6)},
    **{f"mwcnn{levels}x{depth}": (MWCNN, {"widths": [2] * levels, "depth": depth})
       for levels, depth in ((1, 4), (2, 3), (3, 2), (3, 4))},
    **{f"rotated{depth}": (RotatedBlindSpot, {"outputs": 1, "features": 2, "depth": depth}) for depth in range(6)},
    **{f"dilated{blocks}": (DilatedBlindSpot, {"width": 2, "blocks": blocks, "wide_branch": branch})
       for blocks, branch in ((1, "5x5"), (8, "5x5"), (7, "3x3"))},
    "dncnn5": (DnCNN, {"depth": 5, "width": 4}),
    "shared": (SharedUNet, {"width": 2}),
}  # fmt: skip


def positive(network: nn.Module) -> nn.Module:
    """With weights and inputs above 0 no activation is off and nothing cancels: every path carries something."""
    network.double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.uniform_(0.5, 1.5).div_(parameter[0].numel() / 4)
            else:
                parameter.fill_(0.01)
    return network


def seen(network: nn.Module) -> int:
    """How many rows beyond an aligned square matter for it, by gradients of some images."""
    far, rows = 352, torch.zeros(2 * 352 + ALIGNED, dtype=torch.bool)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(2, 1, len(rows), 64, generator=generator, dtype=torch.float64).requires_grad_()
        result = network(images)
        result = result[0] if isinstance(result, tuple) else result
        (slope,) = torch.autograd.grad(result[..., far : far + ALIGNED, :ALIGNED].sum(), images)
        rows |= (slope != 0).any(3).any(1).any(0)
    places = rows.nonzero().flatten()
    return max(far - int(places[0]), int(places[-1]) - (far + ALIGNED - 1))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_see_as_far_as_they_say(name: str) -> None:
    kind, options = NETWORKS[name]
    first = {"channels_in": 1} if kind is ResidualUNet else {"channels": 1}
    torch.manual_seed(0)
    network = positive(kind(**first, **options))
    found, said = seen(network), int(network.reach)  # type: ignore[arg-type]
    # a maximum looks at one of its pixels only, so the farthest may not be among those of a few images
    assert found <= said <= 1.35 * found + 8


def lively(method: Method, seed: int = 0) -> Method:
    """With weights that let differences through, unlike some that training starts from."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return method.eval()


def changed_beyond(method: Method, halo: int) -> float:
    """How much an aligned square in the middle changes when all is changed that is farther than ``halo`` from it."""
    side = 2 * (halo + ALIGNED) + ALIGNED
    generator = torch.Generator().manual_seed(0)
    image = 0.3 + 0.4 * torch.rand(1, 1, side, side, generator=generator)
    other = 0.3 + 0.4 * torch.rand(1, 1, side, side, generator=generator)
    inside = slice(ALIGNED, side - ALIGNED)
    other[..., inside, inside] = image[..., inside, inside]
    square = slice(ALIGNED + halo, 2 * ALIGNED + halo)
    with torch.inference_mode():
        one, two = (method.denoise(each)[..., square, square] for each in (image, other))
    return float((one - two).abs().max())


def check_reach(method: Method, sees_others: bool = True) -> None:
    halo = -(-method.reach // ALIGNED) * ALIGNED
    for seed in range(20):  # with some weights all of the result is cut off at 0 or 1
        assert changed_beyond(lively(method, seed), halo) <= 1e-5
        if not sees_others or changed_beyond(method, 0) > 1e-5:
            return
    pytest.fail("nothing came through, so this shows nothing")


TILED = [
    name for name, kind in sorted(methods().items()) if kind.denoises and not kind.whole_images
]  # fmt: skip
BUDGETS = ("smoke", "laptop")
POINTWISE = ("noisy", "fitted_noise")


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", TILED)
def test_methods_see_no_farther_than_they_say(name: str, budget: str) -> None:
    if name == "noisier2noise":
        pytest.skip("what it draws depends on the image's size")
    method = create(name, methods()[name].recipes[budget].config, 1, 0)
    if method.learns_at_inference:
        pytest.skip("it learns on the image as a whole")
    check_reach(method, sees_others=name not in POINTWISE)


def test_the_first_stage_of_dbsn_with_sub_images() -> None:
    config = {**methods()["dbsn"].recipes["smoke"].config, "pixel_shuffle": 2, "estimate": "mu"}
    check_reach(create("dbsn", config, 1, 0))


def test_evaluation_overlaps_tiles_by_the_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    from denoise_core import evaluation

    asked: list[int] = []

    def spy(denoise: Any, noisy: Tensor, **options: Any) -> Tensor:
        asked.append(options["halo"])
        return denoise_image(denoise, noisy, **options)

    monkeypatch.setattr(evaluation, "denoise_image", spy)
    for name in ("neighbor2neighbor", "gan2gan", "wavelets"):
        method = create(name, methods()[name].recipes["smoke"].config, 1, 0)
        evaluation.denoise(method, torch.rand(1, 40, 40), torch.device("cpu"))
    assert asked == [32, 3, HALO]
