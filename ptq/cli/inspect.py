"""`ptq inspect`: what a model is made of, and what of it would run in integer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from ptq.cli.subject import MODEL, backend_for
from ptq.errors import NotInstalled
from ptq.models.onnx_file import signature


@click.command()
@click.argument("model", type=MODEL)
def COMMAND(model: Path) -> None:
    """List the parts of MODEL by name and type, count them, and say what runs in integer."""
    backend = backend_for(model, None)
    if (missing := backend.missing()) is not None:
        raise NotInstalled(f"{model}: {missing}")
    console = Console(soft_wrap=True, highlight=False)
    rows = list(backend.inspect(model))
    table = Table(box=None)
    for heading in ("name", "type", ""):
        table.add_column(heading)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if model.suffix == ".onnx":
        have = signature(model)
        console.print(f"input {have.name} {have.dtype} {tuple('N' if each is None else each for each in have.shape)}")
    counts = Counter(kind for _, kind, _ in rows)
    console.print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    census = backend.census(model)
    integer, floating = sum(census.integer.values()), sum(census.floating.values())
    console.print(f"{integer} of {integer + floating} compute nodes run in integer; {census.stray} stray Q/DQ")
    console.print(", ".join(f"{kind} weights {size:,} bytes" for kind, size in sorted(census.weight_bytes.items())))
