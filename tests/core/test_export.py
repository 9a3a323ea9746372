"""Exported graphs give what PyTorch gives, on sizes that are no multiples of anything."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from denoise_core.errors import UserError
from denoise_core.export import TOLERANCE, Card, _readme, export, obstacle
from denoise_core.inference import turned
from denoise_core.method import Method, create, method_class, methods
from denoise_core.model import Model, ModelInfo, load

SIZES = ((37, 53), (64, 65), (32, 96), (5, 41))
CARD = Card(("A Person",), "CC-BY-4.0")
DRAWING = ("noisier2noise",)


def trained(name: str, channels: int = 1, **values: Any) -> Method:
    """A method as after its last phase, with weights that do something."""
    method = create(name, {**method_class(name).recipes["smoke"].config, **values}, channels, 0)
    for phase in method.phases():
        method.enter(phase.name)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in method.parameters():
            one.add_(0.02 * torch.randn(one.shape, generator=draw))
    return method.eval()


def graphs() -> list[str]:
    return [name for name in methods() if not obstacle(trained(name))]


def check(method: Method, run: Any, channels: int = 1) -> None:
    for side in SIZES:
        noisy = torch.rand(1, channels, *side, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            want = method.denoise(noisy).numpy()
        assert want.std() > 0.01
        np.testing.assert_allclose(run(noisy.numpy()), want, atol=TOLERANCE, rtol=0)


def onnx_session(path: Path) -> Any:
    runtime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda noisy: session.run(None, {"noisy": noisy})[0]


@pytest.mark.parametrize("name", sorted(set(methods()) - {"fitted_noise"}))
def test_every_method_that_is_a_plain_function_agrees_in_all_formats(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra export is not installed")
    method = trained(name)
    if (reason := obstacle(method)) or name in DRAWING:
        with pytest.raises(UserError, match=reason or "draws random numbers"):
            export(Model(method, ModelInfo()), tmp_path / "m.onnx", "onnx")
        assert list(tmp_path.iterdir()) == []
        return
    for form, file in (("onnx", "m.onnx"), ("torchscript", "m.pt")):
        export(Model(method, ModelInfo()), tmp_path / file, form)
    script = torch.jit.load(str(tmp_path / "m.pt"))
    check(method, lambda noisy: script(torch.from_numpy(noisy)).numpy())
    check(method, onnx_session(tmp_path / "m.onnx"))


def test_most_methods_can_be_exported() -> None:
    assert {"neighbor2neighbor", "dbsn", "danet", "gan2gan", "laine19", "mwcnn_n2c", "dncnn_b"} <= set(graphs())


@pytest.mark.parametrize(
    ("name", "channels", "values"),
    [
        ("neighbor2neighbor", 3, {"padding": "square"}),
        ("danet", 3, {"ensemble": True}),
        ("dbsn", 3, {"estimate": "bayes", "noise_form": "multivariate", "noise_network": "shared"}),
        ("gan2gan", 1, {"network": "unet"}),
    ],
)
def test_settings_that_change_the_graph_agree_too(
    name: str, channels: int, values: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("onnx", reason="the extra export is not installed")
    known = method_class(name).Config.model_fields
    method = trained(name, channels, **{key: value for key, value in values.items() if key in known})
    export(Model(method, ModelInfo()), tmp_path / "m.onnx", "onnx")
    check(method, onnx_session(tmp_path / "m.onnx"), channels)


def test_a_denoiser_that_learns_on_the_image_is_refused(tmp_path: Path) -> None:
    method = trained("dbsn", estimate="bayes", noise_network="image")
    with pytest.raises(UserError, match=r"trains a network on each image.*--format model"):
        export(Model(method, ModelInfo()), tmp_path / "m.pt", "torchscript")


def test_the_model_and_its_device_are_left_as_they_are(tmp_path: Path) -> None:
    method = trained("dncnn_b")
    export(Model(method, ModelInfo()), tmp_path / "m.pt", "torchscript")
    assert all(one.requires_grad for one in method.parameters())


@pytest.mark.parametrize("turns", range(-4, 5))
def test_turning_is_that_of_torch(turns: int) -> None:
    for images in (torch.rand(2, 3, 5, 7), torch.rand(2, 3, 6, 6).to(memory_format=torch.channels_last)):
        wanted, found = torch.rot90(images, turns, (-2, -1)), turned(images, turns)
        assert torch.equal(found, wanted)
        assert found.stride() == wanted.stride()


def test_a_package_names_its_authors(tmp_path: Path) -> None:
    pytest.importorskip("bioimageio.spec", reason="the extra bio is not installed")
    with pytest.raises(UserError, match="--author"):
        export(Model(trained("dncnn_b"), ModelInfo()), tmp_path / "m.zip", "bioimage", Card((), "CC-BY-4.0"))


def test_the_model_zoo_accepts_and_runs_a_package(tmp_path: Path) -> None:
    zoo = pytest.importorskip("bioimageio.core", reason="the extra bio is not installed")
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    model, path = Model(trained("neighbor2neighbor"), ModelInfo(trial_id="abc")), tmp_path / "m.zip"
    try:
        export(model, path, "bioimage", CARD)
    except UserError as error:
        assert "does not work with pydantic" in str(error)
        pytest.skip(str(error))
    summary = zoo.test_model(path)
    assert summary.status == "passed", summary.format()
    described = zoo.load_description(path)
    assert {one.name for one in described.authors} == {"A Person"}
    assert "CVPR 2021" in described.cite[0].text
    assert described.license == "CC-BY-4.0"
    with zipfile.ZipFile(path) as package:
        package.extract("model.safetensors", tmp_path)
    assert load(tmp_path / "model.safetensors").info.trial_id == "abc"


@pytest.mark.parametrize(("name", "depth", "pixels"), [("neighbor2neighbor", 5, 128), ("neighbor2neighbor", 1, 32)])
def test_the_package_says_how_far_tiles_overlap(name: str, depth: int, pixels: int) -> None:
    method = create(name, {**method_class(name).recipes["smoke"].config, "depth": depth}, 1, 0)
    text = " ".join(_readme(Model(method, ModelInfo()), CARD).split())
    assert f"overlap by {pixels} pixels on every side. Where they begin at multiples of 32 pixels" in text
