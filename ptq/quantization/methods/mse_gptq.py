"""mse_gptq: mse ranges, and weights and biases corrected on the calibration images."""

from __future__ import annotations

from ptq.quantization.correct import correct
from ptq.quantization.method import HISTOGRAM, MOMENTS, Method
from ptq.quantization.methods.mse import mse

METHOD = Method("mse_gptq", mse, needs=frozenset({HISTOGRAM, MOMENTS}), corrects=correct)
