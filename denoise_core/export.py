"""Models for other programs: TorchScript, ONNX, and packages of the BioImage Model Zoo.

What is exported is :meth:`Method.denoise` as one graph (1, C, H, W) -> the same, float32 in [0, 1], for any H and W:
padding and cropping are inside. ONNX needs the extra ``export``, the package of the Model Zoo the extra ``bio``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import math
import os
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch
from torch import Tensor, nn

from denoise_core.errors import UserError
from denoise_core.images.bundled import load_bundled
from denoise_core.inference import ALIGNED
from denoise_core.method import Method
from denoise_core.model import Model, save_model
from denoise_core.planes import Array
from denoise_core.seeding import generator

INPUT, OUTPUT = "noisy", "denoised"
TRACED = (69, 45)
"""The size that the graph is recorded with: no multiple of anything, so that padding becomes part of it."""
OPSET = 17
TOLERANCE = 1e-5
"""How far an exported graph may be from PyTorch, in units of [0, 1]."""
CHECKED = (37, 101)
"""The size that it is compared at: the other side is the longer one."""
DRAWS = ("rand", "normal", "bernoulli", "multinomial", "poisson")
"""Parts of the names of operations that draw random numbers."""
TEST_SIDE = 128
"""Of the test tensors of a package, which is no border case, so that a halo fits."""


@dataclass(frozen=True)
class Card:
    """Who made a model and what others may do with it; ``description`` is one sentence."""

    authors: tuple[str, ...]
    licence: str
    description: str = ""


def export(model: Model, path: Path, form: str, card: Card | None = None) -> None:
    """Writes ``model`` in one of :data:`FORMATS`, aside and renamed.

    Raises UserError for a method that is no plain function of the image, a package that is not installed, and a card
    that lacks something.
    """
    if form not in FORMATS:
        raise UserError(f"There is no format {form}: use one of {', '.join(FORMATS)}.")
    if form != "model" and (reason := obstacle(model.method)):
        raise UserError(_refused(model.method, form, reason))
    if not path.parent.is_dir():
        raise UserError(f"The folder {path.parent} does not exist: make it, or give another output.")
    still = Model(deepcopy(model.method).requires_grad_(False), model.info)
    aside = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        FORMATS[form](still, aside, card)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def obstacle(method: Method) -> str:
    """Why the method's denoiser is no graph that other programs can run; empty where it is one."""
    if not method.denoises:
        return "it only generates noise"
    if method.whole_images:
        return (
            "it uses moments of the whole image, so that its results would depend on how a program cuts it into tiles"
        )
    if method.learns_at_inference:
        return "it trains a network on each image that it denoises"
    if not any(True for _ in method.parameters()):
        return "it has no network"
    return ""


def _refused(method: Method, form: str, reason: str) -> str:
    return (
        f"{method.title} cannot be exported to {form}: {reason}; export it as --format model, which denoise-studies "
        "denoise uses."
    )


class _Denoiser(nn.Module):
    """A method's denoiser as a module."""

    def __init__(self, method: Method):
        super().__init__()
        self.method = method

    def forward(self, noisy: Tensor) -> Tensor:
        return self.method.denoise(noisy)


def traced(method: Method) -> torch.jit.ScriptModule:
    """The denoiser, on the CPU and without gradients, as TorchScript. Raises UserError where PyTorch gives another."""
    example = torch.rand(1, method.channels, *TRACED, generator=generator("trace"))
    with _quietly(), torch.no_grad():
        graph = torch.jit.trace(_Denoiser(method).eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
    if any(draw in node.kind() for node in graph.inlined_graph.nodes() for draw in DRAWS):
        raise UserError(_refused(method, "a graph", "it draws random numbers when it denoises"))
    _compare(method, lambda noisy: graph(torch.from_numpy(noisy)).numpy(), "TorchScript")
    return graph  # type: ignore[no-any-return]


def _torchscript(model: Model, path: Path, card: Card | None) -> None:
    torch.jit.save(traced(model.method), str(path))


def _onnx(model: Model, path: Path, card: Card | None) -> None:
    onnx, runtime = _needed("onnx", "export"), _needed("onnxruntime", "export")
    sides = {2: "height", 3: "width"}
    example = torch.rand(1, model.method.channels, *TRACED, generator=generator("trace"))
    graph = traced(model.method)
    with _quietly(), torch.no_grad():
        # recorded graphs keep sizes as arithmetic; the exporter that is built on torch.export cannot follow it
        torch.onnx.export(
            graph, (example,), path, dynamo=False, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT],
            dynamic_axes={INPUT: sides, OUTPUT: sides},
        )  # fmt: skip
    made = onnx.load(path)
    onnx.helper.set_model_props(made, {"method": model.method.name, "trial": model.info.trial_id})
    onnx.checker.check_model(made)
    session = runtime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    _compare(model.method, lambda noisy: session.run(None, {INPUT: noisy})[0], "ONNX")
    path.write_bytes(made.SerializeToString())


