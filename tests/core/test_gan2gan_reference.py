"""GAN2GAN against a literal port: networks, the W-GAN's step and its variants, schedules, the denoisers' steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from denoise_core.images.source import ImageSource
from denoise_core.method import Context, create
from denoise_core.methods.gan2gan import GAN, GAN2GAN, decay, flipped
from denoise_core.networks.dncnn import DnCNN
from denoise_core.networks.gan2gan import NoiseGenerator, PatchCritic, SharedUNet
from denoise_core.schedule import steps as halvings
from denoise_core.seeding import generator
from denoise_core.trainer import Trainer
from tests.core import gan2gan_reference as reference

TINY: Mapping[str, Any] = {
    "batch_size": 3, "denoiser_batch_size": 3, "generator_width": 32, "critic_width": 4, "rough_width": 4,
    "rough_depth": 4, "cycle_depth": 3, "denoiser_width": 4, "denoiser_depth": 4, "latent": 16, "critic_steps": 3,
    "denoiser_steps": 1.0, "iterations": 0,
}  # fmt: skip
STEPS = 5
"""Of each phase; the port's 30 epochs of the W-GAN and 50 of a denoiser are divided among them."""


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed, "test"), dtype=torch.double)


class FewBatches:
    """A source of doubles that gives another batch at each of ten steps."""

    channels, fields = 1, frozenset(("noisy", "smooth"))

    def check(self, patch: int) -> list[str]:
        return []

    def batch(self, *, step: int, **_: Any) -> dict[str, Tensor]:
        smooth = tensor(3, 1, 64, 64, seed=100 + step % 10) - 0.5
        noise = smooth - smooth.mean((1, 2, 3), keepdim=True)
        return {"noisy": tensor(3, 1, 64, 64, seed=step % 10), "smooth": 0.2 * noise}


def method(**config: Any) -> GAN2GAN:
    """A tiny GAN2GAN in double precision; g1's vectors are drawn in single precision and converted."""
    made = create("gan2gan", {**TINY, **config}, 1, seed=3)
    assert isinstance(made, GAN2GAN)
    made.double()
    made.generator.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    return made


