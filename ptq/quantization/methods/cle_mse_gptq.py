"""cle_mse_gptq: channels equalized across layers, then mse ranges, and weights and biases corrected."""

from __future__ import annotations

from ptq.quantization.correct import correct
from ptq.quantization.equalize import EQUALIZE
from ptq.quantization.method import HISTOGRAM, MOMENTS, Method
from ptq.quantization.methods.mse import mse

METHOD = Method(
    "cle_mse_gptq",
    mse,
    needs=frozenset({HISTOGRAM, MOMENTS}),
    corrects=correct,
    transforms=(EQUALIZE,),
    listed=False,
)
