"""The functions a person calls: quantize a model, evaluate it, compare two. The command line calls the same."""

from __future__ import annotations

from ptq.api.comparison import Comparison, compare
from ptq.api.evaluation import Evaluation, evaluate
from ptq.api.quantized import Quantized, quantize
from ptq.api.quantized_all import quantize_all

__all__ = ["Comparison", "Evaluation", "Quantized", "compare", "evaluate", "quantize", "quantize_all"]
