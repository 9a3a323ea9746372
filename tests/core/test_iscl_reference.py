"""The ISCL reference itself: sizes, padding, normalisation, losses, one iteration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.core import iscl_reference as reference
from tests.core.iscl_reference import BatchInstanceNorm, Critic, Extractor, Generator, ReferenceStep


def tiny_step(**options: Any) -> ReferenceStep:
    torch.manual_seed(0)
    f, g = Generator(1, width=2, blocks=1), Generator(1, width=2, blocks=1)
    h = Extractor(1, width=2, layers=3)
    return ReferenceStep(f, g, h, Critic(1, width=2), Critic(1, width=2), **options)


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(2, 3, 1, 64, 64, generator=generator).mul(2).sub(1)
    return x, y


@pytest.mark.parametrize(("kind", "count"), [(Generator, 1_148_225), (Extractor, 168_801), (Critic, 2_790_177)])
def test_parameter_counts(kind: type[nn.Module], count: int) -> None:
    assert reference.parameter_count(kind(1)) == count


@pytest.mark.parametrize("kind", [Generator, Extractor, Critic])
def test_parameters_run_in_the_order_of_use(kind: type[nn.Module]) -> None:
    network = kind(1, width=2)
    kinds = [name.rpartition(".")[2] for name, _ in network.named_parameters()]
    text = " ".join(kinds).replace("weight bias", "conv").replace("rho scale shift", "norm")
    assert set(text.split()) == {"conv", "norm"} and "norm norm" not in text
    used: list[nn.Module] = []
    leaves = [module for module in network.modules() if not list(module.children())]
    for module in leaves:
        module.register_forward_hook(lambda module, inputs, output: used.append(module))
    network(torch.zeros(2, 1, 64, 64))
    assert used == leaves


@pytest.mark.parametrize(("size", "pad"), [((5, 7), 3), ((3, 3), 3), ((4, 6), 1)])
def test_padding_equals_numpy(size: tuple[int, int], pad: int) -> None:
    image = torch.rand(2, 3, *size)
    expected = reference.symmetric_pad_numpy(image.numpy(), pad)
    np.testing.assert_array_equal(reference.symmetric_pad(image, pad).numpy(), expected)


def test_padding_by_one_replicates_the_edge() -> None:
    image = torch.rand(1, 2, 4, 5)
    assert torch.equal(reference.symmetric_pad(image, 1), F.pad(image, (1, 1, 1, 1), mode="replicate"))


def test_transposed_convolution_equals_the_loops_and_the_gradient() -> None:
    convolution = nn.ConvTranspose2d(3, 2, 3, stride=2).double()
    small = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    weight, bias = (parameter.detach() for parameter in convolution.parameters())
    ours = reference.transposed_same(convolution, small).detach()
    expected = reference.transposed_same_numpy(small.numpy(), weight.numpy(), bias.numpy())
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)

    large = torch.zeros(2, 2, 8, 10, dtype=torch.float64, requires_grad=True)
    forward = F.conv2d(reference.same_pad(large, 3, 2), weight, stride=2)
    (gradient,) = torch.autograd.grad(forward, large, small)
    np.testing.assert_allclose(ours.numpy(), (gradient + bias[:, None, None]).numpy(), atol=1e-12)


@pytest.mark.parametrize(("size", "expected"), [(64, (1, 1)), (7, (1, 2)), (1, (1, 2))])
def test_same_padding_of_kernel_four_and_stride_two(size: int, expected: tuple[int, int]) -> None:
    assert reference.same_padding(size, 4, 2) == expected


@pytest.mark.parametrize(("side", "scores"), [(49, 1), (64, 1), (65, 2), (128, 5)])
def test_critic_takes_any_size(side: int, scores: int) -> None:
    assert Critic(1, width=2)(torch.rand(2, 1, side, side)).shape == (2, 1, scores, scores)


def test_networks_keep_the_shape() -> None:
    image = torch.rand(2, 3, 16, 20)
    assert Generator(3, width=2, blocks=1)(image).shape == image.shape
    assert Extractor(3, width=2, layers=3)(image).shape == image.shape


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_norm_mixes_instance_and_batch_norm(rho: float) -> None:
    norm = BatchInstanceNorm(3).double()
    with torch.no_grad():
        norm.rho.fill_(rho)
        norm.scale.copy_(torch.rand(3))
        norm.shift.copy_(torch.rand(3))
    hidden = 2 + 3 * torch.randn(4, 3, 5, 6, dtype=torch.float64)
    by_instance = F.instance_norm(hidden, weight=norm.scale, bias=norm.shift, eps=1e-7)
    by_batch = F.batch_norm(hidden, None, None, norm.scale, norm.shift, training=True, eps=1e-7)
    torch.testing.assert_close(norm(hidden), rho * by_batch + (1 - rho) * by_instance)


@pytest.mark.parametrize("margin", [0.0, 1.0])
@pytest.mark.parametrize("extra", [False, True])
def test_losses_of_a_step_equal_the_numpy_ones(extra: bool, margin: float) -> None:
    step = tiny_step(margin=margin, bypass=extra, boosting=extra, noise_consistency=extra)
    f, g, h, dx, dy = step.f, step.g, step.h, step.dx, step.dy
    x, y = batch()

    def arrays(**tensors: Tensor) -> dict[str, Any]:
        return {name: tensor.detach().numpy() for name, tensor in tensors.items()}

    expected = arrays(dx_x=dx(x), dx_xhat=dx(g(y)), dy_y=dy(y), dy_yhat=dy(f(x)))
    expected |= arrays(dx_xbar=dx(y + h(x)), dy_ybar=dy(x - h(x))) if extra else {}
    assert step.update_critics(x, y) == pytest.approx(reference.critic_loss(**expected, margin=margin), rel=1e-5)

    expected = arrays(dx_xhat=dx(g(y)), dy_yhat=dy(f(x)), x=x, g_yhat=g(f(x)), y=y, f_xhat=f(g(y)))
    expected |= arrays(yhat=f(x), ybar=x - h(x), f_xbar=f(y + h(x))) if extra else {}
    assert step.update_generators(x, y) == pytest.approx(reference.generator_loss(**expected), rel=1e-5)

    expected = arrays(h_x=h(x), x=x, f_x=f(x))
    expected |= arrays(xhat=g(y), y=y, h_xhat=h(g(y))) if extra else {}
    assert step.update_extractor(x, y) == pytest.approx(reference.extractor_loss(**expected), rel=1e-5)


def test_each_update_changes_its_own_networks_only() -> None:
    step = tiny_step()
    networks = {"f": step.f, "g": step.g, "h": step.h, "dx": step.dx, "dy": step.dy}
    updates = {step.update_critics: {"dx", "dy"}, step.update_generators: {"f", "g"}, step.update_extractor: {"h"}}
    for change, own in updates.items():
        before = {name: nn.utils.parameters_to_vector(network.parameters()) for name, network in networks.items()}
        change(*batch())
        after = {name: nn.utils.parameters_to_vector(network.parameters()) for name, network in networks.items()}
        assert {name for name in networks if not torch.equal(before[name], after[name])} == own


def test_iterations_stay_finite_and_rho_between_0_and_1() -> None:
    step = tiny_step(lr=0.01)
    losses = [step(*batch(seed)) for seed in range(8)]
    assert np.isfinite(losses).all()
    networks = nn.ModuleList([step.f, step.g, step.h, step.dx, step.dy])
    values = torch.cat([norm.rho.detach() for norm in networks.modules() if isinstance(norm, BatchInstanceNorm)])
    assert (values >= 0).all() and (values <= 1).all() and (values < 1).any()
