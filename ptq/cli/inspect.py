"""`ptq inspect`: what a model is made of, and what of it would run in integer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from ptq.api.model_file import ModelFile
from ptq.api.text import columns, printable
from ptq.cli.options import MODEL, store, with_registry
from ptq.engine.registry import Registry


@click.command(epilog="Example: ptq inspect int8.onnx")
@click.argument("model", type=MODEL)
@with_registry
def COMMAND(registry: Registry, model: Path) -> None:
    """List the parts of MODEL; what runs in integer."""
    opened = ModelFile.open(model, store(), registry)
    rows = list(opened.backend.inspect(opened.artifact.path))
    click.echo(columns([("name", "type", ""), *rows]))
    for kind, tensors in (("input", opened.signature.inputs), ("output", opened.signature.outputs)):
        for tensor in tensors:
            click.echo(printable(f"{kind} {tensor}"))
    counts = Counter(kind for _, kind, _ in rows)
    click.echo(printable(", ".join(f"{count} {kind}" for kind, count in counts.most_common())))
    census = opened.census
    integer, floating = sum(census.integer.values()), sum(census.floating.values())
    click.echo(f"{integer} of {integer + floating} compute nodes run in integer; {census.stray} stray Q/DQ")
    click.echo(", ".join(f"{kind} weights {size:,} bytes" for kind, size in sorted(census.weight_bytes.items())))
