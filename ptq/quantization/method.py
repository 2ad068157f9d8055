"""Method: how the range of a tensor is chosen from what calibration saw of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ptq.errors import PtqError
from ptq.quantization.quantizer import Quantizer

Range = tuple[float, float]
Choose = Callable[[Any, Quantizer], Range]

EXTREMES, HISTOGRAM, MOMENTS, SAMPLES = "extremes", "histogram", "moments", "samples"
NEEDS = (EXTREMES, HISTOGRAM, MOMENTS, SAMPLES)


@dataclass(frozen=True)
class Method:
    """One way to choose ranges.

    Parameters
    ----------
    name: of ``a-z 0-9 _ .``; the `method` of its cases.
    choose: a pure function of (statistics, quantizer) that returns (low, high) in the units of the tensor,
        low <= 0 <= high. `statistics` is `ptq.calibration.statistics.Extremes` (``min``, ``max``) for a method that
        needs no more, else `TensorStatistics` (``min``, ``max``, ``count``, ``histogram``).
    needs: what of calibration it needs, of `NEEDS`: ``extremes`` alone costs the lightest pass; ``histogram`` the pass
        that counts every value; ``moments`` one more, of every layer's inputs; ``samples`` the calibration inputs
        themselves.
    corrects: whether weights and biases are corrected on the calibration samples too (`ptq.quantization.gptq`).

    Raises `PtqError` for a need that does not exist, or a correction without the moments it is made from.
    """

    name: str
    choose: Choose
    needs: frozenset[str] = frozenset({HISTOGRAM})
    corrects: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", frozenset(self.needs))
        if unknown := self.needs - set(NEEDS):
            raise PtqError(f"method {self.name}: needs {min(unknown)!r}, but should be among {', '.join(NEEDS)}")
        if self.corrects and MOMENTS not in self.needs:
            raise PtqError(f"method {self.name}: corrects weights, so its needs should have {MOMENTS!r}")

    @property
    def needs_histogram(self) -> bool:
        """Whether ranges are chosen from more than the extremes."""
        return HISTOGRAM in self.needs


UNCORRECTED = "corrects an ONNX graph's weights; here mse has the same ranges without it"
"""Why a backend that starts from another graph has no case of a method that corrects."""
