"""`ptq convert`: a model from one form to another, with its parity printed."""

from __future__ import annotations

from pathlib import Path

import click

from ptq.api.model_file import check_apart, existing
from ptq.api.text import printable
from ptq.backends.torch import from_onnx as onnx_to_torch
from ptq.cli.options import MODEL, OUT
from ptq.models.convert import is_model, to_onnx


@click.command(epilog="Example: ptq convert model.h5 model.onnx")
@click.argument("source", type=MODEL)
@click.argument("target", type=OUT)
def COMMAND(source: Path, target: Path) -> None:
    """Convert SOURCE to TARGET, by their suffixes.

    From .h5, .keras, float .tflite or a SavedModel folder to .onnx; from .onnx to .pt.
    """
    check_apart(target, existing(source))
    if target.suffix == ".onnx" and source.suffix != ".onnx" and is_model(source):
        parity: object = to_onnx(source, target)
    elif (source.suffix, target.suffix) == (".onnx", ".pt"):
        parity = onnx_to_torch.convert(source, target)
    else:
        ways = ".h5, .keras, float .tflite or a SavedModel folder to .onnx; .onnx to .pt"
        raise click.UsageError(f"{source.name} to {target.name}: no such conversion; there are {ways}")
    click.echo(f"wrote {printable(target)} ({target.stat().st_size:,} bytes)")
    click.echo(printable(parity))
