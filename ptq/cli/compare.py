"""`ptq compare`: how long one artifact takes against another, side by side, and what of each runs in integer."""

from __future__ import annotations

import math
from itertools import zip_longest
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from ptq.backends.protocol import Backend, Census
from ptq.bars import Bar
from ptq.calibration.sampling import evaluation_samples
from ptq.cli.subject import DATA_DIR, MODEL, backend_for
from ptq.datasets.cifar10 import read
from ptq.errors import BadData, NotInstalled
from ptq.latency import Budget, measure_ratio
from ptq.race import SAME, THREADS, executed
from ptq.samples import Float32
from ptq.verdict import FAIL, judge_ratio

Shape = tuple[int | None, ...]


@click.command()
@click.argument("a", type=MODEL)
@click.argument("b", type=MODEL)
@click.option("--data-dir", type=DATA_DIR, help="Folder with the CIFAR-10 batches; without it, inputs are random.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Inputs per call.")
@click.option(
    "--max-ratio", type=click.FloatRange(0, min_open=True), default=SAME, show_default=True,
    help="Largest time of B / time of A.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, help="Longest to measure."
)
def COMMAND(a: Path, b: Path, data_dir: Path | None, batch: int, max_ratio: float, seconds: float) -> int:
    """Time B against A in turns, in this process; exit 1 when the interval of the ratio lies above --max-ratio.

    Any two artifacts of any backend (.onnx, .tflite, .pt, .pt2e) that take the same inputs.
    """
    if not (math.isfinite(max_ratio) and math.isfinite(seconds)):
        raise click.UsageError(f"--max-ratio {max_ratio} --seconds {seconds}: both should be finite numbers")
    runtimes = [_runtime(each) for each in (a, b)]
    batch, shape = _common(
        (a, b), [runtime.input_shape(each) for runtime, each in zip(runtimes, (a, b), strict=True)], batch
    )
    inputs = _random(shape) if data_dir is None else _images(data_dir, shape)
    base, other = (runtime.load(each, THREADS) for runtime, each in zip(runtimes, (a, b), strict=True))
    ratio = measure_ratio(base, other, inputs, max_ratio, Budget(seconds=seconds))
    verdict = judge_ratio(f"B against A, batch {batch}", ratio, Bar("*", "", max_ratio=max_ratio))
    table = Table(box=None, pad_edge=False)
    for heading in ("", f"A: {a.name}", f"B: {b.name}"):
        table.add_column(heading, overflow="fold")
    rows = zip_longest(
        ("runtime", "size, bytes", "ms per call", "executed", "stray Q/DQ", "weights, bytes"),
        *(
            _facts(runtime, each, taken)
            for runtime, each, taken in zip(runtimes, (a, b), (ratio.reference_ms, ratio.other_ms), strict=True)
        ),
    )
    for row in rows:
        table.add_row(*row)
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    console.print(f"B is {ratio.speedup:.2f}x the speed of A ({1 / ratio.high:.2f} .. {1 / ratio.low:.2f})")
    console.print(f"{verdict.name}: {verdict.reason}")
    return 1 if verdict.name == FAIL else 0


def _runtime(model: Path) -> Backend:
    backend = backend_for(model, None)
    if (missing := backend.missing()) is not None:
        raise NotInstalled(f"{model.name}: {missing}")
    return backend


def _facts(runtime: Backend, artifact: Path, taken: float) -> tuple[str, ...]:
    found: Census = runtime.census(artifact)
    weights = ", ".join(f"{kind} {size:,}" for kind, size in sorted(found.weight_bytes.items()))
    size = f"{artifact.stat().st_size:,}"
    return runtime.name, size, f"{taken:.4g}", executed(found), str(found.stray), weights


def _common(models: tuple[Path, Path], shapes: list[Shape], batch: int) -> tuple[int, tuple[int, ...]]:
    """(batch size, shape of the batch both models take); `BadData` when there is none."""
    first, second = shapes
    fits = len(first) == len(second) and all(
        one is None or other is None or one == other for one, other in zip(first, second, strict=True)
    )
    if not fits:
        raise BadData(
            f"{models[0].name} takes inputs of shape {_words(first)}, {models[1].name} of shape {_words(second)}, but "
            "both should take the same"
        )
    merged = [one if one is not None else other for one, other in zip(first, second, strict=True)]
    if not merged or None in merged[1:]:
        raise BadData(
            f"{models[0].name}: input shape {_words(first)} varies beyond the batch, but should be fixed: export it so"
        )
    size = merged[0] or batch
    return size, (size, *(each for each in merged[1:] if each is not None))


def _random(shape: tuple[int, ...]) -> Float32:
    """Uniform in 0..1: what a kernel takes does not depend on the values, denormal numbers aside."""
    return np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)


def _images(data_dir: Path, shape: tuple[int, ...]) -> Float32:
    images = next(evaluation_samples(read(data_dir, "test")).batches(shape[0]))
    if images.shape[1:] != shape[1:]:
        raise BadData(
            f"{data_dir}: images of shape {images.shape[1:]}, but the models take {shape[1:]}: leave --data-dir out"
        )
    return np.ascontiguousarray(np.resize(images, shape))


def _words(shape: Shape) -> str:
    return "(" + ", ".join("N" if each is None else str(each) for each in shape) + ")"
