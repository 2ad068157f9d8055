"""ONNX Runtime: static QDQ on the CPU. The core's own backend, always installed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import product
from pathlib import Path

from ptq.backends.onnxruntime.dynamic import by_default, on_grids
from ptq.backends.onnxruntime.quantize import quantize
from ptq.backends.protocol import Census, FloatModel, Predictor
from ptq.cases import FP32, NONE, Case
from ptq.data.batch import Batch
from ptq.data.signature import Signature
from ptq.errors import BadModel, one_line
from ptq.files import scratch
from ptq.models.onnx_file import load, signature, write_whole
from ptq.models.session import feed, session, shapes
from ptq.quantization.calibration import Calibration
from ptq.quantization.dtype import DTYPES
from ptq.quantization.edges import with_edges
from ptq.quantization.exclude import choose_exclude, summary
from ptq.quantization.method import Method
from ptq.quantization.plan import Plan
from ptq.sensitivity.keep import keep_in_float

LISTED = ("int8", "uint8", "u8s8")
"""The dtypes of the grid; the others of `DTYPES` are made when asked for."""

FEW_BITS = ("u16s8", "u8s4", "u4s4", "u4s4_edge8")
"""The dtypes of the grid for corrections that are not listed everywhere, one scale a channel: without one, or with one
scale a tensor, four bits are lost."""

AT_RUN_TIME = ("uint8", "u8s8", "u8s7")
"""The dtypes of the grid for dynamic methods: onnxruntime quantizes activations to uint8 there."""

SAME_MODEL = {"int8": "u8s8"}
"""Dtypes whose corrected model is, level for level, that of another moved by 128: it is not listed twice. Their weights
are on the same grid, and a correction leaves nothing else to differ."""


class OnnxRuntime:
    """`onnxruntime.quantization` for the graph, ptq's statistics for the ranges."""

    name = "onnxruntime"

    def missing(self) -> str | None:
        return None

    def versions(self) -> Mapping[str, str]:
        return {each: version(each) for each in ("onnxruntime", "onnx", "numpy")}

    def cases(self, workload: str, methods: Mapping[str, Method]) -> Iterable[Case]:
        yield Case(workload, self.name, FP32)
        every = dict.fromkeys((*LISTED, *AT_RUN_TIME))
        for exclude, dtype, name, granularity in product((NONE, "auto"), every, methods, ("tensor", "channel")):
            method = methods[name]
            listed = dtype in (AT_RUN_TIME if method.dynamic else LISTED) and DTYPES[dtype].weight.bits <= method.bits
            if listed and not (method.corrects and dtype in SAME_MODEL):
                yield Case(workload, self.name, dtype, name, granularity, exclude)
        for dtype, method in product(FEW_BITS, methods.values()):
            fits = method.corrects and DTYPES[dtype].weight.bits <= method.bits
            if fits and not (method.listed or method.dynamic or method.transforms):
                yield Case(workload, self.name, dtype, method.name, "channel")

    def unsupported(self, case: Case) -> str | None:
        if case.is_float or case.dtype in DTYPES:
            return None
        return f"dtype {case.dtype!r} is not known: it should be one of {FP32}, {', '.join(DTYPES)}"

    def suffix(self, case: Case) -> str:
        return ".onnx"

    def quantize(self, case: Case, model: FloatModel, calibration: Calibration, out: Path) -> Mapping[str, str]:
        if case.is_float:
            write_whole(model.onnx, out)
            return {}
        dtype, method = DTYPES[case.dtype], calibration.method(case.method)
        ranges = {} if method.dynamic else calibration.ranges(case.method, dtype.quantizer)
        wanted = () if case.exclude == NONE else model.exclude
        excluded = choose_exclude(model.prepared, wanted, calibration.statistics, model.name)
        plan = Plan(dtype, ranges, case.granularity == "channel", [each.node for each in excluded])
        plan = with_edges(model.prepared, plan, case.method, calibration)
        notes = {"calibration": "ranges at run time" if method.dynamic else "ptq statistics"}
        if "auto" in wanted and not method.dynamic:
            more, notes["auto"] = keep_in_float(
                model.prepared,
                lambda nodes, path: quantize(model.prepared, replace(plan, exclude=nodes), path, model.name),
                calibration.samples,
                excluded,
                model.name,
            )
            excluded += more
            plan = replace(plan, exclude=[each.node for each in excluded])
            notes["nodes in float"] = json.dumps(list(plan.exclude))
        if excluded:
            notes["in float"] = summary(excluded)
        if method.corrects is None:
            make = by_default if method.dynamic else quantize
            # quantize_dynamic is given the file as users give it, unless it was rewritten
            start = model.onnx if method.dynamic and not method.transforms else model.prepared
            return notes | dict(make(start, plan, out, model.name))
        with scratch() as folder:
            corrected = folder / "corrected.onnx"
            plan, done = method.corrects(model.prepared, corrected, plan, calibration)
            make = on_grids if method.dynamic else quantize
            return notes | dict(make(corrected, plan, out, model.name)) | {"corrected": done}

    def load(self, artifact: Path, threads: int = 1) -> Predictor:
        running = session(artifact, threads)
        inputs, outputs = ([each.name for each in held] for held in (running.get_inputs(), running.get_outputs()))

        def predict(batch: Batch) -> Batch:
            given = feed(batch, inputs, artifact)
            try:
                return dict(zip(outputs, running.run(outputs, given), strict=True))
            except Exception as error:
                raise BadModel(f"{artifact}: does not run with {shapes(given)} ({one_line(error)})") from error

        return predict

    def signature(self, artifact: Path) -> Signature:
        return signature(artifact)

    def census(self, artifact: Path) -> Census:
        from ptq.backends.onnxruntime.census import census

        return census(artifact)

    def node_shares(self, model: Path, batches: Sequence[Batch]) -> Mapping[str, float]:
        from ptq.backends.onnxruntime.profile import node_shares

        return node_shares(model, batches)

    def inspect(self, artifact: Path) -> Iterable[tuple[str, str, str]]:
        """(name, op type, inputs -> outputs) of every node, in the graph's order."""
        for node in load(artifact).graph.node:
            yield node.name or "(no name)", node.op_type, f"{', '.join(node.input)} -> {', '.join(node.output)}"


BACKENDS = (OnnxRuntime(),)
