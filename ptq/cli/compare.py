"""`ptq compare`: how long one artifact takes against another, side by side, and what of each runs in integer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ptq.api import compare
from ptq.cli.options import MODEL, inputs, store, with_registry
from ptq.data.pictures import ImageOptions
from ptq.engine.registry import Registry
from ptq.gate.result import FAIL
from ptq.latency.ratio import SAME


@click.command(epilog="Example: ptq compare model.onnx int8.onnx --max-ratio 0.8")
@click.argument("a", type=MODEL)
@click.argument("b", type=MODEL)
@inputs("--data", "--data-dir", required=False, text="Without it, inputs are random. ")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Inputs per call.")
@click.option(
    "--max-ratio", type=click.FloatRange(0, min_open=True), default=SAME, show_default=True,
    help="Largest time of B / time of A.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, help="Longest to measure."
)
@with_registry
def COMMAND(
    registry: Registry, a: Path, b: Path, inputs: Any, images: ImageOptions | None, batch: int, max_ratio: float,
    seconds: float,
) -> int:  # fmt: skip
    """Time B against A, in turns.

    Exit code 1 when the interval of time of B / time of A lies above --max-ratio.
    Any two models of any backend (.onnx, .ovz, .tflite, .pt, .pt2e, .h5, .keras) that take the same inputs.
    """
    found = compare(
        a, b, inputs, batch=batch, max_ratio=max_ratio, seconds=seconds, images=images, store=store(),
        registry=registry,
    )  # fmt: skip
    click.echo(str(found))
    return 1 if found.verdict.name == FAIL else 0
