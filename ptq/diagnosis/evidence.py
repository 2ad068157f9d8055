"""Evidence: all that the causes are told apart by: errors of layers, ranges, weights, and both sets of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.data.batch import Batch
from ptq.diagnosis.inputs import InputFacts
from ptq.models.graph import Graph
from ptq.models.onnx_file import load, serialized
from ptq.models.session import feed, session
from ptq.quantization.exclude import Spread
from ptq.sensitivity.joint import ends
from ptq.sensitivity.pairing import DEQUANTIZE, Pairing
from ptq.sensitivity.rank import Errors, LayerError, to_db

BAD_DB, HOPELESS_DB, APART_DB = 18.0, 10.0, 8.0
"""A layer is a suspect when it keeps less than `BAD_DB` and `APART_DB` less than the median, or under `HOPELESS_DB`."""
FINE_DB = 20.0
"""No layer is accused of a model whose answers keep so much."""
Doubles = npt.NDArray[np.float64]
WEIGHTS, INPUT, OUTPUT = "weights", "input", "output"


@dataclass(frozen=True)
class Suspect:
    """A layer that loses much, the part it loses by, `WEIGHTS`, `INPUT` or `OUTPUT`, the tensor that part is, and what
    the layer keeps."""

    layer: LayerError
    place: int
    part: str
    tensor: str

    sqnr_db: float


@dataclass(frozen=True, eq=False)
class Weights:
    """A layer's weights, as the float model has them and as the file does, of the same shape; the integers, their
    `axis` of output channels, and the scales, shape () or (channels,)."""

    node: Any
    floats: npt.NDArray[np.float32]
    integers: npt.NDArray[Any]
    real: Doubles
    axis: int
    scale: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a quantized model beside its float model.

    Parameters
    ----------
    model, artifact: the float model (prepared) and a QDQ file of it.
    errors: of its layers, over samples of the evaluation set, or of the calibration set where there is no other.
    answers_db: what is left of the worst kind of the model's answers, see `ptq.sensitivity.answers`.
    batches: some of these samples, one each.
    calibrated: by tensor, the extremes calibration saw. method: that chose the ranges, None where nobody says.
    calibration, evaluation: by float input, what the sets are like; the second is empty where there is none.
    mixed_saturates: whether this CPU's kernels saturate sums of unsigned times signed bytes in 16 bits.
    """

    model: Path
    artifact: Path
    errors: Errors
    answers_db: float
    batches: Sequence[Batch]
    calibrated: Mapping[str, Spread]
    method: str | None
    calibration: Mapping[str, InputFacts]
    evaluation: Mapping[str, InputFacts]
    mixed_saturates: bool

    @cached_property
    def pairing(self) -> Pairing:
        """Which tensor stands for which."""
        return Pairing(Graph(load(self.model).graph), Graph(load(self.artifact).graph))

    @property
    def graph(self) -> Graph:
        """The float model's."""
        return self.pairing.floats

    @cached_property
    def place(self) -> Mapping[str, int]:
        """The place of a tensor in the float graph: that of the node that makes it, -1 of an input."""
        return {tensor: at for at, node in enumerate(self.graph.nodes) for tensor in node.output}

    @cached_property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """By float tensor, what its quantizer keeps."""
        found = {}
        for node in self.pairing.quantized.nodes:
            if node.op_type == "QuantizeLinear" and (name := self.pairing.names.get(node.input[0])) is not None:
                held = ends(self.pairing.quantized, node)
                if held is not None:
                    found[name] = held
        return found

    @cached_property
    def signed(self) -> set[str]:
        """The float tensors whose quantizer gives signed integers."""
        from onnx import TensorProto

        held, unsigned = self.pairing.quantized.initializers, {TensorProto.UINT8, TensorProto.UINT16}
        return {
            name
            for node in self.pairing.quantized.nodes
            if node.op_type == "QuantizeLinear" and (name := self.pairing.names.get(node.input[0])) is not None
            if len(node.input) > 2 and node.input[2] in held and held[node.input[2]].data_type not in unsigned
        }

    @cached_property
    def median(self) -> float:
        """What the layer in the middle keeps, dB."""
        return float(np.median([self.left(each) for each in self.errors.layers if each.integer] or [0.0]))

    @cached_property
    def suspects(self) -> list[Suspect]:
        """The layers that stand out, in the graph's order."""
        found = []
        for layer in self.errors.layers if self.answers_db < FINE_DB else ():
            left = self.left(layer)
            # shares keep their range of 0..1 whatever the model: their small values are lost in every green one, too
            apart = left < min(BAD_DB, self.median - APART_DB) and not self._is_share(layer)
            if layer.integer and (apart or left < HOPELESS_DB):
                part, tensor = self._part(layer)
                found.append(Suspect(layer, self.place.get(layer.tensor, -1), part, tensor, left))
        return sorted(found, key=lambda each: each.place)

    def left(self, layer: LayerError) -> float:
        """What a layer keeps, dB: every channel counted alike, but not those of shares (Softmax), which have one scale
        however rare they are."""
        return layer.local if self._is_share(layer) else min(layer.local, layer.even)

    @cached_property
    def weights(self) -> list[Weights]:
        """The quantized weights of Conv, Gemm and MatMul nodes, in the graph's order."""
        found = [self._weights(node) for node in self.pairing.compute if node.op_type in ("Conv", "Gemm", "MatMul")]
        return [each for each in found if each is not None]

    def inputs(self, layer: LayerError) -> list[str]:
        """The quantized activations that a layer reads, by the float model's names."""
        node = self.node(layer)
        return [] if node is None else [each for each in node.input if each in self.errors.rounding]

    def node(self, layer: LayerError) -> Any | None:
        """The layer's node in the float model."""
        return next((node for node in self.graph.nodes if layer.node in (node.name, node.output[0])), None)

    def values(self, tensors: Sequence[str]) -> list[dict[str, npt.NDArray[np.float32]]]:
        """What the float model gives for tensors inside it, a mapping for every batch."""
        from onnx import TensorProto, helper

        proto = load(self.model)
        inputs, there = {each.name for each in self.graph.inputs}, {each.name for each in proto.graph.output}
        wanted = [each for each in dict.fromkeys(tensors) if each not in inputs]
        proto.graph.output.extend(
            helper.make_tensor_value_info(each, TensorProto.FLOAT, None) for each in wanted if each not in there
        )
        running = session(serialized(proto, self.model), optimize=False, name=self.model)
        names, found = [each.name for each in running.get_inputs()], []
        for batch in self.batches:
            given = feed(batch, names, self.model)
            found.append({**given, **(dict(zip(wanted, running.run(wanted, given), strict=True)) if wanted else {})})
        return [{name: each[name] for name in tensors} for each in found]

    def spread_of_channels(self, tensor: str) -> tuple[int, float, float] | None:
        """The widest channel of a tensor, its width, and that of the median channel; None of fewer than four."""
        lowest, highest = self.errors.lowest.get(tensor), self.errors.highest.get(tensor)
        if lowest is None or highest is None or len(lowest) < 4:
            return None
        widths = np.maximum(highest, 0) - np.minimum(lowest, 0)
        alive = widths[widths > 0]
        return (int(widths.argmax()), float(widths.max()), float(np.median(alive))) if len(alive) else None

    def _is_share(self, layer: LayerError) -> bool:
        """Whether a layer's output is a Softmax's or Sigmoid's, moved or not."""
        node = self.node(layer)
        while node is not None and node.op_type in MOVES:
            node = self.graph.producer.get(node.input[0])
        return node is not None and node.op_type in SHARES

    def _part(self, layer: LayerError) -> tuple[str, str]:
        """By which part a layer loses: the one whose own SQNR is nearest to the whole."""
        node, rounding = self.node(layer), self.errors.rounding.get(layer.tensor)
        given = self.inputs(layer)
        worst = min(given, key=lambda each: _least(self.errors, each), default=layer.tensor)
        if rounding is not None and min(rounding.plain, rounding.even) < self.left(layer) + 3.0 and not (
            node is not None and node.op_type in MOVES and given
        ):  # fmt: skip
            return OUTPUT, layer.tensor
        if layer.weights is not None and (layer.computed is None or layer.weights < layer.computed + 3.0):
            return WEIGHTS, layer.tensor
        return INPUT, worst

    def _weights(self, node: Any) -> Weights | None:
        from onnx import numpy_helper

        own, held = self.pairing.float_node(node), self.pairing.quantized.initializers
        maker = self.pairing.quantized.producer.get(node.input[1])
        floats = None if own is None else self.graph.initializers.get(own.input[1])
        if maker is None or maker.op_type != DEQUANTIZE or maker.input[0] not in held or floats is None or own is None:
            return None
        integers, scale = (numpy_helper.to_array(held[each]) for each in maker.input[:2])
        zero = numpy_helper.to_array(held[maker.input[2]]) if len(maker.input) > 2 else np.zeros_like(scale)
        transposed = any(each.name == "transB" and each.i for each in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else integers.ndim - 1
        shape = [-1 if dimension == axis and scale.size > 1 else 1 for dimension in range(integers.ndim)]
        wide = np.asarray(integers, np.float64) - np.asarray(zero, np.float64).reshape(shape if scale.size > 1 else ())
        real = wide * np.asarray(scale, np.float64).reshape(shape if scale.size > 1 else ())
        return Weights(own, numpy_helper.to_array(floats), integers, real, axis, np.asarray(scale))


MOVES = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Split", "Slice", "Resize"})
"""Operators whose output is their input in another place: what they lose was lost before."""


SHARES = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})


def _least(errors: Errors, tensor: str) -> float:
    found = errors.rounding[tensor]
    return min(found.plain, found.even)


def db(noise: Doubles, signal: Doubles) -> float:
    """SQNR of sums of squares, dB."""
    whole = float(np.sum(signal))
    return to_db(float(np.sum(noise)) / whole) if whole > 0 else to_db(float(np.sum(noise) > 0))
