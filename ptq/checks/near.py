"""Near: calibration samples that are evaluation samples but for a rounding, which no digest shows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ptq.checks.repeats import WIDE, width
from ptq.data.batch import as_batch, size_of
from ptq.data.samples import Samples, order_of
from ptq.data.sampling import assert_disjoint
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
    known = {width: (np.concatenate(rows), indices) for width, (rows, indices) in _gathered(calibration, size).items()}
    found = [
        (known[width][1][one], index)
        for width, rows, indices in _read(evaluation, size)
        if width in known
        for one, index in _pairs(known[width][0], rows, indices)
    ]
    if found:
        first = min(found, key=lambda pair: pair[1])
        raise BadData(
            f"{len(found)} of {len(evaluation)} evaluation samples are calibration samples but for less than "
            f"{100 * NEAR:g} % of their spread, but none should be; the first: calibration[{first[0]}] and "
            f"evaluation[{first[1]}]; likely cause: one image encoded, scaled or moved twice"
        )


def leak(calibration: Samples, evaluation: Samples, size: int) -> str | None:
    """In one line, that evaluation samples are calibration samples, byte for byte or nearly; None when none is.

    Of samples of fewer than `WIDE` values others may be equal by chance.
    """
    first = next(iter(evaluation.batches(1)), None)
    if first is None or width(as_batch(first)) < WIDE:
        return None
    try:
        assert_disjoint(calibration, evaluation)
        assert_apart(calibration, evaluation, size)
    except BadData as error:
        return f"{error}; if it is meant, say why: unchecked={{'disjoint': '...'}}"
    return None


def _gathered(samples: Samples, size: int) -> dict[int, tuple[list[_Rows], list[int]]]:
    """By number of values: what `_read` gives."""
    found: dict[int, tuple[list[_Rows], list[int]]] = {}
    for count, rows, indices in _read(samples, size):
        held = found.setdefault(count, ([], []))
        held[0].append(rows)
        held[1].extend(indices)
    return found


def _read(samples: Samples, size: int) -> Iterator[tuple[int, _Rows, list[int]]]:
    """(number of values of each sample, rows of at most `MOST` of them, the index of each sample), batch by batch."""
    order, start = order_of(samples), 0
    for given in samples.batches(size):
        batch = as_batch(given)
        count = size_of(batch)
        floats = [values.reshape(count, -1) for _, values in sorted(batch.items()) if values.dtype.kind == "f"]
        values = sum(each.shape[1] for each in floats)
        if values >= WIDE:
            whole = np.concatenate(floats, axis=1)
            if values > MOST:
                whole = whole[:, np.random.default_rng(values).choice(values, MOST, replace=False)]
            seen = range(start, start + count)
            yield values, whole.astype(np.float32), [each if order is None else int(order[each]) for each in seen]
        start += count


def _pairs(known: _Rows, rows: _Rows, indices: list[int]) -> Iterator[tuple[int, int]]:
    """(place in `known`, index of the row) of every row that is near a known one, the nearest of them."""
    centre = known.mean(axis=0)  # distances by a product lose digits far from 0
    ours = known - centre
    distances = (ours**2).sum(axis=1)[:, None] - 2 * ours @ (rows - centre).T
    for index, row, nearest in zip(indices, rows, distances.argmin(axis=0).tolist(), strict=True):
        apart, spread = float(np.sqrt(((known[nearest] - row) ** 2).mean())), float(row.std())
        if spread > 0 and apart <= NEAR * spread:
            yield nearest, index
