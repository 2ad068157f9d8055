"""explain: why a quantized model file loses what it loses: the first bad tensor, its cause and the remedy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ptq.api.model_file import AnyPath, ModelFile, converted, existing, name_of
from ptq.api.quantized import Quantized, inputs_of
from ptq.cases import Case
from ptq.data.pictures import ImageOptions
from ptq.diagnosis.explanation import Explanation
from ptq.diagnosis.gather import explain as explain_case
from ptq.engine.pipeline import Pipeline
from ptq.engine.registry import Registry
from ptq.engine.store import Store
from ptq.engine.workload import Artifact, Workload
from ptq.errors import Unsupported
from ptq.models.onnx_file import signature

_GIVEN = "given"


def explain(
    model: AnyPath,
    quantized: AnyPath,
    calibration: Any,
    data: Any = None,
    *,
    images: ImageOptions | None = None,
    store: Store | None = None,
    registry: Registry | None = None,
) -> Explanation:
    """Why a QDQ file loses what it loses beside its float model. No label is used.

    Parameters
    ----------
    model: the float model it was made from, as `quantize` takes it.
    quantized: a QDQ .onnx file, or what `quantize` returned.
    calibration: the samples it was calibrated on, as `quantize` takes them.
    data: samples to measure errors on, typical of what the model will see; None: the calibration samples, and then
        nothing is known of how the two differ.
    images: how images of a folder become inputs.
    store, registry: where what is made is kept, and the backends and methods there are.

    Raises a `PtqError` of one line for whatever is not as it should be.
    """
    store, registry = store or Store(), registry or Registry()
    path, made = existing(model), existing(quantized)
    if made.suffix != ".onnx":
        raise Unsupported(f"{made}: is no .onnx file, but only QDQ files are compared layer by layer")
    ModelFile.open(made, store, registry)  # says in one line what is no model
    takes = signature(converted(path, store, registry))
    held = inputs_of(calibration, takes, images, "train", "calibration")
    seen = held if data is None else inputs_of(data, takes, images, "test", "data")
    name = name_of(made)
    backend, dtype = "onnxruntime", quantized.case.dtype if isinstance(quantized, Quantized) else "u8s8"
    workload = Workload(name, path, held, seen, artifacts={_GIVEN: Artifact(backend, dtype, made)})
    found = explain_case(Pipeline(workload, store, registry), Case(name, backend, dtype, _GIVEN), data is not None)
    return replace(found, name=made.name)
