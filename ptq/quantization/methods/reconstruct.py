"""reconstruct: mse ranges, then weights, biases and narrow scales learned on the calibration samples."""

from __future__ import annotations

from ptq.quantization.method import HISTOGRAM, MOMENTS, SAMPLES, Method
from ptq.quantization.methods.mse import mse
from ptq.quantization.reconstruct.correct import reconstruct
from ptq.quantization.reconstruct.learn import Recipe

METHOD = Method(
    "reconstruct", mse, needs=frozenset({HISTOGRAM, MOMENTS, SAMPLES}), corrects=reconstruct(Recipe()), listed=False
)
