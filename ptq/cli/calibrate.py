"""`ptq calibrate`: calibration tensors, statistics and ranges as files, tables and pictures."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from ptq.backends.onnxruntime.quantize import DTYPES
from ptq.calibration.cache_file import load_statistics, save_ranges, save_statistics
from ptq.calibration.calibration import Calibration
from ptq.calibration.image_tensor import ImageTensor
from ptq.calibration.statistics import TensorStatistics
from ptq.calibration.tensor_file import read_tensor, write_tensor
from ptq.cli.subject import DATA_DIR, MODEL, notify, workload
from ptq.methods import methods
from ptq.models.onnx_file import signature
from ptq.pipeline import Pipeline
from ptq.report.ranges import plot, table, tensor_ranges
from ptq.samples import ArraySamples
from ptq.store import Store

OUT = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
_dtype = click.option("--dtype", type=click.Choice(list(DTYPES)), default="u8s8", show_default=True)
_plot = click.option(
    "--plot", "pictures", type=FOLDER, help="Draw a histogram with every method's range per tensor here."
)


@click.group()
def COMMAND() -> None:
    """Calibrate by hand: write the tensor, the statistics and the ranges; look at them."""


@COMMAND.command()
@click.argument("model", type=MODEL)
@click.option("--data-dir", type=DATA_DIR, help="Folder with the CIFAR-10 batches to draw from.")
@click.option("--data", "given", type=MODEL, help="A calibration tensor, .npy or .npz, instead.")
@click.option("--samples-per-class", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True)
@click.option("-o", "--out", type=OUT, help="Write the calibration tensor, .npy or .npz (by the model's input name).")
@click.option("--statistics", type=OUT, help="Write the statistics of every tensor as JSON.")
@click.option("--ranges", type=OUT, help="Write the ranges of --method as JSON that onnxruntime reads.")
@click.option("--method", type=click.Choice(list(methods())), default="minmax", show_default=True)
@_dtype
@_plot
def model(
    model: Path, data_dir: Path | None, given: Path | None, samples_per_class: int, seed: int, out: Path | None,
    statistics: Path | None, ranges: Path | None, method: str, dtype: str, pictures: Path | None,
) -> None:  # fmt: skip
    """Run MODEL (.onnx, .h5, .keras) once over calibration images and show the ranges of every tensor."""
    if (data_dir is None) == (given is None):
        raise click.UsageError("one of --data-dir (batches to draw from) and --data (a tensor) should be given")
    subject = workload(model, data_dir or Path(), samples_per_class, seed)
    pipeline = Pipeline(subject, Store(), notify)
    if given is not None:
        pipeline.calibration_samples = ArraySamples(read_tensor(given), name=given.name)
    samples, entry = pipeline.calibration_samples, signature(pipeline.source.onnx).name
    click.echo(f"{len(samples)} samples, seed {samples.seed}, digest {samples.digest[:12]}")
    seen = pipeline.statistics
    if out is not None:
        write_tensor(out, samples, subject.contract, entry)
        click.echo(f"wrote {out}")
    if statistics is not None:
        save_statistics(statistics, seen)
        click.echo(f"wrote {statistics}")
    if ranges is not None:
        lighter = (lambda: pipeline.extremes) if pipeline.has_lighter_pass else None
        calibration = Calibration(samples, lambda: seen, extremes=lighter)
        save_ranges(ranges, calibration.ranges(method, DTYPES[dtype].quantizer))
        click.echo(f"wrote {ranges} ({method}, {dtype})")
    _show(dict(seen), dtype, pictures)


@COMMAND.command()
@click.argument("statistics", type=MODEL)
@_dtype
@_plot
def show(statistics: Path, dtype: str, pictures: Path | None) -> None:
    """Show the ranges that every method chooses from STATISTICS, the JSON that `ptq calibrate model` writes."""
    _show(load_statistics(statistics), dtype, pictures)


@COMMAND.command()
@click.option("--images", type=DATA_DIR, required=True, help="Folder of training images.")
@click.option("--count", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True)
@click.option("--list", "list_path", type=OUT, required=True, help="Which images; used when it exists, else written.")
@click.option(
    "--root", type=DATA_DIR, help="What the paths in the list are relative to; by default two above --images."
)
@click.option("--model", type=MODEL, help="The detector whose input the tensor is checked against.")
@click.option("--out", type=OUT, required=True, help="The tensor, .npy or .npz (by the model's input name).")
def coco(
    images: Path, count: int, seed: int, list_path: Path, root: Path | None, model: Path | None, out: Path
) -> None:  # fmt: skip
    """The calibration tensor of a detector: letterboxed RGB images in 0..1, float32 [N, 3, H, W]."""
    used = list_path.exists()
    data_root = root or images.resolve().parent.parent
    made = ImageTensor(images, out, list_path, data_root, count, seed, model).write(Console(stderr=True))
    click.echo(f"{len(made)} images, {f'of {list_path}' if used else f'seed {seed}, listed in {list_path}'}")
    click.echo(f"wrote {out} ({out.stat().st_size:,} bytes)")


def _show(seen: dict[str, TensorStatistics], dtype: str, pictures: Path | None) -> None:
    tensors = tensor_ranges(seen, DTYPES[dtype].quantizer)
    click.echo(table(tensors, width=200))
    if pictures is not None:
        click.echo(f"wrote {len(plot(tensors, pictures))} pictures to {pictures}")
