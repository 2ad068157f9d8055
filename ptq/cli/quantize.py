"""`ptq quantize`: one model, one case, one file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from ptq.cases import NONE, Case
from ptq.cli.subject import DATA_DIR, MODEL, notify, workload
from ptq.methods import methods
from ptq.pipeline import Pipeline, backends
from ptq.store import Store, write_bytes


@click.command()
@click.argument("model", type=MODEL)
@click.option("--data-dir", type=DATA_DIR, required=True, help="Folder with the CIFAR-10 batches to calibrate on.")
@click.option("--backend", default="onnxruntime", show_default=True)
@click.option(
    "--dtype", default="u8s8", show_default=True, help="int8, uint8, or u8s8 (uint8 activations, int8 weights)."
)
@click.option("--method", default="minmax", show_default=True, help="How activation ranges are chosen.")
@click.option("--granularity", type=click.Choice(["tensor", "channel"]), default="tensor", show_default=True)
@click.option("--samples-per-class", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True)
@click.option(
    "--exclude", multiple=True, help="What stays in float: a node's name, a pattern, or auto; may be repeated."
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def COMMAND(
    model: Path, data_dir: Path, backend: str, dtype: str, method: str, granularity: str,
    samples_per_class: int, seed: int, exclude: tuple[str, ...], output: Path,
) -> None:  # fmt: skip
    """Quantize MODEL (.onnx, .h5, .keras), calibrated on stratified images, and write OUTPUT."""
    subject = replace(workload(model, data_dir, samples_per_class, seed), exclude=exclude)
    case = Case(subject.name, backend, dtype, method, granularity, "auto" if exclude else NONE)
    listed = [each for known in backends().values() for each in known.cases(subject.name)]
    if case not in listed:
        near = sorted(
            {f"{each.dtype}/{each.method}" for each in listed if each.backend == backend and not each.is_float}
        )
        raise click.UsageError(
            f"{backend} {dtype}/{method} is not a case: it should be one of {', '.join(near)}"
            if near
            else f"--backend {backend}: should be one of {', '.join(backends())}; methods: {', '.join(methods())}"
        )
    pipeline = Pipeline(subject, Store(), notify)
    artifact = pipeline.artifact(case)
    write_bytes(output, artifact.path.read_bytes())
    samples = pipeline.calibration_samples
    click.echo(
        f"seed {samples.seed}, {len(samples)} samples ({samples_per_class} per class), digest {samples.digest[:12]}"
    )
    click.echo(f"method {method}, dtype {dtype}, granularity {granularity}, backend {backend}")
    for topic, said in sorted(artifact.notes.items()):
        click.echo(f"{topic}: {said}")
    click.echo(f"wrote {output} ({output.stat().st_size:,} bytes, float model {pipeline.source.onnx.stat().st_size:,})")
