"""Near: calibration samples that are evaluation samples but for a rounding, which no digest shows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ptq.checks.repeats import WIDE
from ptq.data.batch import as_batch, size_of
from ptq.data.samples import Samples, order_of
from ptq.errors import BadData

NEAR = 0.01
"""Largest distance of two samples that are one, as a share of the sample's own spread: eight bits round by less."""
MOST = 4096
"""Values of a sample that are looked at."""
_Rows = npt.NDArray[np.float32]


def assert_apart(calibration: Samples, evaluation: Samples, size: int) -> None:
    """Raise `BadData` when a calibration sample is within `NEAR` of an evaluation sample; it counts them.

    Floats alone are compared, and samples of one shape: what is near among token ids says nothing.
    """
    known = _gathered(calibration, size)
    found: list[tuple[int, int]] = []
    for key, (rows, indices) in _gathered(evaluation, size).items():
        if key in known:
            others, at = known[key]
            found += [(int(at[one]), int(indices[other])) for one, other in _pairs(others, rows)]
    if found:
        first = min(found, key=lambda pair: pair[1])
        raise BadData(
            f"{len(found)} of {len(evaluation)} evaluation samples are calibration samples but for less than "
            f"{100 * NEAR:g} % of their spread, but none should be; the first: calibration[{first[0]}] and "
            f"evaluation[{first[1]}]; likely cause: one image encoded, scaled or moved twice"
        )


def _gathered(samples: Samples, size: int) -> dict[int, tuple[_Rows, npt.NDArray[np.int64]]]:
    """By number of values: rows of at most `MOST` of them, and the index of each sample."""
    order, start = order_of(samples), 0
    rows: dict[int, list[_Rows]] = {}
    indices: dict[int, list[int]] = {}
    for given in samples.batches(size):
        batch = as_batch(given)
        count = size_of(batch)
        floats = [values.reshape(count, -1) for _, values in sorted(batch.items()) if values.dtype.kind == "f"]
        width = sum(values.shape[1] for values in floats)
        if width >= WIDE:
            whole = np.concatenate(floats, axis=1)
            if width > MOST:
                whole = whole[:, np.random.default_rng(width).choice(width, MOST, replace=False)]
            rows.setdefault(width, []).append(whole.astype(np.float32))
            seen = range(start, start + count)
            indices.setdefault(width, []).extend(seen if order is None else (int(order[each]) for each in seen))
        start += count
    return {width: (np.concatenate(parts), np.array(indices[width])) for width, parts in rows.items()}


def _pairs(known: _Rows, rows: _Rows) -> Iterator[tuple[int, int]]:
    """(index into `known`, index into `rows`) of every row that is near a known one, the nearest of them."""
    centre = known.mean(axis=0)  # distances by a product lose digits far from 0
    ours = known - centre
    norms = (ours**2).sum(axis=1)
    for index, row in enumerate(rows):
        nearest = int((norms - 2 * ours @ (row - centre)).argmin())
        apart, spread = float(np.sqrt(((known[nearest] - row) ** 2).mean())), float(row.std())
        if spread > 0 and apart <= NEAR * spread:
            yield nearest, index
