"""The commands denoise and export: files, folders, stacks, what is refused, and a training of a store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cluster.execution.one_training import Ended
from cluster.models import model_of_trial
from cluster.results.store import Store
from denoise_core.method import create
from denoise_core.model import Model, ModelInfo, load, save_model
from tests.cluster import phases_toys as toys
from tests.cluster.stores_toys import answers, row, write

SMALL = {"denoiser_depth": 3, "denoiser_width": 4}
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_model(path, create("dncnn_b", SMALL, 1, 0), ModelInfo())
    return path


@pytest.fixture(scope="module")
def model(model_file: Path) -> Model:
    return load(model_file)


def test_a_folder_keeps_its_sub_folders_types_and_metadata(
    tmp_path: Path, model_file: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    (source / "sub").mkdir(parents=True)
    stack = RANDOM.integers(0, 65535, (3, 40, 50), dtype="uint16")
    labels = {"axes": "ZYX", "spacing": 0.5, "unit": "um", "Labels": ["a", "b", "c"], "Info": "a scope"}
    tifffile.imwrite(source / "stack.tif", stack, imagej=True, metadata=labels, resolution=(3.0, 3.0))
    ome = {"axes": "TYX", "PhysicalSizeX": 0.2}
    tifffile.imwrite(source / "sub" / "ome.ome.tif", stack, ome=True, metadata=ome)
    tifffile.imwrite(source / "packed.tiff", stack, compression="zlib", metadata={"axes": "TYX"})
    tifffile.imwrite(source / "moto.tif", stack[0], byteorder=">", description="by hand", metadata=None)
    photo = RANDOM.integers(0, 255, (30, 31), dtype="uint8")
    text = PngInfo()
    text.add_text("Who", "me")
    Image.fromarray(photo).save(source / "sub" / "photo.png", dpi=(300, 300), pnginfo=text)
    np.save(source / "field.npy", np.asfortranarray(photo / np.float32(255)))
    (source / "notes.txt").write_text("not an image")
    status, out, err = answers(capsys, "denoise", str(model_file), str(source), str(target))
    assert status == 0, err
    assert "6 of 6 file(s)" in out
    names = {str(one.relative_to(target)) for one in target.rglob("*") if one.is_file()}
    assert names == {"stack.tif", "sub/ome.ome.tif", "packed.tiff", "moto.tif", "sub/photo.png", "field.npy"}
    for name, array, axes in (
        ("stack.tif", stack, "ZYX"),
        ("sub/ome.ome.tif", stack, "TYX"),
        ("moto.tif", stack[0], "YX"),
    ):
        with tifffile.TiffFile(source / name) as before, tifffile.TiffFile(target / name) as after:
            np.testing.assert_array_equal(after.asarray(), model.denoise(array, axes))
            assert after.series[0].axes == before.series[0].axes
            assert after.pages[0].description == before.pages[0].description
            assert after.imagej_metadata == before.imagej_metadata
            assert after.pages[0].resolution == before.pages[0].resolution
            assert after.byteorder == before.byteorder
            assert len(after.pages) == len(before.pages)
    np.testing.assert_array_equal(tifffile.imread(target / "packed.tiff"), model.denoise(stack, "TYX"))
    with Image.open(target / "sub" / "photo.png") as after:
        np.testing.assert_array_equal(np.asarray(after), model.denoise(photo))
        assert after.info["Who"] == "me"
        assert after.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    field = np.load(target / "field.npy")
    assert field.dtype == np.float32
    assert field.flags.f_contiguous
    np.testing.assert_allclose(field, model.denoise(photo / np.float32(255)), atol=1e-6)


def test_one_bad_file_is_told_and_the_rest_goes_on(
    tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    good = RANDOM.integers(0, 255, (20, 30), dtype="uint8")
    Image.fromarray(good).save(source / "z.png")
    Image.fromarray(good).save(source / "lossy.jpg")
    (source / "broken.tif").write_bytes(b"II*\0 and nothing else")
    np.save(source / "nan.npy", np.full((20, 30), np.nan, "float32"))
    np.save(source / "stack.npy", np.zeros((4, 20, 30), "uint8"))
    Image.fromarray(np.stack([good] * 3, axis=-1)).save(source / "colour.png")
    status, out, err = answers(capsys, "denoise", str(model_file), str(source), str(tmp_path / "out"))
    assert status == 1
    assert "1 of 6 file(s)" in out
    for told in ("lossy.jpg is a JPEG", "broken.tif: it is damaged", "nan.npy holds NaN", "--axes", "has 3 channel(s)"):
        assert told in err
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["z.png"]  # nothing half done is left
    arguments = ("denoise", str(model_file), str(source / "stack.npy"), str(tmp_path / "s.npy"), "--axes", "TYX")
    assert answers(capsys, *arguments)[0] == 0
    assert np.load(tmp_path / "s.npy").shape == (4, 20, 30)


def test_inputs_are_never_overwritten(tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in"
    (source / "in").mkdir(parents=True)
    image = RANDOM.integers(0, 255, (20, 30), dtype="uint8")
    for path in (source / "a.png", source / "in" / "a.png"):
        Image.fromarray(image).save(path)
    (tmp_path / "link.png").symlink_to(source / "a.png")
    one = source / "a.png"
    for given, output, said in (
        (one, one, "overwrite its own input"),
        (one, source, "overwrite its own input"),
        (one, tmp_path / "link.png", "overwrite its own input"),
        (source, source, "among the inputs"),
        (source, source / "out", "among the inputs"),
        (one, tmp_path / "a.tif", "not of the kind"),
        (tmp_path / "none", tmp_path / "out", "no file or folder"),
    ):
        status, _, err = answers(capsys, "denoise", str(model_file), str(given), str(output))
        assert (status, said in err) == (2, True), (given, output, err)
    # below the parent, the file of the sub-folder would become in/a.png
    status, _, err = answers(capsys, "denoise", str(model_file), str(source), str(tmp_path))
    assert status == 1
    assert "one of the inputs" in err
    for path in (source / "a.png", source / "in" / "a.png"):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), image)


def test_alpha_that_is_constant_stays(tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = RANDOM.integers(0, 255, (20, 30, 2), dtype="uint8")
    image[..., 1] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    assert answers(capsys, "denoise", str(model_file), str(tmp_path / "a.png"), str(tmp_path / "b.png"))[0] == 0
    result = np.asarray(Image.open(tmp_path / "b.png"))
    assert result.shape == image.shape
    assert (result[..., 1] == 255).all()
    image[0, 0, 1] = 0
    Image.fromarray(image).save(tmp_path / "a.png")
    status, _, err = answers(capsys, "denoise", str(model_file), str(tmp_path / "a.png"), str(tmp_path / "c.png"))
    assert status == 1
    assert "alpha" in err


MEASURE = """
import resource, sys, torch
from cluster.commands import main
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
model, warm, image, result, *flags = sys.argv[1:]
assert main(["denoise", model, warm, result, *flags]) == 0  # loads all that is needed
before = peak()
assert main(["denoise", model, image, result, *flags]) == 0
print(peak() - before)
"""


def test_a_large_image_takes_the_memory_of_a_tile(tmp_path: Path) -> None:
    """32 MiB are read and 32 MiB are written by a process that grows by less than a half of one."""
    method = create("dncnn_b", {"denoiser_depth": 2, "denoiser_width": 1}, 1, 0)
    save_model(tmp_path / "m.safetensors", method, ModelInfo())
    for name, side in (("warm.tif", 1024), ("in.tif", 4096)):
        offset, _ = tifffile.imwrite(tmp_path / name, shape=(side, side), dtype="uint16", returnoffset=True)
        rows = np.memmap(tmp_path / name, "uint16", "r+", offset, (side, side))
        rows[:] = np.arange(side, dtype="uint16") * 16
        del rows
    side = 4096
    arguments = [str(tmp_path / name) for name in ("m.safetensors", "warm.tif", "in.tif", "out.tif")]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments, f"--max-pixels={640**2}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 16
    result = tifffile.memmap(tmp_path / "out.tif", mode="r")
    assert result.shape == (side, side)
    part = np.array(tifffile.memmap(tmp_path / "in.tif", mode="r")[3000:3300, 3000:3300])
    want = load(tmp_path / "m.safetensors").denoise(part)[50:-50, 50:-50].astype(int)
    assert np.abs(want - result[3050:3250, 3050:3250]).max() <= 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[str]]:
    """Two trainings that share phases: one of one iteration, and one of two, which took the first from it."""
    store, names = Store.open(str(tmp_path_factory.mktemp("store"))), []
    for iterations in (1, 2):
        spec = toys.trial(iterations=iterations)
        assert toys.training(spec, store).run(toys.toy_data(), toys.Listener()) is Ended.DONE
        names.append(spec.trial_id)
    return store, names


def test_a_training_of_a_store_becomes_a_model(
    trained: tuple[Store, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, names = trained
    image = RANDOM.integers(0, 255, (40, 41), dtype="uint8")
    Image.fromarray(image).save(tmp_path / "a.png")
    results = []
    for name in names:
        path = tmp_path / f"{name}.safetensors"
        status, _, err = answers(capsys, "export", name[:10], str(path), "--store", store.location)
        assert status == 0, err
        read = load(path)
        assert (read.info.trial_id, read.info.data["noise"]) == (name, "gauss25")
        arguments = (
            "denoise",
            name[:10],
            str(tmp_path / "a.png"),
            str(tmp_path / f"{name}.png"),
            "--store",
            store.location,
        )
        assert answers(capsys, *arguments)[0] == 0
        results.append(np.asarray(Image.open(tmp_path / f"{name}.png")))
        np.testing.assert_array_equal(results[-1], read.denoise(image))
    assert (results[0] != results[1]).any()
    torch.testing.assert_close(
        model_of_trial(store, names[1]).method.state_dict(), load(path).method.state_dict(), rtol=0, atol=0
    )


def test_what_is_no_model_is_told(
    trained: tuple[Store, list[str]], tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, target = tmp_path / "a.png", str(tmp_path / "b.png")
    Image.fromarray(np.zeros((9, 9), "uint8")).save(image)
    store = Store.open(str(tmp_path / "store"))
    write(store, row("a0" + "0" * 14, status="failed"))
    write(store, row("b0" + "0" * 14, method_version=1, config={"lr": 0.001}))
    for given, said in (("zz", "No training's id begins"), ("a0", "is failed"), ("b0", "has not kept the weights"),
                        (str(tmp_path / "no.safetensors"), "no model file")):  # fmt: skip
        status, _, err = answers(capsys, "denoise", given, str(image), target, "--store", store.location)
        assert (status, said in err) == (2, True), err
    for flags, said in ((("--device", "abacus"), "cannot be used"), (("--set", "lr=1"), "acts at inference"),
                        (("--max-pixels", "0"), "at least 1"), (("--set", "lr"), "not understood")):  # fmt: skip
        status, _, err = answers(capsys, "denoise", str(model_file), str(image), target, *flags)
        assert (status, said in err) == (2, True), err
    status, _, err = answers(capsys, "export", str(model_file), str(tmp_path / "m.txt"), "--format", "onnx")
    assert status == 2
    assert ".onnx" in err
