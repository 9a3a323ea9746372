"""Unpaired images, windows, folds, and what is chosen at inference only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cluster.imagery import BLOCKS, Microscopy, Tomography, microscopy_fold
from denoise_core.errors import UserError
from denoise_core.evaluation import CANONICAL, Measurement, denoise, evaluate
from denoise_core.images.image_set import ImageSet
from denoise_core.images.source import SimulatedNoiseSource
from denoise_core.images.windows import coded
from denoise_core.method import create, method_class
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator
from denoise_core.specification import DataSpec, LoadedData, load_data, specify
from denoise_core.trainer import Ranks, Trainer

UNPAIRED = {"train": "em_generated[8:10]", "clean": "em_generated[0:2]", "test": ("em_generated[20:22]",)}
CPU = torch.device("cpu")


def images(name: str, low: float, count: int = 3) -> ImageSet:
    """Images with values in [low, low + 0.25), so that a crop tells which set it is from."""
    ids = tuple(f"{name}{index}" for index in range(count))
    return ImageSet(name, ids, tuple(low + 0.25 * torch.rand(1, 40, 48, generator=generator(i)) for i in ids))


def source(seed: int = 0, noise: str = "gauss1") -> SimulatedNoiseSource:
    return SimulatedNoiseSource(
        images("noisy", 0.0), parse_noise(noise), "frozen", seed, CPU, clean=images("clean", 0.6, count=5)
    )


def drawn(one: SimulatedNoiseSource, step: int, *fields: str) -> dict[str, Tensor]:
    return one.batch(size=6, patch=16, seed=3, step=step, fields=fields)


def test_clean_crops_come_from_the_other_images() -> None:
    batch = drawn(source(), 0, "noisy", "clean_unpaired", "clean")
    assert all(value.shape == (6, 1, 16, 16) for value in batch.values())
    assert batch["clean_unpaired"].min() >= 0.6
    assert batch["noisy"].max() < 0.5
    assert (batch["noisy"] - batch["clean"]).abs().max() < 0.05  # these two are the same place


def test_both_kinds_are_drawn_independently_and_repeatably() -> None:
    first, again = (drawn(source(), 4, "noisy", "clean_unpaired") for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    alone = drawn(source(), 4, "clean_unpaired")["clean_unpaired"]
    assert torch.equal(alone, first["clean_unpaired"])
    # each epoch of either set shows every image once, in an order of its own
    seen = [drawn(source(), step, "clean_unpaired")["clean_unpaired"] for step in range(5)]
    whole = torch.cat(seen)  # 30 crops, six epochs of five images
    originals = images("clean", 0.6, count=5).pixels
    found = [next(i for i, one in enumerate(originals) if _inside(crop, one)) for crop in whole]
    for epoch in range(6):
        assert sorted(found[5 * epoch : 5 * epoch + 5]) == [0, 1, 2, 3, 4]


def _inside(crop: Tensor, image: Tensor) -> bool:
    places = image.unfold(1, 16, 1).unfold(2, 16, 1)[0]
    return bool((places[..., 0, 0] == crop[0, 0, 0]).any() and (places[..., -1, -1] == crop[0, -1, -1]).any())


@pytest.mark.parametrize("other", ["em_generated[8:9]", "em_generated[20:23]"])
def test_a_clean_image_that_is_trained_on_noisy_or_tested_is_refused(other: str) -> None:
    with pytest.raises(UserError, match=r"clean image scene_\d+ of .* must show other scenes .* give --clean other"):
        load_data(DataSpec(noise="film", **{**UNPAIRED, "clean": other}), None)


def test_held_out_images_are_apart_as_well() -> None:
    spec = DataSpec(noise="film", train="em_generated[8:12]", clean="em_generated[0:2]", test=("em_generated[20:21]",))
    data = load_data(spec.model_copy(update={"validation": 2}), None)
    assert data.validation is not None
    assert data.clean is not None
    roles = [set(one.digests.values()) for one in (data.train, data.validation, data.clean, *data.test)]
    assert sum(map(len, roles)) == len(set.union(*roles)) == 7
    assert len(data.contents) == 4


def test_a_method_without_clean_images_says_how_to_give_some() -> None:
    data = load_data(DataSpec(noise="film", train="em_generated[8:10]", test=("em_generated[20:21]",)), None)
    kind = method_class("iscl")
    one = create("iscl", kind.recipes["smoke"].config, 1, 0)
    with pytest.raises(UserError, match=r"iscl needs the image fields clean_unpaired.*pass --clean"):
        Trainer.check(one, data.source(0, CPU))


def test_a_scanners_noise_cannot_be_drawn_for_a_crop() -> None:
    with pytest.raises(UserError, match=r"whole image .* noise_realisation=frozen"):
        SimulatedNoiseSource(images("a", 0.0), parse_noise("ldct1e5"), "fresh", 0, CPU)


def test_a_window_is_looked_through_after_the_noise() -> None:
    hu = torch.full((1, 40, 40), 40.0)
    one = ImageSet("ct", ("a",), (coded(hu),))
    windowed = SimulatedNoiseSource(one, parse_noise("gauss0"), "frozen", 0, CPU, clean=one, window="abdomen")
    batch = windowed.batch(size=1, patch=8, seed=0, step=0, fields=("noisy", "clean_unpaired"))
    for value in batch.values():
        assert value.mean().item() == pytest.approx(0.5, abs=1e-3)  # 40 HU is the middle of [-160, 240]


@pytest.mark.parametrize("fold", range(len(BLOCKS)))
def test_folds_never_share_slices_nor_neighbours(fold: int) -> None:
    roles = {name: _slices(text) for name, text in _texts(fold).items()}
    for name, mine in roles.items():
        for other, theirs in roles.items():
            # what settings are chosen on may lie between two training blocks, but never beside the test
            apart = "test" in (name, other) or "validation" not in (name, other)
            near = {one + step for one in mine for step in ((-1, 0, 1) if apart else (0,))}
            assert name == other or not near & theirs, (name, other)
    assert max(roles["test"]) < 15


def _texts(fold: int) -> dict[str, str]:
    one = microscopy_fold(fold)
    return {"clean": one["clean"], "train": one["train"], "validation": one["validation_set"], "test": one["test"][0]}


def _slices(text: str) -> set[int]:
    parts = text.partition("[")[2].rstrip("]").split(",")
    return {index for part in parts for index in range(*map(int, part.split(":")))}


def test_every_slice_of_the_smooth_half_is_tested_once() -> None:
    tested = [index for fold in range(len(BLOCKS)) for index in _slices(_texts(fold)["test"])]
    assert sorted(tested) == list(range(15))


@pytest.mark.parametrize("budget", ["smoke", "laptop", "gpu", "paper"])
@pytest.mark.parametrize("imagery", [Microscopy(), Tomography(), Tomography(window="chest")])
def test_embedded_images_of_every_budget_load_and_are_apart(budget: str, imagery: Microscopy | Tomography) -> None:
    for spec in imagery.specs(budget, None):  # type: ignore[arg-type]
        data = load_data(spec, None)
        assert data.clean is not None
        assert len(data.test[0]) >= 2
        assert imagery.differs(spec)


def test_inference_values_name_the_evaluation_and_not_the_training() -> None:
    recipe = method_class("iscl").recipes["smoke"]
    data = DataSpec(noise="film", **UNPAIRED)
    specs = [specify("iscl", {"gamma": gamma}, data, (), recipe, 0) for gamma in (0, 0.5, 1)]
    assert len({one.trial_id for one in specs}) == len({one.group_id for one in specs}) == 1
    assert len({one.evaluation_id for one in specs}) == 3
    other = specify("iscl", {"gamma": 0.5}, data.model_copy(update={"test_noise": "charge"}), (), recipe, 0)
    assert other.trial_id == specs[1].trial_id
    assert other.evaluation_id != specs[1].evaluation_id
    trained = [specify("iscl", {"nested_weight": w}, data, (), recipe, 0).trial_id for w in (10, 30)]
    assert trained[0] != trained[1]


def test_test_noise_is_what_is_measured() -> None:
    data = load_data(DataSpec(noise="film", **UNPAIRED), None)
    one = create("affine_match", {}, 1, 0)
    own, other = (_noisy_psnr(one, data, params) for params in ({}, {"test_noise": "gauss25"}))
    assert own < 15
    assert other == pytest.approx(20.17, abs=0.3)


def _noisy_psnr(method: object, data: LoadedData, params: dict[str, str]) -> float:
    rows: list[Measurement] = evaluate(method, data, CPU, Ranks(), params).measurements  # type: ignore[arg-type]
    values = [r.value for r in rows if r.output == "noisy" and r.metric == "psnr" and r.protocol == CANONICAL]
    return sum(values) / len(values)


def test_affine_match_undoes_a_change_of_brightness() -> None:
    clean = [torch.rand(1, 64, 64, generator=generator("clean", i)) for i in range(4)]
    dark = ImageSet("dark", ("a", "b"), tuple(0.4 * one + 0.1 for one in clean[:2]))
    bright = ImageSet("bright", ("c", "d"), tuple(clean[2:]))
    for name in ("affine_match", "affine_match_image"):
        one = create(name, {"batch_size": 16, "patch_size": 32}, 1, 0)
        recipe = method_class(name).recipes["smoke"]
        match = SimulatedNoiseSource(dark, parse_noise("gauss0"), "frozen", 0, CPU, clean=bright)
        list(Trainer(one, match, recipe, 0).run())
        assert (one.denoise(dark.pixels[0][None]) - clean[0]).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": "abdomen"}, "Almost nothing of .* lies inside the abdomen window"),
        ({"test_noise": "ldct1e4"}, "HU"),
        ({"noise": "ldct1e4"}, "HU"),
    ],
)
def test_what_only_suits_ct_is_refused_for_other_images(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_data(DataSpec(**{"noise": "film", **UNPAIRED, **changes}), None)


def test_the_roles_of_images_count() -> None:
    base = {"noise": "film", "train": "em_generated[0:2]"}
    roles = [
        {"clean": "em_generated[2:3]", "test": ("em_generated[3:4]",)},
        {"validation_set": "em_generated[2:3]", "test": ("em_generated[3:4]",)},
        {"test": ("em_generated[2:3]", "em_generated[3:4]")},
    ]
    assert len({load_data(DataSpec(**base, **one), None).contents for one in roles}) == 3


@pytest.mark.parametrize("name", ["iscl", "affine_match_image"])
def test_methods_with_moments_of_the_image_never_see_tiles(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("denoise_core.evaluation.MAX_PIXELS", 64 * 64)
    seen: list[tuple[int, ...]] = []
    one = create(name, method_class(name).recipes["smoke"].config, 1, 0)
    original = one.denoise
    monkeypatch.setattr(one, "denoise", lambda noisy: (seen.append(tuple(noisy.shape)), original(noisy))[1])
    denoise(one, torch.rand(1, 100, 120), CPU)
    assert seen == [(1, 1, 100, 120)]
