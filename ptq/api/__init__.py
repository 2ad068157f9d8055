"""The functions a person calls: quantize, evaluate, compare, explain. The command line calls the same."""

from __future__ import annotations

from ptq.api.comparison import Comparison, compare
from ptq.api.evaluation import Evaluation, evaluate
from ptq.api.explanation import explain
from ptq.api.quantized import Quantized, quantize
from ptq.api.quantized_all import quantize_all
from ptq.diagnosis.explanation import Explanation

__all__ = [
    "Comparison",
    "Evaluation",
    "Explanation",
    "Quantized",
    "compare",
    "evaluate",
    "explain",
    "quantize",
    "quantize_all",
]
