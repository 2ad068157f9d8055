"""coco: YOLO11n, an object detector, on COCO 2017."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from ptq.cases import FP32, NONE, Case
from ptq.checks.letterbox import check_letterbox
from ptq.data.coco import CocoImages, read_coco
from ptq.data.contract import InputContract
from ptq.data.image_files import ImageFiles, list_images, sample
from ptq.data.model_folder import data_folder
from ptq.data.reader import Reader
from ptq.engine.workload import Workload
from ptq.errors import NoData, NotInstalled
from ptq.metrics.detection import MAP

ONNX = "yolo11n.onnx"
CHANNEL_MEAN = (0.470, 0.447, 0.408)
"""Mean of R, G and B over the training images, in 0..1; padding moves it a little towards 0.447."""
COUNT, SEED = 100, 42
_METHODS = ("minmax", "percentile", "mse", "entropy")
"""Those that choose ranges. Correcting the weights of 88 convolutions takes minutes and more than 1.5 GB."""


def WORKLOAD(data: Path | None) -> Workload:
    """Calibrated on 100 of train2017, seed 42, no label used; evaluated on every image of val2017."""
    return Workload(
        name="coco",
        model=partial(_model, data),
        calibration=Reader(partial(_calibration, data), partial(_files, data, "train2017")),
        evaluation=Reader(partial(_evaluation, data), partial(_files, data, "val2017")),
        contract=InputContract((1, 3, 640, 640), "NCHW", low=0.0, high=1.0, channel_mean=CHANNEL_MEAN),
        metric=MAP(),
        include=_include,
        as_evaluated=Reader(partial(_as_evaluated, data), partial(_files, data, "train2017")),
        invariants={"letterbox": check_letterbox},
    )


def _include(case: Case) -> bool:
    """A small grid: ONNX Runtime's default, which fails, every method with the head kept in float, ModelOpt."""
    if case.backend == "modelopt" or case == Case(case.workload, "onnxruntime", FP32):
        return True
    if case.backend != "onnxruntime" or case.dtype != "u8s8":
        return False
    if case.exclude == NONE:
        return (case.method, case.granularity) == ("minmax", "tensor")
    return case.method in _METHODS


def _model(data: Path | None) -> Path:
    folder = _folder(data)
    for each in (folder / "models" / ONNX, folder / ONNX):
        if each.is_file():
            return each
    raise NoData(f"coco: no {ONNX} in {folder} or its models/; export it from Ultralytics' YOLO11n with imgsz=640")


def _files(data: Path | None, split: str) -> list[Path]:
    annotations = _annotations(data, split)
    return [*list_images(_images(data, split)), *([annotations] if annotations.is_file() else [])]


def _calibration(data: Path | None) -> ImageFiles:
    images = list_images(_images(data, "train2017"))
    return ImageFiles(sample(images, min(COUNT, len(images)), SEED), seed=SEED)


def _evaluation(data: Path | None) -> CocoImages:
    return _annotated(data, "val2017")


def _as_evaluated(data: Path | None) -> CocoImages:
    every, drawn = _annotated(data, "train2017"), set(_calibration(data).paths)
    pairs = [pair for pair in zip(every.paths, every.truths, strict=True) if pair[0] in drawn]
    return replace(every, paths=tuple(path for path, _ in pairs), truths=tuple(truth for _, truth in pairs))


def _annotated(data: Path | None, split: str) -> CocoImages:
    return read_coco(_images(data, split), _annotations(data, split))


def _annotations(data: Path | None, split: str) -> Path:
    return _folder(data) / "coco" / "annotations" / f"instances_{split}.json"


def _images(data: Path | None, split: str) -> Path:
    _needs_opencv_and_pycocotools()
    folder = _folder(data) / "coco" / "images" / split
    if not folder.is_dir():
        raise NoData(f"coco: no folder {folder}; get it from cocodataset.org")
    return folder


def _folder(data: Path | None) -> Path:
    return data_folder(data, "coco/ and models/")


def _needs_opencv_and_pycocotools() -> None:
    from importlib.util import find_spec

    for module in ("cv2", "pycocotools"):
        if find_spec(module) is None:
            raise NotInstalled(f"not installed: {module}; pip install 'ptq[coco]'")
