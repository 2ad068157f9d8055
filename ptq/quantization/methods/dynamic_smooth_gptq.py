"""dynamic_smooth_gptq: dynamic, with outliers moved into weights, which are rounded on the calibration samples."""

from __future__ import annotations

from ptq.quantization.correct import correct
from ptq.quantization.method import MOMENTS, Method
from ptq.quantization.methods.minmax import minmax
from ptq.quantization.smooth import SMOOTH

METHOD = Method(
    "dynamic_smooth_gptq",
    minmax,
    needs=frozenset({MOMENTS}),
    corrects=correct,
    transforms=(SMOOTH,),
    dynamic=True,
    listed=False,
)
