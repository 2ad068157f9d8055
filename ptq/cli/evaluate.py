"""`ptq evaluate`: the accuracy of a model file, per class, and its drop against another."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from ptq.calibration.sampling import evaluation_samples
from ptq.cli.subject import DATA_DIR, MODEL, backend_for, predictions, workload
from ptq.datasets.cifar10 import read


@click.command()
@click.argument("model", type=MODEL)
@click.option("--data-dir", type=DATA_DIR, required=True, help="Folder with the CIFAR-10 batches; test_batch is used.")
@click.option("--baseline", type=MODEL, help="Another model to compare with, usually the float one.")
@click.option("--backend", help="The runtime of MODEL; by default the one its suffix belongs to.")
def COMMAND(model: Path, data_dir: Path, baseline: Path | None, backend: str | None) -> None:
    """Top-1 accuracy of MODEL (.onnx, .tflite, .pt) on test_batch, overall and per class."""
    subject = workload(model, data_dir)
    samples = evaluation_samples(read(data_dir, "test"))
    said = predictions(model, backend_for(model, backend), subject, samples)
    score = subject.metric.score(said, samples)
    console = Console(soft_wrap=True)
    table = Table(box=None)
    table.add_column("class")
    table.add_column(model.name, justify="right")
    if baseline is None:
        for name, value in score.per_class.items():
            table.add_row(name, f"{value:.4f}")
        console.print(table)
        console.print(f"top1 {score.value:.4f} ({score.correct}/{score.n})", highlight=False)
        return
    other = predictions(baseline, backend_for(baseline, None), subject, samples)
    base = subject.metric.score(other, samples)
    interval = subject.metric.drop(said, other, samples, 0.95)
    table.add_column(baseline.name, justify="right")
    table.add_column("drop pp", justify="right")
    for name, value in score.per_class.items():
        table.add_row(
            name, f"{value:.4f}", f"{base.per_class[name]:.4f}", f"{100 * (base.per_class[name] - value):+.2f}"
        )
    console.print(table)
    agreement, sqnr = subject.metric.agreement(said, other), subject.metric.sqnr_db(said, other)
    console.print(
        f"top1 {score.value:.4f} ({score.correct}/{score.n}), baseline {base.value:.4f} ({base.correct}/{base.n}), "
        f"drop {interval.drop:+.2f} pp (95 % interval {interval.low:+.2f} .. {interval.high:+.2f}), "
        f"agreement {agreement:.4f}, SQNR {'inf' if sqnr is None else f'{sqnr:.1f}'} dB",
        highlight=False,
    )
