"""Static QDQ quantization: our ranges, handed to onnxruntime's quantize_static by its public door."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ptq.backends.onnxruntime.correct import Overrides
from ptq.errors import BadModel
from ptq.methods import Range
from ptq.models.onnx_file import load
from ptq.quantizer import Quantizer


@dataclass(frozen=True)
class Dtype:
    """The (activation, weight) element types behind a dtype's name, as onnxruntime's `QuantType` calls them."""

    activation: str
    weight: str

    @property
    def quantizer(self) -> Quantizer:
        """The quantizer of activations: asymmetric, as `quantize_static` makes them."""
        return Quantizer(bits=8, signed=self.activation == "QInt8", symmetric=False)

    @property
    def weight_quantizer(self) -> Quantizer:
        """The quantizer of weights: symmetric when signed, as `quantize_static` makes them."""
        signed = self.weight == "QInt8"
        return Quantizer(bits=8, signed=signed, symmetric=signed)


DTYPES: Mapping[str, Dtype] = {
    "int8": Dtype("QInt8", "QInt8"),
    "uint8": Dtype("QUInt8", "QUInt8"),
    "u8s8": Dtype("QUInt8", "QInt8"),
}


@dataclass(frozen=True)
class Plan:
    """How to quantize.

    Parameters
    ----------
    dtype: element types of activations and weights.
    ranges: (low, high) by tensor name of the prepared model, in the tensor's units.
    per_channel: whether every output channel of a weight has its own scale.
    exclude: names of nodes that stay in float.
    overrides: grids of weights that were chosen already, as ``TensorQuantOverrides`` has them.
    """

    dtype: Dtype
    ranges: Mapping[str, Range]
    per_channel: bool
    exclude: Sequence[str] = ()
    overrides: Overrides = field(default_factory=dict)


def quantize(prepared: Path, plan: Plan, out: Path) -> None:
    """Write `prepared` as a QDQ model to `out`; `BadModel` with onnxruntime's own words when it refuses."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData, save_tensors_data

    single = {name: (np.float32(low), np.float32(high)) for name, (low, high) in plan.ranges.items()}
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside onnxruntime's own code, not the caller's
        # quantize_static writes and removes a file beside the model: in a shared folder, another process's too
        own, cache = Path(folder) / "prepared.onnx", Path(folder) / "ranges.json"
        shutil.copyfile(prepared, own)
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, single), cache)
        try:
            quantize_static(
                str(own),
                str(out),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType[plan.dtype.activation],
                weight_type=QuantType[plan.dtype.weight],
                per_channel=plan.per_channel,
                nodes_to_exclude=list(plan.exclude),
                extra_options={"TensorQuantOverrides": {**_softmax(prepared, plan), **plan.overrides}},
                calibration_cache_path=cache,
            )
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BadModel(f"{prepared}: quantize_static refuses it ({reason})") from error


def _softmax(prepared: Path, plan: Plan) -> Overrides:
    """The grid of every Softmax's output: that of quantize_static, 0..1, with a scale one bit smaller.

    onnxruntime's integer Softmax multiplies with ``floor(1 / scale)``, which in float32 is 254 for 1/255: a certain
    answer would come out as 0.996.
    """
    from onnxruntime.quantization import QuantType

    zero = plan.dtype.quantizer.qmin
    grid = {
        "quant_type": QuantType[plan.dtype.activation],
        "scale": np.array(np.nextafter(np.float32(1 / 255), np.float32(0))),
        "zero_point": np.array(zero, np.int8 if plan.dtype.quantizer.signed else np.uint8),
    }
    graph = load(prepared).graph
    known = {each.name for each in (*graph.value_info, *graph.output)}
    return {
        node.output[0]: [grid]
        for node in graph.node
        if node.op_type == "Softmax" and node.output[0] in known and node.name not in plan.exclude
    }
