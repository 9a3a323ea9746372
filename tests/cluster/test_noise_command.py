"""``denoise-studies noise``: what it reads, prints, draws and refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from cluster.commands import main
from cluster.report.noise_page import FAILS, HOLDS, UNKNOWN, draw_curve, draw_lags, draw_values, suits
from denoise_core.images.bundled import load_bundled
from denoise_core.images.folder import load_folder
from denoise_core.method import methods
from denoise_core.noise.report import noise_report

Array = np.ndarray[Any, np.dtype[Any]]


def scene(number: int, side: int = 128) -> Array:
    """(side, side) in [0.1, 0.9]: part of a photograph."""
    image = load_bundled("bundled_test").pixels[number][0, 40 : 40 + side, 40 : 40 + side].numpy()
    return 0.1 + 0.8 * image


def noisy(image: Array, seed: int, sigma: float = 20) -> Array:
    return image + np.random.default_rng(seed).normal(0, sigma / 255, image.shape)


def eight_bits(image: Array) -> Array:
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def save(path: Path, pixels: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four noisy images of 8 bits and of different size."""
    for number in range(4):
        save(tmp_path / "images" / f"{number}.png", eight_bits(noisy(scene(number, 128 + 16 * number), number)))
    return tmp_path / "images"


def repeats(root: Path, shift: float = 0) -> Path:
    """Two scenes of three frames in sub-folders; the last frame of the second is shifted down."""
    for number in range(2):
        for frame in range(3):
            image = scene(number)
            if shift and (number, frame) == (1, 2):
                image = ndimage.shift(image, (shift, 0), order=3, mode="nearest")
            save(root / f"scene{number}" / f"{frame}.png", eight_bits(noisy(image, 10 * number + frame)))
    return root


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["noise", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and not out
    return err


def test_it_says_what_the_noise_is_and_which_methods_suit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["noise", str(folder)]) == 0
    out = capsys.readouterr().out
    level = re.match(r"Noise of ([\d.]+)/255, independent from pixel to pixel, equally strong everywhere", out)
    assert level and float(level[1]) == pytest.approx(20, rel=0.1)
    assert "4 images, gray, 128 x 128, 144 x 144, 160 x 160, 176 x 176." in out
    assert "The smallest step between values is 1/255" in out
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()}
    assert set(methods()) <= set(rows)
    assert rows["neighbor2neighbor"].split("  ")[0] == "neighbor2neighbor" and HOLDS in rows["neighbor2neighbor"]


def test_one_image_sets_and_pairs_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "one" / "a.png", eight_bits(noisy(scene(0), 0)))
    assert main(["noise", str(tmp_path / "one")]) == 0
    assert "1 image, gray, 128 x 128." in capsys.readouterr().out
    for part, sigma in (("noisy", 30), ("gt", 0)):
        save(tmp_path / "pairs" / part / "a.png", eight_bits(noisy(scene(0), 0, sigma)))
    assert main(["noise", str(tmp_path / "pairs")]) == 0
    level = re.match(r"Noise of ([\d.]+)/255", capsys.readouterr().out)
    assert level and float(level[1]) == pytest.approx(30, rel=0.15)
    assert main(["noise", "bundled_test", "--channels", "3"]) == 0
    assert "The channels" in capsys.readouterr().out


def test_the_page_needs_no_network_and_shows_what_was_measured(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "reports" / "noise.html"
    assert main(["noise", str(folder), "--html", str(page)]) == 0
    text = page.read_text()
    bare = re.sub(r"<script>.*?</script>", "", text, count=1, flags=re.S)  # plotly.js names addresses
    assert "http" not in re.sub(r"http-equiv", "", bare) and "default-src 'none'" in text
    report = noise_report(load_folder(folder).pixels)
    assert all(name in text for name in ("Noise of", 'id="curve"', 'id="lags"', 'id="values"', "data:image/png"))
    assert f"{255 * report.sigma:.3g}/255" in text and list(page.parent.iterdir()) == [page]


def test_the_figures_have_the_reports_numbers(folder: Path) -> None:
    images = load_folder(folder).pixels
    report = noise_report(images)
    points, line = draw_curve(report).data
    assert [round(one, 6) for one in points.y] == [round((255 * s) ** 2, 6) for _, s in report.curve]
    assert line.y[1] == pytest.approx(255**2 * (report.offset + report.gain * report.curve[-1][0]))
    assert np.array(draw_lags(report).data[0].z)[4, 4] == pytest.approx(1)
    bars = draw_values(report, images).data
    assert sum(map(sum, (bars[0].y, bars[1].y))) == pytest.approx(1)
    assert tuple(bars[1].y) == (report.clipped_low, report.clipped_high)


def test_repeats_in_folders_and_in_stacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["noise", str(repeats(tmp_path / "frames")), "--repeats"]) == 0
    out = capsys.readouterr().out
    level = re.match(r"Noise of ([\d.]+)/255", out)
    assert level and float(level[1]) == pytest.approx(20, rel=0.05)
    assert "2 scenes, gray" in out and "Repeated frames share their mean (at least 3 frames" in out
    (tmp_path / "stacks").mkdir()
    for number in range(2):
        stack = np.stack([eight_bits(noisy(scene(number), 10 * number + frame)) for frame in range(3)])
        tifffile.imwrite(tmp_path / "stacks" / f"{number}.tif", stack, metadata={"axes": "TYX"})
    assert main(["noise", str(tmp_path / "stacks"), "--repeats"]) == 0
    assert capsys.readouterr().out == out


