"""Recorded noise: pairs, single noisy images, and training on the noisy versions of test images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cluster.plan import change
from denoise_core.errors import UserError
from denoise_core.evaluation import evaluate
from denoise_core.images.folder import load_folder
from denoise_core.images.image_set import ImageSet
from denoise_core.images.named import KNOWN, load_images
from denoise_core.images.recorded import RecordedNoiseSource
from denoise_core.images.source import SimulatedNoiseSource
from denoise_core.images.transductive import with_test_images
from denoise_core.method import create, method_class
from denoise_core.noise.evaluation import noisy_test_images
from denoise_core.noise.models import RECORDED, parse_noise, simulated_noise
from denoise_core.seeding import generator
from denoise_core.specification import DataSpec, LoadedData, TrialSpec, load_data, specify
from denoise_core.trainer import Ranks, Trainer

CPU = torch.device("cpu")
SMOKE = method_class("neighbor2neighbor").recipes["smoke"]


def pair(name: str, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Clean and noisy, (side, side) 8 bit, other pixels for every name."""
    draw = generator(name)
    clean = torch.randint(60, 180, (side, side), generator=draw)
    return clean.numpy().astype(np.uint8), (clean + torch.randint(-9, 10, (side, side), generator=draw)).numpy().astype(
        np.uint8
    )


def write_pairs(folder: Path, names: str, side: int = 64) -> Path:
    for part in ("gt", "noisy"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name in names:
        clean, noisy = pair(name, side)
        Image.fromarray(clean).save(folder / "gt" / f"{name}.png")
        Image.fromarray(noisy).save(folder / "noisy" / f"{name}.png")
    return folder


def spec(root: Path, **changes: object) -> DataSpec:
    """Pairs a to d for training, e and f for the test."""
    for name, scenes in (("train", "abcd"), ("test", "ef")):
        write_pairs(root / name, scenes)
    fields = {"train": str(root / "train"), "test": (str(root / "test"),), "noise": RECORDED, **changes}
    return DataSpec.model_validate(fields)


# --- image sets -------------------------------------------------------------------------------------------------------


def test_a_folder_of_pairs_gives_both_in_one_order(tmp_path: Path) -> None:
    images = load_folder(write_pairs(tmp_path / "mine", "cab"))
    assert (images.name, images.ids) == ("mine", ("a", "b", "c"))
    assert images.noisy is not None
    for name, clean, noisy in zip(images.ids, images.pixels, images.noisy, strict=True):
        for have, want in zip((clean, noisy), pair(name), strict=True):
            np.testing.assert_allclose(have[0].numpy(), want / 255, atol=1e-6)
    colour = load_folder(tmp_path / "mine", channels=3)
    assert colour.noisy is not None
    assert colour.noisy[0].shape == (3, 64, 64)


def test_images_in_the_folder_itself_go_first(tmp_path: Path) -> None:
    write_pairs(tmp_path, "ab")
    Image.fromarray(pair("z")[0]).save(tmp_path / "z.png")
    assert load_folder(tmp_path).ids == ("z",)


def test_parts_of_a_set_keep_their_noisy_versions(tmp_path: Path) -> None:
    write_pairs(tmp_path / "mine", "abcd")
    images = load_images("mine[1:3]", channels=None, data_root=tmp_path)
    whole = load_folder(tmp_path / "mine")
    assert images.noisy is not None
    assert whole.noisy is not None
    assert images.ids == ("b", "c")
    assert all(torch.equal(one, other) for one, other in zip(images.noisy, whole.noisy[1:3], strict=True))
    assert all(part.noisy is not None and len(part.noisy) == len(part) for part in whole.hold_out(1))


def test_fingerprints_know_the_noisy_pixels_and_are_otherwise_as_before(tmp_path: Path) -> None:
    images = load_folder(write_pairs(tmp_path, "ab"))
    assert images.noisy is not None
    single = ImageSet("s", images.ids, images.pixels)
    other = ImageSet("o", images.ids, images.pixels, (images.noisy[0], images.noisy[1] + 0.001))
    assert len({images.fingerprint, single.fingerprint, other.fingerprint}) == 3
    assert single.seen == {digest: name for name, digest in single.digests.items()}
    assert len(images.seen) == 4
    assert set(single.seen) < set(images.seen)
    with pytest.raises(ValueError, match="one noisy version of its own shape"):
        ImageSet("x", images.ids, images.pixels, images.noisy[:1])


def lonely(folder: Path) -> None:
    for name in "vwxyz":
        Image.fromarray(pair(name)[0]).save(folder / "noisy" / f"{name}.png")


def misnamed(folder: Path) -> None:
    (folder / "noisy" / "a.png").rename(folder / "noisy" / "a_noisy.png")


def other_size(folder: Path) -> None:
    Image.fromarray(pair("a", 48)[0]).save(folder / "noisy" / "a.png")


def other_kind(folder: Path) -> None:
    Image.fromarray(np.dstack([pair(name)[1] for name in "ab"] + [pair("c")[1]])).save(folder / "noisy" / "a.png")
    Image.fromarray(np.dstack([pair(name)[1] for name in "ab"] + [pair("c")[1]])).save(folder / "noisy" / "b.png")


def equal(folder: Path) -> None:
    (folder / "noisy" / "b.png").write_bytes((folder / "gt" / "b.png").read_bytes())


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lonely,
            r"5 of 7 images of .*noisy have no partner in gt: v, w, x, \.\.\.; both folders must hold .*: rename or",
        ),
        (misnamed, r"1 of 2 images of .*noisy have no partner in gt: a_noisy; both"),
        (lambda p: (p / "noisy" / "b.png").unlink(), r"1 of 2 images of .*gt have no partner in noisy: b; both"),
        (other_size, r"pair a of .* 48 x 48 pixels, gray in noisy, 64 x 64 pixels, gray in gt; .*: cut or remove"),
        (other_kind, r"pair a of .* does not match: 64 x 64 pixels, colour in noisy"),
        (equal, r"pair b of .* is equal in every pixel, so there is no noise in it; .*: replace or remove"),
        (lambda p: [f.unlink() for f in (p / "gt").iterdir()], r"gt holds no images; it must directly contain"),
        (lambda p: (p / "gt").rename(p / "clean"), r"holds no images; .* or else recorded pairs in two folders, noisy"),
    ],
)
def test_bad_pairs_get_one_sentence(tmp_path: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    spoil(write_pairs(tmp_path, "ab"))
    with pytest.raises(UserError, match=sentence) as caught:
        load_folder(tmp_path)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "count"), [("cc15", 15), ("polyu_sample", 20), ("sidd_sample", 1), ("w2s", 15)])
