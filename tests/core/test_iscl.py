"""ISCL: networks, normalisation, losses, who learns from what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_core.method import create
from denoise_core.methods.iscl import ISCL
from denoise_core.networks.cyclegan import Critic, Extractor, Generator, symmetric_pad
from denoise_core.networks.norms import BatchInstanceNorm, _Fold
from denoise_core.seeding import generator
from denoise_core.trainer import Trainer
from tests.core import iscl_reference as reference
from tests.core.iscl_toys import ROWS, OneBatch, batch, context, copied, method, networks, tensor

# ---- networks ----


def test_parameter_counts_of_the_sheet() -> None:
    counts = [sum(p.numel() for p in network.parameters()) for network in (Generator(1), Extractor(1), Critic(1))]
    assert counts == [1_148_225, 168_801, 2_790_177]
    assert sum(p.numel() for p in create("iscl", {}, 1, 0).parameters()) == 8_045_605


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Generator(1, 4, 2), reference.Generator(1, 4, 2)),
        (Extractor(1, 4, 6), reference.Extractor(1, 4, 6)),
        (Critic(1, 4, 4), reference.Critic(1, 4)),
    ],
    ids=["generator", "extractor", "critic"],
)
def test_networks_equal_the_literal_port(ours: nn.Module, theirs: nn.Module) -> None:
    for index, parameter in enumerate(ours.parameters()):  # rho inside (0, 1), so that both parts count
        nn.init.uniform_(parameter, 0.1, 0.4, generator=generator(index, "parameter"))
    copied(ours.double(), theirs.double())
    images = tensor(3, 1, 64, 64).double() * 2 - 1
    grown = [images.clone().requires_grad_() for _ in range(2)]
    outputs = [network(one) for network, one in zip((ours, theirs), grown, strict=True)]
    assert torch.allclose(*outputs, rtol=1e-9, atol=1e-12)
    weight = tensor(*outputs[0].shape, seed=5)
    for output in outputs:
        (output * weight).sum().backward()
    for first, second in zip((grown[0], *ours.parameters()), (grown[1], *theirs.parameters()), strict=True):
        assert first.grad is not None
        assert second.grad is not None
        assert torch.allclose(first.grad, second.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("pad", [1, 3])
def test_padding_repeats_the_edge_pixel(pad: int) -> None:
    image = torch.arange(20.0).view(1, 1, 4, 5)
    expected = reference.symmetric_pad_numpy(image.numpy(), pad)
    assert np.array_equal(symmetric_pad(image, pad).numpy(), expected)
    assert symmetric_pad(image, 1)[0, 0, 0].tolist() == [0, 0, 1, 2, 3, 4, 4]


def test_transposed_convolution_is_tensorflows() -> None:
    layer = Generator(1, 2, 0).up[0].convolution  # type: ignore[union-attr]
    assert isinstance(layer, nn.ConvTranspose2d)
    images = tensor(2, 8, 3, 4)
    ours = layer(images)[..., :6, :8].detach().numpy()
    expected = reference.transposed_same_numpy(images.numpy(), layer.weight.detach().numpy(), np.zeros(4))
    assert np.allclose(ours, expected, atol=1e-6)


# ---- normalisation ----


def test_norm_of_one_image_is_instance_norm_whatever_rho() -> None:
    norm, images = BatchInstanceNorm(3, activate=False), tensor(1, 3, 8, 9)
    expected = F.instance_norm(images, eps=1e-7)
    for rho in (0.0, 0.3, 1.0):
        nn.init.constant_(norm.rho, rho)
        assert torch.allclose(norm(images), expected, atol=1e-5)


def test_norm_with_rho_one_is_batch_norm_and_with_running_moments_uses_them() -> None:
    norm, images = BatchInstanceNorm(3, activate=False, momentum=1.0), tensor(4, 3, 8, 9)
    assert torch.allclose(norm(images, "track"), F.batch_norm(images, None, None, training=True, eps=1e-7), atol=1e-5)
    assert torch.allclose(norm.running_mean, images.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(norm.running_var, images.var((0, 2, 3), correction=0), atol=1e-6)
    one = images[:1]
    expected = F.batch_norm(one, norm.running_mean, norm.running_var, eps=1e-7)
    assert torch.allclose(norm(one, "running"), expected, atol=1e-5)
    assert not torch.allclose(norm(one, "batch"), expected, atol=1e-2)
    before = norm.running_mean.clone()
    norm(2 * images, "batch")
    assert torch.equal(norm.running_mean, before)  # only "track" moves them


@pytest.mark.parametrize("slope", [1.0, 0.2])
def test_norm_has_the_right_gradient(slope: float) -> None:
    images = tensor(2, 3, 4, 5).double().requires_grad_()
    values = ([0.2, 0.7, 1.0], [1.1, -0.6, 0.9], [0.1, 0.2, -0.3])
    parameters = [torch.tensor(value, dtype=torch.double, requires_grad=True) for value in values]
    assert torch.autograd.gradcheck(lambda *values: _Fold.apply(*values, slope, True)[0], (images, *parameters))  # type: ignore[no-untyped-call]


def test_the_compiled_normalisation_gives_the_same_values_and_gradients() -> None:
    """Under the compiler the norm takes another path, which it can trace."""
    results = []
    for compiled in (False, True):
        network = BatchInstanceNorm(2)
        nn.init.constant_(network.rho, 0.6)
        if compiled:
            network.compile()
        images = tensor(2, 2, 8, 8).requires_grad_()
        network(symmetric_pad(images, 1), "track").square().mean().backward()
        assert images.grad is not None
        results.append([images.grad, network.rho.grad, network.running_mean])
    for plain, other in zip(*results, strict=True):
        assert torch.allclose(plain, other, atol=1e-6)


# ---- losses ----


def test_losses_equal_their_numpy_transcription() -> None:
    one, images = method(margin=0.25, nested_weight=7.0), batch()
    x, y = 2 * images["noisy"] - 1, 2 * images["clean_unpaired"] - 1
    f, g, h, dx, dy = (network for network in networks(one).values())
    with torch.no_grad():
        n = {"x": x, "y": y, "yhat": f(x), "xhat": g(y), "noise": h(x)}
        n |= {"ybar": x - n["noise"], "xbar": y + n["noise"]}
        n |= {"g_yhat": g(n["yhat"]), "f_xhat": f(n["xhat"]), "f_xbar": f(n["xbar"]), "h_xhat": h(n["xhat"])}
        n |= {f"dx_{k}": dx(n[k]) for k in ("x", "xhat", "xbar")} | {f"dy_{k}": dy(n[k]) for k in ("y", "yhat", "ybar")}
    a = {name: value.numpy() for name, value in n.items()}
    critics = reference.critic_loss(
        a["dx_x"], a["dx_xhat"], a["dy_y"], a["dy_yhat"], a["dx_xbar"], a["dy_ybar"], margin=0.25
    )
    generators = reference.generator_loss(
        a["dx_xhat"], a["dy_yhat"], a["x"], a["g_yhat"], a["y"], a["f_xhat"], a["yhat"], a["ybar"], a["f_xbar"], 7.0
    )
    extractor = reference.extractor_loss(a["noise"], a["x"], a["yhat"], a["xhat"], a["y"], a["h_xhat"])
    # nothing is stepped between the updates here, so all losses belong to the same weights
    losses = {update.group: update.loss.item() for update in one.updates("train", images, context())}
    assert losses == pytest.approx({"critics": critics, "generators": generators, "extractor": extractor}, rel=1e-4)


@pytest.mark.parametrize("row", ROWS[1:])
def test_training_equals_the_literal_port(row: str) -> None:
    one = method(losses=row, final_lr=1.0)  # the port's rate does not decay
    twins = [
        *(reference.Generator(1, 4, 1) for _ in range(2)),
        reference.Extractor(1, 4, 4),
        *(reference.Critic(1, 4) for _ in range(2)),
    ]
    for ours, theirs in zip(networks(one).values(), twins, strict=True):
        copied(ours, theirs)
    one.double()
    step = reference.ReferenceStep(
        *(twin.double() for twin in twins),
        lr=1e-3,
        bypass="C" in row,
        boosting="D" in row,
        noise_consistency="E" in row,
    )
    trainer = Trainer(one, OneBatch(torch.double), replace(ISCL.recipes["smoke"], steps=100), seed=0)
    x, y = 2 * batch()["noisy"].double() - 1, 2 * batch()["clean_unpaired"].double() - 1
    for done in trainer.run():
        step(x, y)
        if done == 4:
            break
    for ours, theirs in zip(networks(one).values(), twins, strict=True):
        for first, second in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(first, second, rtol=1e-9, atol=1e-10), row


def test_who_learns_from_which_loss() -> None:
    one = method()
    allowed = {"critics": {"DX", "DY"}, "generators": {"F", "G"}, "extractor": {"H"}}
    groups = one.phases()[0].groups
    for update in one.updates("train", batch(), context()):
        stepped = {name for name, network in networks(one).items() if network in groups[update.group].networks}
        assert stepped == allowed[update.group]
        reached = _reached(one, update.loss)
        # the critics are fixed functions in the generators' loss: the trainer asks for no gradient of theirs
        assert reached - ({"DX", "DY"} if update.group == "generators" else set()) == allowed[update.group]


def test_every_adversarial_term_reaches_its_generator() -> None:
    one = method(nested_weight=0.0, losses="A")
    updates = one.updates("train", batch(), context())
    loss = next(update.loss for update in updates if update.group == "generators")
    for network in (one.denoiser, one.degrader):
        gradients = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert sum(gradient.abs().sum() for gradient in gradients) > 1e-4


def test_critics_tell_two_obviously_different_sets_apart() -> None:
    one = method(nested_weight=0.0, lr=3e-3)
    groups = one.phases()[0].groups
    optimizer = torch.optim.RAdam(groups["critics"].parameters(), lr=3e-3)
    noisy, clean = 2 * batch()["noisy"] - 1, 2 * batch()["clean_unpaired"] - 1
    for _ in range(60):  # the critics alone: bright clean images against dark noisy ones
        denoised, degraded = torch.zeros_like(noisy) - 0.9, torch.zeros_like(clean) + 0.9
        update = one._critics_update(noisy, clean, denoised, degraded, None)
        optimizer.zero_grad()
        update.loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert one.clean_critic(clean).mean() > one.clean_critic(denoised).mean() + 0.5
    assert one.noisy_critic(noisy).mean() > one.noisy_critic(degraded).mean() + 0.5


def _reached(one: ISCL, loss: Tensor) -> set[str]:
    names, parameters = zip(*((n, p) for n, net in networks(one).items() for p in net.parameters()), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
