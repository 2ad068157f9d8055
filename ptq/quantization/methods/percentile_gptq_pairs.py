"""percentile_gptq_pairs: percentile ranges, and weights corrected on scales that keep pairs of them within 16 bits."""

from __future__ import annotations

from functools import partial

from ptq.quantization.correct import correct
from ptq.quantization.method import HISTOGRAM, MOMENTS, Method
from ptq.quantization.methods.percentile import percentile
from ptq.quantization.weights import unsaturated

METHOD = Method(
    "percentile_gptq_pairs",
    percentile(),
    needs=frozenset({HISTOGRAM, MOMENTS}),
    corrects=partial(correct, bounds=unsaturated),
    listed=False,
)
