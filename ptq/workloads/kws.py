"""kws: MLPerf Tiny's keyword spotting, a DS-CNN on the MFCC of Speech Commands."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ptq.cases import FP32, NONE, Case
from ptq.data.array_files import read_arrays
from ptq.data.batch import Array
from ptq.data.contract import InputContract
from ptq.data.model_folder import data_folder, model_file
from ptq.data.reader import Reader
from ptq.data.samples import ArraySamples, Labels
from ptq.data.sampling import stratified
from ptq.engine.workload import Artifact, Workload
from ptq.errors import BadData, NoData

FLOAT, INT8, INPUTS = "kws_ref_model_float32.tflite", "kws_ref_model.tflite", "kws01.npz"
COUNT, SEED = 200, 42
CLASSES = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown")
_REMEDY = "get it from mlcommons/tiny, benchmark/training/keyword_spotting/trained_models"
_UNEVEN = "200 samples are no multiple of 12 classes: their counts differ by 1"


def WORKLOAD(data: Path | None) -> Workload:
    """Calibrated on 200 of MLPerf Tiny's 1,000 inputs, seed 42, evaluated on the other 800: there is no other split."""
    return Workload(
        name="kws",
        model=partial(model_file, data, FLOAT, _REMEDY),
        calibration=Reader(partial(_calibration, data), partial(_files, data)),
        evaluation=Reader(partial(_evaluation, data), partial(_files, data)),
        contract=InputContract((None, 49, 10, 1), "NHWC", low=-124, high=26),
        include=_include,
        methods=("cle_mse_gptq",),
        artifacts={"mlperf_tiny": Artifact("tflite", "int8", partial(model_file, data, INT8, _REMEDY))},
        as_evaluated=Reader(partial(_whole, data), partial(_files, data)),
        unchecked={"balance": _UNEVEN},
    )


def _include(case: Case) -> bool:
    """A small grid."""
    if case.backend == "onnxruntime":
        small = case.method in ("minmax", "mse_gptq", "cle_mse_gptq") and case.dtype in ("u8s8", "uint8")
        return case.exclude == NONE and (case.dtype == FP32 or small)
    return case.backend in ("torch", "torch_pt2e") and case.method == "histogram"


class _Inputs(NamedTuple):
    values: Array
    labels: Labels


def _files(data: Path | None) -> list[Path]:
    folder = data_folder(data, f"kws01/{INPUTS} and models/")
    for each in (folder / "kws01" / INPUTS, folder / INPUTS):
        if each.is_file():
            return [each]
    raise NoData(
        f"kws: no kws01/{INPUTS} in {folder}; write one from the inputs of eembc/energyrunner's kws01, with arrays "
        "inputs float32 (N, 49, 10, 1), the MFCC, and labels int64 (N,)"
    )


def _read(data: Path | None) -> _Inputs:
    path = _files(data)[0]
    found = read_arrays(path)
    values, labels = found.get("inputs"), found.get("labels")
    if values is None or labels is None or len(values) != len(labels) or values.shape[1:] != (49, 10, 1):
        raise BadData(f"{path}: should hold inputs (N, 49, 10, 1) and labels (N,)")
    return _Inputs(values, labels.astype(np.int64))


def _chosen(found: _Inputs) -> Labels:
    """Indices that calibrate: of inputs that are there once, so that no input is on both sides."""
    _, inverse, counts = np.unique(
        found.values.reshape(len(found.values), -1), axis=0, return_inverse=True, return_counts=True
    )
    once = np.flatnonzero(counts[inverse.reshape(-1)] == 1)
    return once[stratified(found.labels[once], -(-COUNT // len(CLASSES)), SEED, len(CLASSES))[:COUNT]]


def _samples(found: _Inputs, rows: Labels, seed: int | None = None) -> ArraySamples:
    return ArraySamples(found.values[rows], found.labels[rows], CLASSES, seed=seed, name="kws01")


def _calibration(data: Path | None) -> ArraySamples:
    found = _read(data)
    return _samples(found, _chosen(found), SEED)


def _evaluation(data: Path | None) -> ArraySamples:
    found = _read(data)
    return _samples(found, np.setdiff1d(np.arange(len(found.labels)), _chosen(found)))


def _whole(data: Path | None) -> ArraySamples:
    found = _read(data)
    return _samples(found, np.arange(len(found.labels)))
