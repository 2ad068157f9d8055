"""outside: int8 weights in an ONNX file, computed in float by ONNX Runtime: the smallest backend there can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ptq.backends.protocol import COUNTED, Census, FloatModel, Predictor
from ptq.cases import FP32, Case
from ptq.data.batch import Batch
from ptq.data.signature import Signature
from ptq.models.onnx_file import load, signature, write_whole
from ptq.models.session import session
from ptq.quantization import weights
from ptq.quantization.calibration import Calibration
from ptq.quantization.dtype import DTYPES
from ptq.quantization.method import Method


class Outside:
    """Rounds weights to int8, and leaves activations as they are."""

    name = "outside"

    def missing(self) -> str | None:
        return None

    def versions(self) -> Mapping[str, str]:
        return {name: version(name) for name in ("onnxruntime", "onnx", "numpy")}

    def cases(self, workload: str, methods: Mapping[str, Method]) -> Iterable[Case]:
        yield Case(workload, self.name, FP32)
        yield Case(workload, self.name, "u8s8", "outside_round")

    def unsupported(self, case: Case) -> str | None:
        return None if case.dtype in (FP32, "u8s8") else f"outside makes u8s8 alone, not {case.dtype}"

    def suffix(self, case: Case) -> str:
        return ".onnx"

    def quantize(self, case: Case, model: FloatModel, calibration: Calibration | None, out: Path) -> Mapping[str, str]:
        if case.is_float:
            write_whole(model.onnx, out)
            return {}
        import onnx
        from onnx import helper, numpy_helper

        proto = load(model.prepared)
        graph, grid = proto.graph, DTYPES[case.dtype].weight_quantizer
        for tensor in [each for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT]:
            values = numpy_helper.to_array(tensor)
            if values.ndim < 2:
                continue
            scale, zero_point = grid.grids(*weights.ranges(values))
            integers = grid.quantize(values, scale, zero_point).astype("int8")
            graph.initializer.remove(tensor)
            graph.initializer.append(numpy_helper.from_array(integers, f"{tensor.name}_int8"))
            graph.initializer.append(numpy_helper.from_array(scale, f"{tensor.name}_scale"))
            names = [f"{tensor.name}_int8", f"{tensor.name}_scale"]
            graph.node.insert(0, helper.make_node("DequantizeLinear", names, [tensor.name], name=f"{tensor.name}_dq"))
        out.write_bytes(proto.SerializeToString(deterministic=True))
        return {"weights": "int8 per tensor", "activations": "float"}

    def load(self, artifact: Path, threads: int = 1) -> Predictor:
        running = session(artifact, threads)
        names = [tensor.name for tensor in running.get_inputs()]
        outputs = [tensor.name for tensor in running.get_outputs()]

        def predict(batch: Batch) -> Batch:
            given = dict(zip(names, batch.values(), strict=True)) if len(names) == 1 else dict(batch)
            return dict(zip(outputs, running.run(outputs, given), strict=True))

        return predict

    def signature(self, artifact: Path) -> Signature:
        return signature(artifact)

    def census(self, artifact: Path) -> Census:
        from onnx import numpy_helper

        graph = load(artifact).graph
        floating: dict[str, int] = {}
        names = []
        for node in graph.node:
            if node.op_type in COUNTED:
                floating[node.op_type] = floating.get(node.op_type, 0) + 1
                names.append(node.name)
        sizes: dict[str, int] = {}
        for tensor in graph.initializer:
            values: Any = numpy_helper.to_array(tensor)
            if values.ndim > 1:
                sizes[values.dtype.name] = sizes.get(values.dtype.name, 0) + values.nbytes
        quantized = "int8" in sizes
        simulated = "weights alone are integers, and are computed in float" if quantized else None
        return Census({}, floating, 0, sizes, tuple(names), simulated)

    def inspect(self, artifact: Path) -> Iterable[tuple[str, str, str]]:
        return [(node.name, node.op_type, ", ".join(node.input)) for node in load(artifact).graph.node]


BACKEND = Outside()
