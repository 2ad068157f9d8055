"""The artifact step: a case's quantized model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ptq.backends.protocol import Backend, FloatModel
from ptq.cases import NONE, Case
from ptq.engine.environment import versions
from ptq.engine.passes import RUNTIME, ExtremesPass, MomentsPass, Passes, Statistics
from ptq.engine.step import Notes, Step
from ptq.quantization.calibration import Calibration
from ptq.quantization.method import Method, Range
from ptq.quantization.quantizer import Quantizer

if TYPE_CHECKING:
    from ptq.engine.store import Store


@dataclass(frozen=True, eq=False)
class Quantize(Step):
    """The artifact of a case.

    `model_digest` is over every form of `model`, whose prepared form is that of `passes`; `chosen`, the ranges by
    (method, quantizer), is shared between cases. The float case depends on nothing of calibration.
    """

    kind: ClassVar[str] = "artifact"
    case: Case
    backend: Backend
    backend_versions: Mapping[str, str]
    model: FloatModel
    model_digest: str
    passes: Passes
    methods: Mapping[str, Method]
    lighter: bool
    chosen: dict[tuple[str, Quantizer], dict[str, Range]]

    @property
    def suffix(self) -> str:
        return self.backend.suffix(self.case)

    @property
    def title(self) -> str:
        return f"{self.case}: quantizing"

    def settings(self) -> Mapping[str, Any]:
        fields = {name: value for name, value in self.case.fields().items() if name != "workload"}
        common = {
            "model": self.model_digest,
            "case": fields,
            "backend": self.backend,
            # ranges come from onnxruntime's pass, whatever the backend
            "versions": [versions(RUNTIME), self.backend_versions],
        }
        if self.case.is_float:
            return common
        method = self.methods.get(self.case.method)
        blind = method is not None and method.uncalibrated and self.case.exclude == NONE
        return {
            **common,
            "calibration": None if blind else self.passes.samples.identity,
            "contracts": None if blind else self.passes.contracts,
            "exclude": [] if self.case.exclude == NONE else list(self.model.exclude),
            "method": method,
        }

    def code(self) -> tuple[object, ...]:
        method = self.methods.get(self.case.method)
        passes = () if self.case.is_float else (Statistics, ExtremesPass, MomentsPass)
        return (self.backend, method, *passes)

    def make(self, out: Path, store: Store) -> Notes | None:
        model = self.model if self.case.is_float else replace(self.model, prepared=self.passes.prepared.path)
        return self.backend.quantize(self.case, model, self.calibration, out)

    @property
    def calibration(self) -> Calibration:
        """What the backend quantizes with; every pass runs at the first call only."""
        passes = self.passes
        return Calibration(
            samples=passes.checked,
            statistics=lambda: passes.statistics,
            methods=self.methods,
            moments=lambda: passes.moments,
            extremes=(lambda: passes.extremes) if self.lighter else None,
            chosen=self.chosen,
        )
