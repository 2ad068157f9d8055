"""PlainGraph: an ONNX graph in which every name is ours.

onnx2torch takes node names for module names, and torch.fx pastes module names into the Python it generates, without
escaping: a name in a file would run as code. So a graph is written anew before it becomes a module: what is not copied
here does not reach torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from ptq.data.signature import Signature, Tensor
from ptq.errors import BadModel, one_line

if TYPE_CHECKING:
    import onnx

OURS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*", re.ASCII)
_SHOWN = 80  # characters of a name that are shown
OWN_DOMAINS = ("", "ai.onnx")
# What of an attribute is copied; the rest is graphs and references.
_PLAIN = {"name", "type", "i", "f", "s", "t", "ints", "floats", "strings", "tensors"}


@dataclass(frozen=True)
class Node:
    """What a node is in the file: its name as printable text, cut to a sane length, and ONNX's operator."""

    name: str
    op_type: str


@dataclass(frozen=True)
class PlainGraph:
    """`model` has the names ``n0, n1, ...`` and ``t0, t1, ...``, the same for the same graph.

    `nodes` says what each node is in the file, `tensors` has the file's name of each tensor, whole. `signature` is that
    of the file, in its own names. Every output is that of a node which has no other.
    """

    model: onnx.ModelProto
    signature: Signature
    nodes: Mapping[str, Node]
    tensors: Mapping[str, str]


def plain(model: onnx.ModelProto, name: str) -> PlainGraph:
    """The plain form of a model.

    Raises `BadModel`, naming `name`, for what torch cannot be given: an operator of another domain than ONNX's or whose
    name is no identifier, a node with a graph of its own (If, Loop, Scan), weights outside the file, a tensor nobody
    makes or two make, an input or output that is no tensor.
    """
    import onnx

    versions = [each.version for each in model.opset_import if each.domain in OWN_DOMAINS]
    if not versions:
        raise BadModel(f"{name}: no version of ONNX's own operators, but should have one (opset_import)")
    result = onnx.ModelProto(ir_version=model.ir_version)
    result.opset_import.add(version=versions[0])
    writer = _Writer(name, result.graph)
    result.graph.name = "g"
    signature = writer.write(model.graph)
    if (stranger := next(strangers(result), None)) is not None:
        raise BadModel(f"{name}: {_quoted(stranger)} would become code in torch; refused")
    return PlainGraph(result, signature, writer.nodes, {ours: theirs for theirs, ours in writer.tensors.items()})


def strangers(message: Any) -> Iterator[str]:
    """Every string in a protobuf message that is not made of the characters of an identifier. Bytes are data."""
    for what, value in message.ListFields():
        if what.type == what.TYPE_STRING:
            texts = (value,) if isinstance(value, str) else value
            yield from (text for text in texts if text and not OURS.fullmatch(text))
        elif what.type == what.TYPE_MESSAGE:
            for inner in (value,) if hasattr(value, "ListFields") else value:
                yield from strangers(inner)


def require_plain(names: Iterable[str], name: str) -> None:
    """Raise `BadModel`, naming `name`, unless every one of `names` is a dotted path of identifiers of sane length.

    Asked of every name that reaches or leaves a graph of torch: the second lock, should a name ever pass the first.
    """
    for each in names:
        if len(each) > 500 or not _PATH.fullmatch(each):
            raise BadModel(f"{name}: {_quoted(each)} is no name ptq gave; refused: torch would run it as code")


