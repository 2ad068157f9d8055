"""clip: the range of an activation of few bits, by what its rounding does to the nodes that read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.models.nodes import Nodes, Tensors
from ptq.quantization.method import Range
from ptq.quantization.quantizer import Quantizer

FEW = 8
"""Bits: ranges of narrower grids are worth a search; those of others are chosen well enough by the histogram."""
_VALUES = 1 << 22  # of the activation a range is judged by, over whole batches
_SHARES = np.geomspace(0.3, 1.2, 11)  # of a side of the range there was


def clip(
    quantizer: Quantizer, old: Range, name: str, exact: Nodes, seen: Sequence[Tensors], have: Sequence[Tensors]
) -> Range:
    """The range around `old` with the least error behind the nodes that read activation `name`.

    `seen` are the tensors of the float model `exact`, batch by batch, `have` those of the rounded model, `name` not
    rounded yet. The error is that of every reader's output, squared, over its variance, all readers alike; where a
    reader adds a bias its mean is left out. A reader that needs what is not there yet counts with `name` itself.

    Source: Wang et al. (2020), Towards Accurate Post-training Network Quantization via Bit-Split and Stitching, and
    Nahshan et al. (2019), LAPQ, arXiv:1911.07190, who choose clipping by what comes behind it.
    """
    seen, have = _first(seen, name), _first(have, name)
    places = {id(node): index for index, node in enumerate(exact.graph.nodes)}
    readers = [places[id(node)] for node in exact.graph.readers.get(name, [])]
    readers = [index for index in dict.fromkeys(readers) if _ready(exact, index, seen[0])]
    wanted = [[_behind(exact, index, each) for each in seen] for index in readers] or [[each[name] for each in seen]]
    low, high = old
    best, least = old, _cost(quantizer, old, name, exact, readers, wanted, have)
    lows, highs = (_SHARES if side else () for side in old)  # a side of 0 stays 0
    for share in lows:
        tried = (float(share * low), best[1])
        if (cost := _cost(quantizer, tried, name, exact, readers, wanted, have)) < least:
            best, least = tried, cost
    for share in highs:
        tried = (best[0], float(share * high))
        if (cost := _cost(quantizer, tried, name, exact, readers, wanted, have)) < least:
            best, least = tried, cost
    return best


def _cost(
    quantizer: Quantizer,
    tried: Range,
    name: str,
    exact: Nodes,
    readers: list[int],
    wanted: list[list[npt.NDArray[Any]]],
    have: Sequence[Tensors],
) -> float:
    rounded = [{**each, name: quantizer.simulate(each[name], *tried)} for each in have]
    if not readers:
        return _lost([each[name] for each in rounded], wanted[0], None)
    total = 0.0
    for index, want in zip(readers, wanted, strict=True):
        axis = {"Conv": 1, "Gemm": -1}.get(exact.graph.nodes[index].op_type)
        total += _lost([_behind(exact, index, each) for each in rounded], want, axis)
    return total


def _lost(have: list[npt.NDArray[Any]], want: list[npt.NDArray[Any]], axis: int | None) -> float:
    """Squared error over variance; without the mean of every index of `axis`."""
    whole = np.concatenate(want).astype(np.float64)
    lost = np.concatenate(have) - whole
    if axis is not None:
        lost = lost - lost.mean(
            axis=tuple(each for each in range(lost.ndim) if each != axis % lost.ndim), keepdims=True
        )
    return float(np.square(lost).mean() / max(float(whole.var()), 1e-30))


def _behind(exact: Nodes, index: int, seen: Tensors) -> npt.NDArray[Any]:
    return next(iter(exact.run(index, seen).values()))


def _ready(exact: Nodes, index: int, seen: Tensors) -> bool:
    node = exact.graph.nodes[index]
    return all(name in seen or name in exact.constants or not name for name in node.input)


def _first(batches: Sequence[Tensors], name: str) -> list[Tensors]:
    found, n = [], 0
    for each in batches:
        if n < _VALUES:
            found.append(each)
        n += each[name].size
    return found