def test_repeats_that_are_not_aligned_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["noise", str(repeats(tmp_path / "frames", 1.5)), "--repeats"]) == 1
    out, err = capsys.readouterr()
    apart = re.search(r"up to ([\d.]+) pixels apart", err)
    assert apart and float(apart[1]) == pytest.approx(1.5, abs=0.2) and err.count("\n") == 1
    assert "flattest places of single images" in out


def test_twelve_bits_in_sixteen_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "deep").mkdir()
    for number in range(3):
        values = (noisy(scene(number), number).clip(0, 1) * 4095).round().astype(np.uint16)
        values[0, 0] = 4095
        tifffile.imwrite(tmp_path / "deep" / f"{number}.tif", values)
    assert main(["noise", str(tmp_path / "deep")]) == 0
    assert "These are 12 bits in files of 16" in capsys.readouterr().out


def test_bad_input_is_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist" in refused(capsys, f"{tmp_path}/nowhere/")
    assert "unknown image set 'bundled_tst'" in refused(capsys, "bundled_tst")
    assert "is a file; give the folder" in refused(capsys, folder / "0.png")
    assert "Are these frames of one scene?" in refused(capsys, folder, "--repeats")
    assert "is a folder; give the name of a file" in refused(capsys, folder, "--html", tmp_path)
    save(folder / "colour.png", np.zeros((32, 32, 3), np.uint8))
    assert "--channels 1 or --channels 3" in refused(capsys, folder)
    assert "the image colour is constant" in refused(capsys, folder, "--channels", "1")
    alpha = np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    save(tmp_path / "alpha" / "a.png", alpha)
    assert "transparency (alpha) channel that is not constant" in refused(capsys, tmp_path / "alpha")
    (tmp_path / "nan").mkdir()
    np.save(tmp_path / "nan" / "a.npy", np.full((32, 32), np.nan, np.float32))
    assert "holds NaN or infinite pixels" in refused(capsys, tmp_path / "nan")


def test_repeats_that_are_unclear_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = repeats(tmp_path / "frames")
    assert "holds single images" in refused(capsys, frames / "scene0", "--repeats")
    save(frames / "extra.png", eight_bits(scene(0)))
    assert "holds images and sub-folders" in refused(capsys, frames, "--repeats")
    (tmp_path / "stacks").mkdir()
    stack = np.zeros((3, 2, 32, 32), np.uint8)
    tifffile.imwrite(tmp_path / "stacks" / "a.tif", stack, metadata={"axes": "TCYX"}, photometric="minisblack")
    said = refused(capsys, tmp_path / "stacks", "--repeats")
    assert "the axes TCYX of 3 x 2 x 32 x 32" in said and "which of T, C counts the frames" in said
    save(tmp_path / "few" / "scene" / "a.png", eight_bits(noisy(scene(0), 0)))
    assert "scene 1 has 1 frame" in refused(capsys, tmp_path / "few", "--repeats")


def test_assumptions_are_held_against_what_was_measured(tmp_path: Path) -> None:
    single = noise_report([load_folder(repeats(tmp_path) / "scene0").pixels[0]])
    by_name = {one.method: one for one in suits(single)}
    assert by_name["neighbor2neighbor"].zero_mean == UNKNOWN and by_name["neighbor2neighbor"].pixel_independent == HOLDS
    assert by_name["n2c"].row[1:4] == ("–", "–", "–")
    frames = load_folder(tmp_path / "scene0").pixels
    blurred = [image.unfold(1, 3, 1).unfold(2, 3, 1).mean((3, 4)) for image in frames]
    by_name = {one.method: one for one in suits(noise_report(blurred[:1], [blurred]))}
    assert by_name["neighbor2neighbor"].zero_mean == HOLDS and by_name["neighbor2neighbor"].pixel_independent == FAILS
    order = suits(noise_report(blurred[:1], [blurred]))
    assert [one.fails for one in order] == sorted(one.fails for one in order)
