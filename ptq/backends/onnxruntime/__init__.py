"""ONNX Runtime: static QDQ on the CPU. The core's own backend, always installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from itertools import product
from pathlib import Path

from ptq.backends.onnxruntime.quantize import DTYPES, quantize
from ptq.backends.protocol import Census, FloatModel, Predictor
from ptq.calibration.calibration import Calibration
from ptq.calibration.joins import plan_exclude, summary
from ptq.cases import FP32, Case
from ptq.methods import methods
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
        for exclude, dtype, method, granularity in product(
            ("none", "auto"), DTYPES, methods(), ("tensor", "channel")
        ):
            yield Case(workload, self.name, dtype, method, granularity, exclude)

    def unsupported(self, case: Case) -> str | None:
        return None

    def suffix(self, case: Case) -> str:
        return ".onnx"

    def quantize(self, case: Case, model: FloatModel, calibration: Calibration, out: Path) -> Mapping[str, str]:
        if case.is_float:
            shutil.copyfile(model.onnx, out)
            return {}
        dtype = DTYPES[case.dtype]
        ranges = calibration.ranges(case.method, dtype.quantizer)
        plan = plan_exclude(model.prepared, calibration.statistics()) if case.exclude == "auto" else []
        quantize(model.prepared, dtype, ranges, case.granularity == "channel", [each.node for each in plan], out)
        notes = {"calibration": "ptq statistics"}
        if plan:
            notes["in float"] = summary(plan)
        return notes

    def load(self, artifact: Path, threads: int = 1) -> Predictor:
        from ptq.backends.onnxruntime.session import session

        running = session(artifact, threads)
        entry = running.get_inputs()[0].name
        output = running.get_outputs()[0].name

        def predict(batch: Float32) -> Float32:
            result: Float32 = running.run([output], {entry: batch})[0]
            return result

        return predict

    def census(self, artifact: Path) -> Census:
        from ptq.backends.onnxruntime.census import census

        return census(artifact)


BACKEND = OnnxRuntime()
