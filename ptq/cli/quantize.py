"""`ptq quantize`: one model, one case, one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ptq.api import quantize
from ptq.api.text import printable
from ptq.cli.options import MODEL, drawn, inputs, store, with_registry
from ptq.data.pictures import ImageOptions
from ptq.engine.registry import Registry


@click.command(epilog="Example: ptq quantize model.onnx --calibration images.npy -o int8.onnx")
@click.argument("model", type=MODEL)
@inputs("--calibration", "--data", "--data-dir", required=False, text="Typical inputs; --method dynamic needs none: ")
@drawn
@click.option("--backend", default="onnxruntime", show_default=True)
@click.option(
    "--dtype", help="u8s8 (uint8 activations, int8 weights), u8s4, u4s4_edge8, u16s8 ...; by default the best there is."
)
@click.option("--method", help="How activation ranges are chosen; by default the best there is.")
@click.option("--granularity", type=click.Choice(["tensor", "channel"]), help="Of weight scales; by default channel.")
@click.option(
    "--exclude", multiple=True, help="What stays in float: a node's name, a pattern, or auto; may be repeated."
)
@click.option(
    "--size-budget",
    type=click.FloatRange(0, min_open=True),
    help="Most bytes, as a share of the u8s8 file: mixes 4 and 8 bits.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@with_registry
def COMMAND(
    registry: Registry, model: Path, inputs: Any, images: ImageOptions | None, backend: str, dtype: str | None,
    method: str | None, granularity: str | None, exclude: tuple[str, ...], output: Path, size_budget: float | None,
) -> None:  # fmt: skip
    """Quantize MODEL and write OUTPUT.

    MODEL is an .onnx, .h5, .keras or float .tflite file, or a SavedModel folder.
    """
    made = quantize(
        model, inputs, out=output, dtype=dtype, method=method, granularity=granularity, exclude=exclude,
        backend=backend, images=images, store=store(), registry=registry, size_budget=size_budget,
    )  # fmt: skip
    if images is not None:
        click.echo(f"images: {images}")
    click.echo(f"case: {made.case}")
    for topic, said in sorted(made.notes.items()):
        click.echo(printable(f"{topic}: {said}"))
    click.echo(f"wrote {printable(output)} ({output.stat().st_size:,} bytes)")
