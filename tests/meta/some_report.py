"""Reports that say a little of everything, as JSON, for tests of what is made of them."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from typing import Any

import numpy as np

from ptq.cases import FP32, Case
from ptq.gate.result import FAIL, NOT_INSTALLED, PASS, UNRESOLVED, Result
from ptq.report.json import report

HOSTILE = "</td><script>alert(1)</script><img src=http://x.invalid/a onerror=b> & \" ' \x00\x1b[31m"


def row(dtype: str = "int8", wrong: int = 40, method: str = "minmax", **more: Any) -> dict[str, Any]:
    """A judged result as the JSON report has it, 400 images."""
    right = np.arange(400) >= wrong
    case = Case("digits", "onnxruntime", dtype, "none" if dtype == FP32 else method)
    value = float(right.mean())
    made = Result(
        case,
        "top1",
        PASS,
        "fine",
        n=400,
        value=value,
        fp32_value=0.95,
        drop=100 * (0.95 - value),
        interval=(100 * (0.95 - value) - 1, 100 * (0.95 - value) + 1),
        per_class={"dog": value, "cat": 0.9},
        fp32_per_class={"dog": 0.95, "cat": 0.9},
        size_bytes=322_000 if dtype == FP32 else 115_000,
        fp32_size_bytes=322_000,
        agreement=1 - abs(wrong - 20) / 400,
        sqnr_db=None if dtype == FP32 else 20.0,
        integer_share=None if dtype == FP32 else 1.0,
        evaluation="e1",
        outcomes=base64.b64encode(np.packbits(right).tobytes()).decode(),
    )
    return {**made.as_json(), **more}


def time(ratio: float, dtype: str = "int8", **more: Any) -> dict[str, Any]:
    """A timing as the JSON report has it, within 2 %."""
    times = {"ratio": ratio, "low": 0.98 * ratio, "high": 1.02 * ratio, "reference_ms": 1.0, "other_ms": ratio}
    name = f"digits-onnxruntime-{dtype}-"
    case = {
        "confidence": 0.99,
        "speedup": 1 / ratio,
        "id": f"{name}minmax",
        "stands_for": [f"{name}minmax", f"{name}entropy"],
        "batch": 1,
        "against": "fp32",
    }
    judged = {"executed": "9 of 9 Conv in integer", "verdict": PASS, "reason": "", "red": False}
    return {**case, **times, **judged, **more}


def some() -> dict[str, Any]:
    worse = {"value": 0.95, "worse": True, "line": "int8 is significantly worse than its reference"}
    absent = Result(
        Case("digits", "torch_x86", "int8", "minmax"), "top1", NOT_INSTALLED, "not installed: pip install 'ptq[torch]'"
    )
    rows = [
        row(FP32, 20),
        row(
            "int8",
            80,
            verdict=FAIL,
            red=True,
            reason="int8: top1 0.8 < floor 0.9",
            reference=worse,
        ),
        row("u8s8", 22, reference={"value": 0.945, "worse": False, "line": ""}),
        row("uint8", 30, verdict=UNRESOLVED, reason="uint8: about 900 images would resolve it"),
        row("u8s8", 26, method="entropy"),
        absent.as_json(),
    ]
    races = [
        time(1.4, verdict=FAIL, red=True, reason="int8: 1.4 > 1.0"),
        time(0.6, "u8s8"),
        time(1.01, "u8s8", against="base"),
    ]
    return report(rows, {"python": "3.11", "isa": ["avx2"], "libraries": {"numpy": "2.4"}}, latency=races)


LOSS = row(
    metric="mse",
    unit="squared error",
    higher_is_better=False,
    outcomes=None,
    value=0.1,
    fp32_value=0.1,
    drop=0.0,
    interval=(-0.01, 0.01),
    per_class={},
)
"""A result whose metric is a loss."""


class Reader(HTMLParser):
    """What a page holds: tags, attributes, visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data + " "
