"""The generated image set, and selections of images from any set."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.restoration import estimate_sigma

from denoise_core.errors import UserError
from denoise_core.images import generated
from denoise_core.images.generated import load_generated
from denoise_core.images.image_set import ImageSet
from denoise_core.images.named import load_images

QUARTERS = [132.27, 114.84, 128.22, 113.52, 127.89, 126.93, 131.65, 124.98, 119.76, 110.0, 124.95, 112.65]
"""Mean grey levels of the quarters of the first three generated images."""
MEAN, DEVIATION = 121.476, 41.741
"""Mean and standard deviation of all their pixels, in grey levels."""


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load_images("em_generated", channels=None, data_root=None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of ten images; image k has the constant value k."""
    (tmp_path / "ten").mkdir()
    for index in range(10):
        Image.fromarray(np.full((4, 4), index, np.uint8)).save(tmp_path / "ten" / f"im{index}.png")
    return tmp_path


def power_shares(image: torch.Tensor) -> np.ndarray:
    """Shares of the power (Hann window, mean removed) by octaves of spatial frequency, coarse to fine."""
    pixels = image[0].double().numpy()
    window = np.outer(*(np.hanning(side) for side in pixels.shape))
    power = np.abs(np.fft.fft2((pixels - pixels.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(len(pixels))[:, None], np.fft.fftfreq(len(pixels))[None])
    edges = (0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)
    return np.array([power[(radius >= low) & (radius < high)].sum() for low, high in pairwise(edges)]) / power.sum()


# --- em_generated -----------------------------------------------------------------------------------------------------


def test_shape_type_and_levels(images: ImageSet) -> None:
    assert (images.name, len(images), images.channels) == ("em_generated", 32, 1)
    assert images.ids[:2] == ("scene_00", "scene_01")
    for image in images.pixels:
        assert image.shape == (1, 256, 256)
        assert 0 <= image.min() < image.max() <= 1
        assert torch.equal((image * 255).round() / 255, image), "whole 8-bit levels"
        assert ((image == 0) | (image == 1)).float().mean() < 0.01, "hardly anything may be cut off"


def test_the_pictures_are_what_they_were(images: ImageSet) -> None:
    """Stored numbers depend on them. Coarse, because another machine may round a few pixels to another level."""
    levels = torch.stack(images.pixels) * 255
    quarters = torch.nn.functional.avg_pool2d(levels[:3], 128).flatten().tolist()
    assert quarters == pytest.approx(QUARTERS, abs=0.02)
    assert levels.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert levels.std().item() == pytest.approx(DEVIATION, abs=0.02)


def test_drawn_again_they_are_the_same(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_generated("em_generated", 1) is images, "computed once per process"
    monkeypatch.setitem(generated.GENERATED, "em_generated", 3)
    np.random.seed(0)  # the global generator must not matter
    again = generated._generated.__wrapped__("em_generated")
    assert again.fingerprint == images.subset([0, 1, 2], "first").fingerprint


def test_no_two_pictures_share_structure(images: ImageSet) -> None:
    flat = torch.stack(images.pixels).flatten(1)
    correlation = torch.corrcoef(flat).fill_diagonal_(0)
    assert correlation.abs().max() < 0.15  # 496 pairs of standard deviation 0.037
    shifts = [torch.fft.rfft2(image[0] - image.mean()) for image in images.pixels[:8]]
    for one in range(8):
        for other in range(one):
            across = torch.fft.irfft2(shifts[one] * shifts[other].conj(), s=(256, 256))
            scale = images.pixels[one].std() * images.pixels[other].std() * 256**2
            assert across.abs().max() / scale < 0.3, "nor the same structure somewhere else"


def test_opposite_edges_do_not_match(images: ImageSet) -> None:
    """The fields behind the picture are periodic; the picture must not be."""
    pixels = torch.stack(images.pixels)[:, 0]
    for first, last, inner in (
        (pixels[:, 0], pixels[:, -1], pixels[:, 1]),
        (pixels[..., 0], pixels[..., -1], pixels[..., 1]),
    ):
        centred = [edge - edge.mean(1, keepdim=True) for edge in (first, last, inner)]
        opposite, next_to = ((centred[0] * edge).mean() / centred[0].square().mean() for edge in centred[1:])
        assert abs(opposite) < 0.1
        assert next_to > 0.7


def test_gray_levels_and_spectrum_are_those_of_smooth_em_slices(images: ImageSet) -> None:
    """The slices (quarters of em_isbi2012[0:15]): mean 123 +- 12, deviation 40 +- 3, shares 15 17 24 24 16 4 %."""
    levels = 255 * torch.stack(images.pixels)
    means, deviations = levels.mean(dim=(1, 2, 3)), levels.std(dim=(1, 2, 3))
    assert 115 < means.mean() < 131
    assert 5 < means.std() < 18
    assert 36 < deviations.mean() < 44
    shares = np.mean([power_shares(image) for image in images.pixels], axis=0)
    np.testing.assert_allclose(shares[:5], [0.15, 0.17, 0.24, 0.24, 0.16], atol=0.06)
    assert 0.01 < shares[5] < 0.04, "power above a quarter of the sampling frequency"
    grain = np.mean([estimate_sigma(image[0].numpy()) * 255 for image in images.pixels])
    assert 1 < grain < 4, "the pictures are the clean ones: hardly any grain"


def test_the_real_slices_have_the_levels_the_drawing_imitates(images: ImageSet, data_root: Path) -> None:
    if not (data_root / "em_isbi2012").is_dir():
        pytest.skip("the data pack has no em_isbi2012")
    real = torch.stack(load_images("em_isbi2012[0:15]", channels=None, data_root=data_root).pixels)
    drawn = torch.stack(images.pixels)
    assert drawn.mean().item() == pytest.approx(real.mean().item(), abs=6 / 255)
    assert drawn.std().item() == pytest.approx(real.std().item(), abs=4 / 255)
    crops = [image[:, :256, :256] for image in real]
    shares = [np.mean([power_shares(image) for image in one], axis=0) for one in (drawn, crops)]
    np.testing.assert_allclose(*shares, atol=0.05)


@pytest.mark.parametrize("channels", [2, 3])
def test_it_is_gray(channels: int) -> None:
    message = f"'em_generated' is gray and has no version with {channels} channels; use --channels 1"
    with pytest.raises(UserError, match=message):
        load_images("em_generated", channels=channels, data_root=None)


# --- selections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selection", "indices"),
    [
        ("0:6", [0, 1, 2, 3, 4, 5]),
        ("0:2,7:9", [0, 1, 7, 8]),
        ("7:9,0:2", [7, 8, 0, 1]),
        ("::4", [0, 4, 8]),
        ("::-3", [9, 6, 3, 0]),
        ("-2:", [8, 9]),
        (":-8", [0, 1]),
        ("3,-1,0", [3, 9, 0]),
        ("8:100", [8, 9]),
        (":", list(range(10))),
    ],
)
def test_selections_follow_python(folder: Path, selection: str, indices: list[int]) -> None:
    images = load_images(f"ten[{selection}]", channels=None, data_root=folder)
    assert images.name == f"ten[{selection}]"
    assert images.ids == tuple(f"im{index}" for index in indices)
    assert [round(255 * image.max().item()) for image in images.pixels] == indices


def test_selections_of_every_kind_of_set(folder: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = load_images("em_generated[0:8,12:16]", channels=1, data_root=None)
    assert (chosen.name, len(chosen)) == ("em_generated[0:8,12:16]", 12)
    assert chosen.ids[8] == "scene_12"
    assert load_images("bundled_test[1]", channels=3, data_root=None).ids == ("chelsea",)
    path = load_images(f"{folder}/ten[2:4]", channels=3, data_root=None)
    assert (path.name, path.ids, path.channels) == ("ten[2:4]", ("im2", "im3"), 3)
    monkeypatch.chdir(folder)
    assert load_images("ten[2:4]", channels=None, data_root=None).ids == ("im2", "im3")
    first, second = (load_images(f"ten[{part}]", channels=None, data_root=None) for part in ("0:5", "5:10"))
    assert first.name != second.name
    assert not set(first.ids) & set(second.ids)


def test_folders_whose_names_hold_brackets(folder: Path) -> None:
    (folder / "ten").rename(folder / "run[3]")
    for name, root in (("run[3]", folder), (f"{folder}/run[3]", None)):
        whole = load_images(name, channels=None, data_root=root)
        assert (whole.name, len(whole)) == ("run[3]", 10)
        part = load_images(f"{name}[3]", channels=None, data_root=root)
        assert (part.name, part.ids) == ("run[3][3]", ("im3",))
    (folder / "run[3]").rename(folder / "[old] run")
    assert len(load_images(f"{folder}/[old] run", channels=None, data_root=None)) == 10
    (folder / "[old] run").rename(folder / "[a")
    (folder / "[a").rename(folder / "deep")
    (folder / "in[1]").mkdir()
    (folder / "deep").rename(folder / "in[1]" / "deep")
    assert load_images(f"{folder}/in[1]/deep[::9]", channels=None, data_root=None).ids == ("im0", "im9")


@pytest.mark.parametrize(
    ("selection", "sentence"),
    [
        ("[]", r"selection \[\] of ten, which has 10 images, is malformed at ''; write indices and slices"),
        ("[0:6,]", r"which has 10 images, is malformed at ''"),
        ("[a:b]", r"is malformed at 'a:b'"),
        ("[0:6, 8:9]", r"is malformed at ' 8:9'; .* without blanks"),
        ("[0-6]", r"is malformed at '0-6'"),
        ("[1:2:3:4]", r"is malformed at '1:2:3:4'"),
        ("[::0]", r"is malformed at '::0'; .* \(a step must not be 0\)"),
        ("[1.5]", r"is malformed at '1.5'"),
        ("[0:6]]", r"is malformed at '0:6\]'"),
        ("[0:6", r"the selection of images in 'ten\[0:6' does not end in \]; write it like ten\[0:6\]"),
        ("[0:6]x", r"does not end in \]"),
        ("[10:]", r"which has 10 images, selects nothing with '10:'; images are numbered from 0 to 9"),
        ("[10]", r"selects nothing with '10'"),
        ("[-11]", r"selects nothing with '-11'"),
        ("[5:5]", r"selects nothing with '5:5'"),
        ("[0:3,12:16]", r"selects nothing with '12:16'"),
        ("[0:4,3:6]", r"which has 10 images, selects the image 3 more than once"),
        ("[0,-10]", r"selects the image 0 more than once"),
    ],
)
def test_wrong_selections(folder: Path, selection: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_images(f"ten{selection}", channels=None, data_root=folder)


def test_a_selection_of_a_wrong_name_is_the_error_of_the_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown image set 'em_generatd': did you mean 'em_generated'"):
        load_images("em_generatd[0:3]", channels=None, data_root=None)
    with pytest.raises(UserError, match=r"'em_isbi2012' was not found in .* or use em_generated"):
        load_images("em_isbi2012[0:3]", channels=None, data_root=tmp_path)
    with pytest.raises(UserError, match=r"the image folder .*no\[1\]/folder does not exist"):
        load_images(f"{tmp_path}/no[1]/folder", channels=None, data_root=None)
