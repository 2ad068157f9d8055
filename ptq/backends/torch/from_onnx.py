"""Conversion of an ONNX model to PyTorch through onnx2torch, checked against ONNX Runtime."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ptq.backends.torch.plain import Node, plain, require_plain
from ptq.backends.torch.runtime import missing, predictor
from ptq.data.signature import Signature
from ptq.errors import BadModel, NotInstalled, PtqError, one_line
from ptq.models.onnx_file import load
from ptq.models.parity import Parity, random_inputs
from ptq.models.session import session

if TYPE_CHECKING:
    import onnx
    import torch

_TYPES_ALONE = 18
"""The opset after which operators that were there changed in their types, but for a few."""

_CHANGED = frozenset({"DFT", "GridSample", "GroupNormalization"})
"""Operators that mean something else since, with the same attributes."""


@dataclass(frozen=True, eq=False)
class TorchGraph:
    """An ONNX model as a `torch.fx.GraphModule`, and what its parts are in the file.

    The module takes arrays in the order of `signature.inputs` and returns the outputs in theirs. `nodes` is by path of
    the submodule made of each ONNX node, `outputs` by the same path: the file's name of the first tensor it makes.
    """

    module: torch.fx.GraphModule
    signature: Signature
    nodes: Mapping[str, Node]
    outputs: Mapping[str, str]


def convert(source: Path, out: Path, low: float = 0, high: float = 255, n: int = 16, seed: int = 0) -> Parity:
    """Write the ONNX model `source` as PyTorch to `out`, a `TorchFile` that loads with ``weights_only=True``.

    Names, layouts and dtypes of inputs and outputs stay. Nothing is written unless both models agree on `n` random
    inputs, floats in [`low`, `high`] (`Parity.check`). Raises `NotInstalled` without torch or onnx2torch, `BadModel`
    when the file is not an ONNX model, or has an operation that cannot be converted.
    """
    from ptq.backends.torch.file import TorchFile

    if (reason := missing()) is not None:
        raise NotInstalled(f"{source.name}: cannot be converted; {reason}")
    model = load(source)
    graph = graph_module(model, source.name)
    inputs = random_inputs(graph.signature, low, high, n, seed)
    try:
        want = session(source).run(None, inputs)
    except PtqError:
        raise
    except Exception as error:
        raise BadModel(f"{source.name}: ONNX Runtime cannot run random inputs ({one_line(error)})") from error
    have = predictor(graph.module, graph.signature, None, 1, source.name)(inputs)
    parity = Parity.of(list(have.values()), want, low, high)
    parity.check(source.name, "PyTorch", "ONNX")
    TorchFile("float", {}, model.SerializeToString(), graph.module.state_dict()).save(out)
    return parity


def graph_module(model: onnx.ModelProto, name: str, absorb_pads: bool = False) -> TorchGraph:
    """An ONNX model as torch modules, in eval mode. The one door by which a graph becomes code: see `plain`.

    Exact rewrites make it fit for tracing: a Reshape whose target has one unknown dimension reads it from a constant
    instead of computing it from the batch; parameters are contiguous (a transposed view gave 158/932 behind torchao's
    lowering, silently). With `absorb_pads` a convolution takes in the asymmetric zero pad before it: its kernel
    grows, and no float operation stays between two integer convolutions.

    Raises `BadModel`, naming `name`, when onnx2torch cannot convert it, or a name in it would be code.
    """
    import onnx

    with warnings.catch_warnings():
        # What importing third parties may warn of is not the user's to mend.
        warnings.simplefilter("ignore")
        import onnx2torch

    try:
        graph = plain(_decomposed(_at_known_opset(_without_space_to_depth(model))), name)
        inferred = onnx.shape_inference.infer_shapes(graph.model, data_prop=True)
        module = onnx2torch.convert(graph.model, attach_onnx_mapping=True).eval()
    except PtqError:
        raise
    # onnx2torch raises whatever its converters run into.
    except Exception as error:
        raise BadModel(f"{name}: cannot be converted to PyTorch ({one_line(error)})") from error
    require_plain((str(node.target) for node in module.graph.nodes if node.op in ("call_module", "get_attr")), name)
    _fix_reshapes(module, _shapes(inferred.graph))
    if absorb_pads:
        _absorb_pads(module)
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.contiguous()
        tensor.requires_grad_(False)
    outputs = {
        str(node.target): graph.tensors.get(module.get_submodule(node.target).onnx_mapping.outputs[0], "")
        for node in module.graph.nodes
        if node.op == "call_module"
    }
    return TorchGraph(module, graph.signature, graph.nodes, outputs)


def _without_space_to_depth(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every SpaceToDepth of an image of known size as Reshape, Transpose, Reshape.

    onnxruntime's optimizations make one of the slices that detectors begin with; onnx2torch does not know it.
    """
    import onnx

    if all(node.op_type != "SpaceToDepth" for node in model.graph.node):
        return model
    shapes = _shapes(onnx.shape_inference.infer_shapes(model).graph)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    nodes, made = list(changed.graph.node), changed.graph
    del made.node[:]
    for node in nodes:
        image = shapes.get(node.input[0] if node.input else "", [])[1:]
        if node.op_type != "SpaceToDepth" or len(image) != 3 or None in image:
            made.node.append(node)
            continue
        channels, height, width = (int(size or 0) for size in image)
        block, name = int(node.attribute[0].i), node.output[0]
        rows, columns = height // block, width // block
        apart, whole = [-1, channels, rows, block, columns, block], [-1, channels * block**2, rows, columns]
        for end, target in (("apart", apart), ("whole", whole)):
            made.initializer.append(
                onnx.helper.make_tensor(f"{name}_{end}", onnx.TensorProto.INT64, [len(target)], target)
            )
        steps = [node.input[0], f"{name}_split", f"{name}_turned", name]
        made.node.append(onnx.helper.make_node("Reshape", [steps[0], f"{name}_apart"], [steps[1]]))
        made.node.append(onnx.helper.make_node("Transpose", [steps[1]], [steps[2]], perm=[0, 3, 5, 1, 2, 4]))
        made.node.append(onnx.helper.make_node("Reshape", [steps[2], f"{name}_whole"], [steps[3]], name=node.name))
    return changed


