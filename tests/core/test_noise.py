"""Statistics of the noise models, their names, and the noise of test images."""

from __future__ import annotations

import math

import pytest
import torch

from denoise_core.errors import UserError
from denoise_core.images.image_set import ImageSet
from denoise_core.metrics.full_reference import measure
from denoise_core.metrics.protocol import PROTOCOLS
from denoise_core.noise import evaluation
from denoise_core.noise.models import Gaussian, Poisson, noise_families, parse_noise
from denoise_core.seeding import generator


@pytest.mark.parametrize(("sigma", "decibel"), [(15, 24.61), (25, 20.17), (50, 14.15)])
def test_gaussian_reads_the_published_psnr(sigma: int, decibel: float) -> None:
    clean = torch.rand(1, 3, 512, 512, generator=generator("clean"))
    noisy = parse_noise(f"gauss{sigma}")(clean, generator("noise"))
    psnr = measure(PROTOCOLS["canonical"], noisy[0], clean[0])["psnr"]
    assert psnr == pytest.approx(decibel, abs=0.03)  # standard error 0.007 dB
    assert noisy.min() < 0
    assert noisy.max() > 1


def test_gaussian_is_white_and_has_zero_mean() -> None:
    noise = 255 * parse_noise("gauss25")(torch.zeros(1, 1, 1000, 1000), generator("noise"))[0, 0]
    assert abs(noise.mean().item()) < 0.1  # 4 standard errors
    assert noise.std().item() == pytest.approx(25, abs=0.1)
    for neighbour in (noise[1:, :] * noise[:-1, :], noise[:, 1:] * noise[:, :-1]):
        assert abs(neighbour.mean().item() / 625) < 0.005  # 5 standard errors


@pytest.mark.parametrize("value", [0.1, 0.5, 1.0])
def test_poisson_mean_and_variance(value: float) -> None:
    noisy = parse_noise("poisson30")(torch.full((1, 1, 1000, 1000), value), generator("noise"))
    assert noisy.mean().item() == pytest.approx(value, abs=5 * math.sqrt(value / 30) / 1000)
    assert noisy.var().item() == pytest.approx(value / 30, rel=0.01)
    counts = noisy * 30
    assert torch.allclose(counts, counts.round(), atol=1e-3)


@pytest.mark.parametrize(("name", "value"), [("gauss5_50", 0.5), ("poisson5_50", 1.0)])
def test_ranges_draw_a_uniform_level_for_each_image(name: str, value: float) -> None:
    noisy = parse_noise(name)(torch.full((400, 1, 40, 40), value), generator("noise"))
    deviation = noisy.std(dim=(1, 2, 3))
    levels = 255 * deviation if name.startswith("gauss") else 1 / deviation.square()
    assert 4 < levels.min() < 8
    assert 46 < levels.max() < 56
    assert levels.mean().item() == pytest.approx(27.5, abs=3)  # U(5, 50); standard error 0.65


def test_noise_depends_on_the_generator_only() -> None:
    clean = torch.rand(2, 1, 8, 8, generator=generator("clean"))
    for name in ("gauss25", "gauss5_50", "poisson30", "poisson5_50"):
        noise = parse_noise(name)
        assert torch.equal(noise(clean, generator(1)), parse_noise(name)(clean, generator(1)))
        assert not torch.equal(noise(clean, generator(1)), noise(clean, generator(2)))
    before = clean.clone()
    parse_noise("gauss25")(clean, generator(1))
    assert torch.equal(clean, before)


def test_names_round_trip_and_families_are_discovered() -> None:
    assert {Gaussian, Poisson} <= set(noise_families())
    for family in noise_families():
        for example in family.example.split(" or "):
            model = parse_noise(example)
            assert type(model) is family
            assert model.name == example
            assert model.description.endswith(".")
    assert parse_noise("gauss25.0").name == "gauss25"
    assert parse_noise("gauss2.5").description == "Gaussian noise, y = x + N(0, sigma^2), sigma = 2.5/255, not clipped."
    assert "lambda ~ U(5, 50) for each image" in parse_noise("poisson5_50").description


def test_a_new_module_adds_its_names(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    import denoise_core.noise as package

    text = (
        "from denoise_core.noise.models import Gaussian\n"
        "class Quiet(Gaussian):\n"
        "    family = 'quiet'\n"
        "    pattern = Gaussian.pattern.replace('gauss', 'quiet')\n"
        "    example = 'quiet1'\n"
    )
    (Path(str(tmp_path)) / "quiet_for_test.py").write_text(text)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    noise_families.cache_clear()
    try:
        assert parse_noise("quiet2").name == "quiet2"
    finally:
        noise_families.cache_clear()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gaus25", "unknown noise 'gaus25': did you mean 'gauss25'"),
        ("gauss", "unknown noise 'gauss': .*Known: .*gauss5_50"),
        ("gauss25x", "unknown noise"),
        ("gauss-5", "'gauss-5' has a level out of range; levels must be 0 or more"),
        ("poisson0", "'poisson0' has a level out of range; levels must be more than 0"),
        ("gauss50_5", "'gauss50_5' has low > high; write the smaller level first"),
    ],
)
def test_wrong_names(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_noise(name)


def test_noise_of_test_images_belongs_to_image_noise_and_repeat() -> None:
    clean = torch.full((1, 8, 8), 0.5)
    images = ImageSet("set", ("a", "b"), (clean, clean))
    noise = parse_noise("gauss25")
    items = list(evaluation.noisy_test_images(images, noise, 2))
    assert [(item.image_id, item.repeat) for item in items] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert len({item.noisy.numpy().tobytes() for item in items}) == 4
    assert all(torch.equal(item.clean, clean) and item.noisy.shape == clean.shape for item in items)
    torch.manual_seed(5)
    alone = list(evaluation.noisy_test_images(images.subset([1], "part"), noise, 1))
    assert torch.equal(alone[0].noisy, items[2].noisy)
    with pytest.raises(UserError, match="repeats is 0; it must be 1 or more"):
        next(evaluation.noisy_test_images(images, noise, 0))
