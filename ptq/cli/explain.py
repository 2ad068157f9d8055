"""`ptq explain`: why a quantized model loses what it loses: the first bad tensor, its cause and the remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ptq.api import explain
from ptq.api.text import columns, printable
from ptq.cli.options import FILE, MODEL, OUT, inputs, store, with_registry
from ptq.data.inputs import read_inputs
from ptq.data.pictures import ImageOptions
from ptq.diagnosis.columns import with_metric
from ptq.diagnosis.explanation import Explanation
from ptq.diagnosis.gather import explain as explain_case
from ptq.engine.pipeline import Pipeline
from ptq.engine.registry import Registry, declared
from ptq.errors import PtqError
from ptq.files import write_text
from ptq.report.explanation import page

_SHOWN = 12


@click.command(
    epilog="Example: ptq explain digits-onnxruntime-u8s8-minmax; "
    "ptq explain model.onnx int8.onnx --calibration images.npy --data test.npy"
)
@click.argument("what", metavar="CASE | MODEL")
@click.argument("quantized", type=FILE, required=False)
@inputs("--calibration", required=False, text="What QUANTIZED was calibrated on: ")
@click.option("--data", metavar="X", help="Samples to measure errors on; by default those of --calibration.")
@click.option("--ptq-data", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="PTQ_DATA",
              help="Of a case: the folder with data sets and models (default: PTQ_DATA).")  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(0), default=60.0, show_default=True,
    help="Of a case: longest to measure the metric with the worst layers quantized alone, and alone in float.",
)  # fmt: skip
@click.option("--json", "json_path", type=OUT, help="Write the findings and the table as JSON.")
@click.option("--html", type=OUT, help="Write them as one self-contained page.")
@with_registry
def COMMAND(
    registry: Registry, what: str, quantized: Path | None, inputs: Any, images: ImageOptions | None, data: str | None,
    folder: Path | None, seconds: float, json_path: Path | None, html: Path | None,
) -> None:  # fmt: skip
    """Say why a quantized model loses what it loses: the first bad tensor, the cause, the remedy.

    CASE is the id of a case of ptq's workloads or of those of installed packages. Or MODEL is the float model and
    QUANTIZED a QDQ .onnx file made from it.
    """
    if quantized is None:
        found = _of_case(what, registry, folder, seconds)
    else:
        if inputs is None:
            raise PtqError("--calibration: should name the samples that the file was calibrated on")
        model = MODEL.convert(what, None, None)
        seen = None if data is None else data if images is None else read_inputs(Path(data), images, None, "test")
        found = explain(model, quantized, inputs, seen, images=images, store=store(), registry=registry)
    click.echo(printable(found.sentence))
    for finding in found.findings[1:4]:
        click.echo(printable(f"also: {finding}"))
    for topic, said in sorted(found.notes.items()):
        click.echo(printable(f"{topic}: {said}"))
    click.echo(f"SQNR in dB over {found.samples} {found.of} samples, the worst layers first:")
    click.echo(_table(found))
    if json_path is not None:
        write_text(json_path, json.dumps(found.as_json(), indent=1))
    if html is not None:
        write_text(html, page(found.as_json()))


def _of_case(name: str, registry: Registry, folder: Path | None, seconds: float) -> Explanation:
    workloads = {workload.name: workload for workload in declared(registry, folder)}
    workload = workloads.get(name.split("-")[0])
    if workload is None:
        raise PtqError(
            f"{name}: no workload is called {name.split('-')[0]!r}: it should be one of {', '.join(workloads)}, or "
            "give a float model and its QDQ file"
        )
    pipeline = Pipeline(workload, store(), registry)
    cases = {case.id: case for case in [*registry.grid(workload.name), *pipeline.cases()]}
    if name not in cases:
        raise PtqError(f"{name}: is no case of {workload.name}; one is {next(iter(cases))}")
    return with_metric(explain_case(pipeline, cases[name]), pipeline, cases[name], seconds)


def _table(found: Explanation) -> str:
    rows = sorted(found.rows, key=lambda row: row.kept)[:_SHOWN]
    cells = [
        (
            row.node, row.kind, "integer" if row.integer else "float", _db(row.local),
            f"{row.local_low:.1f}..{row.local_high:.1f}", _db(row.even), _db(row.propagated), _db(row.weights),
            _db(row.rounding), _points(row.lost), _points(row.regained), _share(row.time),
        )
        for row in rows
    ]  # fmt: skip
    heading = ("layer", "type", "runs in", "local", "95 %", "even", "propagated", "weights", "output", "lost")
    return columns([(*heading, "regained", "time %"), *cells], right=tuple(range(3, 12)))


def _points(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _db(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
