"""Low-dose CT: the scan against closed forms, the noise against theory, what the cache saves, names and errors."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.images.folder import load_file
from denoise_core.images.phantom import load_phantom
from denoise_core.images.windows import WINDOWS, coded, hounsfield, to_window
from denoise_core.noise import ct
from denoise_core.noise.ct import FIELD, WATER, Geometry, LowDose, project, reconstruct
from denoise_core.noise.evaluation import noisy_test_images
from denoise_core.noise.models import parse_noise
from denoise_core.seeding import generator

Array = NDArray[np.float64]
Ellipse = tuple[float, float, float, float, float, float]
"""x, y, half axes a and b in mm, turn, attenuation."""

SCENES: dict[str, list[Ellipse]] = {
    "disc": [(0, 0, 120, 120, 0, 1.0)],
    "disc to one side": [(50, -60, 60, 60, 0, 1.0)],
    "tilted ellipse": [(-20, 30, 110, 50, 0.6, 1.0)],
    "several": [(0, 0, 140, 95, 0, 1.0), (50, -30, 40, 20, 0.7, 0.5), (-60, 20, 15, 30, -0.4, -0.3)],
}


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENOISE_CACHE", "off")


def drawn(scene: list[Ellipse], side: int) -> Array:
    """The scene with pixels mixed by area, from 8 x 8 points each."""
    fine = (np.arange(8 * side) - (8 * side - 1) / 2) * FIELD / side / 8
    total = np.zeros((8 * side, 8 * side))
    for x0, y0, a, b, turn, value in scene:
        x, y = fine[None, :] - x0, fine[:, None] - y0
        u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
        total += value * ((u / a) ** 2 + (v / b) ** 2 <= 1)
    return total.reshape(side, 8, side, 8).mean(axis=(1, 3))


def closed_form(scene: list[Ellipse], side: int) -> Array:
    """Chords of the scene's ellipses, averaged over the width of each detector."""
    geometry = Geometry(side)
    across = (np.arange(geometry.samples) - (geometry.samples - 1) / 2) * geometry.pitch / 2
    points = across[:, None] + ((np.arange(16) + 0.5) / 16 - 0.5) * geometry.pitch
    total = np.zeros((geometry.angles, geometry.samples))
    for k in range(geometry.angles):
        angle = math.pi * k / geometry.angles
        for x, y, a, b, turn, value in scene:
            square = (a * math.cos(angle - turn)) ** 2 + (b * math.sin(angle - turn)) ** 2
            off = points - x * math.cos(angle) - y * math.sin(angle)
            chord = 2 * a * b / square * np.sqrt(np.maximum(square - off**2, 0))
            total[k] += value * chord.mean(axis=1)
    return total


def inside(shape: Array, margin: int) -> Array:
    """Pixels whose neighbours within ``margin`` all have the value of the shape's own inside, 1."""
    full = torch.from_numpy(shape == 1).double()[None, None]
    return (-F.max_pool2d(-full, 2 * margin + 1, 1, margin))[0, 0].numpy() == 1


def slice_of(shape: Array) -> Tensor:
    """(1, 1, side, side): water where ``shape`` is 1, air where it is 0."""
    return coded(torch.from_numpy(1000 * (shape - 1)).float())[None, None]


def noise_hu(name: str, clean: Tensor, *seed: str | int) -> Tensor:
    return ct.FULL_RANGE * (parse_noise(name)(clean, generator(*seed)) - clean)[:, 0]


# --- the scan ---------------------------------------------------------------------------------------------------------


def test_geometry_is_that_of_the_paper() -> None:
    geometry = Geometry(512)
    assert geometry.pixel == pytest.approx(0.67)
    assert geometry.pitch == pytest.approx(0.7)
    assert 2 * geometry.angles == 736
    assert geometry.samples // 2 == 736
    for side in (16, 100, 256, 1024):
        other = Geometry(side)
        assert side * other.pixel == pytest.approx(FIELD)
        assert other.samples / 2 * other.pitch > math.sqrt(2) * FIELD + other.pitch  # nothing is cut off
        assert other.angles / side == pytest.approx(geometry.angles / 512, rel=0.05)


