"""ISCL: averages, inference, the rows of Table I, bad settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_core import checkpoint as checkpoints
from denoise_core.averaging import Lookahead, WeightAverage
from denoise_core.errors import TrainingDiverged, UserError
from denoise_core.images.image_set import ImageSet
from denoise_core.images.source import SimulatedNoiseSource
from denoise_core.method import create, method_class
from denoise_core.methods.iscl import ISCL, OFFICIAL, SMALL
from denoise_core.networks.norms import BatchInstanceNorm
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator
from denoise_core.trainer import Trainer
from tests.core.iscl_toys import ROWS, TINY, OneBatch, context, method, networks, tensor

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
    """Interrupted after every step, it is after each where the uninterrupted one is."""
    whole, interrupted = table_one(row), table_one(row)
    for step in whole.run():
        path = checkpoints.save(tmp_path / str(step), interrupted.checkpoint())
        interrupted = table_one(row)
        interrupted.restore(checkpoints.load(path))
        assert next(iter(interrupted.run())) == step
        found = interrupted.method.state_dict()
        for name, value in whole.method.state_dict().items():
            assert torch.equal(value, found[name]), (row, step, name)


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
