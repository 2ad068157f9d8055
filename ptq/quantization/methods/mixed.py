"""mixed: as mse_gptaq, with 8 bits for the layers that need them, in three fifths of the bytes of 8 bits for all."""

from __future__ import annotations

from ptq.quantization.method import HISTOGRAM, MOMENTS, SAMPLES, Method
from ptq.quantization.methods.mse import mse
from ptq.quantization.mixed import Mixed


def mixed(share: float, name: str = "mixed") -> Method:
    """The method whose weights take `share` of what they take with 8 bits, see `ptq.quantization.mixed.Mixed`."""
    return Method(name, mse, frozenset({HISTOGRAM, MOMENTS, SAMPLES}), corrects=Mixed(share), bits=7, listed=False)


METHOD = mixed(0.6)
