"""NVIDIA ModelOpt: explicit int8 QDQ for TensorRT, made by its own command in its own interpreter, run here.

ModelOpt's declared dependencies replace onnxruntime with onnxruntime-gpu, so it can hardly live in one environment
with the other backends. It is asked for with the variable ``PTQ_MODELOPT_PYTHON`` (``--ptq-modelopt-python``), the
interpreter of an environment that has it, or found when it can be imported right here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from ptq.backends.onnxruntime import OnnxRuntime
from ptq.backends.protocol import FloatModel
from ptq.cases import Case
from ptq.data.tensor_file import write_tensors
from ptq.errors import BadModel, one_line
from ptq.files import scratch, write_bytes
from ptq.models.onnx_file import signature
from ptq.quantization.calibration import Calibration
from ptq.quantization.method import Method

VARIABLE = "PTQ_MODELOPT_PYTHON"
METHODS = ("entropy", "max")
_HOURS = 4 * 3600
_ASK = """
import importlib.metadata as found, json
print(json.dumps({name: found.version(name) for name in ("nvidia-modelopt", "onnxruntime", "onnx", "numpy")}))
"""


class ModelOpt(OnnxRuntime):
    """``python -m modelopt.onnx.quantization``: int8 weights per channel, symmetric activations, its own calibration.

    Source: NVIDIA TensorRT Model Optimizer, ONNX PTQ. The artifact is run by ONNX Runtime on the CPU.
    """

    name = "modelopt"

    def missing(self) -> str | None:
        configured = os.environ.get(VARIABLE)
        if not configured:
            if importlib.util.find_spec("modelopt") is not None:
                return None
            return (
                f"not installed: name an interpreter that has nvidia-modelopt with --ptq-modelopt-python or {VARIABLE}"
            )
        try:
            _versions(configured)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            return f"not installed: {VARIABLE}={configured} has no nvidia-modelopt ({type(error).__name__})"
        return None

    def versions(self) -> Mapping[str, str]:
        theirs = {f"modelopt's {name}": found for name, found in _versions(_python()).items()}
        return {**theirs, "onnxruntime": version("onnxruntime")}

    def cases(self, workload: str, methods: Mapping[str, Method]) -> Iterable[Case]:
        """Its own methods: it calibrates itself."""
        for method in METHODS:
            yield Case(workload, self.name, "int8", method, "channel")

    def unsupported(self, case: Case) -> str | None:
        if (case.dtype, case.granularity) != ("int8", "channel") or case.method not in METHODS:
            return f"modelopt makes int8 per channel with its own methods alone: {', '.join(METHODS)}"
        return None

    def quantize(self, case: Case, model: FloatModel, calibration: Calibration, out: Path) -> Mapping[str, str]:
        """Hand the calibration inputs over as a file; `BadModel` with ModelOpt's last words when it fails."""
        with scratch() as folder:
            data, made = folder / "calibration.npz", folder / "quantized.onnx"
            write_tensors(data, calibration.samples, {tensor.name: None for tensor in signature(model.onnx).inputs})
            command = [_python(), "-I", "-m", "modelopt.onnx.quantization"]
            command += ["--onnx_path", str(model.onnx.resolve()), "--output_path", str(made)]
            command += ["--quantize_mode", "int8", "--high_precision_dtype", "fp32", "--dq_only"]
            command += ["--calibration_method", case.method, "--calibration_data_path", str(data)]
            command += ["--calibration_eps", "cpu"]
            # It leaves intermediate models, under fixed names, in the folder for temporary files.
            environment = {**os.environ, "TMPDIR": str(folder)}
            try:
                done = subprocess.run(
                    command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_HOURS, check=False
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise BadModel(f"{case}: modelopt cannot be run ({one_line(error)})") from error
            if done.returncode != 0 or not made.is_file():
                said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or ["nothing"]
                raise BadModel(f"{case}: modelopt ended with {done.returncode} and said: {one_line(said[-1])}")
            write_bytes(out, made.read_bytes())
        return {"calibration": "own observers"}


def _python() -> str:
    return os.environ.get(VARIABLE) or sys.executable


@lru_cache
def _versions(python: str) -> dict[str, str]:
    done = subprocess.run([python, "-I", "-c", _ASK], capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


BACKENDS = (ModelOpt(),)
