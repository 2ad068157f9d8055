"""Non-maximum suppression: a detector's raw output made into at most a few hundred boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.data.samples import Float32

_MAX_CANDIDATES = 30_000


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes found in one image, best first: `boxes` (K, 4) float32 as x1, y1, x2, y2, `scores` (K,) float32, `classes`
    (K,) int32."""

    boxes: Float32
    scores: Float32
    classes: npt.NDArray[np.int32]


def detections(output: Float32, confidence: float, iou: float, limit: int) -> Detections:
    """Boxes of one image, in pixels of the network's input.

    `output` is (4 + classes, places) float32, as YOLOv8 and YOLO11 export it: centre x, centre y, width and height in
    pixels, then one score in 0..1 a class. A place gives one candidate for every class that scores above
    `confidence` (the way these detectors are validated); of two candidates of one class that overlap by more than
    `iou` the better one stays; at most `limit` are returned. Equal scores keep their order.
    """
    import cv2

    scores = output[4:]
    classes, places = np.nonzero(scores > confidence)
    values = scores[classes, places]
    best = np.argsort(-values, kind="stable")[:_MAX_CANDIDATES]
    classes, places, values = classes[best], places[best], values[best]
    middle, sides = output[:2, places].T, output[2:4, places].T
    corner = middle - sides / 2
    kept = np.empty(0, dtype=np.int64)
    if len(values):
        rectangles = np.concatenate([corner, sides], axis=1, dtype=np.float64)
        # The threshold of 0 keeps all: candidates were chosen above.
        batched: Any = cv2.dnn.NMSBoxesBatched  # its stubs know of lists only
        chosen = batched(rectangles, values, classes.astype(np.int32), 0.0, iou)
        kept = np.asarray(chosen, dtype=np.int64).reshape(-1)[:limit]
    boxes = np.concatenate([corner[kept], corner[kept] + sides[kept]], axis=1, dtype=np.float32)
    return Detections(boxes, values[kept], classes[kept].astype(np.int32))