@pytest.fixture(autouse=True)
def _no_extraction(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches of this file hold their noise."""

    def prepare(self: GAN2GAN, source: ImageSource) -> ImageSource:
        return source

    monkeypatch.setattr(GAN2GAN, "prepare", prepare)


def trainer(one: GAN2GAN) -> Trainer:
    return Trainer(one, FewBatches(), replace(GAN2GAN.recipes["smoke"], steps=STEPS), seed=0)


def copied(source: nn.Module, target: nn.Module) -> nn.Module:
    """``target`` in double precision with the parameters of ``source``, in their order."""
    with torch.no_grad():
        for ours, theirs in zip(source.parameters(), target.double().parameters(), strict=True):
            assert ours.shape == theirs.shape
            theirs.copy_(ours)
    return target


def twin(network: nn.Module) -> nn.Module:
    """The port of a network, with its weights."""
    made: nn.Module
    if isinstance(network, NoiseGenerator):
        made = reference.NoiseGenerator(1, features=4, latent=16)
    elif isinstance(network, PatchCritic):
        made = reference.Critic(1, width=4)
    elif isinstance(network, SharedUNet):
        made = reference.UNet(1, sigmoid=network.sigmoid)
    else:
        assert isinstance(network, DnCNN)
        convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
        made = reference.DnCNN(1, convolutions, 4, sigmoid=network.sigmoid)
    return copied(network, made)


def moments(network: nn.Module) -> list[Tensor]:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    found = [one for norm in norms for one in (norm.running_mean, norm.running_var)]
    return [one for one in found if one is not None]


def assert_equal(ours: nn.Module, theirs: nn.Module, what: str, *, running: bool = True) -> None:
    """All weights, and all running moments where they matter."""
    # a bias before batch normalisation changes nothing: its gradient is rounding, which RMSprop scales up
    idle = {id(module.bias) for module in ours.modules() if isinstance(module, nn.Conv2d) and module.out_channels > 1}
    for first, second in zip(ours.parameters(), theirs.parameters(), strict=True):
        atol = 1e-6 if id(first) in idle and what in ("f1", "f2") else 1e-11
        torch.testing.assert_close(first, second, rtol=1e-9, atol=atol, msg=lambda m: f"{what}: {m}")
    if running:
        for mine, other in zip(moments(ours), moments(theirs), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11, msg=lambda m: f"{what}, moments: {m}")


def draws(phase: str, step: int) -> Context:
    return Context(0, phase, step, STEPS, torch.device("cpu"), 0, 1)


# ---- networks ----


@pytest.mark.parametrize(
    ("ours", "theirs", "count"),
    [
        (NoiseGenerator(1), reference.NoiseGenerator(1), 174_448),
        (PatchCritic(1), reference.Critic(1), 2_634_369),
        (DnCNN(1, 15), reference.DnCNN(1, 15), 482_048),
        (DnCNN(1, 17), reference.DnCNN(1, 17), 556_032),
        (DnCNN(1, 20), reference.DnCNN(1, 20), 667_008),
        (DnCNN(3, 17), reference.DnCNN(3, 17), 556_032 + 2_304),
        (SharedUNet(1), reference.UNet(1), 698_017),
    ],
)
def test_parameter_counts_of_the_sheet(ours: nn.Module, theirs: nn.Module, count: int) -> None:
    assert reference.parameter_count(ours) == reference.parameter_count(theirs) == count


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "g1": lambda: NoiseGenerator(1, 32, 64, 16),
    "critic": lambda: PatchCritic(1, 4),
    "g2": lambda: DnCNN(1, 5, 4, sigmoid=True),
    "g3": lambda: DnCNN(1, 4, 4),
    "unet": lambda: SharedUNet(1),
    "unet g2": lambda: SharedUNet(1, sigmoid=True),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [True, False])
def test_networks_equal_the_port(name: str, training: bool) -> None:
    ours = NETWORKS[name]().double()
    for index, parameter in enumerate(ours.parameters()):
        nn.init.normal_(parameter, 0, 0.1, generator=generator(index, "parameter"))
    theirs = twin(ours)
    shape = {"g1": (3, 16), "critic": (3, 1, 64, 64)}.get(name, (2, 1, 32, 64))
    inputs = [tensor(*shape).requires_grad_() for _ in range(2)]
    outputs = [network.train(training)(one) for network, one in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-12)
    weight = tensor(*outputs[0].shape, seed=5)
    for output in outputs:
        (output * weight).sum().backward()
    for first, second in zip((inputs[0], *ours.parameters()), (inputs[1], *theirs.parameters()), strict=True):
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-8, atol=1e-10)


def test_initialisation_is_the_codes() -> None:
    one = create("gan2gan", {}, 1, seed=0)
    assert isinstance(one, GAN2GAN)
    for network in (one.generator, one.rough, one.cycle, one.noise_critic, one.noisy_critic):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.numel() > 1000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
            elif isinstance(module, nn.BatchNorm2d):
                assert module.weight.mean().item() == pytest.approx(1, abs=0.03)
                assert not module.bias.any()
    inner = next(module for module in one.denoiser.modules() if isinstance(module, nn.BatchNorm2d))
    assert torch.equal(inner.weight, torch.ones(64))  # the denoiser's is PyTorch's
    assert inner.momentum == 0.1


# ---- the W-GAN ----

VARIANTS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full": ({}, {}),
    "no L_Z": ({"variant": "no L_Z"}, {"noisy_term": False}),
    "no L_cyc": ({"variant": "no L_cyc"}, {"cycle_term": False}),
    "no sigmoid": ({"variant": "no sigmoid"}, {}),
    "unet": ({"network": "unet", "critic_steps": 1}, {"critic_steps": 1}),
    "other weights": (
        {"noise_weight": 1.5, "noisy_weight": 2.5, "cycle_weight": 0.5, "clip": 0.1, "critic_steps": 2,
         "generator_lr": 1e-3, "critic_lr": 1e-4},
        {"weights": (1.5, 2.5, 0.5), "clip": 0.1, "critic_steps": 2, "generator_lr": 1e-3, "critic_lr": 1e-4},
    ),
}  # fmt: skip


def gan_twins(one: GAN2GAN) -> dict[str, nn.Module]:
    networks = {
        "g1": one.generator, "g2": one.rough, "g3": one.cycle, "f1": one.noise_critic, "f2": one.noisy_critic,
    }  # fmt: skip
    return {name: twin(network) for name, network in networks.items()}


def gan_batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """(z, n, r) as the method's step sees them."""
    context, batch = draws(GAN, step), FewBatches().batch(step=step)
    z, n = flipped((batch["noisy"], batch["smooth"]), context)
    return z, n, context.randn((3, 16)).double()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gans_training_equals_the_port(variant: str) -> None:
    ours, theirs = VARIANTS[variant]
    one = method(**ours)
    twins = gan_twins(one)
    step = reference.GanStep(*twins.values(), **{"critic_steps": 3, **theirs})
    before = {name: [p.clone() for p in network.parameters()] for name, network in twins.items()}
    for done in trainer(one).run():
        step(*gan_batch(done - 1))
        for _ in range(30 // STEPS):
            step.end_epoch()
        if variant == "unet":  # in double precision it takes seconds
            break
    assert one.generator.training and one.rough.training and one.cycle.training
    assert_equal(one.generator, step.g1, "g1")
    assert_equal(one.rough, step.g2, "g2")
    assert_equal(one.cycle, step.g3, "g3")
    assert_equal(one.noise_critic, step.f1, "f1", running=False)
    assert_equal(one.noisy_critic, step.f2, "f2", running=False)
    # what has no loss stays as it was, everything else has moved
    still = {"no L_Z": {"f2"}, "no L_cyc": {"g3"}}.get(variant, set())
    for name, network in twins.items():
        pairs = zip(before[name], network.parameters(), strict=True)
        assert all(torch.equal(first, second) for first, second in pairs) == (name in still), name


@pytest.mark.parametrize("variant", ["full", "no L_Z", "no L_cyc", "no sigmoid"])
def test_moments_count_the_passes_of_the_plain_order(variant: str) -> None:
    """Each running moment enters with the weight that so many passes of the port give it."""
    one = method(variant=variant, critic_steps=4)
    twins = gan_twins(one)
    passes = {"g1": 0, "g2": 0}

    def counted(name: str) -> None:
        def count(*_: Any) -> None:
            passes[name] += 1

        twins[name].register_forward_hook(count)

    for name in passes:
        counted(name)
    step = reference.GanStep(
        *twins.values(), critic_steps=4, noisy_term=variant != "no L_Z", cycle_term=variant != "no L_cyc"
    )
    step(*gan_batch(0))
    assert passes == ({"g1": 5, "g2": 1} if variant == "no L_Z" else {"g1": 9, "g2": 5})
    for name, network in (("g1", one.generator), ("g2", one.rough)):
        for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
            assert norm.momentum == pytest.approx(1 - 0.9 ** passes[name])
    norms = [module for module in one.cycle.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}


def test_critics_stay_within_their_bound_after_every_step() -> None:
    one = method(clip=0.015, critic_lr=1e-3)
    seen: list[float] = []
    groups = one.phases()[0].groups
    bounds = {"noise_critic": one.noise_critic, "noisy_critic": one.noisy_critic}
    running = trainer(one)
    for name, critic in bounds.items():
        optimizer, after = running._optimizers[name], running.stretches[0].phase.groups[name].after
        assert groups[name].after is not None and after is not None and optimizer is not None
        for _ in range(4):
            for parameter in critic.parameters():
                parameter.grad = tensor(*parameter.shape, seed=1) - 0.5
            optimizer.step()
            assert max(parameter.abs().max().item() for parameter in critic.parameters()) > 0.015
            after()
            seen.append(max(parameter.abs().max().item() for parameter in critic.parameters()))
        norms = [module for module in critic.modules() if isinstance(module, nn.BatchNorm2d)]
        assert all(norm.weight.abs().max() <= 0.015 for norm in norms)  # it starts near 1
    assert seen == [pytest.approx(0.015)] * 8
    for _ in running.run():
        for critic in bounds.values():
            assert all(parameter.abs().max() <= 0.015 for parameter in critic.parameters())


# ---- schedules ----


def rates(optimizer: torch.optim.Optimizer, end_epoch: Callable[[], object], epochs: int) -> list[float]:
    """The rate in each epoch."""
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        end_epoch()
    return found


def test_the_gans_decay_equals_the_code_in_every_epoch() -> None:
    step = reference.GanStep(*(nn.Conv2d(1, 1, 1) for _ in range(5)), generator_lr=1.0)
    expected = rates(step.adams[0], step.end_epoch, 30)
    assert expected[:12] == [1.0] * 12 and expected[12] == pytest.approx(0.95) and expected[29] == pytest.approx(0.1)
    for within in (0, 0.5, 0.999):
        assert [decay((epoch + within) / 30) for epoch in range(30)] == pytest.approx(expected)


@pytest.mark.parametrize("steps", [30, 60, 90, 600])
def test_the_decay_changes_exactly_at_the_epochs(steps: int) -> None:
    each = steps // 30
    assert [decay(step / steps) for step in range(steps)] == [decay(step // each / 30) for step in range(steps)]


def test_the_denoisers_decay_equals_the_papers_in_every_epoch() -> None:
    step = reference.DenoiserStep(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1), None, lr=1.0)
    expected = rates(step.adam, step.end_epoch, 50)
    ours = method(iterations=1).phases()[1].groups["denoiser"].schedule
    assert [ours(epoch / 50) for epoch in range(50)] == pytest.approx(expected)
    assert [halvings((0.4, 0.8), 0.5)(epoch / 50) for epoch in (19, 20, 39, 40)] == [1, 0.5, 0.5, 0.25]


def test_the_trainer_sets_these_rates() -> None:
    one = method(iterations=1, critic_steps=1)
    running, seen = trainer(one), []
    for _ in running.run():
        seen.append({name: optimizer.param_groups[0]["lr"] for name, optimizer in running._optimizers.items()})
    assert [rate["generators"] for rate in seen[:5]] == pytest.approx([4e-4 * f for f in (1, 1, 0.95, 0.65, 0.35)])
    assert {rate["noise_critic"] for rate in seen[:5]} == {rate["noisy_critic"] for rate in seen[:5]} == {5e-5}
    assert [rate["denoiser"] for rate in seen[5:]] == pytest.approx([1e-3 * f for f in (1, 1, 0.5, 0.5, 0.25)])


# ---- the denoisers ----


@pytest.mark.parametrize(
    ("pair", "initial", "estimate"),
    [
        ("two", "g2", "previous"),
        ("estimate", "g2", "previous"),
        ("two", "noisy", "previous"),
        ("estimate", "noisy", "previous"),
        ("two", "g2", "first"),
    ],
)
def test_all_phases_together_equal_the_port(pair: str, initial: str, estimate: str) -> None:
    """W-GAN, G2G1, G2G2: g1 and g2 leave the first phase with the port's moments and are then evaluated with them."""
    one = method(pair=pair, initial=initial, estimate=estimate, iterations=2, critic_steps=2)
    twins, denoiser = gan_twins(one), twin(one.denoiser)
    gan = reference.GanStep(*twins.values(), critic_steps=2)
    first_estimator = twins["g2"] if initial == "g2" else None
    step: reference.DenoiserStep | None = None
    running = trainer(one)
    for done in running.run():
        number, local = divmod(done - 1, STEPS)
        if number == 0:
            gan(*gan_batch(done - 1))
            for _ in range(30 // STEPS):
                gan.end_epoch()
            continue
        if local == 0:
            estimator = first_estimator
            if number == 2 and estimate == "previous":
                estimator = twin(one.denoiser)
                estimator.load_state_dict(denoiser.state_dict())
            step = reference.DenoiserStep(denoiser, twins["g1"], estimator, pair=pair == "two")
        assert step is not None
        context = draws(f"g2g{number}", local)
        (z,) = flipped((FewBatches().batch(step=done - 1)["noisy"],), context)
        r1 = context.randn((3, 16)).double()
        loss = step(z, r1, context.randn((3, 16)).double())
        assert running.logs()["loss"] == pytest.approx(loss, rel=1e-5)
        for _ in range(50 // STEPS):
            step.end_epoch()
    assert int(one.stage) == 2
    assert_equal(one.denoiser, denoiser, "denoiser")
    assert_equal(one.generator, twins["g1"], "g1")
    assert_equal(one.rough, twins["g2"], "g2")
    with torch.no_grad():
        images = tensor(1, 1, 40, 50)
        expected = denoiser.eval()(images).clamp(0, 1)
        torch.testing.assert_close(one.eval().denoise(images), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("pair", ["two", "estimate"])
@pytest.mark.parametrize("phase", ["g2g1", "g2g2"])
def test_only_the_denoiser_learns_in_its_phases(phase: str, pair: str) -> None:
    one = method(iterations=2, pair=pair)
    one.enter(phase)
    one.train()
    frozen = {"g1": one.generator, "g2": one.rough, "g3": one.cycle, "previous": one.previous,
              "f1": one.noise_critic, "f2": one.noisy_critic}  # fmt: skip
    before = {name: [value.clone() for value in network.state_dict().values()] for name, network in frozen.items()}
    updates = list(one.updates(phase, FewBatches().batch(step=0), draws(phase, 0)))
    assert [update.group for update in updates] == ["denoiser"]
    for network in frozen.values():
        network.requires_grad_(True)
    (update,) = one.updates(phase, FewBatches().batch(step=0), draws(phase, 0))
    parameters = [parameter for network in frozen.values() for parameter in network.parameters()]
    reached = torch.autograd.grad(update.loss, parameters, allow_unused=True, retain_graph=True)
    assert all(gradient is None for gradient in reached)
    own = torch.autograd.grad(update.loss, list(one.denoiser.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in own)
    for name, network in frozen.items():  # running moments as well
        for value, old in zip(network.state_dict().values(), before[name], strict=True):
            assert torch.equal(value, old), name


def test_who_learns_from_which_loss_of_the_gan() -> None:
    one = method()
    networks = {"f1": one.noise_critic, "f2": one.noisy_critic, "g1": one.generator, "g2": one.rough, "g3": one.cycle}
    allowed = {"noise_critic": {"f1"}, "noisy_critic": {"f2"}, "generators": {"g1", "g2", "g3"}}
    order = []
    for update in one.updates(GAN, FewBatches().batch(step=0), draws(GAN, 0)):
        order.append(update.group)
        names, parameters = zip(*((n, p) for n, net in networks.items() for p in net.parameters()), strict=True)
        gradients = torch.autograd.grad(update.loss, parameters, allow_unused=True, retain_graph=True)
        reached = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
        # the critics are fixed functions in the generators' loss: the trainer asks for no gradient of theirs
        assert reached - ({"f1", "f2"} if update.group == "generators" else set()) == allowed[update.group]
        stepped = one.phases()[0].groups[update.group].networks
        assert {name for name, network in networks.items() if network in stepped} == allowed[update.group]
    assert order == ["noise_critic"] * 3 + ["noisy_critic"] * 3 + ["generators"]
