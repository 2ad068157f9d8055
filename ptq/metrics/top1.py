"""Top1: the share of images whose largest output is at the label's index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.errors import BadData
from ptq.metrics.metric import Interval, Predictions, Score
from ptq.metrics.paired import paired_drop
from ptq.samples import Float32, Labels, Samples


@dataclass(frozen=True)
class Top1:
    """Top-1 accuracy, per class and as confusion counts; ties go to the lowest index, as numpy's argmax has it."""

    name: str = "top1"

    def key(self) -> Mapping[str, Any]:
        return {"metric": self.name}

    def collect(self, outputs: Iterable[Float32], samples: Samples) -> Predictions:
        """``{"outputs": (N, classes) float32}``. Raises `BadData` for outputs that are not one row an image."""
        rows = np.concatenate([np.asarray(each, dtype=np.float32) for each in outputs])
        if rows.ndim != 2 or len(rows) != len(samples):
            raise BadData(f"outputs.shape={rows.shape}, but should be ({len(samples)}, classes) for top1")
        if not np.isfinite(rows).all():
            bad = int(np.argwhere(~np.isfinite(rows))[0][0])
            raise BadData(f"outputs[{bad}] is not finite, but should be: the artifact is broken")
        return {"outputs": rows}

    def score(self, predictions: Predictions, samples: Samples) -> Score:
        labels = _labels(samples)
        outputs = predictions["outputs"]
        classes = outputs.shape[1]
        if labels.min() < 0 or labels.max() >= classes:
            raise BadData(
                f"labels span {labels.min()}..{labels.max()}, but should lie in 0..{classes - 1}: one class an output"
            )
        if samples.class_names and labels.max() >= len(samples.class_names):
            raise BadData(
                f"label {labels.max()}, but {len(samples.class_names)} class names: name every class, or none"
            )
        decided = _decisions(predictions)
        right = decided == labels
        confusion = np.zeros((classes, classes), dtype=np.int64)
        np.add.at(confusion, (labels, decided), 1)
        rows = confusion.sum(axis=1)
        names = samples.class_names or tuple(str(each) for each in range(classes))
        per_class = {names[each]: float(confusion[each, each] / rows[each]) for each in range(classes) if rows[each]}
        return Score(
            value=float(right.mean()),
            n=len(labels),
            correct=int(right.sum()),
            per_class=per_class,
            outcomes=right.astype(np.float64),
            details={"confusion": confusion.tolist()},
        )

    def agreement(self, predictions: Predictions, reference: Predictions) -> float | None:
        return float((_decisions(predictions) == _decisions(reference)).mean())

    def sqnr_db(self, predictions: Predictions, reference: Predictions) -> float | None:
        want = reference["outputs"].astype(np.float64)
        noise = float(((want - predictions["outputs"]) ** 2).sum())
        signal = float((want**2).sum())
        return None if noise == 0 or signal == 0 else float(10 * np.log10(signal / noise))

    def drop(self, predictions: Predictions, reference: Predictions, samples: Samples, confidence: float) -> Interval:
        labels = _labels(samples)
        return paired_drop(_decisions(reference) == labels, _decisions(predictions) == labels, confidence)


def _labels(samples: Samples) -> Labels:
    if samples.labels is None:
        raise BadData("samples have no labels, but top1 needs one an image")
    return samples.labels


def _decisions(predictions: Predictions) -> npt.NDArray[np.int64]:
    decided: npt.NDArray[np.int64] = predictions["outputs"].argmax(axis=1)
    return decided
