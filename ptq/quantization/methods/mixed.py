"""mixed: as mse_gptaq after equalization, with a byte a weight for the layers that need it most."""

from __future__ import annotations

from ptq.quantization.equalize import EQUALIZE
from ptq.quantization.method import HISTOGRAM, MOMENTS, SAMPLES, Method
from ptq.quantization.methods.mse import mse
from ptq.quantization.mixed import Mixed


def mixed(share: float, name: str = "mixed") -> Method:
    """The method whose weights take `share` of what they take with 8 bits, see `ptq.quantization.mixed.Mixed`."""
    return Method(
        name,
        mse,
        frozenset({HISTOGRAM, MOMENTS, SAMPLES}),
        corrects=Mixed(share),
        transforms=(EQUALIZE,),
        bits=7,
        listed=False,
    )


METHOD = mixed(0.535)
"""A file of about 0.55 of the bytes of u8s8's: the scales and biases of a convolutional network take the rest."""
