"""ISCL: networks, normalisation, losses, who learns from what, averages, inference, rows of Table I."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_core import checkpoint as checkpoints
from denoise_core.averaging import Lookahead, WeightAverage
from denoise_core.errors import TrainingDiverged, UserError
from denoise_core.images.image_set import ImageSet
from denoise_core.images.source import SimulatedNoiseSource
from denoise_core.method import Context, create, method_class
from denoise_core.methods.iscl import ISCL, OFFICIAL, SMALL
from denoise_core.networks.cyclegan import Critic, Extractor, Generator, symmetric_pad
from denoise_core.networks.norms import BatchInstanceNorm, _Fold
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator
from denoise_core.trainer import Trainer
from tests.core import iscl_reference as reference

ROWS = ("A", "A+B", "A+B+C", "A+B+C+D", "A+B+C+D+E")
TINY = {
    "width": 4, "blocks": 1, "extractor_width": 4, "extractor_layers": 4, "critic_width": 4, "critic_depth": 4,
    "patch_size": 64, "batch_size": 3, "lr": 1e-3, "augmentation": "none", "lookahead": False,
}  # fmt: skip


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed, "test"))


def method(**config: Any) -> ISCL:
    made = create("iscl", {**TINY, **config}, 1, seed=3)
    assert isinstance(made, ISCL)
    return made


def context(step: int = 0, steps: int = 10) -> Context:
    return Context(0, "train", step, steps, torch.device("cpu"), 0, 1)


def batch() -> dict[str, Tensor]:
    return {"noisy": 0.5 * tensor(3, 1, 64, 64), "clean_unpaired": tensor(3, 1, 64, 64, seed=1)}


def networks(one: ISCL) -> dict[str, nn.Module]:
    names = {"F": one.denoiser, "G": one.degrader, "H": one.extractor, "DX": one.noisy_critic, "DY": one.clean_critic}
    return {name: network for name, network in names.items() if network is not None}


def copied(source: nn.Module, target: nn.Module) -> nn.Module:
    """``target`` with the parameters of ``source``, in their order."""
    pairs = zip(source.parameters(), target.parameters(), strict=True)
    with torch.no_grad():
        for ours, theirs in pairs:
            assert ours.shape == theirs.shape
            theirs.copy_(ours)
    return target


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
    assert torch.autograd.gradcheck(lambda *values: _Fold.apply(*values, slope)[0], (images, *parameters))  # type: ignore[no-untyped-call]


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


class OneBatch:
    """A source that gives the same batch at every step."""

    channels, fields = 1, frozenset(("noisy", "clean_unpaired"))

    def __init__(self, precision: torch.dtype = torch.float32):
        self._precision = precision

    def check(self, patch: int) -> None: ...

    def batch(self, **_: Any) -> dict[str, Tensor]:
        return {name: value.to(self._precision) for name, value in batch().items()}


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


# ---- averages ----


def test_weight_average_is_the_running_mean_and_is_what_denoise_uses() -> None:
    network = nn.Linear(2, 1)
    average, states = WeightAverage(network), []
    untouched = tensor(5, 2)
    assert torch.equal(average.apply_to(network, untouched), network(untouched))  # nothing averaged yet
    for index in range(5):
        nn.init.uniform_(network.weight, generator=generator(index, "w"))
        average.add(network, index + 1)
        states.append(network.weight.detach().clone())
    expected = F.linear(untouched, torch.stack(states).mean(0), network.bias)
    assert torch.allclose(average.apply_to(network, untouched), expected, atol=1e-6)

    one, noisy = method(gamma=1.0), tensor(1, 1, 64, 64)
    plain = one.denoise(noisy)
    one.average.add(one.denoiser, 1)
    with torch.no_grad():
        for parameter in one.denoiser.parameters():
            parameter.add_(0.01)
    assert torch.allclose(one.denoise(noisy), plain, atol=1e-6)
    one.reconfigure({"swa": False})
    assert not torch.allclose(one.denoise(noisy), plain, atol=1e-3)


def test_averaging_starts_where_it_should() -> None:
    for every, count in ((1, 4), (3, 2)):  # steps 6, 7, 8, 9 of 0..9; steps 6 and 9
        one = method(swa_start=0.6, swa_every=every)
        list(Trainer(one, OneBatch(), replace(ISCL.recipes["smoke"], steps=10), seed=0).run())
        assert int(one.average.count) == int(one.degrader_average.count) == count


def test_lookahead_by_hand() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 1.0)
    lookahead = Lookahead((network,), every=2, alpha=0.5)
    seen = []
    for step, value in enumerate((3.0, 5.0, 4.0, 9.0), 1):
        nn.init.constant_(network.weight, value)
        lookahead.after_step((network,), step)
        seen.append(network.weight.item())
    # after two steps slow = 1 + (5 - 1) / 2 = 3, after four 3 + (9 - 3) / 2 = 6
    assert seen == [3.0, 3.0, 4.0, 6.0]


def test_rho_stays_in_bounds() -> None:
    one = method()
    norms = [module for module in one.modules() if isinstance(module, BatchInstanceNorm)]
    for index, norm in enumerate(norms):
        nn.init.constant_(norm.rho, (-0.4, 1.7)[index % 2])
    next(Trainer(one, OneBatch(), replace(ISCL.recipes["smoke"], steps=3), seed=0).run())
    assert {round(norm.rho.mean().item(), 1) for norm in norms} <= {0.0, 1.0}
    assert all(norm.rho.min() >= 0 and norm.rho.max() <= 1 for norm in norms)


# ---- inference ----


def test_gamma_one_is_f_and_gamma_zero_is_x_minus_h() -> None:
    one, noisy = method(), tensor(1, 1, 64, 60)
    x = 2 * noisy - 1
    assert one.extractor is not None
    with torch.no_grad():
        ends = {1.0: one.denoiser(x, "running"), 0.0: x - one.extractor(x, "running")}
        for gamma, expected in ends.items():
            one.reconfigure({"gamma": gamma})
            assert torch.allclose(one.denoise(noisy), ((expected + 1) / 2).clamp(0, 1), atol=1e-6)
        one.reconfigure({"gamma": 0.25})
        mixed = 0.25 * ends[1.0] + 0.75 * ends[0.0]
        assert torch.allclose(one.denoise(noisy), ((mixed + 1) / 2).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize("name", ["iscl", "cyclegan"])
@pytest.mark.parametrize("size", [(64, 64), (63, 50), (17, 21)])
def test_any_size_is_denoised(name: str, size: tuple[int, int]) -> None:
    one = create(name, {**TINY}, 1, 0)
    noisy = tensor(2, 1, *size)
    result = one.denoise(noisy)
    assert result.shape == noisy.shape
    assert result.isfinite().all()


def test_only_inference_values_may_change_afterwards() -> None:
    with pytest.raises(ValueError, match="width"):
        method().reconfigure({"width": 8})
    with pytest.raises(UserError, match="gamma"):
        method().reconfigure({"gamma": 2.0})


# ---- Table I ----


def noise_source(seed: int = 7) -> SimulatedNoiseSource:
    sets = [
        ImageSet(name, ("a", "b"), tuple(tensor(1, 80, 80, seed=10 * index + k) for k in range(2)))
        for index, name in enumerate(("noisy", "clean"), 1)
    ]
    return SimulatedNoiseSource(sets[0], parse_noise("gauss25"), "frozen", seed, torch.device("cpu"), clean=sets[1])


def table_one(row: str) -> Trainer:
    small = {**ISCL.recipes["smoke"].config, "losses": row, "swa_start": 0.3, "lookahead_every": 2}
    return Trainer(create("iscl", small, 1, 5), noise_source(), replace(ISCL.recipes["smoke"], steps=6), seed=5)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_resumes_bitwise_at_any_step(row: str, tmp_path: Path) -> None:
    whole = table_one(row)
    list(whole.run())
    expected = whole.method.state_dict()
    for stop in range(1, 6):
        first = table_one(row)
        for step in first.run():
            if step == stop:
                break
        path = checkpoints.save(tmp_path / str(stop), first.checkpoint())
        second = table_one(row)
        second.restore(checkpoints.load(path))
        list(second.run())
        for name, value in second.method.state_dict().items():
            assert torch.equal(value, expected[name]), (row, stop, name)


def test_rows_differ_and_the_first_is_cyclegan() -> None:
    def trained(name: str, config: Mapping[str, Any]) -> Tensor:
        one = create(name, {**TINY, **config}, 1, 3)
        list(Trainer(one, OneBatch(), replace(ISCL.recipes["smoke"], steps=3), seed=0).run())
        return torch.cat([p.detach().flatten() for p in one.denoiser.parameters()])  # type: ignore[union-attr]

    rows = [trained("iscl", {"losses": row}) for row in ROWS]
    assert torch.equal(rows[0], rows[1])  # H that nobody listens to changes nothing in F
    for first, second in ((1, 2), (2, 3), (3, 4)):
        assert not torch.equal(rows[first], rows[second])
    assert torch.equal(trained("cyclegan", {}), rows[0])


@pytest.mark.parametrize("poisoned", ["F", "G", "H", "DX", "DY"])
def test_nan_anywhere_ends_the_training_with_the_loss(poisoned: str) -> None:
    one = method()
    trainer = Trainer(one, OneBatch(), replace(ISCL.recipes["smoke"], steps=4), seed=0)
    parameter = next(networks(one)[poisoned].parameters())
    with torch.no_grad():
        parameter.view(-1)[0] = float("nan")
    next(trainer.run())
    with pytest.raises(TrainingDiverged, match=r"^(critics|adversarial|cycle|nested|extractor) became nan"):
        trainer.logs()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"batch_size": 1}, "constant"),
        ({"losses": "A+C"}, "need the noise extractor"),
        ({"losses": "B"}, "with A among them"),
        ({"patch_size": 32}, "too small for critics"),
        ({"gama": 1}, "gamma"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create("iscl", config, 1, 0)


def test_augmentation_has_the_orientations_that_it_should() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    for name, count in (("full", 8), ("official", 5), ("none", 1)):
        one = method(augmentation=name, **{k: v for k, v in SMALL.items() if k in ("patch_size", "critic_depth")})
        seen = {tuple(one._augmented(image.expand(64, -1, -1, -1), context(s))[k].flatten().tolist())
                for s in range(4) for k in range(64)}  # fmt: skip
        assert len(seen) == count
        assert all(sorted(one_seen) == list(range(16)) for one_seen in seen)
    assert len(set(OFFICIAL)) == 5


def test_gamma_leaves_the_training_alone_in_every_name() -> None:
    kind = method_class("iscl").Config
    assert set(kind.inference_names()) == {"gamma", "statistics", "swa"}
