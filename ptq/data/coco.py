"""COCO: images with annotated boxes, in the layout and JSON of cocodataset.org."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.data.image_files import ImageFiles, list_images
from ptq.data.letterbox import Letterbox, network_input, read_image
from ptq.data.samples import Float32
from ptq.errors import BadData, NoData


@dataclass(frozen=True, eq=False)
class Truth:
    """The objects annotated in one image.

    `width`, `height` in pixels; `boxes` (K, 4) float64 as x1, y1, x2, y2 in pixels; `classes` (K,) int64, indices into
    the class names; `areas` (K,) in square pixels; `crowds` (K,) bool, regions that are neither hit nor miss.
    """

    width: int
    height: int
    boxes: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64]
    areas: npt.NDArray[np.float64]
    crowds: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CocoImages(ImageFiles):
    """`ImageFiles` with what is annotated in each: `truths`, one an image, in order.

    Reading an image whose size is not the annotated one raises `BadData`: boxes would be in the wrong place.
    """

    truths: tuple[Truth, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.truths) != len(self.paths):
            raise BadData(f"{len(self.truths)} annotated images, but should be {len(self.paths)}, one a file")

    @cached_property
    def digest(self) -> str:
        """Over the files and what is annotated in them: a score depends on both."""
        whole = hashlib.sha256(super().digest.encode())
        for truth in self.truths:
            for name, value in sorted(vars(truth).items()):
                content = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
                whole.update(name.encode() + b"\0" + content)
        return whole.hexdigest()

    @property
    def targets(self) -> tuple[Truth, ...]:
        """What is annotated in each image."""
        return self.truths

    def letterbox(self, index: int) -> Letterbox:
        """Where image number `index` lies in the network's input."""
        return Letterbox(self.truths[index].width, self.truths[index].height, self.size)

    def read(self, index: int) -> Float32:
        image = read_image(self.paths[index])
        want = self.letterbox(index)
        if image.shape[:2] != (want.height, want.width):
            raise BadData(
                f"{self.paths[index]}: {image.shape[1]}x{image.shape[0]} pixels, but annotated as "
                f"{want.width}x{want.height}: another image, or turned by its EXIF orientation"
            )
        return network_input(want.apply(image))


def read_coco(images: Path, annotations: Path, size: int = 640) -> CocoImages:
    """Every image of a folder with its boxes from an ``instances_*.json``.

    Class indices count the categories in the order of their ids, as detectors trained on COCO do (80 classes whose
    ids leave gaps up to 90). Raises `NoData` when folder or file are absent, `BadData` when the JSON is not COCO's,
    or an image of the folder is not in it.
    """
    paths = list_images(images)
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NoData(f"{annotations}: no such file, but should hold the boxes of {images}") from None
    except (OSError, ValueError) as error:
        raise BadData(f"{annotations}: cannot be read as JSON ({error})") from error
    try:
        names, by_file = _parse(content)
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(f"{annotations}: not COCO's instances format ({error!r})") from error
    for path in paths:
        if path.name not in by_file:
            raise BadData(f"{path}: not in {annotations}, but every image of the folder should be")
    return CocoImages(paths, size, class_names=names, truths=tuple(by_file[path.name] for path in paths))


def _parse(content: Any) -> tuple[tuple[str, ...], dict[str, Truth]]:
    categories = sorted(content["categories"], key=lambda each: int(each["id"]))
    index = {int(each["id"]): place for place, each in enumerate(categories)}
    objects: dict[int, list[Any]] = {int(each["id"]): [] for each in content["images"]}
    for each in content["annotations"]:
        objects[int(each["image_id"])].append(each)
    truths = {str(image["file_name"]): _truth(image, objects[int(image["id"])], index) for image in content["images"]}
    return tuple(str(each["name"]) for each in categories), truths


def _truth(image: Any, objects: list[Any], index: dict[int, int]) -> Truth:
    corner = np.array([each["bbox"] for each in objects], dtype=np.float64).reshape(-1, 4)
    corner[:, 2:] += corner[:, :2]
    return Truth(
        width=int(image["width"]),
        height=int(image["height"]),
        boxes=corner,
        classes=np.array([index[int(each["category_id"])] for each in objects], dtype=np.int64),
        areas=np.array([each["area"] for each in objects], dtype=np.float64),
        crowds=np.array([bool(each.get("iscrowd", 0)) for each in objects], dtype=np.bool_),
    )
