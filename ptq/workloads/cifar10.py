"""cifar10: MLPerf Tiny's image classification, ResNet8 on CIFAR-10."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ptq.data.cifar10 import files, read
from ptq.data.contract import InputContract
from ptq.data.images import Split
from ptq.data.model_folder import data_folder
from ptq.data.reader import Reader
from ptq.data.samples import ArraySamples
from ptq.data.sampling import calibration_samples, evaluation_samples
from ptq.engine.workload import Artifact, Source, Workload
from ptq.errors import NoData

KERAS, ONNX, TFLITE = "pretrainedResnet.h5", "pretrainedResnet.onnx", "pretrainedResnet_quant.tflite"
CHANNEL_MEAN = (125.3, 122.95, 113.87)
"""Mean of R, G and B over the 50,000 training images, in 0..255."""


def WORKLOAD(data: Path | None) -> Workload:
    """Calibrated on 100 a class of the training batches, seed 42; evaluated on test_batch."""
    return Workload(
        name="cifar10",
        model=partial(_model, data),
        calibration=Reader(partial(_calibration, data), partial(_files, data, "train")),
        evaluation=Reader(partial(_evaluation, data), partial(_files, data, "test")),
        contract=InputContract((None, 32, 32, 3), "NHWC", low=0, high=255, channel_mean=CHANNEL_MEAN),
        methods=("mse_gptaq",),
        artifacts={"mlperf_tiny": Artifact("tflite", "int8", partial(_tflite, data))},
        as_evaluated=Reader(partial(_as_evaluated, data), partial(_files, data, "train")),
    )


def _model(data: Path | None) -> Path | Source:
    folder = _folder(data)
    keras = _find(folder, KERAS)
    if (onnx := _find(folder, ONNX)) is not None:
        return Source(onnx, keras)
    if keras is None:
        raise NoData(f"cifar10: neither {ONNX} nor {KERAS} in {folder} or its models/; get one from mlcommons/tiny")
    return keras


def _files(data: Path | None, split: Split) -> list[Path]:
    return files(_folder(data), split)


def _calibration(data: Path | None) -> ArraySamples:
    return calibration_samples(read(_folder(data), "train"), per_class=100, seed=42)


def _evaluation(data: Path | None) -> ArraySamples:
    return evaluation_samples(read(_folder(data), "test"))


def _as_evaluated(data: Path | None) -> ArraySamples:
    return evaluation_samples(read(_folder(data), "train"))


def _tflite(data: Path | None) -> Path:
    found = _find(_folder(data), TFLITE)
    if found is None:
        raise NoData(f"cifar10: no {TFLITE} in {data} or its models/; get it from mlcommons/tiny")
    return found


def _folder(data: Path | None) -> Path:
    return data_folder(data, "cifar-10-batches-py")


def _find(folder: Path, name: str) -> Path | None:
    for each in (folder / "models" / name, folder / name):
        if each.is_file():
            return each
    return None
