"""digits: a ResNet8 on scikit-learn's handwritten digits. Embedded: always there, nothing to fetch."""

from __future__ import annotations

from pathlib import Path

from ptq.data.contract import InputContract
from ptq.data.digits import files, read
from ptq.data.reader import Reader
from ptq.data.samples import ArraySamples
from ptq.data.sampling import calibration_samples, evaluation_samples
from ptq.engine.workload import Workload

MODEL = Path(__file__).parents[1] / "models" / "digits_resnet8.onnx"


def WORKLOAD(data: Path | None) -> Workload:
    """1,797 images of 8x8 brought to 32x32x3; calibrated on 100 a class of the training split, seed 42."""
    return Workload(
        name="digits",
        model=MODEL,
        calibration=Reader(_calibration, files),
        evaluation=Reader(_evaluation, files),
        contract=InputContract(shape=(None, 32, 32, 3), layout="NHWC", low=0, high=255),
        as_evaluated=Reader(_as_evaluated, files),
    )


def _calibration() -> ArraySamples:
    return calibration_samples(read("train"), per_class=100, seed=42)


def _evaluation() -> ArraySamples:
    return evaluation_samples(read("test"))


def _as_evaluated() -> ArraySamples:
    return evaluation_samples(read("train"))
