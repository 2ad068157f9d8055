"""Similarity: how well the cosines of pairs of embeddings rank the pairs as people did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ptq.data.samples import Samples
from ptq.errors import BadData
from ptq.metrics.average_precision import bias_corrected
from ptq.metrics.interval import Interval
from ptq.metrics.metric import Metric, Predictions, Score, first

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Similarity(Metric):
    """Spearman's rank correlation of the cosines of pairs with the similarity people gave them.

    A metric over pairs: samples 2 i and 2 i + 1 are the two of pair i, and both have the pair's similarity as their
    target, so that targets have shape (N,), N even. The model's first output is the embedding, shape (n, width).

    Parameters
    ----------
    replicates, seed: of the bootstrap over pairs that gives the interval of a drop.
    """

    name: ClassVar[str] = "spearman"
    unit: ClassVar[str] = "rho"
    low: ClassVar[float | None] = -1.0
    high: ClassVar[float | None] = 1.0
    group: ClassVar[int] = 2
    replicates: int = 1000
    seed: int = 0

    def score(self, predictions: Predictions, samples: Samples) -> Score:
        """`n` counts pairs; `outcomes` is the cosine of each, shape (N / 2,). Raises `BadData` for samples that are no
        pairs, and for cosines or similarities that are all the same, which have no ranks."""
        truth, found = _truth(samples), _cosines(predictions)
        for what, values in (("similarities", truth), ("cosines", found)):
            if values.min() == values.max():
                raise BadData(f"the {what} of all {len(values)} pairs are {values[0]:g}, but should differ: no ranks")
        return Score(float(_spearman(found, truth)), len(truth), None, {}, found, chance=0.0)

    def agreement(self, predictions: Predictions, reference: Predictions) -> float | None:
        """None: an embedding decides nothing."""
        return None

    def drop(self, predictions: Predictions, reference: Predictions, samples: Samples, confidence: float) -> Interval:
        """rho lost, with the bias-corrected interval of a paired bootstrap over pairs: both models are scored on the
        same draws, of which each has ranks of its own. There is no p: the bootstrap inverts no test."""
        truth, ours, theirs = _truth(samples), _cosines(predictions), _cosines(reference)
        drop = float(_spearman(theirs, truth) - _spearman(ours, truth))
        drawn = np.random.default_rng(self.seed).integers(0, len(truth), (self.replicates, len(truth)))
        drops = _spearman(theirs[drawn], truth[drawn]) - _spearman(ours[drawn], truth[drawn])
        low, high = bias_corrected(drop, drops, confidence)
        return Interval(drop, min(low, drop), max(high, drop), confidence)


def _spearman(one: Floats, other: Floats) -> Floats:
    """Pearson's correlation of the ranks along the last dimension; equal values share their mean rank.

    Source: Spearman (1904), The proof and measurement of association between two things.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=-1) for values in (one, other)]
    a, b = (each - each.mean(axis=-1, keepdims=True) for each in ranks)
    spread = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    # a draw of one value over and over has no ranks, and says nothing
    correlation: Floats = (a * b).sum(axis=-1) / np.where(spread > 0, spread, 1.0)
    return correlation


def _cosines(predictions: Predictions) -> Floats:
    """Of each pair's embeddings, shape (pairs,); 0 where one is all 0."""
    embeddings: npt.NDArray[Any] = first(predictions)
    if embeddings.ndim != 2 or len(embeddings) % 2:
        raise BadData(f"outputs.shape={embeddings.shape}, but should be (2 * pairs, width): an embedding a sentence")
    one, other = embeddings[0::2].astype(np.float64), embeddings[1::2].astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    found: Floats = (one * other).sum(axis=1) / np.where(norms > 0, norms, 1.0)
    return found


def _truth(samples: Samples) -> Floats:
    targets = samples.targets
    known = np.asarray(targets) if targets is not None else np.empty(0)
    if known.ndim != 1 or known.dtype.kind not in "iuf" or len(known) != len(samples) or len(known) % 2:
        raise BadData(
            f"targets have shape {known.shape}, but spearman needs ({len(samples)},), an even number: the similarity "
            "of a pair for both of its samples, which follow one another"
        )
    if (apart := np.flatnonzero(known[0::2] != known[1::2])).size:
        raise BadData(
            f"samples {2 * apart[0]} and {2 * apart[0] + 1} have the targets {known[2 * apart[0]]:g} and "
            f"{known[2 * apart[0] + 1]:g}, but should have one: the two of a pair follow one another"
        )
    return known[0::2].astype(np.float64)


METRIC = Similarity
