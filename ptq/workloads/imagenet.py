"""imagenet: EfficientNet-Lite0 on labelled photographs of ImageNet."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from ptq.cases import FP32, NONE, Case
from ptq.data.contract import InputContract
from ptq.data.image_files import list_images
from ptq.data.model_folder import data_folder, model_file
from ptq.data.pictures import ImageOptions, Pictures
from ptq.data.reader import Reader
from ptq.engine.workload import Workload
from ptq.errors import BadData, NoData

ONNX, FOLDER = "efficientnet_lite0.onnx", "imagenet600"
NTH = 6
"""Every sixth photograph calibrates, the others are judged."""
OPTIONS = ImageOptions((224, 224), "NCHW", mean=(127.0,), std=(128.0,), range="0..255", crop=224 / 256)
CHANNEL_MEAN = (-0.03, -0.10, -0.19)
"""Mean of R, G and B over ImageNet's training images (0.485, 0.456, 0.406), as the model takes them."""
_ONE_A_CLASS = "the photographs are of 600 of 1,000 classes, one each"


def WORKLOAD(data: Path | None) -> Workload:
    """Calibrated on every sixth photograph, no label used; evaluated on the others."""
    return Workload(
        name="imagenet",
        model=partial(model_file, data, ONNX, "export the weights of EfficientNet-Lite0 (NCHW, 224 x 224)"),
        calibration=Reader(partial(_calibration, data), partial(_files, data)),
        evaluation=Reader(partial(_evaluation, data), partial(_files, data)),
        contract=InputContract((None, 3, 224, 224), "NCHW", low=-127 / 128, high=1.0, channel_mean=CHANNEL_MEAN),
        include=_include,
        methods=("cle_mse_gptq", "mse_gptaq"),
        as_evaluated=Reader(partial(_pictures, data, None), partial(_files, data)),
        unchecked={"balance": _ONE_A_CLASS, "prefix": _ONE_A_CLASS},
    )


def _include(case: Case) -> bool:
    """A small grid."""
    small = case.method in ("minmax", "mse_gptq", "cle_mse_gptq") and case.dtype in ("u8s8", "uint8")
    small = small or (case.method == "mse_gptaq" and case.dtype == "u8s4")
    return case.backend == "onnxruntime" and case.exclude == NONE and (case.dtype == FP32 or small)


def _files(data: Path | None) -> list[Path]:
    folder = data_folder(data, f"{FOLDER}/ and models/") / FOLDER
    if not folder.is_dir():
        raise NoData(f"imagenet: no folder {folder}; fill it with photographs called NNN_wnid.jpg, NNN the class index")
    return list(list_images(folder))


def _calibration(data: Path | None) -> Pictures:
    return _pictures(data, True)


def _evaluation(data: Path | None) -> Pictures:
    return _pictures(data, False)


def _pictures(data: Path | None, calibrates: bool | None) -> Pictures:
    """Every sixth photograph, the others, or all of them for None."""
    paths = [path for at, path in enumerate(_files(data)) if calibrates in (None, at % NTH == 0)]
    return Pictures(tuple(paths), options=OPTIONS, truth=np.array([_label(path) for path in paths], dtype=np.int64))


def _label(path: Path) -> int:
    if (found := re.match(r"(\d{3})_", path.name)) is None:
        raise BadData(f"{path}: should be called NNN_wnid.jpg, NNN the class index")
    return int(found[1])
