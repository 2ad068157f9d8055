"""`ptq calibrate`: calibration tensors, statistics and ranges as files, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ptq.api.model_file import check_apart, existing
from ptq.api.quantized import calibrated
from ptq.api.text import WIDEST, printable
from ptq.calibration.cache_file import load_statistics, save_ranges, save_statistics
from ptq.calibration.image_tensor import ImageTensor
from ptq.calibration.statistics import TensorStatistics
from ptq.cli.options import FILE, FOLDER, MODEL, OUT, drawn, inputs, store, with_registry
from ptq.data.pictures import ImageOptions
from ptq.data.tensor_file import write_tensors
from ptq.engine.registry import Registry
from ptq.quantization.dtype import DTYPES
from ptq.report.ranges import plot, table, tensor_ranges

_EXISTING = click.Path(exists=True, file_okay=False, path_type=Path)
_dtype = click.option("--dtype", type=click.Choice(list(DTYPES)), default="u8s8", show_default=True)
_plot = click.option(
    "--plot", "pictures", type=FOLDER, help="Draw a histogram with every method's range per tensor here."
)


@click.group(epilog="Example: ptq calibrate model model.onnx --calibration images.npy --ranges ranges.json")
def COMMAND() -> None:
    """Show and write the ranges of tensors."""


@COMMAND.command(epilog="Example: ptq calibrate model model.onnx --calibration images.npy --ranges ranges.json")
@click.argument("model", type=MODEL)
@inputs("--calibration", "--data", "--data-dir", text="Typical inputs: ")
@drawn
@click.option("-o", "--out", type=OUT, help="Write the calibration inputs, .npy or .npz (by the model's input names).")
@click.option("--statistics", type=OUT, help="Write the statistics of every tensor as JSON.")
@click.option("--ranges", type=OUT, help="Write the ranges of --method as JSON that onnxruntime reads.")
@click.option("--method", default="minmax", show_default=True)
@_dtype
@_plot
@with_registry
def model(
    registry: Registry, model: Path, inputs: Any, images: ImageOptions | None, out: Path | None,
    statistics: Path | None, ranges: Path | None, method: str, dtype: str, pictures: Path | None,
) -> None:  # fmt: skip
    """Show the ranges of every tensor of MODEL.

    MODEL (.onnx, .h5, .keras, ...) is run over the calibration inputs once.
    """
    registry.method(method)
    existing(model)
    for path in (out, statistics, ranges):
        if path is not None:
            check_apart(path, model, *([Path(inputs)] if isinstance(inputs, str) else []))
    pipeline = calibrated(model, inputs, images=images, store=store(), registry=registry)
    facts = pipeline.facts("calibration")
    click.echo(f"{facts.n} samples, seed {facts.seed}, digest {facts.digest[:12]}")
    seen = pipeline.statistics
    if out is not None:
        write_tensors(out, pipeline.calibration_samples, pipeline.contracts)
        click.echo(f"wrote {printable(out)}")
    if statistics is not None:
        save_statistics(statistics, seen)
        click.echo(f"wrote {printable(statistics)}")
    if ranges is not None:
        save_ranges(ranges, pipeline.calibration.ranges(method, DTYPES[dtype].quantizer))
        click.echo(f"wrote {printable(ranges)} ({method}, {dtype})")
    _show(seen, registry, dtype, pictures)


@COMMAND.command(epilog="Example: ptq calibrate show statistics.json --plot pictures")
@click.argument("statistics", type=FILE)
@_dtype
@_plot
@with_registry
def show(registry: Registry, statistics: Path, dtype: str, pictures: Path | None) -> None:
    """Show the ranges that every method chooses from STATISTICS, the JSON that `ptq calibrate model` writes."""
    _show(load_statistics(statistics), registry, dtype, pictures)


@COMMAND.command(epilog="Example: ptq calibrate coco --images coco/images/train2017 --list list.txt --out tensor.npy")
@click.option("--images", type=_EXISTING, required=True, help="Folder of training images.")
@click.option("--count", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True)
@click.option("--list", "list_path", type=OUT, required=True, help="Which images; used when it exists, else written.")
@click.option(
    "--root", type=_EXISTING, help="What the paths in the list are relative to; by default two above --images."
)
@click.option("--model", type=FILE, help="The detector whose input the tensor is checked against.")
@click.option("--out", type=OUT, required=True, help="The tensor, .npy or .npz (by the model's input name).")
def coco(
    images: Path, count: int, seed: int, list_path: Path, root: Path | None, model: Path | None, out: Path
) -> None:  # fmt: skip
    """The calibration tensor of a detector: letterboxed RGB images in 0..1, float32 [N, 3, H, W]."""
    used = list_path.exists()
    data_root = root or images.resolve().parent.parent
    made = ImageTensor(images, out, list_path, data_root, count, seed, model).write(Console(stderr=True))
    click.echo(f"{len(made)} images, {f'of {list_path}' if used else f'seed {seed}, listed in {list_path}'}")
    click.echo(f"wrote {printable(out)} ({out.stat().st_size:,} bytes)")


def _show(seen: Mapping[str, TensorStatistics], registry: Registry, dtype: str, pictures: Path | None) -> None:
    found = tensor_ranges(seen, DTYPES[dtype].quantizer, registry.methods)
    tensors = [replace(each, name=printable(each.name, WIDEST)) for each in found]
    click.echo(table(tensors, width=200))
    if pictures is not None:
        click.echo(f"wrote {len(plot(tensors, pictures))} pictures to {printable(pictures)}")
