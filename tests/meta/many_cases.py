"""A report of 200 cases that nobody measured: three workloads, five backends, races and censuses."""

from __future__ import annotations

import itertools
from typing import Any

from some_report import row, time

from ptq.cases import FP32, Case
from ptq.gate.result import FAIL, PASS, UNRESOLVED
from ptq.report.json import report

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def many(count: int = 200) -> dict[str, Any]:
    """The report."""
    grid = itertools.product(
        ("cifar10", "digits", "imagenet"),
        ("onnxruntime", "torch", "torch_pt2e", "tflite", "openvino"),
        ("u8s8", "int8", "uint8"),
        ("minmax", "entropy", "percentile", "mse", "mse_gptq"),
    )
    rows, races, counted = [row(FP32, 20)], [], []
    for index, (workload, backend, dtype, method) in enumerate(itertools.islice(grid, count - 1)):
        case = Case(workload, backend, dtype, method, "channel" if index % 2 else "tensor")
        wrong = 20 + 3 * index % 50
        verdict = FAIL if wrong > 60 else UNRESOLVED if wrong > 50 else PASS
        value = 1 - wrong / 400
        reason = f"{case.id}: top1 {value:.4f} against floor 0.8700 (fp32 0.9500, drop {wrong / 4:.2f} pp, n=400)"
        classes = {name: value - place / 100 for place, name in enumerate(CLASSES)}
        rows.append({
            **row(dtype, wrong), "id": case.id, **case.fields(), "verdict": verdict, "reason": reason,
            "red": verdict == FAIL and index % 2 == 0, "per_class": classes,
            "fp32_per_class": dict.fromkeys(CLASSES, 0.95),
            "size_bytes": 110_000 + 17 * index, "sqnr_db": 10 + index % 30, "integer_share": 1 - index % 3 / 4,
            "calibration": {"n": 1000, "seed": 42, "digest": "206fd002a5f4" * 5, "method": method},
            "bar": {"pattern": f"{workload}-{backend}-*", "floor": 0.87, "why": "what the product needs, as measured"},
        })  # fmt: skip
        counted.append({
            "id": case.id, **case.fields(), "integer": {"Conv": 9, "Add": 3}, "floating": {"Gemm": 1}, "stray": 2,
            "float_nodes": [f"model/layer{each}/Gemm" for each in range(3)], "weight_bytes": {"int8": 77360},
            "simulated": None, "cause": None, "integer_share": 12 / 13, "verdict": PASS, "reason": "", "red": False,
        })  # fmt: skip
        if method == "minmax":
            races += [time(0.5 + index % 70 / 100, id=case.id, stands_for=[case.id], batch=batch) for batch in (1, 64)]
    return report(rows, {"python": "3.11", "isa": ["avx2"]}, latency=races, structure=counted)
