"""Average precision from matched detections, for many weightings of the images at once.

A bootstrap replicate is a weighting: an image drawn twice counts twice. Given what each detection was matched with,
once, by pycocotools, average precision of a replicate needs cumulated sums only, so a thousand of them cost less
than one more evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

IOU_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
"""T overlaps a detection must reach, as COCO has it."""
_RECALLS: Floats = np.linspace(0.0, 1.0, 101)
_CHUNK = 4_000_000


@dataclass(frozen=True, eq=False)
class Matches:
    """The detections of one class over N images, best first.

    `images` (D,) is the index of the image each is in; `hit` (T, D) whether it found an object at each overlap;
    `ignored` (T, D) whether it counts neither way (it lies on a crowd); `positives` (N,) counts the objects an image
    has to be found in it.
    """

    images: npt.NDArray[np.int64]
    hit: Bools
    ignored: Bools
    positives: Floats


def average_precision(matches: Matches, weights: Floats) -> Floats:
    """COCO's 101-point interpolated average precision, (T, B), for `weights` (N, B); NaN where there is no object."""
    replicates = weights.shape[1]
    result = np.full((len(matches.hit), replicates), np.nan)
    step = max(1, _CHUNK // max(1, len(matches.images)))
    for start in range(0, replicates, step):
        part = slice(start, start + step)
        result[:, part] = _average_precision(matches, weights[:, part])
    return result


def mean_average_precision(classes: Sequence[Matches], weights: Floats) -> Floats:
    """The mean over overlaps and over classes that have an object, (B,) for `weights` (N, B); 0 where none has."""
    total = np.zeros(weights.shape[1])
    counted = np.zeros(weights.shape[1])
    for each in classes:
        precision = average_precision(each, weights).mean(axis=0)
        there = ~np.isnan(precision)
        total[there] += precision[there]
        counted += there
    mean: Floats = total / np.maximum(counted, 1)
    return mean


def bootstrap_weights(images: int, replicates: int, seed: int) -> Floats:
    """How often each image is drawn, (images, replicates), when as many are drawn with repetition."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=replicates).T.astype(np.float64)


def bias_corrected(estimate: float, replicates: Floats, confidence: float) -> tuple[float, float]:
    """(low, high) of `estimate` from its bootstrap `replicates` (B,), by the bias-corrected percentile method.

    mAP is biased under the bootstrap (a class with few objects is drawn without its hard ones), so the median of the
    replicates is not the estimate; percentiles are moved by twice that distance on the normal scale.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 14 (acceleration 0).
    """
    normal = NormalDist()
    below = (np.count_nonzero(replicates < estimate) + np.count_nonzero(replicates <= estimate)) / 2
    # Half a replicate from either end at most: the normal quantile of 0 or 1 is infinite.
    share = min(max(below, 0.5), len(replicates) - 0.5) / len(replicates)
    shift = 2 * normal.inv_cdf(share)
    levels = [normal.cdf(shift + normal.inv_cdf(each)) for each in ((1 - confidence) / 2, (1 + confidence) / 2)]
    low, high = np.quantile(replicates, levels)
    return float(low), float(high)


def _average_precision(matches: Matches, weights: Floats) -> Floats:
    positives = matches.positives @ weights
    result = np.zeros((len(matches.hit), weights.shape[1]))
    result[:, positives == 0] = np.nan
    drawn = weights[matches.images]
    shared = np.cumsum(drawn, axis=0) if not matches.ignored.any() else None
    for level, hit in enumerate(matches.hit):
        at = np.flatnonzero(hit & ~matches.ignored[level])
        if not len(at):
            continue
        seen = shared if shared is not None else np.cumsum(drawn * ~matches.ignored[level][:, None], axis=0)
        found = np.cumsum(drawn[at], axis=0)
        # Precision can only peak at a hit, so the rest of the curve need not be looked at.
        precision = found / (seen[at] + np.spacing(1))
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = found / positives
        reached = np.searchsorted(_RECALLS, recall, side="right")
        gained = np.diff(reached, axis=0, prepend=0)
        there = positives > 0
        result[level, there] = ((gained * envelope).sum(axis=0) / len(_RECALLS))[there]
    return result
