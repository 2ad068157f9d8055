"""Top1: the share of images whose largest output is at the label's index."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ptq.data.batch import Batch
from ptq.data.samples import Labels, Samples, labels_of
from ptq.errors import BadData
from ptq.metrics.metric import Metric, Predictions, Score, first


@dataclass(frozen=True)
class Top1(Metric):
    """Top-1 accuracy, per class and as confusion counts; ties go to the lowest index, as numpy's argmax has it.

    Looks at the model's output called `output`; None: its first.
    """

    name: ClassVar[str] = "top1"
    output: str | None = None

    def collect(self, outputs: Iterable[Batch], samples: Samples) -> Predictions:
        """``{"outputs": (N, classes) float32}``. Raises `BadData` for outputs that are not one row a sample."""
        chosen = (first(batch) if self.output is None else batch[self.output] for batch in outputs)
        parts = [np.asarray(values, dtype=np.float32) for values in chosen]
        if len({part.shape[1:] for part in parts}) > 1:
            raise BadData(
                f"outputs differ in shape from sample to sample, but should be ({len(samples)}, classes) for top1: "
                "another truth than classes needs a metric of its own (metric=)"
            )
        rows = np.concatenate(parts)
        if rows.ndim != 2 or len(rows) != len(samples):
            raise BadData(f"outputs.shape={rows.shape}, but should be ({len(samples)}, classes) for top1")
        if not np.isfinite(rows).all():
            bad = int(np.argwhere(~np.isfinite(rows))[0][0])
            raise BadData(f"outputs[{bad}] is not finite, but should be: the artifact is broken")
        return {"outputs": rows}

    def score(self, predictions: Predictions, samples: Samples) -> Score:
        """As `Metric.score`: of outputs of shape (N, classes) and integer targets of shape (N,)."""
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
        decided = outputs.argmax(axis=1)
        right = decided == labels
        # pairs that are there, not a table: of 1,000 classes that has a million places
        pairs, counts = np.unique(np.stack([labels, decided], axis=1), axis=0, return_counts=True)
        hits, rows = (np.bincount(each, minlength=classes) for each in (labels[right], labels))
        names = samples.class_names or tuple(str(each) for each in range(classes))
        per_class = {names[each]: float(hits[each] / rows[each]) for each in range(classes) if rows[each]}
        return Score(
            value=float(right.mean()),
            n=len(labels),
            correct=int(right.sum()),
            per_class=per_class,
            outcomes=right.astype(np.float64),
            details={"confusion": [[*pair, n] for pair, n in zip(pairs.tolist(), counts.tolist(), strict=True)]},
            chance=1 / classes,
        )


def _labels(samples: Samples) -> Labels:
    labels = labels_of(samples)
    if labels is None:
        targets = samples.targets
        kind = getattr(targets, "dtype", type(targets).__name__)
        raise BadData(
            f"targets are {kind} of shape {np.shape(targets)}, but top1 needs an integer array of shape "
            f"({len(samples)},), a class index a sample; likely cause: one-hot labels, or names"
        )
    return labels


METRIC = Top1
