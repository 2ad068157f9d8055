"""`ptq convert`: a model from one form to another, with its parity printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from ptq.cli.subject import MODEL
from ptq.models import conversion, keras_file, onnx_to_torch

CONVERTERS: dict[tuple[str, str], Callable[[Path, Path], object]] = {
    **{(suffix, ".onnx"): conversion.convert for suffix in keras_file.SUFFIXES},
    (".onnx", ".pt"): onnx_to_torch.convert,
}
"""(suffix from, suffix to) -> converter, which writes the target and returns the parity to print."""


@click.command()
@click.argument("source", type=MODEL)
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
def COMMAND(source: Path, target: Path) -> None:
    """Convert SOURCE to TARGET; the suffixes say from what to what."""
    convert = CONVERTERS.get((source.suffix, target.suffix))
    if convert is None:
        ways = ", ".join(f"{a} to {b}" for a, b in CONVERTERS)
        raise click.UsageError(f"{source.name} to {target.name}: no such conversion; there are {ways}")
    parity = convert(source, target)
    click.echo(f"wrote {target} ({target.stat().st_size:,} bytes)")
    click.echo(str(parity))