def test_real_pairs(data_root: Path, name: str, count: int) -> None:
    if not (data_root / (KNOWN[name].folder or name)).is_dir():
        pytest.skip(f"the data pack has no {name}")
    images = load_images(name, channels=None, data_root=data_root)
    assert (images.name, len(images), images.channels) == (name, count, KNOWN[name].channels)
    assert images.noisy is not None
    with pytest.raises(UserError, match=r"needs the data folder.* or use a folder of your own that holds the folders"):
        load_images(name, channels=None, data_root=None)


# --- training ---------------------------------------------------------------------------------------------------------


def test_batches_are_cut_from_the_recorded_images_at_the_usual_places(tmp_path: Path) -> None:
    images = load_folder(write_pairs(tmp_path, "abc"))
    source = RecordedNoiseSource(images, 0, CPU)
    simulated = SimulatedNoiseSource(images, parse_noise("gauss25"), "frozen", 0, CPU)
    assert source.fields == {"noisy", "clean"}
    assert source.realisation == "frozen"
    for step in (0, 7):
        asked = {"size": 5, "patch": 16, "seed": 1, "step": step}
        batch = source.batch(**asked, fields=("noisy", "clean"))  # type: ignore[arg-type]
        again = RecordedNoiseSource(images, 9, CPU).batch(**asked, fields=("noisy",))  # type: ignore[arg-type]
        assert torch.equal(batch["noisy"], again["noisy"])
        assert torch.equal(batch["clean"], simulated.batch(**asked, fields=("clean",))["clean"])  # type: ignore[arg-type]
        assert 0 < (batch["noisy"] - batch["clean"]).abs().max() <= 9.1 / 255
    with pytest.raises(UserError, match="no field 'noisy2': did you mean 'noisy'"):
        source.batch(size=1, patch=4, seed=0, step=0, fields=("noisy2",))


def test_whole_images_are_given_and_may_get_companions(tmp_path: Path) -> None:
    images = load_folder(write_pairs(tmp_path, "abc"))
    source = RecordedNoiseSource(images, 0, CPU)
    assert images.noisy is not None
    assert all(torch.equal(one, other) for one, other in zip(source.whole("noisy"), images.noisy, strict=True))
    assert source.identity("noisy") == RecordedNoiseSource(images, 5, CPU).identity("noisy")
    more = source.with_images("twice", [2 * one for one in images.noisy])
    batch = more.batch(size=4, patch=8, seed=0, step=3, fields=("noisy", "twice"))
    assert torch.equal(batch["twice"], 2 * batch["noisy"])
    assert "twice" not in source.fields
    with pytest.raises(UserError, match="no clean versions: give clean versions"):
        RecordedNoiseSource(ImageSet("s", images.ids, images.noisy), 0, CPU).whole("clean")


