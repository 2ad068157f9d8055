"""Calibration against onnxruntime's own, side by side in one process: ``pytest -m speed``.

One line each, ``speed: NAME VALUE (bar)``, and the property ``speed`` for the JSON. Durations are medians of at
least three rounds in which both sides take turns. The model is cifar10's ResNet8 when PTQ_DATA has it, else the
embedded one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import ptq
from ptq.backends.onnxruntime.quantize import quantize
from ptq.calibration.expose import expose
from ptq.calibration.extremes import extremes
from ptq.calibration.prepare import prepare
from ptq.calibration.statistics_pass import statistics
from ptq.data.samples import Float32, Samples
from ptq.engine.pipeline import Pipeline
from ptq.engine.registry import Registry
from ptq.engine.store import Store
from ptq.errors import NoData, NotInstalled
from ptq.models.session import session
from ptq.quantization.calibration import Calibration
from ptq.quantization.dtype import DTYPES
from ptq.quantization.methods.minmax import minmax
from ptq.quantization.plan import Plan

pytestmark = [pytest.mark.speed, pytest.mark.filterwarnings("ignore")]

ROUNDS = 3
SHORT_ROUNDS = 21  # where a round takes a second: the more, the less the machine's other work decides
METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy", "mse": "Distribution"}
"""onnxruntime has no mse: its fourth method stands in for the time it takes."""
GRID = list(product(METHODS, ("uint8", "u8s8"), (False, True)))


@dataclass(frozen=True)
class Subject:
    """A prepared ResNet8 and its calibration and evaluation samples."""

    model: Path
    entry: str
    calibration: Samples
    evaluation: Samples


@pytest.fixture(scope="module")
def subject() -> Subject:
    data = os.environ.get("PTQ_DATA")
    by_name = {each.name: each for each in ptq.builtin_workloads(Path(data) if data else None)}
    for name in ("cifar10", "digits"):
        pipeline = Pipeline(by_name[name], Store())
        with contextlib.suppress(NoData, NotInstalled):
            model = pipeline.model.prepared
            entry = session(model).get_inputs()[0].name
            return Subject(model, entry, pipeline.calibration_samples, pipeline.evaluation_samples)
    pytest.skip("neither cifar10 nor digits is here")


@pytest.fixture
def say(record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Print and record a value, and hold it to its bar."""

    def said(name: str, value: float, bar: float, least: bool = True, unit: str = "x") -> None:
        sign = ">=" if least else "<="
        record_property("speed", json.dumps({"name": name, "value": value, "bar": bar}))
        with capsys.disabled():
            print(f"\nspeed: {name} {value:.2f}{unit} ({sign} {bar:g}{unit})")
        assert value >= bar if least else value <= bar

    return said


