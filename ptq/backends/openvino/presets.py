"""NNCF's quantization of an OpenVINO model, by its presets, with ranges and biases of its own.

It runs in a process of its own, see `ptq.models.tensorflow_process`: NNCF draws progress bars and logs on whatever is
there, asks for consent to send telemetry and sends it, and names constants after how many the process has made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptq.backends.batching import filled
from ptq.backends.openvino.file import IR, WEIGHTS, said
from ptq.data.batch import Array, as_batch
from ptq.data.samples import Samples
from ptq.errors import BadModel
from ptq.files import scratch
from ptq.models.onnx_file import load, serialized, signature
from ptq.models.tensorflow_process import answer, ask

_NO_FIX = "_no_overflow_fix"


@dataclass(frozen=True)
class Preset:
    """What `nncf.quantize` is asked for; `dtype` is what it makes, weights are always per channel."""

    preset: str
    dtype: str
    model_type: str | None = None
    overflow_fix: bool = True


_KINDS = {
    "performance": Preset("performance", "int8"),
    "mixed": Preset("mixed", "u8s8"),
    "transformer": Preset("mixed", "u8s8", "transformer"),
}
PRESETS = {
    f"{name}{'' if fix else _NO_FIX}": Preset(kind.preset, kind.dtype, kind.model_type, fix)
    for name, kind in _KINDS.items()
    for fix in (True, False)
}
"""By method. With NNCF's default `overflow_fix`, the first layer's weights have seven bits, so that no sum of 16 bits
can saturate on a CPU without VNNI; ``_no_overflow_fix`` gives it all eight."""


def quantize(method: str, model: Path, samples: Samples) -> dict[str, bytes]:
    """The members of an .ovz file: `model` quantized by a method of `PRESETS` with all `samples`.

    The batch dimension stays as it is. Raises `BadModel` with NNCF's own words when it refuses.
    """
    content = serialized(load(model), model)
    with scratch() as folder:
        (folder / "float.onnx").write_bytes(content)
        takes = signature(model)
        size, count = takes.batch or 1, 0
        for batch in map(as_batch, samples.batches(size)):
            batch = filled(batch, takes.batch or 0)
            for at, tensor in enumerate(takes.inputs):
                np.save(folder / f"{count:06}-{at}.npy", batch[tensor.name], allow_pickle=False)
            count += 1
        job = {"source": str(model), "folder": str(folder), "method": method, "count": count}
        ask("ptq.backends.openvino.presets", job)
        return {member: (folder / member).read_bytes() for member in (IR, WEIGHTS)}


def _inputs(job: dict[str, Any]) -> Iterator[dict[str, Array]]:
    folder = Path(job["folder"])
    names = [tensor.name for tensor in signature(folder / "float.onnx").inputs]
    for number in range(job["count"]):
        yield {name: np.load(folder / f"{number:06}-{at}.npy", allow_pickle=False) for at, name in enumerate(names)}


def _work(job: dict[str, Any]) -> dict[str, Any]:
    """Does in its own process what was asked; on one core, as sums of floats must not depend on the cores there are."""
    os.environ["NNCF_CI"] = "1"  # NNCF's own switch: no telemetry, whatever was consented to
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import nncf
    import openvino

    wanted, folder = PRESETS[job["method"]], Path(job["folder"])
    fix = {} if wanted.overflow_fix else {"overflow_fix": nncf.OverflowFix.DISABLE}
    try:
        model = openvino.Core().read_model(folder / "float.onnx")
        made = nncf.quantize(
            model,
            nncf.Dataset(list(_inputs(job))),
            preset=nncf.QuantizationPreset(wanted.preset),
            model_type=None if wanted.model_type is None else nncf.ModelType(wanted.model_type),
            target_device=nncf.TargetDevice.CPU,
            subset_size=job["count"],
            advanced_parameters=nncf.AdvancedQuantizationParameters(**fix),
        )
        openvino.save_model(made, folder / IR, compress_to_fp16=False)
    # NNCF and OpenVINO raise RuntimeError, ValueError, KeyError, classes of their own, ...
    except Exception as error:
        raise BadModel(f"{job['source']}: NNCF refuses it ({said(error)})") from error
    return {}


if __name__ == "__main__":
    answer(_work)