def test_clean_images_of_other_scenes_beside_recorded_ones(tmp_path: Path) -> None:
    data = load_data(spec(tmp_path, clean="bundled_train"), None)
    source = data.source(0, CPU)
    assert source.fields == {"noisy", "clean", "clean_unpaired"}
    batch = source.batch(size=3, patch=16, seed=0, step=0, fields=("clean_unpaired", "noisy"))
    assert batch["clean_unpaired"].shape == batch["noisy"].shape
    with pytest.raises(UserError, match="clean image a of gt is also the image a of train"):
        load_data(spec(tmp_path, clean=str(tmp_path / "train" / "gt")), None)


def test_a_recorded_training_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    data = load_data(spec(tmp_path), None)

    def trainer() -> Trainer:
        method = create("neighbor2neighbor", SMOKE.config, 1, 0)
        return Trainer(method, data.source(0, CPU), SMOKE, 0)

    whole, first, second = trainer(), trainer(), trainer()
    list(whole.run())
    next(first.run())
    second.restore(first.checkpoint())
    list(second.run())
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, second.method.state_dict()[name])


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("n2n", r"needs the image fields noisy2, .*: give simulated noise, for recorded images have one noisy"),
        ("n2c", r"needs the image fields clean, .*: give clean versions of the training images"),
        ("noisy_n2n", r"no clean versions: give clean versions of the training images"),
    ],
)
def test_what_single_noisy_images_cannot_give_is_said_at_once(tmp_path: Path, method: str, sentence: str) -> None:
    noisy = str(write_pairs(tmp_path / "single", "wxyz") / "noisy")
    data = load_data(spec(tmp_path, train=noisy, validation=2), None)
    assert data.validation is None
    assert (len(data.train), data.source(0, CPU).fields) == (4, {"noisy"})
    with pytest.raises(UserError, match=sentence):
        Trainer.check(create(method, method_class(method).recipes["smoke"].config, 1, 0), data.source(0, CPU))
    own = create("neighbor2neighbor", SMOKE.config, 1, 0)
    assert Trainer.check(own, data.source(0, CPU)) == []


def test_recorded_noise_is_frozen_by_itself_and_never_fresh(tmp_path: Path) -> None:
    assert spec(tmp_path).noise_realisation == "frozen"
    assert change(DataSpec(), {"noise": RECORDED}).noise_realisation == "frozen"
    assert simulated_noise(RECORDED) is None
    fresh = spec(tmp_path, noise_realisation="fresh")
    with pytest.raises(UserError, match=r"cannot be drawn anew .* noise_realisation=frozen"):
        load_data(fresh, None)
    data = load_data(spec(tmp_path), None)
    with pytest.raises(UserError, match="cannot be drawn anew"):
        LoadedData(fresh, data.train, None, data.test).source(0, CPU)
    with pytest.raises(UserError, match="did you mean 'recorded'"):
        simulated_noise("recorderd")


# --- tests and validation ---------------------------------------------------------------------------------------------


def test_test_images_are_those_that_were_recorded(tmp_path: Path) -> None:
    data = load_data(spec(tmp_path, validation=1), None)
    assert data.validation is not None
    assert data.validation.noisy is not None
    drawn = list(noisy_test_images(data.test[0], data.noise, repeats=10))
    assert [(one.image_id, one.repeat) for one in drawn] == [("e", 0), ("f", 0)]
    np.testing.assert_allclose(drawn[0].noisy[0].numpy(), pair("e")[1] / 255, atol=1e-6)
    np.testing.assert_allclose(drawn[0].clean[0].numpy(), pair("e")[0] / 255, atol=1e-6)
    rows = evaluate(create("neighbor2neighbor", SMOKE.config, 1, 0), data, CPU, Ranks(), {}).measurements
    noisy = [one.value for one in rows if (one.output, one.metric, one.protocol) == ("noisy", "psnr", "canonical")]
    assert all(value == pytest.approx(33.4, abs=0.5) for value in noisy)  # U{-9..9} has a deviation of 5.5


@pytest.mark.parametrize("changes", [{}, {"noise": "gauss25", "test_noise": RECORDED}, {"test_noise": "gauss25"}])
def test_single_images_cannot_be_measured_as_recorded(tmp_path: Path, changes: dict[str, str]) -> None:
    single = (str(tmp_path / "test" / "noisy"),)
    given = spec(tmp_path, test=single, **changes)
    if changes == {"test_noise": "gauss25"}:
        assert len(load_data(given, None).test[0]) == 2  # noise is simulated there
        given = spec(tmp_path, test=single, transductive=True, **changes)
    with pytest.raises(UserError, match=r"noisy holds single images, .* folders noisy and gt, or a set such as cc15"):
        load_data(given, None)


