"""`ptq evaluate`: what a model file scores, per class, and its drop against another."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from ptq.api import Evaluation, evaluate
from ptq.api.text import columns
from ptq.cli.options import FILE, MODEL, inputs, judging, store, with_registry
from ptq.data.pictures import ImageOptions
from ptq.engine.registry import Registry


@click.command(
    epilog="Example: ptq evaluate int8.onnx --data test.npy --targets labels.npy --baseline model.onnx",
)
@click.argument("model", type=MODEL)
@inputs("--data", "--data-dir")
@click.option("--targets", type=FILE, help="The truth, .npy, one entry a sample; else what the data brings along.")
@click.option("--baseline", type=MODEL, help="Another model to compare with, usually the float one.")
@click.option(
    "--metric", metavar="NAME", help="top1, another metric's name, or file.py:name; by default by the targets."
)
@click.option("--backend", help="The runtime of MODEL; by default the one its suffix belongs to.")
@with_registry
def COMMAND(
    registry: Registry, model: Path, inputs: Any, images: ImageOptions | None, targets: Path | None,
    baseline: Path | None, metric: str | None, backend: str | None,
) -> None:  # fmt: skip
    """Score MODEL, and hold it against a baseline.

    Any model or artifact a backend runs: .onnx, .ovz, .tflite, .pt, .pt2e; also .h5, .keras and SavedModel folders.
    """
    run = partial(
        evaluate, model, inputs, targets, baseline=baseline, metric=metric, backend=backend, images=images,
        store=store(), registry=registry,
    )  # fmt: skip
    found: Evaluation = judging(metric, run)
    if found.score.per_class:
        click.echo(_classes(found))
    click.echo(str(found))


def _classes(found: Evaluation) -> str:
    score, other = found.score.per_class, found.baseline_score
    if other is None:
        rows = [("class", found.model), *((name, f"{value:.4f}") for name, value in score.items())]
        return columns(rows, right=(1,))
    drops = [
        (name, f"{value:.4f}", f"{other.per_class[name]:.4f}", f"{100 * (other.per_class[name] - value):+.2f}")
        for name, value in score.items()
    ]
    return columns([("class", found.model, found.baseline, "drop pp"), *drops], right=(1, 2, 3))