def medians(*sides: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, times in zip(sides, taken, strict=True):
            start = time.perf_counter()
            side()
            times.append(time.perf_counter() - start)
    return [median(times) for times in taken]


class Reader:
    """One image at a time, as onnxruntime's documentation has it."""

    def __init__(self, subject: Subject) -> None:
        self._batches: Iterator[dict[str, Float32]] = subject.calibration.batches(1)

    def get_next(self) -> dict[str, Float32] | None:
        return next(self._batches, None)


def theirs(subject: Subject, name: str, dtype: str, per_channel: bool, out: Path) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    quant_types = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(
            str(subject.model),
            str(out),
            Reader(subject),
            quant_format=QuantFormat.QDQ,
            activation_type=quant_types[DTYPES[dtype].activation.numpy],
            weight_type=quant_types[DTYPES[dtype].weight.numpy],
            per_channel=per_channel,
            calibrate_method=CalibrationMethod[METHODS[name]],
        )


def ours(subject: Subject, calibration: Calibration, name: str, dtype: str, per_channel: bool, out: Path) -> None:
    ranges = calibration.ranges(name, DTYPES[dtype].quantizer)
    quantize(subject.model, Plan(DTYPES[dtype], ranges, per_channel), out)


def file_of(folder: Path, side: str, cell: tuple[str, str, bool]) -> Path:
    name, dtype, per_channel = cell
    return folder / f"{side}-{name}-{dtype}-{'channel' if per_channel else 'tensor'}.onnx"


@pytest.fixture(scope="module")
def grid(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """The folder of both sides' models, and the seconds ours and theirs took."""
    folder = tmp_path_factory.mktemp("grid")

    def our_grid() -> None:
        seen = statistics(subject.model, subject.calibration)
        bounds = extremes(subject.model, subject.calibration)
        calibration = Calibration(
            subject.calibration, lambda: seen, methods=Registry().methods, extremes=lambda: bounds
        )
        for cell in GRID:
            ours(subject, calibration, *cell, file_of(folder, "ours", cell))

    def their_grid() -> None:
        for cell in GRID:
            theirs(subject, *cell, file_of(folder, "theirs", cell))

    return folder, medians(our_grid, their_grid)


def test_sixteen_configurations(grid: tuple[Path, list[float]], say: Callable[..., None]) -> None:
    our_seconds, their_seconds = grid[1]
    say("16_configurations", their_seconds / our_seconds, 25)


def test_one_cold_minmax(subject: Subject, say: Callable[..., None], tmp_path: Path) -> None:
    cell = ("minmax", "u8s8", False)

    def cold() -> None:
        seen = extremes(subject.model, subject.calibration)
        ranges = {tensor: minmax(each, DTYPES[cell[1]].quantizer) for tensor, each in seen.items()}
        quantize(subject.model, Plan(DTYPES[cell[1]], ranges, cell[2]), tmp_path / "ours.onnx")

    our_seconds, their_seconds = medians(
        cold, lambda: theirs(subject, *cell, tmp_path / "theirs.onnx"), rounds=SHORT_ROUNDS
    )
    say("cold_minmax", their_seconds / our_seconds, 3)


def test_histogram_pass(subject: Subject, say: Callable[..., None]) -> None:
    """Against a plain forward pass: every activation an output, onnxruntime's defaults, batches of 32."""
    tensors = list(expose(subject.model).tensors)
    model = onnx.shape_inference.infer_shapes(onnx.load(subject.model))
    known = {each.name: each for each in model.graph.value_info}
    model.graph.output.extend(known[name] for name in tensors if name in known)
    plain = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def forward() -> None:
        for images in subject.calibration.batches(32):
            plain.run(tensors, images)

    pass_seconds, forward_seconds = medians(
        lambda: statistics(subject.model, subject.calibration), forward, rounds=SHORT_ROUNDS
    )
    say("histogram_pass_per_forward", pass_seconds / forward_seconds, 3, least=False)


def test_no_method_is_worse_than_onnxruntimes(
    subject: Subject, grid: tuple[Path, list[float]], say: Callable[..., None]
) -> None:
    """Images lost at most against the method of the same name, over {uint8, u8s8} x {tensor, channel}."""

    def correct(path: Path) -> int:
        running = session(path)
        outputs = [running.run(None, images)[0] for images in subject.evaluation.batches(100)]
        return int((np.concatenate(outputs).argmax(axis=1) == subject.evaluation.targets).sum())

    lost = {}
    for cell in (cell for cell in GRID if cell[0] != "mse"):
        lost[cell] = correct(file_of(grid[0], "theirs", cell)) - correct(file_of(grid[0], "ours", cell))
    print(lost)
    say("images_lost_to_onnxruntime", max(lost.values()), 3, least=False, unit=" images")


PEAK = """
import sys
from pathlib import Path
import numpy as np
from ptq.calibration.statistics_pass import statistics
from ptq.engine.registry import Registry
from ptq.models.onnx_file import signature
from ptq.quantization.quantizer import Quantizer


class Drawn:
    '''Images drawn as they are asked for, so that the set itself takes no memory.'''

    order = None

    def __init__(self, name, count, shape, high):
        self.name, self.count, self.shape, self.high = name, count, shape, high

    def __len__(self):
        return self.count

    def batches(self, size):
        generator = np.random.default_rng(0)
        for start in range(0, self.count, size):
            drawn = generator.random((min(size, self.count - start), *self.shape), dtype=np.float32)
            yield {self.name: drawn * self.high}


model = Path(sys.argv[1])
name = signature(model).inputs[0].name
seen = statistics(model, Drawn(name, int(sys.argv[2]), eval(sys.argv[3]), float(sys.argv[4])))
for method in Registry().methods.values():
    for tensor in seen.values():
        method.choose(tensor, Quantizer())
# not getrusage: after a fork its peak is the parent's
print(next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_bytes(model: Path, images: int, shape: tuple[int, ...], high: float) -> int:
    if not Path("/proc/self/status").is_file():
        pytest.skip("peak memory is read from /proc/self/status, which is not here")
    arguments = [sys.executable, "-c", PEAK, str(model), str(images), repr(shape), str(high)]
    return int(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


def test_memory_does_not_grow_with_images(subject: Subject, say: Callable[..., None]) -> None:
    # the most of several runs: which of two places the allocator gives a batch differs from run to run
    few, many = (max(peak_bytes(subject.model, images, (32, 32, 3), 255.0) for _ in range(5)) for images in (500, 4000))
    say("memory_growth_500_to_4000", 100 * (many / few - 1), 5, least=False, unit=" %")


def test_yolo11n_fits(say: Callable[..., None], tmp_path: Path) -> None:
    model = Path(os.environ.get("PTQ_DATA", "")) / "models" / "yolo11n.onnx"
    if not model.is_file():
        pytest.skip("PTQ_DATA with models/yolo11n.onnx is not set")
    prepare(model, tmp_path / "yolo11n.onnx")
    peak: Any = peak_bytes(tmp_path / "yolo11n.onnx", 100, (3, 640, 640), 1.0)
    say("yolo11n_100_images_peak", peak / 1e9, 1.2, least=False, unit=" GB")
