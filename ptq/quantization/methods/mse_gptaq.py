"""mse_gptaq: mse ranges, and weights and biases fitted layer by layer on the calibration samples."""

from __future__ import annotations

from ptq.quantization.gptaq import gptaq
from ptq.quantization.method import HISTOGRAM, SAMPLES, Method
from ptq.quantization.methods.mse import mse

METHOD = Method("mse_gptaq", mse, needs=frozenset({HISTOGRAM, SAMPLES}), corrects=gptaq, listed=False)
