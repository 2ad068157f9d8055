"""TFLite: TensorFlow's converter from Keras (extra `tf`), run by LiteRT (extra `litert`, no TensorFlow needed)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from ptq.backends.apart import apart
from ptq.backends.installed import installed
from ptq.backends.int8_proof import require_int8
from ptq.backends.protocol import Census, FloatModel, Predictor
from ptq.backends.tflite import file
from ptq.backends.tflite.convert import convert_float, convert_int8
from ptq.backends.tflite.interpreter import Opened, opened, predictor
from ptq.cases import FP32, Case
from ptq.data.signature import Signature
from ptq.errors import NotInstalled, Unsupported
from ptq.quantization.calibration import Calibration
from ptq.quantization.method import Method

_UINT8 = (
    "TFLite: weights are int8 only; the converter, asked for supported_types=[tf.uint8], says "
    "'The inference_input_type and inference_output_type must be tf.float32.' and converts nothing"
)


class TfLite:
    """dtype ``int8`` is int8 activations, weights, input and output; artifacts made elsewhere may have other ends."""

    name = "tflite"

    def missing(self) -> str | None:
        return None if find_spec("ai_edge_litert") is not None else "not installed: pip install 'ptq[litert]'"

    def versions(self) -> Mapping[str, str]:
        return installed("tensorflow", "keras", "ai-edge-litert", "numpy")

    def cases(self, workload: str, methods: Mapping[str, Method]) -> Iterable[Case]:
        """The converter's ranges are its own: the smallest and largest value seen."""
        yield Case(workload, self.name, FP32)
        for granularity in ("tensor", "channel"):
            yield Case(workload, self.name, "int8", "minmax", granularity)
        yield Case(workload, self.name, "uint8", "minmax")

    def unsupported(self, case: Case) -> str | None:
        if case.is_float or case.dtype == "int8":
            return None
        return _UINT8 if case.dtype == "uint8" else f"TFLite: its converter makes int8 alone here, not {case.dtype!r}"

    def suffix(self, case: Case) -> str:
        return ".tflite"

    def quantize(self, case: Case, model: FloatModel, calibration: Calibration, out: Path) -> Mapping[str, str]:
        if (reason := self.missing()) is not None:
            raise NotInstalled(f"{case.id}: {reason}")
        if (reason := self.unsupported(case)) is not None:
            raise Unsupported(f"{case.id}: {reason}")
        if model.keras is None:
            raise Unsupported(
                f"{case.id}: there is no Keras form of the workload's model, but TFLite's converter starts from Keras "
                "or a SavedModel"
            )
        try:
            if case.is_float:
                convert_float(model.keras, out)
                return {}
            convert_int8(model.keras, out, calibration.samples, case.granularity == "channel")
        except Unsupported as error:
            raise Unsupported(f"{case.id}: {error}") from error
        require_int8(case, self.census(out))
        return {
            "calibration": "own observers",
            "calibration_batch": "1",
            "activations": "int8 per tensor",
            "weights": f"int8 per {case.granularity}",
            "input_output": self._opened(out).ends,
        }

    def load(self, artifact: Path, threads: int = 1) -> Predictor:
        inside = self._opened(artifact, threads).predictor()
        return apart(inside, predictor, artifact, threads) if file.loops(artifact) else inside

    def signature(self, artifact: Path) -> Signature:
        return self._opened(artifact).signature

    def census(self, artifact: Path) -> Census:
        self._opened(artifact)
        return file.census(artifact)

    def inspect(self, artifact: Path) -> Iterable[tuple[str, str, str]]:
        """(name of the result, operator, element types of its inputs) of every operator, in order."""
        self._opened(artifact)
        return [(found.name, found.kind, ", ".join(found.types)) for found in file.operators(artifact)]

    def _opened(self, artifact: Path, threads: int = 1) -> Opened:
        if (reason := self.missing()) is not None:
            raise NotInstalled(f"{artifact}: {reason}")
        return opened(artifact, threads)


BACKENDS = (TfLite(),)