def _compare(method: Method, graph: Callable[[Array], Array], name: str) -> None:
    """Raises UserError where a graph gives something else than PyTorch on an odd size that it was not made with."""
    noisy = torch.rand(1, method.channels, *CHECKED, generator=generator("compare"))
    with torch.no_grad():
        expected = method.denoise(noisy).numpy()
    difference = float(np.abs(graph(noisy.numpy()) - expected).max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"The {name} graph of {method.title} differs from PyTorch by {difference:.2g}, more than {TOLERANCE:g}: "
            "export it as --format model."
        )


# ---- BioImage Model Zoo ----


def _bioimage(model: Model, path: Path, card: Card | None) -> None:
    spec = _needed("bioimageio.spec", "bio")
    if card is None or not card.authors:
        raise UserError("A package of the BioImage Model Zoo names its authors: give --author 'First Last'.")
    with tempfile.TemporaryDirectory(prefix="denoise-") as folder:
        try:
            described = _description(model, Path(folder), card)
            with _quietly():
                spec.save_bioimageio_package(described, output_path=path)
        except ValueError as error:  # pydantic's, which has a line for each fault
            if "index_key" in str(error):
                raise UserError(
                    f"bioimageio.spec {spec.__version__} does not work with pydantic {pydantic.VERSION}: install an "
                    "older one, pip install 'pydantic<2.14'."
                ) from None
            reason = " ".join(str(error).splitlines()[1:3])
            raise UserError(f"The package does not suit the BioImage Model Zoo: {reason}.") from None


def _description(model: Model, folder: Path, card: Card) -> Any:
    """The package's description, with its files in ``folder``."""
    v0_5 = _needed("bioimageio.spec.model.v0_5", "bio")
    onnx_file, script_file, readme = folder / "weights.onnx", folder / "weights.pt", folder / "README.md"
    _onnx(model, onnx_file, card)
    _torchscript(model, script_file, card)
    save_model(folder / "model.safetensors", model.method, model.info)
    readme.write_text(_readme(model, card), encoding="utf-8")
    noisy, denoised = _test_tensors(model.method)
    for name, values in ((INPUT, noisy), (OUTPUT, denoised)):
        np.save(folder / f"{name}.npy", values)
    cited = model.method.citation
    authors = [v0_5.Author(name=name) for name in card.authors]

    def file(name: str) -> Any:
        return v0_5.FileDescr(source=folder / name)

    with _quietly():
        return v0_5.ModelDescr(
            name=_plain(f"{model.method.title} denoiser"),
            description=card.description or f"Denoises images, trained by {model.method.title}.",
            authors=authors,
            cite=[v0_5.CiteEntry(text=cited.text, url=cited.url)] if cited else [],
            license=v0_5.LicenseId(card.licence),
            documentation=v0_5.FileDescr(source=readme),
            attachments=[file("model.safetensors")],
            tags=["denoising", "self-supervised", "image-restoration", model.method.name],
            inputs=[_tensor(v0_5, model, INPUT, file)],
            outputs=[_tensor(v0_5, model, OUTPUT, file)],
            weights=v0_5.WeightsDescr(
                torchscript=v0_5.TorchscriptWeightsDescr(
                    source=script_file, pytorch_version=v0_5.Version(torch.__version__.partition("+")[0])
                ),
                onnx=v0_5.OnnxWeightsDescr(source=onnx_file, opset_version=OPSET, parent="torchscript"),
            ),
        )


