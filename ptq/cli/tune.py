"""`ptq tune`: the fastest, or the smallest, quantized model that meets a bar."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from ptq.api import tune
from ptq.api.text import printable
from ptq.api.tuned import tune_workload
from ptq.cli.options import FILE, MODEL, OUT, inputs, judging, notify, store, with_registry
from ptq.data.inputs import read_inputs
from ptq.data.pictures import ImageOptions
from ptq.engine.registry import Registry, declared
from ptq.errors import PtqError
from ptq.files import write_text
from ptq.report.tuned import page
from ptq.tuning.bar import Bar
from ptq.tuning.space import SIZE, TIME


@click.command(
    epilog="Example: ptq tune model.onnx --calibration train.npy --data test.npy --targets labels.npy --max-drop 0.5 "
    "-o int8.onnx; ptq tune coco --max-drop 0.5 -o yolo.onnx"
)
@click.argument("what", metavar="WORKLOAD | MODEL")
@inputs("--calibration", required=False, text="Of a model: what to calibrate on: ")
@click.option("--data", metavar="X", help="Of a model: what to judge on; half of it is tuned on, half is reported.")
@click.option("--targets", type=FILE, help="The truth, .npy, one entry a sample; else what the data brings along.")
@click.option("--metric", metavar="NAME", help="As of ptq evaluate.")
@click.option("--max-drop", type=click.FloatRange(min=0), help="In percentage points or the unit.")
@click.option("--floor", type=float, help="In place of --max-drop: the least value of the metric.")
@click.option("--minimise", type=click.Choice([TIME, SIZE]), default=TIME, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Samples a call, when timed.")
@click.option(
    "--budget", "--seconds", "seconds", type=click.FloatRange(min=0), default=600.0, show_default=True,
    help="Seconds until there is an answer: what is under way then is ended.",
)  # fmt: skip
@click.option("--ptq-data", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="PTQ_DATA",
              help="Of a workload: the folder with data sets and models (default: PTQ_DATA).")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--json", "json_path", type=OUT, help="Write all that was tried as JSON.")
@click.option("--html", type=OUT, help="Write it as a page: drop against time, with the Pareto front.")
@with_registry
def COMMAND(
    registry: Registry, what: str, inputs: Any, images: ImageOptions | None, data: str | None, targets: Path | None,
    metric: str | None, max_drop: float | None, floor: float | None, minimise: str, batch: int, seconds: float,
    folder: Path | None, output: Path, json_path: Path | None, html: Path | None,
) -> int:  # fmt: skip
    """Find the fastest quantized model that meets --max-drop or --floor.

    Starts with fixed recipes, then keeps in float what the sensitivities rank first. OUTPUT holds the best so far
    whenever the search ends; a second call goes on from the store. Exit code 1 when the bar is missed on the half of
    the samples that the search has not seen.
    """
    workloads = {workload.name: workload for workload in declared(registry, folder)}
    if what in workloads and not Path(what).exists():
        found = tune_workload(
            workloads[what], Bar(max_drop, floor), output, minimise, batch, seconds, store(), registry, notify
        )
    else:
        if inputs is None or data is None:
            raise PtqError(f"{what}: a model needs --calibration and --data; workloads are {', '.join(workloads)}")
        model = MODEL.convert(what, None, None)
        judged = data if images is None else read_inputs(Path(data), images, None, "test")
        run = partial(
            tune, model, inputs, judged, targets, max_drop=max_drop, floor=floor, out=output, metric=metric,
            minimise=minimise, batch=batch, seconds=seconds, images=images, store=store(), registry=registry,
        )  # fmt: skip
        found = judging(metric, run)
    for line in str(found).splitlines():
        click.echo(printable(line))
    if json_path is not None:
        write_text(json_path, json.dumps(found.as_json(), indent=1))
    if html is not None:
        write_text(html, page(found.as_json()))
    return 0 if found.met else 1
