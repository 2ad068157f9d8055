"""The rewrite step: a method's transform of the float model, done before its tensors are measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ptq.engine.environment import versions
from ptq.engine.passes import RUNTIME, ExtremesPass, MomentsPass, Passes, Statistics
from ptq.engine.step import Notes, Step
from ptq.quantization.calibration import Calibration
from ptq.quantization.method import Transform

if TYPE_CHECKING:
    from ptq.engine.store import Store


@dataclass(frozen=True, eq=False)
class Rewrite(Step):
    """The prepared model as `transform` has it; `before` are the passes over the model it is given."""

    kind: ClassVar[str] = "model"
    transform: Transform
    before: Passes

    @property
    def suffix(self) -> str:
        return ".onnx"

    @property
    def title(self) -> str:
        return f"{self.before.name}: {self.transform.name}"

    def settings(self) -> Mapping[str, Any]:
        return {
            "model": self.before.prepared.digest,
            "transform": self.transform,
            "calibration": self.before.samples.identity,
            "contracts": self.before.contracts,
            "versions": versions(RUNTIME),
        }

    def code(self) -> tuple[object, ...]:
        return (self.transform, Statistics, ExtremesPass, MomentsPass)

    def make(self, out: Path, store: Store) -> Notes | None:
        seen = self.before
        calibration = Calibration(seen.checked, lambda: seen.statistics, {}, lambda: seen.moments)
        return self.transform.rewrite(seen.prepared.path, out, calibration)
