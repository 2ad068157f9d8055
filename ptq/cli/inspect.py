"""`ptq inspect`: what a model is made of, and what of it would run in integer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from ptq.backends import tflite, torch, torch_pt2e
from ptq.cli.subject import MODEL, backend_for
from ptq.models.onnx_file import load, signature

Row = tuple[str, str, str]


def onnx_nodes(path: Path) -> Iterable[Row]:
    """(name, op type, inputs -> outputs) of every node, in the graph's order."""
    for node in load(path).graph.node:
        yield node.name or "(no name)", node.op_type, f"{', '.join(node.input)} -> {', '.join(node.output)}"


DESCRIBE: dict[str, Callable[[Path], Iterable[Row]]] = {
    ".onnx": onnx_nodes,
    ".pt": torch.BACKEND.inspect,
    ".pt2e": torch_pt2e.BACKEND.inspect,
    ".tflite": tflite.BACKEND.inspect,
}
"""Suffix -> the rows that describe such a file."""


@click.command()
@click.argument("model", type=MODEL)
def COMMAND(model: Path) -> None:
    """List the parts of MODEL by name and type, count them, and say what runs in integer."""
    describe = DESCRIBE.get(model.suffix)
    if describe is None:
        raise click.UsageError(f"{model.name}: cannot be inspected; there are {', '.join(DESCRIBE)}")
    console = Console(soft_wrap=True, highlight=False)
    rows = list(describe(model))
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
    census = backend_for(model, None).census(model)
    integer, floating = sum(census.integer.values()), sum(census.floating.values())
    console.print(f"{integer} of {integer + floating} compute nodes run in integer; {census.stray} stray Q/DQ")
    console.print(", ".join(f"{kind} weights {size:,} bytes" for kind, size in sorted(census.weight_bytes.items())))
