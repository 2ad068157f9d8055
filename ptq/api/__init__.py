"""The functions a person calls: quantize, evaluate, compare, explain, tune. The command line calls the same."""

from __future__ import annotations

from ptq.api.comparison import Comparison, compare
from ptq.api.evaluation import Evaluation, evaluate
from ptq.api.explanation import explain
from ptq.api.quantized import Quantized, quantize
from ptq.api.quantized_all import quantize_all
from ptq.api.tuned import Tuned, tune
from ptq.diagnosis.explanation import Explanation

__all__ = [
    "Comparison",
    "Evaluation",
    "Explanation",
    "Quantized",
    "Tuned",
    "compare",
    "evaluate",
    "explain",
    "quantize",
    "quantize_all",
    "tune",
]
