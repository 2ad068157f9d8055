"""Method: how the range of a tensor is chosen from what calibration saw of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptq.errors import PtqError
from ptq.quantization.quantizer import Quantizer

if TYPE_CHECKING:
    from ptq.quantization.calibration import Calibration
    from ptq.quantization.plan import Correct

Range = tuple[float, float]
Choose = Callable[[Any, Quantizer], Range]

EXTREMES, HISTOGRAM, MOMENTS, SAMPLES = "extremes", "histogram", "moments", "samples"
NEEDS = (EXTREMES, HISTOGRAM, MOMENTS, SAMPLES)


@dataclass(frozen=True)
class Transform:
    """A rewriting of the float model that keeps its function, done before its tensors are measured.

    `name` is part of its key. `rewrite(model, out, calibration)` writes the prepared ONNX `model` anew to `out` and
    returns notes for the report, by topic; `calibration` is what was seen of `model` itself. `needs` is what of it is
    read, of `NEEDS`.
    """

    name: str
    rewrite: Callable[[Path, Path, Calibration], Mapping[str, str]]
    needs: frozenset[str] = frozenset()


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
    corrects: what moves weights and biases on the calibration samples after ranges are chosen, see
        `ptq.quantization.plan.Correct`; None: nothing does.
    transforms: what rewrites the float model first, one after the other.
    dynamic: whether activations get their ranges at run time, of each batch anew; `choose` is not asked then.
    bits: the most that weights may have for the method to be of use; the dtypes with more are not listed.
    listed: whether every workload's grid has it; else those alone that name it in `Workload.methods`.

    Raises `PtqError` for a need that does not exist.
    """

    name: str
    choose: Choose
    needs: frozenset[str] = frozenset({HISTOGRAM})
    corrects: Correct | None = None
    transforms: tuple[Transform, ...] = ()
    dynamic: bool = False
    bits: int = 16
    listed: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", frozenset(self.needs))
        if unknown := self.needs - set(NEEDS):
            raise PtqError(f"method {self.name}: needs {min(unknown)!r}, but should be among {', '.join(NEEDS)}")

    @property
    def uncalibrated(self) -> bool:
        """Whether it is given no calibration sample."""
        return self.dynamic and not (self.needs or self.corrects or self.transforms)

    @property
    def needs_histogram(self) -> bool:
        """Whether ranges are chosen from more than the extremes."""
        return HISTOGRAM in self.needs


UNCORRECTED = "rewrites an ONNX graph; this backend starts from another form of the model"
"""Why a backend that starts from another graph has no case of a method that corrects or transforms."""
