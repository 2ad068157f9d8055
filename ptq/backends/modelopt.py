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
import tempfile
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from ptq.backends.protocol import Census, FloatModel, Predictor
from ptq.calibration.calibration import Calibration
from ptq.calibration.tensor_file import write_tensor
from ptq.cases import Case
from ptq.errors import BadModel
from ptq.models.onnx_file import signature

VARIABLE = "PTQ_MODELOPT_PYTHON"
METHODS = ("entropy", "max")
_HOURS = 4 * 3600
_ASK = """
import importlib.metadata as found, json
print(json.dumps({each: found.version(each) for each in ("nvidia-modelopt", "onnxruntime", "onnx", "numpy")}))
"""


class ModelOpt:
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
        theirs = {f"modelopt's {name}": each for name, each in _versions(_python()).items()}
        return {**theirs, "onnxruntime": version("onnxruntime")}

    def cases(self, workload: str) -> Iterable[Case]:
        for method in METHODS:
            yield Case(workload, self.name, "int8", method, "channel")

    def unsupported(self, case: Case) -> str | None:
        return None

    def suffix(self, case: Case) -> str:
        return ".onnx"

    def quantize(self, case: Case, model: FloatModel, calibration: Calibration, out: Path) -> Mapping[str, str]:
        """Hand the calibration tensor over as a file; `BadModel` with ModelOpt's last words when it fails."""
        with tempfile.TemporaryDirectory(prefix="ptq-modelopt-") as name:
            folder = Path(name)
            data, made = folder / "calibration.npz", folder / "quantized.onnx"
            write_tensor(data, calibration.samples, None, signature(model.onnx).name)
            command = [_python(), "-I", "-m", "modelopt.onnx.quantization"]
            command += ["--onnx_path", str(model.onnx.resolve()), "--output_path", str(made)]
            command += ["--quantize_mode", "int8", "--high_precision_dtype", "fp32", "--dq_only"]
            command += ["--calibration_method", case.method, "--calibration_data_path", str(data)]
            command += ["--calibration_eps", "cpu"]
            # It leaves intermediate models, under fixed names, in the folder for temporary files.
            environment = {**os.environ, "TMPDIR": name}
            try:
                done = subprocess.run(
                    command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_HOURS, check=False
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise BadModel(f"{case}: modelopt cannot be run ({error})") from error
            if done.returncode != 0 or not made.is_file():
                said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or ["nothing"]
                raise BadModel(f"{case}: modelopt ended with {done.returncode} and said: {said[-1].strip()}")
            out.write_bytes(made.read_bytes())
        return {"calibration": "own observers"}

    def load(self, artifact: Path, threads: int = 1) -> Predictor:
        from ptq.backends.onnxruntime import BACKEND as RUNTIME

        return RUNTIME.load(artifact, threads)

    def input_shape(self, artifact: Path) -> tuple[int | None, ...]:
        return signature(artifact).shape

    def inspect(self, artifact: Path) -> Iterable[tuple[str, str, str]]:
        from ptq.backends.onnxruntime import BACKEND as RUNTIME

        return RUNTIME.inspect(artifact)

    def census(self, artifact: Path) -> Census:
        from ptq.backends.onnxruntime import BACKEND as RUNTIME

        return RUNTIME.census(artifact)


def _python() -> str:
    return os.environ.get(VARIABLE) or sys.executable


@lru_cache
def _versions(python: str) -> dict[str, str]:
    done = subprocess.run([python, "-I", "-c", _ASK], capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


BACKEND = ModelOpt()