@pytest.mark.parametrize("name", SCENES)
def test_projections_are_those_of_the_closed_form(name: str) -> None:
    scene = SCENES[name]
    exact = closed_form(scene, 128)
    error = project(drawn(scene, 128)) - exact
    assert _root_mean_square(error) < 0.003 * exact.max()
    assert abs(error.mean()) < 1e-4 * exact.max()
    assert np.abs(error).max() < 0.06 * exact.max()
    finer = project(drawn(scene, 256)) - closed_form(scene, 256)
    assert _root_mean_square(finer) < 0.6 * _root_mean_square(error)  # the edges of pixels are all the error


def _root_mean_square(values: Array) -> float:
    return float(np.sqrt((values**2).mean()))


def test_views_along_the_axes_of_the_lattice_are_even() -> None:
    square = project(np.ones((256, 256)))
    first, middle = square[0], square[Geometry(256).angles // 2]  # along the columns, along the rows
    for view in (first, middle):
        flat = view[len(view) // 2 - 220 : len(view) // 2 + 220]
        assert np.abs(flat / FIELD - 1).max() < 3e-4


@pytest.mark.parametrize("name", SCENES)
def test_a_scan_without_noise_gives_the_slice_back(name: str) -> None:
    shape = drawn(SCENES[name], 128)
    back = reconstruct(torch.from_numpy(project(shape * WATER)), 128).numpy() / WATER
    even = inside(shape, 4)
    assert even.sum() > 500
    error = 1000 * (back - shape)[even]
    assert _root_mean_square(error) < 8  # HU, of steps of 1000
    assert abs(error.mean()) < 1


def test_closed_form_projections_reconstruct_to_the_true_value() -> None:
    scene = SCENES["disc"]
    back = reconstruct(torch.from_numpy(closed_form(scene, 128)), 128).numpy()
    error = 1000 * (back - 1)[inside(drawn(scene, 128), 6)]
    assert _root_mean_square(error) < 1.5


# --- the noise --------------------------------------------------------------------------------------------------------


def expected_variance(shape: Array, dose: float) -> float:
    """HU^2 in the middle, from error propagation through the filter (sum of h^2 = 1 / (12 d^4)) and interpolation."""
    geometry = Geometry(shape.shape[0])
    central = project(shape * WATER)[:, geometry.samples // 2 - 1 : geometry.samples // 2 + 1]
    counts_variance = np.exp(central).mean() / dose
    between = (2 / 3) / 12 - (1 / 3) / (2 * math.pi**2)  # white in the place between two detectors
    variance = math.pi**2 / (2 * geometry.angles * geometry.pitch**2) * between * counts_variance
    return float(variance * (1000 / WATER) ** 2)


def test_noise_in_a_disc_of_water_has_the_variance_of_theory_and_no_mean() -> None:
    shape = drawn(SCENES["disc"], 128)
    noise = noise_hu("ldct1e6", slice_of(shape).expand(24, 1, -1, -1), "theory")
    middle = noise[:, 56:72, 56:72]
    assert middle.var().item() == pytest.approx(expected_variance(shape, 1e6), rel=0.1)
    means = middle.mean(dim=(1, 2))
    assert abs(means.mean().item()) < 4 * means.std().item() / math.sqrt(24)


def test_variance_falls_as_one_over_the_dose() -> None:
    shape = drawn(SCENES["disc"], 128)
    clean, even = slice_of(shape).expand(8, 1, -1, -1), torch.from_numpy(inside(shape, 4))
    variances = [noise_hu(name, clean, "dose")[:, even].var().item() for name in ("ldct1e5", "ldct4e5", "ldct16e5")]
    for more, less in pairwise(variances):
        assert more / less == pytest.approx(4, rel=0.06)


def test_noise_is_correlated_along_the_rays_that_lose_most() -> None:
    shape = drawn([(0, 0, 150, 45, 0, 1.0)], 128)
    noise = noise_hu("ldct1e5", slice_of(shape).expand(8, 1, -1, -1), "streaks")[:, 58:70, 40:88]
    noise = noise - noise.mean()
    power = noise.square().mean()
    along = (noise[:, :, 3:] * noise[:, :, :-3]).mean() / power
    across = (noise[:, 3:] * noise[:, :-3]).mean() / power
    assert along > 0.3
    assert along > across + 0.3


def test_clean_plus_noise_is_the_whole_chain_without_its_own_error() -> None:
    shape = drawn(SCENES["several"], 128)
    integrals = ct._rounded_sinogram(shape * WATER)
    difference = ct._reading_error(integrals, 1e5, generator("chain"))
    chain, noiseless, noise = (reconstruct(p, 128) for p in (integrals + difference, integrals, difference))
    assert torch.allclose(chain, noiseless + noise, atol=1e-6 * WATER * 1000)
    step = 1000 / WATER * (noiseless + noise - (torch.from_numpy(shape) * WATER + noise)).double().numpy()
    even = inside(shape, 4)
    assert _root_mean_square(step[even]) < 8  # HU: the two agree in even parts
    assert np.abs(step).max() > 100  # and not at edges, which the chain blurs


def test_starved_detectors_stay_finite() -> None:
    clean = coded(torch.full((1, 1, 64, 64), 3000.0))  # p up to 37: no photon arrives
    integrals = ct._rounded_sinogram(ct._square_attenuation(clean[0, 0] * 0.5))
    difference = ct._reading_error(integrals, 100, generator(1))
    assert difference.isfinite().all()
    assert (integrals + difference).max().item() == pytest.approx(math.log(100))


def test_doses_are_ordered_in_every_window() -> None:
    slices = torch.stack([load_phantom().pixels[k] for k in (5, 30)])
    for window in WINDOWS:
        clean = to_window(slices, window)
        errors = [
            (to_window(parse_noise(f"ldct{dose}")(slices, generator("order")), window) - clean).square().mean().item()
            for dose in ("1e4", "5e4", "1e5", "5e5")
        ]
        assert errors == sorted(errors, reverse=True)
        assert errors[0] > 4 * errors[-1]


def test_noise_is_a_function_of_generator_and_image() -> None:
    clean = torch.stack([slice_of(drawn(SCENES[name], 64))[0] for name in ("disc", "several")])
    before, noise = clean.clone(), parse_noise("ldct1e5")
    noisy = noise(clean, generator(1))
    assert torch.equal(noisy, parse_noise("ldct1e5")(clean, generator(1)))
    assert not torch.equal(noisy, noise(clean, generator(2)))
    assert torch.equal(noisy[:1], noise(clean[:1], generator(1)))
    assert torch.equal(clean, before)
    assert noisy.shape == clean.shape
    assert noisy.dtype == torch.float32
    assert noise(clean.double(), generator(1)).dtype == torch.float64
    same = noise(clean[:1].expand(2, -1, -1, -1), generator(1))
    assert not torch.equal(same[0], same[1])
    later = noise(slice_of(drawn(SCENES["disc"], 64) * 1.01), generator(1))
    assert not torch.equal(later, noisy[:1])


def test_a_slice_that_is_not_square_is_extended_with_air() -> None:
    shape = drawn(SCENES["tilted ellipse"], 64)
    square = slice_of(shape)
    part = square[:, :, 10:54]
    whole = square.clone()
    whole[:, :, :10], whole[:, :, 54:] = coded(torch.tensor(-1000.0)), coded(torch.tensor(-1000.0))
    for cut, full in ((part, whole[:, :, 10:54]), (part.mT, whole.mT[:, :, :, 10:54])):
        source = whole if cut is part else whole.mT.contiguous()
        expected = noise_hu("ldct1e5", source, 1)
        expected = expected[:, 10:54] if cut is part else expected[:, :, 10:54]
        assert torch.equal(cut, full)
        assert torch.allclose(noise_hu("ldct1e5", cut.contiguous(), 1), expected, atol=1e-3)


# --- the cache --------------------------------------------------------------------------------------------------------


class Calls:
    """Counts the calls of a function of the module."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.count, self._real = 0, getattr(ct, name)
        monkeypatch.setattr(ct, name, self)

    def __call__(self, *arguments: object) -> object:
        self.count += 1
        return self._real(*arguments)


def test_a_slice_is_projected_once_and_the_same_noise_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = slice_of(drawn(SCENES["several"], 64))
    without = {dose: parse_noise(dose)(clean, generator(1)) for dose in ("ldct1e4", "ldct5e4", "ldct1e5", "ldct5e5")}
    fresh = generator(1)
    LowDose(12345)(clean, fresh)
    after = fresh.get_state()  # where a noise that does not come from the cache leaves the generator
    monkeypatch.setenv("DENOISE_CACHE", str(tmp_path))
    projections, reconstructions = Calls(monkeypatch, "project"), Calls(monkeypatch, "reconstruct")
    for repeat in range(2):
        for dose, expected in without.items():
            stream = generator(1)
            assert torch.equal(parse_noise(dose)(clean, stream), expected)
            assert torch.equal(stream.get_state(), after)
        assert (projections.count, reconstructions.count) == (1, 4), repeat
    parse_noise("ldct10000")(clean, generator(1))  # another way to write the first
    assert reconstructions.count == 4
    parse_noise("ldct1e4")(clean, generator(2))
    assert (projections.count, reconstructions.count) == (1, 5)
    parse_noise("ldct1e4")(clean + 1e-4, generator(1))
    assert (projections.count, reconstructions.count) == (2, 6)
    monkeypatch.setattr(ct, "VERSION", ct.VERSION + 1)
    parse_noise("ldct1e4")(clean, generator(1))
    assert (projections.count, reconstructions.count) == (3, 7)


def test_test_images_are_simulated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENOISE_CACHE", str(tmp_path))
    images, calls = load_phantom().subset([0], "one"), Calls(monkeypatch, "reconstruct")
    first, second = (list(noisy_test_images(images, parse_noise("ldct1e5"), 2)) for _ in range(2))
    assert calls.count == 2
    assert all(torch.equal(a.noisy, b.noisy) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0].noisy, first[1].noisy)


# --- names and errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dose", "written"),
    [
        ("ldct1e4", 1e4, "ldct1e4"),
        ("ldct10000", 1e4, "ldct1e4"),
        ("ldct1e+04", 1e4, "ldct1e4"),
        ("ldct10e3", 1e4, "ldct1e4"),
        ("ldct50000", 5e4, "ldct5e4"),
        ("ldct2500", 2500, "ldct2.5e3"),
        ("ldct123456.5", 123456.5, "ldct1.234565e5"),
    ],
)
def test_one_dose_has_one_name(name: str, dose: float, written: str) -> None:
    noise = parse_noise(name)
    assert isinstance(noise, LowDose)
    assert (noise.dose, noise.name) == (dose, written)
    assert parse_noise(noise.name).name == noise.name
    assert noise.description.endswith(".")
    assert noise.whole_image


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ldct0", "'ldct0e0' has a dose out of range; I0 must be from 1e2 to 1e9 photons: ldct1e4 or ldct5e4"),
        ("ldct-5e4", "dose out of range"),
        ("ldct1e10", "dose out of range"),
        ("ldct1e999", "dose out of range"),
        ("ldct", "unknown noise 'ldct': .*ldct1e4"),
        ("ldct1e4_5e4", "unknown noise"),
    ],
)
def test_wrong_doses(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_noise(name)


def test_colour_and_photographs_are_refused() -> None:
    with pytest.raises(UserError, match="needs gray CT images, but these have 3 channels; use --channels 1"):
        LowDose(1e4)(torch.zeros(1, 3, 16, 16), generator(1))
    with pytest.raises(UserError, match=r"HU = 65535 . pixel - 1024, but no light would pass this one"):
        LowDose(1e4)(torch.full((1, 1, 32, 32), 0.5), generator(1))


# --- real slices ------------------------------------------------------------------------------------------------------


def test_a_real_slice(data_root: Path) -> None:
    path = data_root / "ct_sample" / "p19_a.png"
    if not path.is_file():
        pytest.skip(f"real CT slices not found: {path} is missing")
    image = load_file(path, 1)
    assert hounsfield(image).min() >= -1024
    clean = to_window(image, "abdomen")
    errors = [
        (to_window(parse_noise(name)(image[None], generator("real"))[0], "abdomen") - clean).square().mean().item()
        for name in ("ldct5e4", "ldct5e5")
    ]
    psnr = [-10 * math.log10(error) for error in errors]
    assert 8 < psnr[0] < psnr[1] < 40
