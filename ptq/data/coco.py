"""COCO: images with annotated boxes, in the layout and JSON of cocodataset.org."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.data.content import read_json
from ptq.data.image_files import ImageFiles, list_images
from ptq.data.image_header import MOST_PIXELS
from ptq.data.letterbox import TRAINED, Letterbox, Recipe, read_image
from ptq.data.samples import Float32
from ptq.data.shape import check_fields
from ptq.errors import BadData, NoData, one_line

_IDS = {"image_id": int, "category_id": int}
_OBJECT = {"bbox": tuple[float, float, float, float], "area": float}


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
        return Letterbox(self.truths[index].width, self.truths[index].height, self.size, self.recipe.centred)

    def read(self, index: int) -> Float32:
        image = read_image(self.paths[index])
        want = self.letterbox(index)
        if image.shape[:2] != (want.height, want.width):
            raise BadData(
                f"{self.paths[index]}: {image.shape[1]}x{image.shape[0]} pixels, but annotated as "
                f"{want.width}x{want.height}: another image, or turned by its EXIF orientation"
            )
        return self.recipe.network_input(want.apply(image))


def read_coco(images: Path, annotations: Path, size: int = 640, recipe: Recipe = TRAINED) -> CocoImages:
    """Every image of a folder with its boxes from an ``instances_*.json``, as inputs of `size` made by `recipe`.

    Class indices count the categories in the order of their ids, as detectors trained on COCO do (80 classes whose
    ids leave gaps up to 90). Raises `NoData` when folder or file are absent, `BadData` when the JSON is not COCO's,
    an image of the folder is not in it, or what is annotated cannot be: ids that are no integers or come twice, boxes
    and areas that are not finite or below 0. What is annotated of other images is not looked at.
    """
    paths = list_images(images)
    try:
        content = read_json(annotations)
    except FileNotFoundError:
        raise NoData(f"{annotations}: no such file, but should hold the boxes of {images}") from None
    except (OSError, ValueError) as error:
        raise BadData(f"{annotations}: cannot be read as JSON ({one_line(error)})") from error
    try:
        names, truths = _parse(content, [path.name for path in paths])
    except BadData as error:
        raise BadData(f"{annotations}: not COCO's instances format: {error}") from error
    for path, truth in zip(paths, truths, strict=True):
        if truth is None:
            raise BadData(f"{path}: not in {annotations}, but every image of the folder should be")
    return CocoImages(paths, size, class_names=names, recipe=recipe, truths=tuple(each for each in truths if each))


def _parse(content: Any, wanted: list[str]) -> tuple[tuple[str, ...], list[Truth | None]]:
    """The class names, and what is annotated in each wanted file; None where it is not listed."""
    check_fields(content, {"images": list, "categories": list, "annotations": list}, "content")
    categories = _by_id(content["categories"], "categories", {"name": str})
    names = tuple(categories[each]["name"] for each in sorted(categories))
    if strange := [name for name in names if not name.isprintable() or not name.strip()]:
        raise BadData(f"category {strange[0]!r:.80} should have a name of printable characters")
    listed = _by_id(content["images"], "images", {"file_name": str, "width": int, "height": int})
    ids = {each["file_name"]: number for number, each in listed.items()}
    if len(ids) < len(listed):
        raise BadData(f"{len(listed)} images, but only {len(ids)} different file_names")
    objects: dict[int, list[Any]] = {ids[name]: [] for name in wanted if name in ids}
    for at, each in enumerate(content["annotations"]):
        name = f"annotations[{at}]"
        check_fields(each, _IDS, name)
        if each["image_id"] not in listed or each["category_id"] not in categories:
            raise BadData(f"{name}: its image_id or category_id is none of those listed")
        if each["image_id"] in objects:
            check_fields(each, _OBJECT, name)
            if min(*each["bbox"][2:], each["area"]) < 0:
                raise BadData(f"{name}: bbox={each['bbox']}, area={each['area']}, but none should be below 0")
            if each.get("iscrowd", 0) not in (0, 1):
                raise BadData(f"{name}.iscrowd={each['iscrowd']!r:.60}, but should be 0 or 1")
            objects[each["image_id"]].append(each)
    index = {number: place for place, number in enumerate(sorted(categories))}
    return names, [_truth(listed[ids[name]], objects[ids[name]], index) if name in ids else None for name in wanted]


def _by_id(rows: list[Any], name: str, hints: Mapping[str, Any]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for at, each in enumerate(rows):
        check_fields(each, {"id": int, **hints}, f"{name}[{at}]")
        if each["id"] in found:
            raise BadData(f"{name}[{at}].id={each['id']} is that of another one, too")
        found[each["id"]] = each
    return found


def _truth(image: Any, objects: list[Any], index: dict[int, int]) -> Truth:
    if min(image["width"], image["height"]) < 1 or image["width"] * image["height"] > MOST_PIXELS:
        raise BadData(f"{image['file_name']!r:.80} has {image['width']} x {image['height']} pixels")
    corner = np.array([each["bbox"] for each in objects], dtype=np.float64).reshape(-1, 4)
    corner[:, 2:] += corner[:, :2]
    return Truth(
        width=image["width"],
        height=image["height"],
        boxes=corner,
        classes=np.array([index[each["category_id"]] for each in objects], dtype=np.int64),
        areas=np.array([each["area"] for each in objects], dtype=np.float64),
        crowds=np.array([bool(each.get("iscrowd", 0)) for each in objects], dtype=np.bool_),
    )