def test_an_image_that_is_both_trained_on_and_tested_is_found_by_either_version(tmp_path: Path) -> None:
    for part in ("noisy", "gt"):
        given = spec(tmp_path, train=str(tmp_path / "test" / part))
        with pytest.raises(UserError, match=f"test image e of test is also the training image e of {part}"):
            load_data(given, None)


# --- transductive -----------------------------------------------------------------------------------------------------


def test_test_images_are_added_noisy_only(tmp_path: Path) -> None:
    data = load_data(spec(tmp_path, transductive=True, validation=1), None)
    assert data.seen.ids == ("a", "b", "d", "test/e", "test/f")
    assert data.seen.noisy is None
    source = data.source(0, CPU)
    assert source.fields == {"noisy"}
    assert isinstance(source, RecordedNoiseSource)
    np.testing.assert_allclose(source.whole("noisy")[-1][0].numpy(), pair("f")[1] / 255, atol=1e-6)
    assert len(data.train) == 3


def test_simulated_noise_of_test_images_is_another_draw_and_hides_the_clean_ones() -> None:
    given = DataSpec(train="bundled_train[0:2]", test=("bundled_test[0:2]",), noise_realisation="frozen")
    data = load_data(given.model_copy(update={"transductive": True}), None)
    source = data.source(0, CPU)
    assert isinstance(source, SimulatedNoiseSource)
    assert source.fields == {"noisy", "noisy2"}
    tested = next(noisy_test_images(data.test[0], data.noise))
    assert not torch.equal(source.whole("noisy")[2], tested.noisy)
    assert (source.whole("noisy")[2] - tested.clean).std() == pytest.approx(25 / 255, rel=0.05)
    with pytest.raises(UserError, match=r"not seen in training: .* not transductive=true"):
        source.whole("clean")
    for name in ("n2c", "noisy_n2n"):
        with pytest.raises(UserError, match="not transductive=true"):
            Trainer.check(create(name, method_class(name).recipes["smoke"].config, 1, 0), source)


def test_training_on_exactly_the_test_images_takes_each_once(tmp_path: Path) -> None:
    itself = spec(tmp_path, train=str(tmp_path / "test"), transductive=True)
    assert load_data(itself, None).seen.ids == ("e", "f")
    single = spec(tmp_path, train=str(tmp_path / "test" / "noisy"), transductive=True)
    assert load_data(single, None).seen.ids == ("e", "f")
    with pytest.raises(UserError, match=r"test image f of test is also f of test\[-1:\], where settings are chosen"):
        load_data(itself.model_copy(update={"validation": 1}), None)
    with pytest.raises(UserError, match="clean images must show other scenes"):
        load_data(itself.model_copy(update={"clean": str(tmp_path / "test" / "gt")}), None)


def test_joined_images_keep_their_order_and_may_share_names() -> None:
    one, two = (ImageSet(name, ("x",), (torch.full((1, 8, 8), value),)) for name, value in (("p", 0.1), ("q", 0.2)))
    joined = with_test_images(one, (two, one), recorded=False)
    assert (joined.name, joined.ids) == ("p+q+p", ("x", "q/x"))


# --- identities -------------------------------------------------------------------------------------------------------


def trial(data: DataSpec, method: str = "gan2gan") -> TrialSpec:
    return specify(method, {}, data, (("train t", "1"), ("test u", "2")), method_class(method).recipes["smoke"], 0)


def test_the_default_is_no_part_of_any_identity() -> None:
    plain = DataSpec()
    assert "transductive" not in plain.model_dump(mode="json")
    assert DataSpec.model_validate(plain.model_dump()) == plain
    before = trial(plain)
    recipe = {name: value for name, value in asdict(before.recipe).items() if name != "config"}
    old = {"noise": "gauss25", "noise_realisation": "fresh", "window": "", "channels": 1, "validation": 0, "repeats": 1}
    group = before._setting
    assert group["data"] == old
    assert group["recipe"] == recipe
    beginning = before._beginning({"data"}, [("gan", 1)])
    assert beginning["data"] == {name: old[name] for name in ("noise", "noise_realisation", "window", "channels")}
    assert beginning["images"] == [("train t", "1")]


def test_a_transductive_training_is_another_and_its_phases_depend_on_the_test_images() -> None:
    changed = DataSpec(transductive=True)
    assert changed.model_dump()["transductive"] is True
    assert DataSpec.model_validate(changed.model_dump()) == changed
    one, other = trial(DataSpec()), trial(changed)
    assert one.trial_id != other.trial_id
    assert all(a.phase_id != b.phase_id for a, b in zip(one.links, other.links, strict=True))
    assert other._beginning({"data"}, [])["images"] == [("train t", "1"), ("test u", "2")]