def _tensor(v0_5: Any, model: Model, name: str, file: Callable[[str], Any]) -> Any:
    """Input or output: batch of one, channels, rows and columns of any number."""
    names = ["gray"] if model.method.channels == 1 else ["red", "green", "blue"]
    axes: list[Any] = [v0_5.BatchAxis(size=1), v0_5.ChannelAxis(channel_names=names)]
    for side in ("y", "x"):
        if name == INPUT:
            # a tile that is kept is what two halos leave of it
            axes.append(v0_5.SpaceInputAxis(id=v0_5.AxisId(side), size=v0_5.ParameterizedSize(min=1, step=1)))
        else:
            same = v0_5.SizeReference(tensor_id=v0_5.TensorId(INPUT), axis_id=v0_5.AxisId(side))
            axes.append(v0_5.SpaceOutputAxis(id=v0_5.AxisId(side), size=same))
    kind = v0_5.InputTensorDescr if name == INPUT else v0_5.OutputTensorDescr
    return kind(
        id=v0_5.TensorId(name), axes=axes, test_tensor=file(f"{name}.npy"),
        description=f"values in [0, 1]: those of a file divided by {_divisor(model)}",
        data=v0_5.IntervalOrRatioDataDescr(type="float32", range=(0.0, 1.0)),
    )  # fmt: skip


def _test_tensors(method: Method) -> tuple[Array, Array]:
    """A crop of a bundled photograph with noise of deviation 25 / 255, clipped, and what the method makes of it."""
    image = load_bundled("bundled_test", method.channels).pixels[0][None, :, :TEST_SIDE, :TEST_SIDE]
    noise = torch.randn(image.shape, generator=generator("test tensor"))
    noisy = (image + 25 / 255 * noise).clamp(0, 1)
    with torch.no_grad():
        return noisy.numpy(), method.denoise(noisy).numpy()


def _readme(model: Model, card: Card) -> str:
    method, info = model.method, model.info
    trained = ", ".join(f"{name} = {value}" for name, value in info.data.items() if value not in ("", None))
    settings = ", ".join(f"{name} = {value}" for name, value in method.config.model_dump(mode="json").items())
    assumes = method.assumes
    names = {
        "zero-mean": assumes.zero_mean,
        "independent from pixel to pixel": assumes.pixel_independent,
        "independent of the signal": assumes.signal_independent,
    }
    needs = ", ".join(name for name, needed in names.items() if needed) or "nothing in particular"
    overlap = math.ceil(method.reach / ALIGNED) * ALIGNED
    cited = f"Please cite {method.citation.text}, {method.citation.url}." if method.citation else ""
    return f"""# {method.title}

{card.description or "An image denoiser."} {cited}

- **Input**: {"gray" if method.channels == 1 else "colour"} images of any size, values divided by {_divisor(model)},
  one image at a time. Large images may be cut into tiles that overlap by {overlap} pixels on every side. Where they
  begin at multiples of {ALIGNED} pixels, they give what the whole image gives.
- **Output**: the denoised image, of the same size and in [0, 1].
- **Noise**: the training takes it to be {needs}. Other noise than that of the training may stay or leave artefacts.
- **Trained on**: {trained or "not recorded"}. Training {info.trial_id or "without a number"}, seed {info.seed}.
- **Settings**: {settings}.
- **Licence**: {card.licence}. Authors: {", ".join(card.authors)}.

`model.safetensors` is the same model for `denoise-studies denoise`.

## Validation

Check a use on images whose truth is known, or on repeated frames: a denoiser can invent structure where there is none.
"""


def _divisor(model: Model) -> str:
    white = model.white
    return f"{white:g}" if white else "the full range of its number type (8 bits: 255, 16 bits: 65535)"


def _plain(name: str) -> str:
    """A name of the letters that the Model Zoo allows."""
    return "".join(one if one.isascii() and (one.isalnum() or one in "_+- ()") else " " for one in name).strip()


# ---- private ----


def _model(model: Model, path: Path, card: Card | None) -> None:
    model.save(path)


FORMATS: Mapping[str, Callable[[Model, Path, Card | None], None]] = {
    "model": _model,
    "onnx": _onnx,
    "torchscript": _torchscript,
    "bioimage": _bioimage,
}
ENDINGS: Mapping[str, Sequence[str]] = {
    "model": (".safetensors",),
    "onnx": (".onnx",),
    "torchscript": (".pt", ".ts"),
    "bioimage": (".zip",),
}
"""How the names of files end."""


def _needed(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"{package} is not installed: install denoise-studies with the extra {extra}, pip install "
            f"'denoise-studies[{extra}]'."
        ) from None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings of recording: sizes that become constants are compared with PyTorch afterwards."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
