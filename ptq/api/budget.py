"""within_budget: the best model of a size, layers of four bits mixed with layers of a byte a weight."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ptq.api.model_file import AnyPath
from ptq.api.quantized import Quantized, calibrated, written
from ptq.calibration.layers import layers
from ptq.cases import Case
from ptq.data.pictures import ImageOptions
from ptq.engine.registry import Registry
from ptq.engine.store import Store
from ptq.errors import PtqError
from ptq.models.onnx_file import load
from ptq.quantization.methods.mixed import mixed

_WHOLE, _LEAST = ("u8s8", "mse_gptq"), ("u8s4", "mse_gptq")
_SPARE = 64  # bytes that fields of other lengths may take


def within_budget(
    model: Path,
    calibration: Any,
    budget: float,
    out: AnyPath | None,
    *,
    images: ImageOptions | None = None,
    store: Store | None = None,
    registry: Registry | None = None,
) -> Quantized:
    """The onnxruntime model whose file takes at most `budget` of the bytes of the u8s8 one, by the method `mixed`.

    Raises `PtqError` of one line for a budget that even four bits in every layer do not meet.
    """
    store, registry = store or Store(), registry or Registry()
    pipeline = calibrated(model, calibration, images=images, store=store, registry=registry)
    whole, least = (
        pipeline.artifact(_case(pipeline.workload.name, dtype, method)).size for dtype, method in (_WHOLE, _LEAST)
    )
    most = int(budget * whole)
    if least > most:
        raise PtqError(
            f"{model.name}: a size budget of {budget:g} of {whole:,} bytes is {most:,}, but 4 bits in every layer take "
            f"{least:,}: allow {least / whole + 0.005:.2f} or more"
        )
    held = sum(layer.weights.size for layer in layers(load(pipeline.model.prepared)))
    share = min(1.0, 0.5 + max(0, most - least - _SPARE) / held)
    method = mixed(share, f"mixed_{round(1000 * share)}")
    wider = replace(registry, extra_methods=(*registry.extra_methods, method))
    case = _case(pipeline.workload.name, "u8s4", method.name)
    return written(calibrated(model, calibration, images=images, store=store, registry=wider), case, out)


def _case(name: str, dtype: str, method: str) -> Case:
    return Case(name, "onnxruntime", dtype, method, "channel")
