"""The trainer, over every method of the registry: resume, data parallelism, checkpoints, gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from denoise_core import checkpoint as checkpoints
from denoise_core.errors import TrainingDiverged, UserError
from denoise_core.images.image_set import ImageSet
from denoise_core.images.source import Realisation, SimulatedNoiseSource
from denoise_core.method import Recipe, create, methods
from denoise_core.networks.norms import BatchNorm
from denoise_core.noise.models import parse_noise
from denoise_core.trainer import Ranks, Trainer

STEPS = 5
NAMES = sorted(methods())


def image_set(seed: int = 1) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    return ImageSet("random", ("a", "b", "c"), tuple(torch.rand(1, 96, 96, generator=generator) for _ in range(3)))


def trainer(name: str, ranks: Ranks | None = None, **changes: object) -> Trainer:
    recipe: Recipe = replace(methods()[name].recipes["smoke"], steps=STEPS, **changes)  # type: ignore[arg-type]
    realisation: Realisation = "frozen" if methods()[name].assumes.given else "fresh"
    source = SimulatedNoiseSource(
        image_set(), parse_noise("gauss25"), realisation, 7, torch.device("cpu"), clean=image_set(2)
    )
    return Trainer(create(name, recipe.config, 1, 7), source, recipe, 7, "cpu", ranks)


def weights(one: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in one.method.state_dict().items()}


def result(one: Trainer) -> dict[str, Tensor]:
    """What the last phase leaves; networks that mattered before it only are not kept in its checkpoints."""
    return {name: value.clone() for name, value in one.kept(one.stretches[-1].phase.name).items()}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("name", NAMES)
def test_resume_is_bitwise_at_every_step(name: str, tmp_path: Path) -> None:
    """Interrupted after every step of every phase, a training is after each where the uninterrupted one is."""
    whole, interrupted, steps = trainer(name), trainer(name), []
    for step in whole.run():
        interrupted = resumed(interrupted, tmp_path / str(step))
        assert next(iter(interrupted.run())) == step
        assert_equal(result(interrupted), result(whole))
        steps.append(step)
    assert steps == list(range(1, whole.steps + 1))


@pytest.mark.parametrize("name", NAMES)
def test_a_training_that_goes_on_ends_in_the_same_bits(name: str, tmp_path: Path) -> None:
    """Also where it was interrupted once, and does several steps and phases after that."""
    whole, first = trainer(name), trainer(name)
    list(whole.run())
    for step in first.run():
        if step == min(2, first.steps):
            break
    second = resumed(first, tmp_path)
    assert second.step == first.step
    list(second.run())
    assert_equal(result(second), result(whole))


def resumed(one: Trainer, folder: Path) -> Trainer:
    """What goes on from its checkpoint."""
    path = checkpoints.save(folder, one.checkpoint())
    again = trainer(one.method.name)
    again.restore(checkpoints.load(path))
    return again


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_trained(name: str) -> None:
    one = trainer(name)
    before = weights(one)
    list(one.run())
    assert all(part.grad is not None for part in one.method.parameters() if part.requires_grad)
    # the deepest layers of an all but zero network get gradients too small to move them yet
    assert sum(not torch.equal(value, before[key]) for key, value in weights(one).items()) > len(before) / 4


@pytest.mark.parametrize("name", NAMES)
def test_seed_and_nothing_else_decides(name: str) -> None:
    torch.manual_seed(0)
    first = trainer(name)
    list(first.run())
    torch.manual_seed(99)
    torch.rand(10)
    second = trainer(name)
    list(second.run())
    assert_equal(weights(first), weights(second))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"channels_last": False}], ids=["bf16", "contiguous"])
def test_numerics_options_stay_close_to_fp32(name: str, changes: dict[str, object]) -> None:
    plain, other = trainer(name), trainer(name, **changes)
    list(plain.run())
    list(other.run())
    for key, value in weights(plain).items():
        assert value.dtype == weights(other)[key].dtype
        # Adam moves each weight by about lr = 3e-3 a step, whatever the gradient's size: a few go the other way
        # and what is measured from an untrained network's outputs has three digits in bf16
        off = (value.double() - weights(other)[key].double()).abs().mean()
        assert off < 2e-3 + 4e-3 * value.double().abs().mean(), key
    assert all(parameter.dtype == torch.float32 for parameter in other.method.parameters())


def test_compiled_training_gives_the_same_keys_and_close_weights() -> None:
    plain, compiled = trainer("n2c"), trainer("n2c", compile=True)
    list(plain.run())
    list(compiled.run())
    for key, value in weights(plain).items():
        assert torch.allclose(value, weights(compiled)[key], atol=3e-3), key


def _rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    save_normalised(rank, folder)
    for name in NAMES:
        one = trainer(name, Ranks(rank, world))
        list(one.run())
        one.synchronise_buffers()
        torch.save((weights(one), one.logs()), f"{folder}/{name}-{rank}.pt")
        if "statistics" in one.method.Config.inference_names():
            one.method.reconfigure({"statistics": "batch"})
        one.method.eval()
        for _ in range(rank + 1):  # the ranks have different numbers of test images: nobody may wait for the others
            one.method.denoise(torch.rand(1, 1, 64, 64))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of every method, one after another."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(_rank, args=(2, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_agree_with_one_process(name: str, two_ranks: Path) -> None:
    (first, logs_0), (second, logs_1) = (
        torch.load(two_ranks / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)
    )
    assert_equal(first, second)
    assert logs_0 == logs_1
    one = trainer(name)
    list(one.run())
    # a bias that batch normalisation takes away again has no gradient but rounding, which RMSprop makes a whole step of
    normalised = any(isinstance(module, BatchNorm) for module in one.method.modules())
    for key, value in weights(one).items():
        off = (value.double() - first[key].double()).abs()
        if normalised:
            assert off.mean() < 2e-3, key
        else:  # steps of 3e-3, and where a gradient is nearly zero Adam's are as large: its rounding shows (2e-5 seen)
            assert off.mean() < 5e-6 and off.max() < 1e-4, key
    for key, logged in one.logs().items():
        assert logged == pytest.approx(logs_0[key], rel=1e-4, abs=1e-3 if normalised else 0)


def test_batch_normalisation_is_that_of_the_global_batch(two_ranks: Path) -> None:
    ours, plain, images = batch_norm(), torch.nn.BatchNorm2d(3), normalised_images()
    plain.load_state_dict(ours.state_dict())
    images.requires_grad_()
    (plain(images).sin() * images.detach()).mean().backward()
    parts = [torch.load(two_ranks / f"norm-{rank}.pt", weights_only=True) for rank in range(2)]
    assert images.grad is not None and plain.weight.grad is not None
    # the trainer averages the gradients of the ranks, whose losses are means over half the batch
    assert torch.allclose(torch.cat([one["images"] for one in parts]) / 2, images.grad, atol=1e-7)
    assert torch.allclose((parts[0]["scale"] + parts[1]["scale"]) / 2, plain.weight.grad, atol=1e-6)
    for one in parts:
        assert torch.allclose(one["mean"], plain.running_mean, atol=1e-6)
        assert torch.allclose(one["var"], plain.running_var, atol=1e-5)


def batch_norm() -> BatchNorm:
    one = BatchNorm(3)
    with torch.no_grad():
        one.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
    return one


def normalised_images() -> Tensor:
    return torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(3)) * 2 + 1


def save_normalised(rank: int, folder: str) -> None:
    one, images = batch_norm(), normalised_images().chunk(2)[rank].clone().requires_grad_()
    (one(images).sin() * images.detach()).mean().backward()
    assert images.grad is not None and one.weight.grad is not None
    found = {"images": images.grad, "scale": one.weight.grad, "mean": one.running_mean, "var": one.running_var}
    torch.save(found, f"{folder}/norm-{rank}.pt")


def test_a_batch_that_the_workers_cannot_share_is_refused() -> None:
    with pytest.raises(UserError, match="A batch of 2 cannot be divided among 3 workers"):
        trainer("n2c", Ranks(0, 3))


def test_a_loss_that_is_not_finite_is_noticed() -> None:
    recipe = methods()["neighbor2neighbor"].recipes["smoke"]
    source = SimulatedNoiseSource(image_set(), parse_noise("gauss25"), "fresh", 7, torch.device("cpu"))
    method = create("neighbor2neighbor", {**recipe.config, "gamma": 1e300, "ramp": False}, 1, 7)
    one = Trainer(method, source, recipe, 7)
    next(one.run())
    with pytest.raises(TrainingDiverged, match="loss became inf at step 1 of 4"):
        one.logs()


@pytest.mark.parametrize("file", [checkpoints.WEIGHTS, checkpoints.STATE, checkpoints.META])
def test_a_damaged_checkpoint_is_noticed_and_set_aside(file: str, tmp_path: Path) -> None:
    path = checkpoints.save(tmp_path, trainer("n2c").checkpoint())
    content = (path / file).read_bytes()
    (path / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(checkpoints.CorruptCheckpoint):
        checkpoints.load(path)
    aside = checkpoints.set_aside(path)
    assert aside.is_dir() and checkpoints.latest(tmp_path) is None


def test_a_whole_checkpoint_is_never_away_and_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    """Where a training is stopped as soon as it has gone on, it saves the step that it began with again."""
    one = trainer("n2c").checkpoint()
    path = checkpoints.save(tmp_path, one)
    before = path.stat().st_ino
    assert checkpoints.save(tmp_path, one) == path and path.stat().st_ino == before
    (path / checkpoints.WEIGHTS).write_bytes(b"half")
    assert checkpoints.save(tmp_path, one) == path and path.stat().st_ino != before
    assert checkpoints.load(path).step == one.step and [child.name for child in tmp_path.iterdir()] == [path.name]


def test_a_checkpoint_loads_without_pickled_code_and_replaces_older_ones(tmp_path: Path) -> None:
    one = trainer("n2c")
    for _ in one.run():
        path = checkpoints.save(tmp_path, one.checkpoint())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name] == ["step-000000005"]
    assert torch.load(path / checkpoints.STATE, weights_only=True)["phase"] == "train"