def _at_known_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at opset 17, the last that onnx2torch knows well, where every node can be said there.

    Opsets after 18 gave most operators types alone, which float models do not use; operators that are new are replaced
    by what ONNX defines them as. A model with any other node stays as it is. onnx's own converter goes from 18 to 17.
    """
    import onnx.inliner
    import onnx.version_converter

    if all(each.domain or each.version <= _TYPES_ALONE - 1 for each in model.opset_import):
        return model

    def known(node: onnx.NodeProto) -> bool:
        try:
            schema = onnx.defs.get_schema(node.op_type, _TYPES_ALONE, node.domain)
        except onnx.defs.SchemaError:
            return bool(node.domain)
        return node.op_type not in _CHANGED and {each.name for each in node.attribute} <= set(schema.attributes)

    chosen = [("", operator) for operator in sorted({node.op_type for node in model.graph.node if not known(node)})]
    made = onnx.inliner.inline_selected_functions(model, chosen, exclude=False, inline_schema_functions=True)
    if not all(known(node) for node in made.graph.node):
        return model
    for each in made.opset_import:
        if not each.domain:
            each.version = _TYPES_ALONE
    try:
        return onnx.version_converter.convert_version(made, _TYPES_ALONE - 1)
    except RuntimeError:  # an operator that is new in 18
        return made


def _decomposed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with those operators onnx2torch lacks replaced by what ONNX defines them as, where it does."""
    import onnx.inliner
    from onnx2torch.node_converters import get_converter

    versions = {each.domain: each.version for each in model.opset_import}

    def lacks(operator: str) -> bool:
        try:
            get_converter(operator, versions.get("", 1))
        except NotImplementedError:
            return True
        return False

    lacking = sorted(each for each in {node.op_type for node in model.graph.node if not node.domain} if lacks(each))
    if not lacking:
        return model
    chosen = [("", operator) for operator in lacking]
    return onnx.inliner.inline_selected_functions(model, chosen, exclude=False, inline_schema_functions=True)


def _shapes(graph: onnx.GraphProto) -> dict[str, list[int | None]]:
    """The dimensions of every tensor that has a shape, None for one that varies."""
    return {
        value.name: [dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
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
        # onnx2torch's Flatten fails where the axis is the rank.
        fixable = type(old).__name__ in ("OnnxReshape", "OnnxFlatten")
        shape = shapes.get(old.onnx_mapping.outputs[0]) if fixable else None
        if shape is None or shape.count(None) > 1:
            continue
        new = Reshape(tuple(-1 if size is None else size for size in shape))
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

    for name, pair in list(module.named_modules()):
        if not isinstance(pair, torch.nn.Sequential) or len(pair) != 2 or not hasattr(pair[0], "pads"):
            continue
        before, conv = pair
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
        new.onnx_mapping = pair.onnx_mapping
        _replace(module, name, new.eval())


def _replace(module: torch.fx.GraphModule, name: str, new: torch.nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, new)
