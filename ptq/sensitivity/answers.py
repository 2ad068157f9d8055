"""Answers: how far a quantized model's outputs are from the float model's, every kind of answer counted alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.data.batch import Array, Batch
from ptq.models.graph import Graph, walk
from ptq.models.onnx_file import load, serialized
from ptq.models.session import feed, session

GAP = 8.0
"""How many times as large the peak of one kind of answer is as that of the next: boxes of 640, scores of 1."""
LEAST = 0.01
"""The least score that counts. Scores of many places, slices within 0..1, are compared by their logarithm: average
precision asks for their order, and one step of a common scale may be a hundred of the smaller scores."""
PEAKS = 1000
"""One place in so many is among the largest."""
_CHOOSES = {
    "TopK",
    "NonMaxSuppression",
    "ArgMax",
    "ArgMin",
    "NonZero",
    "Unique",
    "RoiAlign",
    "Greater",
    "Less",
    "Where",
}
"""Operators that choose: a small error before one may be any error after it, or none."""
_WIDEST = 4096
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Kind:
    """Slices of an answer that have one scale: of tensor `name`, those numbered `slices` along `axis`, all of it where
    that is None; `peak` is their largest magnitude."""

    name: str
    axis: int | None
    slices: npt.NDArray[np.intp]
    peak: float

    def __str__(self) -> str:
        if self.axis is None:
            return self.name
        listed, runs = sorted(self.slices.tolist()), list[str]()
        start = previous = listed[0]
        for each in [*listed[1:], None]:
            if each is None or each != previous + 1:
                runs.append(f"{start}" if start == previous else f"{start}..{previous}")
                start = each
            previous = each
        return f"{self.name}[{', '.join(runs[:3])}{', ...' if len(runs) > 3 else ''}]"


class Answers:
    """The float model's answers on some samples, and what a quantized model makes of them.

    Answers are the model's float outputs; where an output is chosen from candidates (TopK, NonMaxSuppression), what the
    choice is made from: there a small error is a small number. The slices of an answer along the axis where scales
    differ most (columns of boxes, channels) form kinds: sorted by their peak, a gap of `GAP` parts two. Of an answer
    without places, a vector of class scores or an embedding, all slices are one kind.
    """

    def __init__(self, model: Path, samples: Sequence[Batch]) -> None:
        self._samples = list(samples)
        self.names = answer_tensors(load(model))
        self._reference = self._run(model)
        self.kinds = [kind for name in self.names for kind in _kinds(name, [each[name] for each in self._reference])]

    def noise(self, model: Path) -> Doubles:
        """noise / signal by kind and measure, shape (kinds, 2), 1 at most: of all values, and of the largest.

        The mean over a kind's slices; the signal is a slice's variance over samples and places; of a slice far weaker
        than the strongest of its kind, a thousandth of that. The largest are one of `PEAKS` places: where a detector
        says "here", which a clipped range cuts off and no mean shows. Of an answer without places both are one: all
        its slices together.
        """
        seen = self._run(model)
        return np.array([self._noise(kind, seen) for kind in self.kinds])

    def _noise(self, kind: Kind, seen: Sequence[Mapping[str, Array]]) -> tuple[float, float]:
        pairs = [
            tuple(_sliced(kind, each[kind.name]) for each in both) for both in zip(self._reference, seen, strict=True)
        ]
        want, have = (np.concatenate([pair[at] for pair in pairs], axis=1) for at in (0, 1))
        if want.ndim > 1 and np.asarray(self._reference[0][kind.name]).ndim > 2:
            scores = ((want >= 0) & (want <= 1)).all(axis=1, keepdims=True)
            want, have = (np.where(scores, np.log(np.maximum(each, LEAST)), each) for each in (want, have))
        noise, centred = np.square(have - want), want - want.mean(axis=1, keepdims=True)
        signal = np.square(centred)
        if not signal.any():
            return (float(noise.any()),) * 2
        if np.asarray(self._reference[0][kind.name]).ndim <= 2:
            return (min(1.0, float(noise.sum() / signal.sum())),) * 2
        most = max(1, want.shape[1] // PEAKS)
        largest = np.argpartition(-want, most - 1, axis=1)[:, :most]
        return _even(noise, signal), _even(*(np.take_along_axis(each, largest, axis=1) for each in (noise, signal)))

    def _run(self, model: Path) -> list[dict[str, Array]]:
        proto = load(model)
        for name in self.names:
            if name not in {each.name for each in proto.graph.output}:
                proto.graph.output.append(_value(name))
        running = session(serialized(proto, model), threads=1, optimize=False, name=model)
        inputs = [each.name for each in running.get_inputs()]

        def run(batch: Batch) -> dict[str, Array]:
            return dict(zip(self.names, running.run(self.names, feed(batch, inputs, model)), strict=True))

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(run, self._samples))


def answer_tensors(model: Any) -> list[str]:
    """The tensors a model's answers are compared at, see `Answers`."""
    import onnx

    shaped = onnx.shape_inference.infer_shapes(model)
    graph = Graph(shaped.graph)
    known = (*shaped.graph.value_info, *shaped.graph.output)
    floats = {each.name for each in known if each.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    found: dict[str, None] = {}
    for output in shaped.graph.output:
        maker = graph.producer.get(output.name)
        before = [] if maker is None else [maker, *walk(maker, graph.parents)]
        chosen = [
            name
            for node in before
            if node.op_type in _CHOOSES
            for name in node.input
            if name in floats and not _chosen(graph, name)
        ]
        found |= dict.fromkeys(chosen or ([output.name] if output.name in floats else []))
    return list(found)


def _chosen(graph: Graph, tensor: str) -> bool:
    """Whether a choice lies before a tensor already."""
    maker = graph.producer.get(tensor)
    return maker is not None and any(node.op_type in _CHOOSES for node in [maker, *walk(maker, graph.parents)])


def _kinds(name: str, values: Sequence[Array]) -> list[Kind]:
    axis = _axis(values)
    whole = Kind(name, axis, np.arange(1 if axis is None else values[0].shape[axis]), 0.0)
    peaks = np.max([np.abs(_sliced(whole, each)).max(axis=1, initial=0.0) for each in values], axis=0)
    order = np.argsort(-peaks, kind="stable")
    if values[0].ndim <= 2 or axis is None:
        return [Kind(name, axis, order, float(peaks.max(initial=0.0)))]
    alive = [each for each in order if peaks[each] > 0]
    ends = [at + 1 for at in range(len(alive) - 1) if peaks[alive[at]] > GAP * peaks[alive[at + 1]]]
    parts = np.split(np.array(alive, np.intp), ends)
    return [Kind(name, axis, part, float(peaks[part].max())) for part in parts if len(part)]


def _even(noise: Doubles, signal: Doubles) -> float:
    noise, signal = noise.sum(axis=1), signal.sum(axis=1)
    return float(np.minimum(noise / np.maximum(signal, signal.max() / 1000), 1.0).mean())


def _axis(values: Sequence[Array]) -> int | None:
    """The axis along which an answer's slices differ most in scale; None where there is none of one size."""
    best: tuple[float, int] | None = None
    for axis in range(1, values[0].ndim):
        size = values[0].shape[axis]
        if not 2 <= size <= _WIDEST or any(each.shape[axis] != size for each in values):
            continue
        kind = Kind("", axis, np.arange(size), 0.0)
        spread = np.mean([np.square(_sliced(kind, each)).mean(axis=1) for each in values], axis=0)
        spread = np.log(spread[spread > 0]).std() if (spread > 0).any() else 0.0
        if best is None or spread > best[0]:
            best = float(spread), axis
    return None if best is None else best[1]


def _sliced(kind: Kind, values: Array) -> Doubles:
    """The slices of a kind, shape (slices, values)."""
    whole = np.asarray(values, np.float64)
    if kind.axis is None:
        return whole.reshape(1, -1)
    return np.moveaxis(whole, kind.axis, 0).reshape(whole.shape[kind.axis], -1)[kind.slices]


def _value(name: str) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
