"""MAP: COCO's mean average precision of a detector."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ptq.data.batch import Batch
from ptq.data.coco import Truth
from ptq.data.letterbox import Letterbox
from ptq.data.samples import Samples
from ptq.errors import BadData
from ptq.metrics.average_precision import (
    IOU_THRESHOLDS,
    Matches,
    average_precision,
    bias_corrected,
    bootstrap_weights,
    mean_average_precision,
)
from ptq.metrics.interval import Interval
from ptq.metrics.metric import Metric, Predictions, Score, first
from ptq.metrics.nms import detections

_MAX_PER_CLASS = 100  # COCO's own limit of detections of one class in one image
_EVERY_AREA = (0.0, 1e10)


@runtime_checkable
class Annotated(Protocol):
    """Samples that know what is in each image, and where the image lies in the network's input."""

    truths: tuple[Truth, ...]

    def letterbox(self, index: int) -> Letterbox: ...


@dataclass(frozen=True)
class MAP(Metric):
    """mAP50-95 by pycocotools over all areas, for detectors that output (1, 4 + classes, places) an image.

    Parameters
    ----------
    confidence, iou, limit: what non-maximum suppression keeps, see `ptq.metrics.nms`.
    probe: the raw outputs of that many images from the first are kept for the SQNR.
    replicates, seed: of the bootstrap over images that gives the interval of a drop.
    """

    name: ClassVar[str] = "map50_95"
    confidence: float = 0.001
    iou: float = 0.7
    limit: int = 300
    probe: int = 4
    replicates: int = 1000
    seed: int = 0

    def collect(self, outputs: Iterable[Batch], samples: Samples) -> Predictions:
        """What was found, in pixels of the images, best first image by image.

        ``{"images": (M,) int32, "boxes": (M, 4) float32 x1 y1 x2 y2, "scores": (M,) float32, "classes": (M,) int32,
        "probe": raw outputs of the first images}``. Raises `BadData` for outputs of another shape or not finite.
        """
        known = _annotated(samples)
        classes = len(samples.class_names)
        images, boxes, scores, labels, probe = [], [], [], [], []
        index = 0
        for batch in (first(each) for each in outputs):
            if batch.ndim != 3 or batch.shape[1] != 4 + classes:
                raise BadData(
                    f"outputs.shape={batch.shape}, but should be (n, {4 + classes}, places): 4 + a score a class; for "
                    "another decoding derive from MAP, and give its collect() outputs of this shape"
                )
            for output in batch:
                if index >= len(samples):
                    raise BadData(f"outputs of more than {len(samples)} images, but there should be one an image")
                if not np.isfinite(output).all():
                    raise BadData(f"outputs[{index}] is not finite, but should be: the artifact is broken")
                found = detections(output, self.confidence, self.iou, self.limit)
                images.append(np.full(len(found.scores), index, dtype=np.int32))
                boxes.append(known.letterbox(index).restore(found.boxes).astype(np.float32))
                scores.append(found.scores)
                labels.append(found.classes)
                if index < self.probe:
                    probe.append(np.array(output, dtype=np.float32))
                index += 1
        if index != len(samples):
            raise BadData(f"outputs of {index} images, but should be {len(samples)}, one an image")
        return {
            "images": np.concatenate(images),
            "boxes": np.concatenate(boxes),
            "scores": np.concatenate(scores),
            "classes": np.concatenate(labels),
            "probe": np.stack(probe) if probe else np.empty((0,), dtype=np.float32),
        }

    def score(self, predictions: Predictions, samples: Samples) -> Score:
        """mAP50-95 as `value` and by class; `details` holds ``map50``.

        `outcomes` is the mAP50-95 of each image alone, over the classes it shows; 0 when it shows none.
        """
        truths = _annotated(samples).truths
        classes = _match(predictions, truths, len(samples.class_names))
        once = np.ones((len(truths), 1))
        table = np.array([average_precision(each, once)[:, 0] for each in classes])
        there = ~np.isnan(table[:, 0])
        if not there.any():
            raise BadData("0 annotated objects in all images, but mAP needs at least 1")
        names = samples.class_names
        return Score(
            value=float(table[there].mean()),
            n=len(truths),
            correct=None,
            per_class={names[each]: float(table[each].mean()) for each in np.flatnonzero(there)},
            outcomes=mean_average_precision(classes, np.eye(len(truths))),
            details={"map50": float(table[there, 0].mean()), "detections": len(predictions["scores"])},
            chance=0.0,
        )

    def agreement(self, predictions: Predictions, reference: Predictions) -> float | None:
        """None: two models' boxes have no one-to-one match."""
        return None

    def sqnr_db(self, predictions: Predictions, reference: Predictions) -> float | None:
        """Over the raw outputs of the first images: boxes in pixels weigh far more in it than scores in 0..1."""
        return super().sqnr_db({"probe": predictions["probe"]}, {"probe": reference["probe"]})

    def cosine(self, predictions: Predictions, reference: Predictions) -> float | None:
        """As `sqnr_db`, over the raw outputs of the first images."""
        return super().cosine({"probe": predictions["probe"]}, {"probe": reference["probe"]})

    def drop(self, predictions: Predictions, reference: Predictions, samples: Samples, confidence: float) -> Interval:
        """mAP50-95 lost, in percentage points, with the bias-corrected interval of a paired bootstrap over images.

        Both models are scored on the same draws of images; `bias_corrected` names the method. There is no p: the
        bootstrap inverts no test.
        """
        truths = _annotated(samples).truths
        count = len(samples.class_names)
        drawn = bootstrap_weights(len(truths), self.replicates, self.seed)
        weights = np.concatenate([np.ones((len(truths), 1)), drawn], axis=1)
        ours = mean_average_precision(_match(predictions, truths, count), weights)
        theirs = mean_average_precision(_match(reference, truths, count), weights)
        drops = 100 * (theirs - ours)
        low, high = bias_corrected(float(drops[0]), drops[1:], confidence)
        return Interval(drop=float(drops[0]), low=low, high=high, confidence=confidence)


