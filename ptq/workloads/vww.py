"""vww: MLPerf Tiny's visual wake words, MobileNetV1 0.25: is there a person in the picture?"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ptq.cases import FP32, NONE, Case
from ptq.data.coco import Truth, read_coco
from ptq.data.contract import InputContract
from ptq.data.image_files import list_images
from ptq.data.model_folder import data_folder, model_file
from ptq.data.pictures import ImageOptions, Pictures
from ptq.data.reader import Reader
from ptq.data.sampling import stratified
from ptq.engine.workload import Artifact, Workload
from ptq.errors import BadData, NoData

KERAS, INT8 = "vww_96.h5", "vww_96_int8.tflite"
CHANNEL_MEAN = (0.470, 0.447, 0.408)
"""Mean of R, G and B over COCO's training images, in 0..1."""
PERSON, LEAST = "person", 0.005
"""A picture is of class 1 where the box of one person covers more than this share of it, as Chowdhery et al. (2019),
arXiv:1906.05721, have it."""
PER_CLASS, SEED = 50, 42
_REMEDY = "get it from mlcommons/tiny, benchmark/training/visual_wake_words/trained_models"


def WORKLOAD(data: Path | None) -> Workload:
    """Calibrated on 50 a class of train2017, seed 42; evaluated on every image of val2017."""
    return Workload(
        name="vww",
        model=partial(model_file, data, KERAS, _REMEDY),
        calibration=Reader(partial(_calibration, data), partial(_files, data, "train2017")),
        evaluation=Reader(partial(_labelled, data, "val2017"), partial(_files, data, "val2017")),
        contract=InputContract((None, 96, 96, 3), "NHWC", low=0.0, high=1.0, channel_mean=CHANNEL_MEAN),
        include=_include,
        methods=("cle_mse_gptq",),
        artifacts={"mlperf_tiny": Artifact("tflite", "int8", partial(model_file, data, INT8, _REMEDY))},
        as_evaluated=Reader(partial(_labelled, data, "train2017"), partial(_files, data, "train2017")),
    )


def _include(case: Case) -> bool:
    """A small grid."""
    if case.backend == "onnxruntime":
        small = case.method in ("minmax", "mse_gptq", "cle_mse_gptq") and case.dtype in ("u8s8", "uint8")
        return case.exclude == NONE and (case.dtype == FP32 or small)
    if case.backend == "tflite":
        return case.granularity == "channel"
    return case.backend in ("torch", "torch_pt2e") and case.method == "histogram"


def _labelled(data: Path | None, split: str) -> Pictures:
    read = read_coco(_images(data, split), _annotations(data, split))
    if PERSON not in read.class_names:
        raise BadData(f"{_annotations(data, split)}: no category {PERSON!r}, but should have COCO's")
    person = read.class_names.index(PERSON)
    truth = np.array([_shows(each, person) for each in read.truths], dtype=np.int64)
    return Pictures(read.paths, class_names=("no person", PERSON), options=ImageOptions((96, 96), "NHWC"), truth=truth)


def _shows(truth: Truth, person: int) -> bool:
    sides = (truth.boxes[:, 2:] - truth.boxes[:, :2])[truth.classes == person]
    return bool((sides.prod(axis=1) > LEAST * truth.width * truth.height).any())


def _calibration(data: Path | None) -> Pictures:
    every = _labelled(data, "train2017")
    truth = np.asarray(every.truth)
    chosen = stratified(truth, PER_CLASS, SEED, 2)
    return replace(every, paths=tuple(every.paths[each] for each in chosen), truth=truth[chosen], seed=SEED)


def _files(data: Path | None, split: str) -> list[Path]:
    return [*list_images(_images(data, split)), _annotations(data, split)]


def _annotations(data: Path | None, split: str) -> Path:
    path = data_folder(data, "coco/ and models/") / "coco" / "annotations" / f"instances_{split}.json"
    if not path.is_file():
        raise NoData(f"vww: no {path}; get it from cocodataset.org")
    return path


def _images(data: Path | None, split: str) -> Path:
    folder = data_folder(data, "coco/ and models/") / "coco" / "images" / split
    if not folder.is_dir():
        raise NoData(f"vww: no folder {folder}; get it from cocodataset.org")
    return folder
