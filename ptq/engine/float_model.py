"""The float model's steps: converted to ONNX where it is something else, then prepared for calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ptq.calibration.prepare import prepare
from ptq.engine.environment import versions
from ptq.engine.step import Notes, Step
from ptq.models.bind import bind
from ptq.models.convert import LIBRARIES, to_onnx
from ptq.models.onnx_file import digest

if TYPE_CHECKING:
    from ptq.engine.store import Store


@dataclass(frozen=True, eq=False)
class Convert(Step):
    """A Keras, TFLite or TensorFlow model as ONNX."""

    kind: ClassVar[str] = "model"
    name: str
    source: Path
    source_digest: str

    @property
    def suffix(self) -> str:
        return ".onnx"

    @property
    def title(self) -> str:
        return f"{self.name}: converting {self.source.name}"

    def settings(self) -> Mapping[str, Any]:
        return {"source": self.source_digest, "suffix": self.source.suffix, "versions": versions(LIBRARIES)}

    def make(self, out: Path, store: Store) -> Notes:
        return {"parity": to_onnx(self.source, out)}


@dataclass(frozen=True, eq=False)
class Bind(Step):
    """An ONNX model without its constant inputs, every other with the sample first, see `ptq.models.bind`."""

    kind: ClassVar[str] = "model"
    name: str
    onnx: Path
    constants: Mapping[str, float]
    axes: Mapping[str, int]

    @property
    def suffix(self) -> str:
        return ".onnx"

    @property
    def title(self) -> str:
        return f"{self.name}: binding inputs of {self.onnx.name}"

    def settings(self) -> Mapping[str, Any]:
        return {
            "model": digest(self.onnx),
            "constants": self.constants,
            "axes": self.axes,
            "versions": versions(("onnx", "numpy")),
        }

    def make(self, out: Path, store: Store) -> Notes | None:
        return bind(self.onnx, out, self.constants, self.axes)


@dataclass(frozen=True, eq=False)
class Prepare(Step):
    """An ONNX model after shape inference and fusion, see `ptq.calibration.prepare`."""

    kind: ClassVar[str] = "model"
    name: str
    onnx: Path

    @property
    def suffix(self) -> str:
        return ".onnx"

    @property
    def title(self) -> str:
        return f"{self.name}: preparing {self.onnx.name}"

    def settings(self) -> Mapping[str, Any]:
        return {"model": digest(self.onnx), "versions": versions(("onnxruntime", "onnx", "numpy"))}

    def make(self, out: Path, store: Store) -> Notes | None:
        return prepare(self.onnx, out)
