"""Conversion of an ONNX model to PyTorch through onnx2torch, checked against ONNX Runtime."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ptq.errors import BadModel, NotInstalled

if TYPE_CHECKING:
    import onnx
    import torch

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """How far the PyTorch model is from the ONNX model on the same `n` random inputs in [`low`, `high`].

    `max_abs` is the largest absolute difference of two outputs, `largest` the largest absolute ONNX output.
    """

    max_abs: float
    largest: float
    n: int
    low: float
    high: float

    def check(self, name: str) -> None:
        """Raise `BadModel` when `max_abs` is above `TOLERANCE` of `largest`."""
        if not self.max_abs <= TOLERANCE * self.largest:
            raise BadModel(
                f"{name}: PyTorch and ONNX differ by {self.max_abs:.3g} on {self.n} inputs, but should differ by at "
                f"most {TOLERANCE * self.largest:.3g}; likely cause: an operation onnx2torch converts wrongly"
            )

    def __str__(self) -> str:
        return (
            f"max |torch - onnx| {self.max_abs:.3g} of {self.largest:.3g} "
            f"on {self.n} random inputs in [{self.low:g}, {self.high:g}]"
        )


def missing() -> str | None:
    """None when an ONNX model can be converted here, else one line that says what to install."""
    if all(importlib.util.find_spec(each) is not None for each in ("torch", "onnx2torch")):
        return None
    return "not installed: pip install 'ptq[torch]'"


def convert(source: Path, out: Path, low: float = 0, high: float = 255, n: int = 16, seed: int = 0) -> Parity:
    """Write the ONNX model `source` as PyTorch to `out`, a `TorchFile` that loads with ``weights_only=True``.

    Input layout and dtype stay. Nothing is written unless both models agree on `n` random inputs in [`low`, `high`]
    (`Parity.check`). Raises `NotInstalled` without torch or onnx2torch, `BadModel` when the file is not an ONNX model
    of one float input, or has an operation that cannot be converted.
    """
    import onnx

    from ptq.models.torch_file import TorchFile

    if (reason := missing()) is not None:
        raise NotInstalled(f"{source.name}: cannot be converted; {reason}")
    try:
        model = onnx.load(source)
    except FileNotFoundError as error:
        raise BadModel(f"{source}: no such file, but should be an ONNX model") from error
    # Protobuf raises anything for a file it cannot parse.
    except Exception as error:
        raise BadModel(f"{source}: is not an ONNX model ({first_line(error)})") from error
    module = graph_module(model, source.name)
    parity = _parity(model, module, source.name, low, high, n, seed)
    parity.check(source.name)
    TorchFile("float", {}, model.SerializeToString(), module.state_dict()).save(out)
    return parity


def graph_module(model: onnx.ModelProto, name: str, absorb_pads: bool = False) -> torch.fx.GraphModule:
    """The `torch.fx.GraphModule` of an ONNX model, in eval mode, every submodule with its ``onnx_mapping``.

    Exact rewrites make it fit for tracing: a Reshape whose target has one unknown dimension reads it from a constant
    instead of computing it from the batch; parameters are contiguous (a transposed view gave 158/932 behind torchao's
    lowering, silently). With `absorb_pads` a convolution takes in the asymmetric zero pad before it: its kernel
    grows, and no float operation stays between two integer convolutions.

    Raises `BadModel`, naming `name`, when onnx2torch cannot convert it.
    """
    import onnx
    import torch

    onnx2torch = _import_onnx2torch()
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        # onnx2torch edits the model it is given.
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        module = onnx2torch.convert(copy, attach_onnx_mapping=True).eval()
    # onnx2torch raises whatever its converters run into.
    except Exception as error:
        raise BadModel(f"{name}: cannot be converted to PyTorch ({first_line(error)})") from error
    _fix_reshapes(module, _shapes(inferred.graph))
    if absorb_pads:
        _absorb_pads(module)
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.contiguous()
        tensor.requires_grad_(False)
    # No dropout or batch statistics may come alive when a tool re-traces it.
    assert isinstance(module, torch.fx.GraphModule)
    return module


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its class when it has none; at most 200 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _parity(
    model: onnx.ModelProto, module: torch.fx.GraphModule, name: str, low: float, high: float, n: int, seed: int
) -> Parity:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # A spinning pool of one runtime slows the other's threads in the same process by up to 90x.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BadModel(f"{name}: ONNX Runtime cannot load it ({first_line(error)})") from error
    given = session.get_inputs()
    shape = given[0].shape
    if len(given) != 1 or given[0].type != "tensor(float)" or any(not isinstance(each, int) for each in shape[1:]):
        raise BadModel(f"{name}: inputs {[each.shape for each in given]}, but should be one of fixed size, float32")
    batch = shape[0] if isinstance(shape[0], int) else n
    inputs = np.random.default_rng(seed).uniform(low, high, (batch, *shape[1:])).astype(np.float32)
    want = np.asarray(session.run(None, {given[0].name: inputs})[0])
    with torch.no_grad():
        said = module(torch.from_numpy(inputs))
    have = (said[0] if isinstance(said, tuple | list) else said).numpy()
    return Parity(float(np.abs(have - want).max()), float(np.abs(want).max()), batch, low, high)


def _shapes(graph: onnx.GraphProto) -> dict[str, list[int | None]]:
    """The dimensions of every tensor that has a shape, None for one that varies."""
    return {
        each.name: [dim.dim_value if dim.dim_value > 0 else None for dim in each.type.tensor_type.shape.dim]
        for each in (*graph.input, *graph.value_info, *graph.output)
        if each.type.tensor_type.HasField("shape")
    }


def _fix_reshapes(module: torch.fx.GraphModule, shapes: dict[str, list[int | None]]) -> None:
    """Give every Reshape whose result has at most one unknown dimension a constant target."""
    import torch

    class Reshape(torch.nn.Module):  # type: ignore[misc]
        """A Reshape whose target is known; -1 stands for the one dimension that is not."""

        def __init__(self, shape: tuple[int, ...]) -> None:
            super().__init__()
            self.shape = shape

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values.reshape(self.shape)

    for node in list(module.graph.nodes):
        if node.op != "call_module":
            continue
        old = module.get_submodule(node.target)
        shape = shapes.get(old.onnx_mapping.outputs[0]) if type(old).__name__ == "OnnxReshape" else None
        if shape is None or shape.count(None) > 1:
            continue
        new = Reshape(tuple(-1 if each is None else each for each in shape))
        new.onnx_mapping = old.onnx_mapping
        _replace(module, node.target, new)
        node.args = node.args[:1]
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()


def _absorb_pads(module: torch.fx.GraphModule) -> None:
    """Replace each asymmetric zero pad + Conv2d by one Conv2d with a symmetric pad and a kernel grown by zeros.

    A pad of (a, b) rows, a < b, equals a pad of b on both sides and b - a zero rows before the kernel's first: the
    window starts b - a rows earlier and reads zeros there. Same products, same output size; no float pad remains
    between two integer convolutions. E.g. pad (0, 1, 0, 1) + 3x3 stride 2 = 4x4 stride 2 pad 1.
    """
    import torch
    from torch.nn.functional import pad

    for name, each in list(module.named_modules()):
        if not isinstance(each, torch.nn.Sequential) or len(each) != 2 or not hasattr(each[0], "pads"):
            continue
        before, conv = each
        if not isinstance(conv, torch.nn.Conv2d) or conv.dilation != (1, 1) or conv.padding != (0, 0):
            continue
        if getattr(before, "mode", "") != "constant" or before.constant_value != 0 or any(before.pads[4:]):
            continue
        left, right, top, bottom = before.pads[:4]
        if min(left, right, top, bottom) < 0:
            continue
        # torch's order: last dimension first.
        zeros = (max(right - left, 0), max(left - right, 0), max(bottom - top, 0), max(top - bottom, 0))
        kernel = pad(conv.weight.data, zeros)
        new = torch.nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            (kernel.shape[2], kernel.shape[3]),
            stride=conv.stride,
            padding=(max(top, bottom), max(left, right)),
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        new.weight.data = kernel
        if conv.bias is not None:
            new.bias.data = conv.bias.data
        new.onnx_mapping = each.onnx_mapping
        _replace(module, name, new.eval())


def _replace(module: torch.fx.GraphModule, name: str, new: torch.nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, new)


def _import_onnx2torch() -> Any:
    """onnx2torch, whatever the state of torchvision.

    onnx2torch imports torchvision for NonMaxSuppression and RoiAlign alone. A torchvision that is absent, or of another
    build than torch ("operator torchvision::nms does not exist"), must not take every other model with it.
    """
    if "onnx2torch" in sys.modules:
        return sys.modules["onnx2torch"]
    # What importing third parties may warn of is not the user's to mend.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _torchvision_or_stub():
            import onnx2torch
    return onnx2torch


@contextmanager
def _torchvision_or_stub() -> Iterator[None]:
    """The real torchvision, or when it cannot be imported a stand-in that is gone afterwards."""
    known = set(sys.modules)
    try:
        import torchvision.ops  # noqa: F401
    # A broken build raises RuntimeError, OSError, AttributeError, ... from torch's operator registry.
    except Exception:
        for name in set(sys.modules) - known:
            if name.partition(".")[0] == "torchvision":
                del sys.modules[name]
    else:
        yield
        return

    def absent(*_: object, **__: object) -> None:
        raise BadModel("the model has NonMaxSuppression or RoiAlign, which need a working torchvision of torch's build")

    package, operators = ModuleType("torchvision"), ModuleType("torchvision.ops")
    for name in ("nms", "roi_align", "box_convert"):
        setattr(operators, name, absent)
    package.ops = operators  # type: ignore[attr-defined]
    stand_ins = {"torchvision": package, "torchvision.ops": operators}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)
