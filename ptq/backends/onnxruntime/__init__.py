"""ONNX Runtime: static QDQ on the CPU. The core's own backend, always installed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from itertools import product
from pathlib import Path

from ptq.backends.onnxruntime.correct import correct
from ptq.backends.onnxruntime.quantize import DTYPES, Plan, quantize
from ptq.backends.protocol import Census, FloatModel, Predictor
from ptq.calibration.calibration import Calibration
from ptq.calibration.joins import choose_exclude, summary
from ptq.cases import FP32, NONE, Case
from ptq.errors import BadModel
from ptq.methods import corrects, methods
from ptq.models.onnx_file import load, signature, write_whole
from ptq.samples import Float32


class OnnxRuntime:
    """`onnxruntime.quantization` for the graph, ptq's statistics for the ranges."""

    name = "onnxruntime"

    def missing(self) -> str | None:
        return None

    def versions(self) -> Mapping[str, str]:
        return {each: version(each) for each in ("onnxruntime", "onnx", "numpy")}

    def cases(self, workload: str) -> Iterable[Case]:
        yield Case(workload, self.name, FP32)
        for exclude, dtype, method, granularity in product(("none", "auto"), DTYPES, methods(), ("tensor", "channel")):
            yield Case(workload, self.name, dtype, method, granularity, exclude)

    def unsupported(self, case: Case) -> str | None:
        return None

    def suffix(self, case: Case) -> str:
        return ".onnx"

    def quantize(self, case: Case, model: FloatModel, calibration: Calibration, out: Path) -> Mapping[str, str]:
        if case.is_float:
            write_whole(model.onnx, out)
            return {}
        dtype, per_channel = DTYPES[case.dtype], case.granularity == "channel"
        ranges = calibration.ranges(case.method, dtype.quantizer)
        wanted = () if case.exclude == NONE else model.exclude
        excluded = choose_exclude(model.prepared, wanted, calibration.statistics)
        plan = Plan(dtype, ranges, per_channel, [each.node for each in excluded])
        notes = {"calibration": "ptq statistics"}
        if excluded:
            notes["in float"] = summary(excluded)
        if not corrects(case.method):
            quantize(model.prepared, plan, out)
            return notes
        with tempfile.TemporaryDirectory() as folder:
            corrected = Path(folder) / "corrected.onnx"
            seen, grid = calibration.moments(), dtype.weight_quantizer
            overrides = correct(model.prepared, corrected, seen, grid, per_channel, plan.exclude)
            quantize(corrected, replace(plan, overrides=overrides), out)
        return notes | {"corrected": "weights rounded and biases shifted on the calibration images"}

    def load(self, artifact: Path, threads: int = 1) -> Predictor:
        from ptq.backends.onnxruntime.session import session

        running = session(artifact, threads)
        entry = running.get_inputs()[0].name
        output = running.get_outputs()[0].name

        def predict(batch: Float32) -> Float32:
            try:
                result: Float32 = running.run([output], {entry: batch})[0]
            except Exception as error:
                reason = str(error).strip().splitlines()[0]
                raise BadModel(
                    f"{artifact}: {batch.dtype} input of shape {batch.shape} does not run ({reason})"
                ) from error
            return result

        return predict

    def input_shape(self, artifact: Path) -> tuple[int | None, ...]:
        return signature(artifact).shape

    def census(self, artifact: Path) -> Census:
        from ptq.backends.onnxruntime.census import census

        return census(artifact)

    def inspect(self, artifact: Path) -> Iterable[tuple[str, str, str]]:
        """(name, op type, inputs -> outputs) of every node, in the graph's order."""
        for node in load(artifact).graph.node:
            yield node.name or "(no name)", node.op_type, f"{', '.join(node.input)} -> {', '.join(node.output)}"


BACKEND = OnnxRuntime()
