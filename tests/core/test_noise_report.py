"""What is measured of the noise of images: against simulated noise whose truth is known, and on recorded images."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.images.bundled import load_bundled
from denoise_core.images.named import load_images
from denoise_core.noise.estimate import Correlation
from denoise_core.noise.levels import Line, fit_line
from denoise_core.noise.models import parse_noise
from denoise_core.noise.repeats import displacement
from denoise_core.noise.report import NoiseReport, noise_report
from denoise_core.noise.traces import jpeg_grid, smallest_step
from denoise_core.noise.wording import headline, stored_bits
from denoise_core.seeding import generator


def clean(channels: int = 1, name: str = "bundled_test") -> Sequence[Tensor]:
    return load_bundled(name, channels).pixels


def noisy(noise: str, channels: int = 1, name: str = "bundled_test", frame: int = 0) -> list[Tensor]:
    model = parse_noise(noise)
    images = enumerate(clean(channels, name))
    return [model(image[None], generator("frames", number, frame))[0] for number, image in images]


def frames(noise: str, count: int) -> list[list[Tensor]]:
    """By scene, frames with noise of their own."""
    by_frame = [noisy(noise, frame=frame) for frame in range(count)]
    return [list(scene) for scene in zip(*by_frame, strict=True)]


def stored(image: Tensor, levels: int) -> Tensor:
    """Rounded to whole levels and clipped, as a file holds it."""
    return (image.clamp(0, 1) * levels).round() / levels


# ---- level and line, from single images ----


@pytest.mark.parametrize("name", ["bundled_test", "bundled_train"])
@pytest.mark.parametrize("noise", ["gauss10", "gauss25", "gauss50"])
def test_the_level_of_white_noise(noise: str, name: str) -> None:
    report = noise_report(noisy(noise, name=name))
    assert 255 * report.sigma == pytest.approx(float(noise[5:]), rel=0.1)
    assert report.signal_independent and report.pixel_independent and not report.exact
    assert report.spread[0] == pytest.approx(report.spread[1], rel=0.25)
    assert not report.jpeg and report.step == 0 and report.zero_mean is None


@pytest.mark.parametrize("channels", [1, 3])
def test_the_gain_of_shot_noise(channels: int) -> None:
    report = noise_report(noisy("poisson30", channels))
    assert report.gain == pytest.approx(1 / 30, rel=0.2)
    assert report.slope_sure and not report.signal_independent and report.pixel_independent
    assert report.step == pytest.approx(1 / 30, rel=1e-3)  # a photon
    assert report.sigma == pytest.approx(math.sqrt(report.median / 30), rel=0.1)


def test_both_parts_of_noise_by_intensity() -> None:
    report = noise_report(noisy("hg40_10"))
    assert report.gain == pytest.approx((40 / 255) ** 2, rel=0.2)
    assert 0 < 255**2 * report.offset < 2 * 10**2
    assert "grows with the intensity" in headline(report)


def test_correlated_noise_is_found_and_its_level_is_not_that_of_what_a_high_pass_leaves() -> None:
    report = noise_report(noisy("camera25_5"))
    assert not report.pixel_independent
    assert report.autocorrelation[4][5] == pytest.approx(6 / 11, abs=0.1)
    assert report.gain == pytest.approx((25 / 255) ** 2, rel=0.25)
    assert "share noise" in " ".join(report.sentences()) and "estimate" in report.sentences()[0]


def test_channels_that_share_noise() -> None:
    apart = noise_report(noisy("gauss25", 3)).channel_correlation
    shared = noise_report(noisy("cov900_600_600_900_600_900", 3)).channel_correlation
    assert apart == pytest.approx(0, abs=0.05) and shared == pytest.approx(2 / 3, abs=0.1)
    level = noise_report(noisy("mg75", 3))
    assert level.sigma > 0.1 and level.channels == 3


def test_images_that_differ_in_noise_are_told() -> None:
    weak, strong = noisy("gauss5"), noisy("gauss40")
    report = noise_report([*weak[:3], *strong[3:]])
    assert 255 * report.spread[0] < 10 and 255 * report.spread[1] > 30
    assert "Images differ" in report.sentences()[0]


def test_a_line_is_robust_against_textures() -> None:
    curve = [(x / 16, 0.001 + 0.01 * x / 16) for x in range(1, 17)]
    curve[3], curve[9] = (curve[3][0], 0.05), (curve[9][0], 0.03)
    line = fit_line(curve)
    assert (line.offset, line.gain) == pytest.approx((0.001, 0.01), rel=1e-2) and line.sure
    assert fit_line(curve[:2]) == Line(pytest.approx(0.001875, rel=0.2), 0.0, False)


def test_the_same_images_give_the_same_report() -> None:
    assert noise_report(noisy("poisson30")) == noise_report(noisy("poisson30"))


def test_one_small_image_is_enough() -> None:
    report = noise_report([noisy("gauss25")[0][:, :64, :64]])
    assert 255 * report.sigma == pytest.approx(25, rel=0.25) and report.sizes == ((64, 64),)
    assert noise_report([noisy("gauss25")[0][:, :16, :16]]).images == 1


def test_parts_of_a_large_image_are_enough() -> None:
    large = torch.full((1, 2304, 4000), 0.5) + 0.1 * torch.randn(1, 2304, 4000, generator=generator("large"))
    report = noise_report([large])
    assert report.sigma == pytest.approx(0.1, rel=0.02) and report.sizes == ((2304, 4000),)


# ---- repeats ----


def test_repeats_tell_level_line_and_correlation() -> None:
    scenes = frames("poisson30", 3)
    report = noise_report([scene[0] for scene in scenes], scenes)
    assert report.exact and report.gain == pytest.approx(1 / 30, rel=0.05)
    assert report.zero_mean is not None and report.zero_mean.frames == 3
    assert report.zero_mean.holds and report.zero_mean.shift_pixels < 0.2
    assert abs(report.autocorrelation[4][5]) < 0.02
    assert "not proof" in report.sentences()[-1]


def test_repeats_see_correlation_over_many_pixels_that_single_images_hide() -> None:
    scenes = frames("corrn25", 2)
    exact, single = noise_report([scene[0] for scene in scenes], scenes), noise_report([s[0] for s in scenes])
    assert 255 * exact.sigma == pytest.approx(25, rel=0.05) and 255 * single.sigma < 24
    assert exact.autocorrelation[4][5] > 0.1


@pytest.mark.parametrize(("down", "right"), [(0.6, 0.0), (-0.5, 1.3), (3.0, -4.0)])
def test_misaligned_repeats_are_measured(down: float, right: float) -> None:
    moved = []
    for number, image in enumerate(clean()):
        other = ndimage.shift(image[0].numpy(), (down, right), order=3, mode="nearest")
        first, second = (25 / 255 * torch.randn(image.shape, generator=generator("m", number, k)) for k in (0, 1))
        moved.append([image + first, torch.from_numpy(other)[None].float() + second])
    shifts = [displacement(*scene) for scene in moved]
    assert shifts == pytest.approx([math.hypot(down, right)] * len(shifts), abs=0.2)
    report = noise_report([scene[0] for scene in moved], moved)
    assert report.zero_mean is not None and not report.zero_mean.aligned and not report.zero_mean.holds
    assert 255 * report.sigma == pytest.approx(25, rel=0.1)  # that of single images
    assert "not aligned" in headline(report)


def test_frames_without_a_scene_have_no_displacement() -> None:
    frames_of_nothing = [torch.randn(1, 128, 128, generator=generator("nothing", k)) for k in range(2)]
    assert displacement(*frames_of_nothing) == 0


def test_repeats_whose_brightness_drifts() -> None:
    scenes = [[scene[0], scene[1] + 0.02] for scene in frames("gauss25", 2)]
    report = noise_report([scene[0] for scene in scenes], scenes)
    assert report.zero_mean is not None and report.zero_mean.aligned and not report.zero_mean.holds
    assert report.zero_mean.bias == pytest.approx(0.01, abs=0.002)  # from the mean of both
    assert 255 * report.sigma == pytest.approx(25, rel=0.05)
    assert "differ in brightness" in headline(report)


# ---- traces of recording and storing ----


def as_jpeg(image: Tensor, quality: int) -> Tensor:
    stream = io.BytesIO()
    Image.fromarray((image[0].clamp(0, 1) * 255).round().byte().numpy()).save(stream, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(stream)))[None].float() / 255


def test_the_grid_of_jpeg_is_found_in_crops_and_nowhere_else() -> None:
    images = [stored(image, 255) for image in noisy("gauss10")]
    ratio, found = jpeg_grid([as_jpeg(image, 60)[:, 3:, 5:] for image in images])
    assert found and ratio > 0.05
    for others in (images, [stored(image, 255) for image in clean()]):
        ratio, found = jpeg_grid(others)
        assert not found and ratio < 0.03
    assert jpeg_grid([as_jpeg(images[0], 60)])[1] and not jpeg_grid([images[0]])[1]


def test_clipping_is_measured() -> None:
    images = noisy("gauss50")
    low, high = (sum(int(part(image).sum()) for image in images) for part in (lambda x: x <= 0, lambda x: x >= 1))
    report = noise_report([stored(image, 255) for image in images])
    total = sum(image.numel() for image in images)
    assert (report.clipped_low, report.clipped_high) == pytest.approx((low / total, high / total), rel=0.2)
    assert "pile up at black and white" in " ".join(report.sentences())
    assert noise_report(images).clipped_low == 0


@pytest.mark.parametrize("levels", [255, 4095, 65535])
def test_the_step_of_stored_values(levels: int) -> None:
    images = [stored(image, levels) for image in noisy("gauss25")]
    assert smallest_step(images) == pytest.approx(1 / levels, rel=0.02)


def test_twelve_bits_in_files_of_sixteen() -> None:
    low = [stored(image, 4095) * 4095 / 65535 for image in noisy("gauss25")]
    high = [stored(image, 4095) * 4095 * 16 / 65535 for image in noisy("gauss25")]
    for images, said in ((low, "the largest value is 4095 of 65535"), (high, "with the lowest bits empty")):
        report = noise_report(images)
        assert stored_bits(report) == 12 and said in " ".join(report.sentences())
    report = noise_report(low)
    assert 255 * report.sigma * 65535 / 4095 == pytest.approx(25, rel=0.1)
    assert report.pixel_independent and report.correlation.windows  # weak as it is in [0, 1], it is seen
    assert stored_bits(noise_report([stored(image, 65535) for image in noisy("gauss25")])) == 0


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_values_that_are_divided_by_their_own_range_are_no_part_of_sixteen_bits(bits: int) -> None:
    full = 2**bits - 1
    own = [stored(image, full) for image in noisy("gauss25")]
    shifted = [image * full * 2 ** (16 - bits) / 65535 for image in own]
    assert (stored_bits(noise_report(own)), stored_bits(noise_report(shifted))) == (0, bits)


# ---- bad input ----


def test_what_cannot_be_measured_is_refused() -> None:
    good = noisy("gauss25")[0]
    broken = good.clone()
    broken[0, 5, 5] = math.nan
    cases: list[tuple[list[Tensor], list[list[Tensor]], str]] = [
        ([], [], "no images"),
        ([good, broken], [], "image 2 holds NaN"),
        ([good, broken.nan_to_num(math.inf)], [], "image 2 holds NaN or infinite"),
        ([torch.full((1, 64, 64), 0.5)], [], "image 1 is constant"),
        ([good[:, :15, :]], [], "at least 16 x 16"),
        ([good, good.expand(3, -1, -1)], [], "image 2 has 3 channels"),
        ([good], [[good]], "scene 1 has 1 frame,"),
        ([good], [[good, good[:, :64, :64]]], "frames of scene 1 differ in size"),
        ([good], [[good, broken]], "frame 2 of scene 1 holds NaN"),
    ]
    for images, scenes, said in cases:
        with pytest.raises(UserError, match=said) as error:
            noise_report(images, scenes)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"the image night\.1 holds NaN"):
        noise_report([good, broken], names=["day", "night.1"])


# ---- recorded images ----


def recorded(name: str, root: Path) -> NoiseReport:
    try:
        images = load_images(name, channels=None, data_root=root)
    except UserError as error:
        pytest.skip(str(error))
    return noise_report(images.noisy or images.pixels)


def test_recorded_fluorescence(data_root: Path) -> None:
    images = load_images("w2s", channels=None, data_root=data_root) if (data_root / "wf_sample").is_dir() else None
    if images is None or images.noisy is None:
        pytest.skip("w2s is not in the data folder")
    report = noise_report(images.noisy)
    assert report.pixel_independent and report.slope_sure and not report.signal_independent and not report.jpeg
    difference = torch.stack(list(images.noisy)) - torch.stack(list(images.pixels))
    truth = torch.stack(list(images.pixels))
    for intensity, deviation in report.curve[8:-1]:
        near = (truth - intensity).abs() < 0.02
        assert deviation == pytest.approx(float(difference[near].std()), rel=0.15)


def test_recorded_photographs(data_root: Path) -> None:
    report = recorded("cc15", data_root)
    assert not report.pixel_independent and report.jpeg
    assert report.channel_correlation is not None and report.channel_correlation > 0.3
    assert not report.signal_independent and not report.on_line  # after a tone curve: most in the middle
    assert "on no line" in report.sentences()[1]


def test_computed_tomography(data_root: Path) -> None:
    report = recorded("ct_sample", data_root)
    assert stored_bits(report) == 12 and report.clipped_low > 0.005


def test_reports_are_plain_data() -> None:
    report = noise_report(noisy("gauss25"))
    assert isinstance(report.correlation, Correlation) and len(report.autocorrelation) == 9
    assert report.autocorrelation[4][4] == pytest.approx(1) and len(report.sentences()) == 7