@dataclass
class _Writer:
    """Copies a graph to `graph`, field by field."""

    source: str
    graph: onnx.GraphProto
    nodes: dict[str, Node] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)  # the file's name -> ours
    dims: dict[str, str] = field(default_factory=dict)
    alone: set[str] = field(default_factory=set)  # tensors that are the only output of their node

    def refuse(self, fact: str) -> NoReturn:
        raise BadModel(f"{self.source}: {fact}")

    def write(self, given: onnx.GraphProto) -> Signature:
        constants = {tensor.name for tensor in given.initializer}
        inputs = [value for value in given.input if value.name not in constants]
        if not inputs or not given.output:
            self.refuse(f"{len(inputs)} inputs and {len(given.output)} outputs, but should have at least 1 of each")
        if unknown := [value.name for value in inputs if not value.type.tensor_type.HasField("shape")]:
            self.refuse(f"the input {_quoted(unknown[0])} is no tensor with a shape; export the model with shapes")
        entries = tuple(self.value(self.graph.input.add(), value, self.made(value.name)) for value in inputs)
        for tensor in given.initializer:
            self.constant(self.graph.initializer.add(), tensor, self.made(tensor.name))
        for node in given.node:
            self.node(node)
        for value in given.value_info:
            if value.name in self.tensors and value.type.tensor_type.elem_type:
                self.value(self.graph.value_info.add(), value, self.tensors[value.name])
        return Signature(entries, tuple(self.output(value) for value in given.output))

    def made(self, name: str) -> str:
        if name in self.tensors or not name:
            self.refuse(f"the tensor {_quoted(name)} is made twice or has no name, but should be made once")
        return self.tensors.setdefault(name, f"t{len(self.tensors)}")

    def read(self, name: str) -> str:
        if name and name not in self.tensors:
            self.refuse(f"the tensor {_quoted(name)} is read before anything makes it")
        return self.tensors[name] if name else ""

    def node(self, node: onnx.NodeProto) -> None:
        if node.domain not in OWN_DOMAINS or not OURS.fullmatch(node.op_type):
            self.refuse(
                f"operator {_quoted(node.op_type)} of the domain {_quoted(node.domain)}, but torch is given ONNX's own "
                "operators only"
            )
        copy = self.add(node.op_type, node.name)
        read = [self.read(name) for name in node.input]
        while read and not read[-1]:  # an input left out at the end: onnx2torch would look for it
            read.pop()
        copy.input.extend(read)
        copy.output.extend(self.made(name) if name else "" for name in node.output)
        if len(node.output) == 1:
            self.alone.add(node.output[0])
        for attribute in node.attribute:
            self.attribute(copy.attribute.add(), attribute, node.op_type)

    def add(self, op_type: str, name: str) -> onnx.NodeProto:
        ours = f"n{len(self.nodes)}"
        shown = one_line(name, _SHOWN) if name.strip() else ""
        self.nodes[ours] = Node(shown or f"({op_type} without a name)", op_type)
        return self.graph.node.add(name=ours, op_type=op_type)

    def attribute(self, copy: onnx.AttributeProto, given: onnx.AttributeProto, op_type: str) -> None:
        kinds = {what.name for what, _ in given.ListFields()} - {"doc_string"}
        if not kinds <= _PLAIN or not OURS.fullmatch(given.name):
            kind = min(kinds - _PLAIN, default="name")
            self.refuse(
                f"operator {op_type} has the attribute {_quoted(given.name)} ({kind}), which torch is not given"
            )
        copy.CopyFrom(given)
        for other in ("doc_string", "t", "tensors"):
            copy.ClearField(other)
        if given.HasField("t"):
            self.constant(copy.t, given.t, "")
        for tensor in given.tensors:
            self.constant(copy.tensors.add(), tensor, "")

    def constant(self, copy: onnx.TensorProto, given: onnx.TensorProto, ours: str) -> None:
        if given.external_data or given.data_location == given.EXTERNAL:
            self.refuse(f"the weights of {_quoted(given.name)} lie in another file; refused")
        copy.CopyFrom(given)
        for other in ("doc_string", "metadata_props"):
            copy.ClearField(other)
        copy.name = ours

    def output(self, value: onnx.ValueInfoProto) -> Tensor:
        """onnx2torch returns nodes, not tensors: what is not alone in its node gets one of its own."""
        ours = self.read(value.name)
        if value.name in self.alone:
            self.alone.remove(value.name)
        else:
            copy, made = self.add("Identity", value.name), f"o{len(self.graph.output)}"
            copy.input.append(ours)
            copy.output.append(made)
            ours = made
        return self.value(self.graph.output.add(), value, ours)

    def value(self, copy: onnx.ValueInfoProto, given: onnx.ValueInfoProto, ours: str) -> Tensor:
        import onnx

        tensor = given.type.tensor_type
        try:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        except (KeyError, ValueError, TypeError):
            self.refuse(f"{_quoted(given.name)} is no tensor of a known type (element type {tensor.elem_type})")
        copy.name = ours
        copy.type.tensor_type.elem_type = tensor.elem_type
        if tensor.HasField("shape"):
            copy.type.tensor_type.shape.SetInParent()
        for dim in tensor.shape.dim:
            new = copy.type.tensor_type.shape.dim.add()
            if dim.dim_value > 0:
                new.dim_value = dim.dim_value
            elif dim.dim_param:
                new.dim_param = self.dims.setdefault(dim.dim_param, f"d{len(self.dims)}")
        return Tensor(
            given.name, tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim), dtype
        )


def _quoted(name: str) -> str:
    return repr(one_line(name, 60)) if name.strip() else "''"
