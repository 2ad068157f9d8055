"""COCO's annotations, and the workload made of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptq.cases import FP32, Case
from ptq.data.coco import read_coco
from ptq.errors import BadData, NoData
from ptq.workloads.coco import WORKLOAD

cv2 = pytest.importorskip("cv2", reason="reading images needs OpenCV: pip install 'ptq[coco]'")


@pytest.fixture
def content() -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "b.png", "width": 8, "height": 6},
            {"id": 3, "file_name": "a.png", "width": 5, "height": 9},
            {"id": 9, "file_name": "not_here.png", "width": 5, "height": 9},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 3, 4], "area": 11.5, "iscrowd": 1},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 8, 6], "area": 48},
        ],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    cv2.imwrite(str(images / "b.png"), np.zeros((6, 8, 3), np.uint8))
    cv2.imwrite(str(images / "a.png"), np.zeros((9, 5, 3), np.uint8))
    return images


def write(folder: Path, content: object) -> Path:
    path = folder.parent / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_boxes_by_image_and_classes_by_order_of_id(folder: Path, content: dict[str, Any]) -> None:
    read = read_coco(folder, write(folder, content), size=64)
    assert [each.name for each in read.paths] == ["a.png", "b.png"]
    assert read.class_names == ("person", "toothbrush")
    first, second = read.truths
    assert (first.width, first.height, len(first.boxes)) == (5, 9, 0)
    assert second.boxes.tolist() == [[1, 2, 4, 6], [0, 0, 8, 6]]
    assert second.classes.tolist() == [1, 0]
    assert second.areas.tolist() == [11.5, 48]
    assert second.crowds.tolist() == [True, False]
    assert next(read.batches(2)).shape == (2, 3, 64, 64)


def test_an_image_of_another_size_is_named(folder: Path, content: dict[str, Any]) -> None:
    content["images"][0]["width"] = 6
    with pytest.raises(BadData, match=r"b.png: 8x6 pixels, but annotated as 6x6"):
        list(read_coco(folder, write(folder, content)).batches(1))


def test_an_image_without_annotation_is_named(folder: Path, content: dict[str, Any]) -> None:
    del content["images"][1]
    with pytest.raises(BadData, match=r"a.png: not in"):
        read_coco(folder, write(folder, content))


@pytest.mark.parametrize("broken", [[], {}, {"images": [], "categories": []}, {"images": 1}])
def test_what_is_not_cocos_format(folder: Path, broken: object) -> None:
    with pytest.raises(BadData, match=r"instances.json: not COCO's instances format"):
        read_coco(folder, write(folder, broken))


def test_a_box_of_an_unknown_image_or_category(folder: Path, content: dict[str, Any]) -> None:
    content["annotations"][0]["category_id"] = 2
    with pytest.raises(BadData, match="not COCO's instances format"):
        read_coco(folder, write(folder, content))


def test_absent_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NoData, match=r"absent.json: no such file"):
        read_coco(folder, tmp_path / "absent.json")
    (tmp_path / "cut.json").write_text('{"images": [')
    with pytest.raises(BadData, match=r"cut.json: cannot be read as JSON"):
        read_coco(folder, tmp_path / "cut.json")


def test_the_workload_says_what_it_lacks(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="the workload needs pycocotools: pip install 'ptq[coco]'")
    for data, said in ((None, "--ptq-data DIR or PTQ_DATA=DIR"), (tmp_path, str(tmp_path))):
        workload = WORKLOAD(data)
        for ask in (workload.calibration, workload.evaluation, workload.model):
            with pytest.raises(NoData, match=said):
                ask()  # type: ignore[operator]


def test_the_grid_shows_the_default_and_the_plan() -> None:
    include = WORKLOAD(None).include
    assert include(Case("coco", "onnxruntime", FP32))
    assert include(Case("coco", "onnxruntime", "u8s8", "minmax"))
    assert include(Case("coco", "onnxruntime", "u8s8", "percentile", "channel", "auto"))
    assert include(Case("coco", "modelopt", "int8", "entropy", "channel"))
    assert not include(Case("coco", "onnxruntime", "u8s8", "percentile"))
    assert not include(Case("coco", "onnxruntime", "int8", "minmax", "tensor", "auto"))
    assert not include(Case("coco", "onnxruntime", "u8s8", "mse_gptq", "tensor", "auto"))
    assert not include(Case("coco", "torch", FP32))


@pytest.fixture
def data() -> Path:
    root = os.environ.get("PTQ_DATA")
    if not root or not (Path(root) / "coco").is_dir():
        pytest.skip("needs real COCO images: set PTQ_DATA to a folder with coco/ in it")
    return Path(root)


def test_real_images_pass_their_invariants(data: Path) -> None:
    workload = WORKLOAD(data)
    calibration, evaluation = workload.calibration(), workload.evaluation()  # type: ignore[operator]
    assert len(calibration) == 100
    assert calibration.seed == 42
    assert not set(calibration.hashes()) & set(evaluation.hashes())
    for check in workload.invariants.values():
        check(evaluation)
    low, high, total = 1.0, 0.0, np.zeros(3)
    for batch in evaluation.batches(1):
        workload.contract.check(batch)
        low, high = min(low, batch.min()), max(high, batch.max())
        total += batch.mean(axis=(0, 2, 3)) / len(evaluation)
    workload.contract.check_whole(low, high, total)
    with pytest.raises(BadData, match="likely cause: BGR"):
        workload.contract.check_whole(low, high, total[::-1])