def _annotated(samples: Samples) -> Annotated:
    if not isinstance(samples, Annotated):
        raise BadData("samples have no annotated boxes, but mAP needs them: read them with ptq.data.coco.read_coco")
    return samples


def _match(predictions: Predictions, truths: Sequence[Truth], classes: int) -> list[Matches]:
    """Detections matched with objects by pycocotools, one `Matches` a class."""
    from pycocotools.cocoeval import COCOeval, Params

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_dataset(truths, classes), None, "bbox")
        evaluation.cocoDt = _dataset(truths, classes, predictions)
        settings = Params("bbox")
        settings.imgIds, settings.catIds = list(range(len(truths))), list(range(classes))
        settings.iouThrs, settings.maxDets = IOU_THRESHOLDS, [_MAX_PER_CLASS]
        settings.areaRng, settings.areaRngLbl = [list(_EVERY_AREA)], ["all"]
        evaluation.params = settings
        evaluation.evaluate()
    step = len(truths)
    return [_gather(evaluation.evalImgs[each * step : (each + 1) * step]) for each in range(classes)]


def _gather(by_image: Sequence[Mapping[str, Any] | None]) -> Matches:
    levels = len(IOU_THRESHOLDS)
    positives = np.zeros(len(by_image))
    images: list[npt.NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    scores: list[npt.NDArray[np.float64]] = [np.empty(0)]
    hit: list[npt.NDArray[np.bool_]] = [np.empty((levels, 0), dtype=np.bool_)]
    ignored: list[npt.NDArray[np.bool_]] = [np.empty((levels, 0), dtype=np.bool_)]
    for index, each in enumerate(by_image):
        if each is None:  # neither an object nor a detection of this class
            continue
        positives[index] = np.count_nonzero(np.asarray(each["gtIgnore"]) == 0)
        images.append(np.full(len(each["dtScores"]), index, dtype=np.int64))
        scores.append(np.asarray(each["dtScores"], dtype=np.float64))
        hit.append(np.asarray(each["dtMatches"]) > 0)
        ignored.append(np.asarray(each["dtIgnore"], dtype=np.bool_))
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    return Matches(
        np.concatenate(images)[order],
        np.concatenate(hit, axis=1)[:, order],
        np.concatenate(ignored, axis=1)[:, order],
        positives,
    )


def _dataset(truths: Sequence[Truth], classes: int, predictions: Predictions | None = None) -> Any:
    from pycocotools.coco import COCO

    dataset = COCO()
    rows: list[dict[str, Any]] = []
    if predictions is None:
        for image, truth in enumerate(truths):
            for box, label, area, crowd in zip(truth.boxes, truth.classes, truth.areas, truth.crowds, strict=True):
                rows.append(_row(image, int(label), box, float(area)) | {"iscrowd": int(crowd)})
    else:
        boxes = predictions["boxes"].astype(np.float64)
        columns = zip(predictions["images"], predictions["classes"], boxes, predictions["scores"], strict=True)
        for image, label, box, score in columns:
            area = float((box[2] - box[0]) * (box[3] - box[1]))
            rows.append(_row(int(image), int(label), box, area) | {"iscrowd": 0, "score": float(score)})
    # Ids start at 1: pycocotools takes a match with id 0 for no match.
    annotations = [row | {"id": number} for number, row in enumerate(rows, start=1)]
    dataset.dataset = {
        "images": [{"id": each} for each in range(len(truths))],
        "categories": [{"id": each} for each in range(classes)],
        "annotations": annotations,
    }
    dataset.createIndex()
    return dataset


def _row(image: int, label: int, box: npt.NDArray[np.float64], area: float) -> dict[str, Any]:
    corner = [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]
    return {"image_id": image, "category_id": label, "bbox": corner, "area": area}


METRIC = MAP
