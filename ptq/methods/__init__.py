"""Methods: how a range is chosen from statistics. One file a method, found by its name.

A method is ``METHOD``, a pure function of (statistics, quantizer) that returns the (low, high) in the units of
the tensor: low <= 0 <= high, both inside [min(0, min), max(0, max)]. numpy only. A method that says ``CORRECTS = True``
also wants the float model corrected first, by a backend that can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from ptq.calibration.statistics import TensorStatistics
from ptq.errors import PtqError
from ptq.quantizer import Quantizer
from ptq.registry import modules

Range = tuple[float, float]
Method = Callable[[TensorStatistics, Quantizer], Range]


def methods() -> dict[str, Method]:
    """Every method by name."""
    return cast("dict[str, Method]", modules("ptq.methods", "METHOD"))


def method(name: str) -> Method:
    """The method called `name`; `PtqError` names those there are."""
    known = methods()
    if name not in known:
        raise PtqError(f"method {name!r} is not known: it should be one of {', '.join(known)}")
    return known[name]


def corrects(name: str) -> bool:
    """Whether method `name` wants weights and biases corrected on the calibration images before quantization."""
    return bool(modules("ptq.methods", "CORRECTS").get(name, False))


def needs_extremes_only(name: str) -> bool:
    """Whether method `name` reads nothing of the statistics but min and max."""
    return bool(modules("ptq.methods", "EXTREMES").get(name, False))


UNCORRECTED = "corrects an ONNX graph's weights; here mse has the same ranges without it"
"""Why a backend that starts from another graph has no case of a method that corrects."""
