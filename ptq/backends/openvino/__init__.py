"""OpenVINO on the CPU: ptq's own QDQ models read by it, and NNCF's presets as they are (extra `openvino`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from itertools import product
from pathlib import Path

from ptq.backends.apart import apart
from ptq.backends.installed import installed
from ptq.backends.int8_proof import require_int8
from ptq.backends.onnxruntime import OnnxRuntime
from ptq.backends.openvino import presets
from ptq.backends.openvino.file import ONNX, opened, pack, predictor
from ptq.backends.protocol import Census, FloatModel, Predictor
from ptq.cases import FP32, NONE, Case
from ptq.data.signature import Signature
from ptq.errors import NotInstalled, Unsupported
from ptq.files import scratch
from ptq.models.onnx_file import load, serialized
from ptq.quantization.calibration import Calibration
from ptq.quantization.dtype import DTYPES
from ptq.quantization.method import Method

LISTED = ("minmax", "mse_gptq")
"""ptq's methods that every workload lists: the usual one and the best."""
_READ = ("u8s8", "int8")
_INSTALL = "not installed: pip install 'ptq[openvino]'"


class OpenVino:
    """A ptq method's artifact is the QDQ model that the onnxruntime backend makes of the case, packed as it is."""

    name = "openvino"

    def missing(self) -> str | None:
        return None if find_spec("openvino") is not None else _INSTALL

    def versions(self) -> Mapping[str, str]:
        return installed("openvino", "nncf", "onnxruntime", "onnx", "numpy")

    def cases(self, workload: str, methods: Mapping[str, Method]) -> Iterable[Case]:
        yield Case(workload, self.name, FP32)
        for method, preset in presets.PRESETS.items():
            yield Case(workload, self.name, preset.dtype, method, "channel")
        ours = [name for name, method in methods.items() if not method.dynamic and name not in presets.PRESETS]
        for exclude, method, granularity in product((NONE, "auto"), ours, ("tensor", "channel")):
            yield Case(workload, self.name, "u8s8", method, granularity, exclude)

    def unsupported(self, case: Case) -> str | None:
        if (preset := presets.PRESETS.get(case.method)) is not None:
            if (case.dtype, case.granularity, case.exclude) == (preset.dtype, "channel", NONE):
                return None
            return f"NNCF's {case.method} makes {preset.dtype} with weights per channel, and keeps no node in float"
        if case.is_float or case.dtype in _READ:
            return None
        if case.dtype not in DTYPES:
            return f"dtype {case.dtype!r} is not known: it should be one of {FP32}, {', '.join(_READ)}"
        return (
            f"OpenVINO's integer kernels take int8 weights without zero point and activations of eight bits: it would "
            f"compute {case.dtype} in float; {', '.join(_READ)} run in integer"
        )

    def on_demand(self, case: Case) -> bool:
        """Whether a workload lists the case only when its `methods` name the method."""
        preset = presets.PRESETS.get(case.method)
        return not case.is_float and (case.method not in LISTED if preset is None else preset.model_type is not None)

    def graph(self, case: Case) -> str:
        """NNCF's quantizers sit elsewhere than ptq's."""
        return "nncf" if case.method in presets.PRESETS else ""

    def suffix(self, case: Case) -> str:
        return ".ovz"

    def quantize(self, case: Case, model: FloatModel, calibration: Calibration, out: Path) -> Mapping[str, str]:
        if (reason := self.missing()) is not None:
            raise NotInstalled(f"{case.id}: {reason}")
        if (reason := self.unsupported(case)) is not None:
            raise Unsupported(f"{case.id}: {reason}")
        if case.is_float:
            pack({ONNX: serialized(load(model.onnx), model.onnx)}, out)
            return {}
        if case.method in presets.PRESETS:
            if find_spec("nncf") is None:
                raise NotInstalled(f"{case.id}: {_INSTALL}")
            pack(presets.quantize(case.method, model.onnx, calibration.samples), out)
            notes = {"calibration": "own observers"}
        else:
            with scratch() as folder:
                made = folder / "quantized.onnx"
                notes = dict(OnnxRuntime().quantize(case, model, calibration, made))
                pack({ONNX: made.read_bytes()}, out)
        require_int8(case, self.census(out))
        return notes

    def load(self, artifact: Path, threads: int = 1) -> Predictor:
        self._require(artifact)
        found = opened(artifact)
        inside = found.predictor(threads)
        return apart(inside, predictor, artifact, threads) if found.loops else inside

    def signature(self, artifact: Path) -> Signature:
        self._require(artifact)
        return opened(artifact).signature

    def census(self, artifact: Path) -> Census:
        from ptq.backends.openvino.census import census

        self._require(artifact)
        return census(opened(artifact))

    def inspect(self, artifact: Path) -> Iterable[tuple[str, str, str]]:
        """(name, operation, element types of its inputs) of every operation the artifact has, in order."""
        self._require(artifact)
        return opened(artifact).rows()

    def _require(self, artifact: Path) -> None:
        if (reason := self.missing()) is not None:
            raise NotInstalled(f"{artifact}: {reason}")


BACKENDS = (OpenVino(),)
