"""Annotations as COCO has them, crafted or careless."""

from __future__ import annotations

import json
from typing import Any

ANNOTATED: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "a.png", "width": 4, "height": 4}],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}],
}


def coco_files() -> dict[str, bytes]:
    """By name; one is good."""
    found: dict[str, bytes] = {"good": json.dumps(ANNOTATED).encode()}

    def add(content: bytes) -> None:
        found[str(len(found))] = content

    def changed(part: str, key: str, value: Any) -> bytes:
        content = json.loads(json.dumps(ANNOTATED))
        content[part][0][key] = value
        return json.dumps(content).encode()

    nan, infinite = float("nan"), float("inf")
    cases = [
        ("annotations", "bbox", box) for box in ([1, 2, -3, 4], [nan] * 4, [0, 0, infinite, 1], [1, 2, 3], None, "x")
    ]
    cases += [
        ("annotations", "bbox", [10**400] * 4),
        ("annotations", "bbox", [[1], [2], [3], [4]]),
        ("annotations", "area", -1),
    ]
    cases += [
        ("annotations", key, value) for key in ("image_id", "category_id") for value in (8, "7", 7.5, True, None, [])
    ]
    cases += [("annotations", "iscrowd", value) for value in ("x", [], nan)]
    cases += [("images", "width", value) for value in (0, -4, 10**30, "4", nan)]
    cases += [("images", "id", value) for value in (None, "7", [7], 7.0)] + [("images", "file_name", 3)]
    cases += [("categories", "name", value) for value in ("\x1b[31m", "\ud800", "a\nb", 3, "")]
    cases += [("categories", "id", value) for value in (None, "1", 10**5000 % 10**4000)]
    for case in cases:
        add(changed(*case))
    for part in ANNOTATED:
        add(json.dumps({**ANNOTATED, part: ANNOTATED[part] * 2} | {"categories": []}).encode())
        add(json.dumps({key: ANNOTATED[key] for key in ANNOTATED if key != part}).encode())
        add(json.dumps({**ANNOTATED, part: {"0": 1}}).encode())
    add(
        changed("annotations", "bbox", [0, 0, 1, 1]).replace(b"[0, 0, 1, 1]", b"[0, 0, 1e999, 1]"),
    )
    return found
