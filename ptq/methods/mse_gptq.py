"""mse_gptq: mse ranges, and weights and biases corrected on the calibration images."""

from __future__ import annotations

from ptq.methods.mse import mse

METHOD = mse

CORRECTS = True
"""The backend also corrects the model (`ptq.calibration.correction`) before it quantizes."""
