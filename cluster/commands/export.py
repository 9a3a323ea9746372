"""Write a training's model to a file: for this program, as ONNX or TorchScript, or for the BioImage Model Zoo.

MODEL is the beginning of a training's id with --store, or a model file that is to become another format. The formats
onnx, torchscript and bioimage hold the denoiser alone, for images of any size with values in [0, 1]; model also holds
what denoise-studies denoise needs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cluster.commands.denoise import data_root, setting
from cluster.console import Console
from cluster.watching.stored import add_store
from denoise_core.errors import UserError

FORMATS = ("model", "onnx", "torchscript", "bioimage")
"""As in denoise_core.export, which would load PyTorch."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="the beginning of a training's id, or a model file")
    add("output", metavar="OUT", type=Path, help="the file that is written: .safetensors, .onnx, .pt or .zip")
    add_store(parser)
    add("--format", choices=FORMATS, default="model", help="what is written (%(default)s)")
    add("--set", metavar="NAME=VALUE", action="append", default=[], help="a parameter that acts at inference")
    add("--author", metavar="NAME", action="append", default=[], help="who made the model (repeatable; for bioimage)")
    add("--licence", metavar="SPDX", help="licence of the weights (default: CC-BY-4.0)")
    add("--description", metavar="TEXT", default="", help="a sentence on what the model is for (for bioimage)")
    add(
        "--data-root",
        metavar="PATH",
        help="folder of named image sets that MODEL was trained on (default: $DENOISE_DATA)",
    )


def run(flags: argparse.Namespace, console: Console) -> int:
    """Exports; the exit status is 0. Raises UserError."""
    from dataclasses import replace

    from cluster.models import find_model
    from denoise_core.export import ENDINGS, Card, export

    endings = ENDINGS[flags.format]
    if flags.output.suffix.lower() not in endings:
        raise UserError(
            f"--format {flags.format} is written to a file that ends in {' or '.join(endings)}: name it so."
        )
    model = find_model(flags.model, flags.store, data_root(flags.data_root))
    model.set_parameters(dict(map(setting, flags.set)))
    if flags.licence:
        model.info = replace(model.info, licence=flags.licence)
    export(model, flags.output, flags.format, Card(tuple(flags.author), model.info.licence, flags.description))
    size = flags.output.stat().st_size / 2**20
    console.say(f"{model.method.title} as {flags.format}, {size:.1f} MiB: {flags.output}")
    if model.info.values is None:
        console.warn("The training images are not at hand, so the model does not tell what range of values it saw.")
    return 0
