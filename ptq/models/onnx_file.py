"""An ONNX file: read it without trusting it, know its signature and its digest."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, TypedDict

from ptq.data.signature import Signature, Tensor
from ptq.errors import BadModel, one_line
from ptq.files import write_bytes
from ptq.models.graph import tensors
from ptq.stamps import known_digest, remembered

_SHOWN = 80  # characters of a name that are shown


class _Outline(TypedDict):
    """What of a model is remembered: its inputs and outputs, each an ``onnx.ValueInfoProto`` in base64, and where
    tensors say that their external data lie."""

    inputs: list[str]
    outputs: list[str]
    locations: list[str]


def load(path: Path) -> Any:
    """The `onnx.ModelProto` at `path`, external data included.

    Raises `BadModel` when the file is absent, is not ONNX, or points at data outside its own folder.
    """
    import onnx

    check_external(path)
    try:
        return onnx.load(str(path))
    except Exception as error:
        raise BadModel(f"{path}: external data cannot be read ({one_line(error)})") from error


def signature(path: Path) -> Signature:
    """What the model takes and returns; `BadModel` when it takes or returns nothing, or a tensor without a shape."""
    outline = _outline(path)
    given, returned = (list(map(_value, outline[which])) for which in ("inputs", "outputs"))
    inputs = [_tensor(path, each, "input") for each in given]
    firsts = {_size(each.type.tensor_type.shape.dim[0]) for each, said in zip(given, inputs, strict=True) if said.shape}
    outputs = [_tensor(path, each, "output", firsts) for each in returned]
    if not inputs or not outputs:
        raise BadModel(f"{path}: {len(inputs)} inputs and {len(outputs)} outputs, but should have at least 1 of each")
    return Signature(tuple(inputs), tuple(outputs))


def files(path: Path) -> list[Path]:
    """The model's file, then every file of external data it reads, by name. Raises `BadModel` as `load` does."""
    return [path, *check_external(path)]


def digest(path: Path) -> str:
    """sha256 in hex over the file and, by name order, the external data it points at."""
    outside = check_external(path)
    whole = hashlib.sha256(known_digest(path).encode())
    for each in outside:
        whole.update(each.name.encode() + known_digest(each).encode())
    return whole.hexdigest()


def write_whole(path: Path, out: Path) -> None:
    """Copy a model to `out` as one file, with the external data it points at inside; the same bytes where it has none.

    Raises `BadModel` as `load` does.
    """
    write_bytes(out, serialized(load(path), path) if check_external(path) else path.read_bytes())


def serialized(model: Any, name: Path) -> bytes:
    """The bytes of an `onnx.ModelProto`; `BadModel`, which calls it `name`, when they are more than ONNX allows."""
    try:
        content: bytes = model.SerializeToString()
    except Exception as error:  # protobuf's own class, or a ValueError
        raise BadModel(f"{name}: too large for one file, ONNX allows 2 GB ({one_line(error)})") from error
    return content


@remembered("outline 1")
def _outline(path: Path) -> _Outline:
    model = _graph(path)
    constants = {each.name for each in model.graph.initializer}
    entries = (entry for tensor in tensors(model) for entry in tensor.external_data)
    inputs = [each for each in model.graph.input if each.name not in constants]
    return {
        "inputs": list(map(_text, inputs)),
        "outputs": list(map(_text, model.graph.output)),
        "locations": list(dict.fromkeys(entry.value for entry in entries if entry.key == "location")),
    }


def _text(value: Any) -> str:
    """An ``onnx.ValueInfoProto`` as base64."""
    return base64.b64encode(value.SerializeToString(deterministic=True)).decode()


def _value(text: str) -> Any:
    """An ``onnx.ValueInfoProto`` of base64."""
    import onnx

    return onnx.ValueInfoProto.FromString(base64.b64decode(text))


def _graph(path: Path) -> Any:
    import onnx

    if not path.is_file():  # opening a pipe would wait for somebody to write to it
        fact = "is a folder, a pipe or a device" if path.exists() else "no such file"
        raise BadModel(f"{path}: {fact}, but should be an ONNX model")
    try:
        model = onnx.load(str(path), load_external_data=False)
        if any(isinstance(text, bytes) for text in _texts(model)):
            raise ValueError("a name in it is not UTF-8")
    except Exception as error:
        raise BadModel(f"{path}: not an ONNX model ({one_line(error)})") from error
    return model


def _texts(message: Any) -> Iterator[str | bytes]:
    """Every name in a message; protobuf gives bytes for one that is not UTF-8, and raises when it is set again."""
    if message.DESCRIPTOR.name == "TensorProto":  # to list its fields would copy its weights
        yield message.name
        yield from (text for entry in message.external_data for text in (entry.key, entry.value))
        return
    for what, value in message.ListFields():
        if what.type == what.TYPE_MESSAGE:
            for inner in (value,) if hasattr(value, "ListFields") else value:
                yield from _texts(inner)
        elif what.type == what.TYPE_STRING:
            yield from (value,) if isinstance(value, str | bytes) else value


def _quoted(name: str) -> str:
    return repr(one_line(name, _SHOWN)) if name.strip() else "''"


def _size(dim: Any) -> int | str:
    """What a dimension is known by: its size, or its name; empty when it has neither."""
    return dim.dim_value if dim.dim_value > 0 else str(dim.dim_param)


def _samples_axis(dims: list[int | str], firsts: Set[int | str]) -> int:
    """Where the one dimension lies that every input has first; 0 where that is not plain."""
    (first,) = firsts if len(firsts) == 1 else ("",)
    return dims.index(first) if first and dims.count(first) == 1 else 0


def _tensor(path: Path, value: Any, kind: str, firsts: Set[int | str] = frozenset()) -> Tensor:
    import onnx

    tensor = value.type.tensor_type
    name = _quoted(value.name)
    if not value.type.HasField("tensor_type") or (kind == "input" and not tensor.HasField("shape")):
        raise BadModel(f"{path}: {kind} {name} is no tensor with a shape; export the model with shapes")
    shape = tuple(each.dim_value if each.dim_value > 0 else None for each in tensor.shape.dim)
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except (KeyError, ValueError, TypeError) as error:
        raise BadModel(f"{path}: {kind} {name} has the unknown element type {tensor.elem_type}") from error
    return Tensor(value.name, shape, dtype, _samples_axis(list(map(_size, tensor.shape.dim)), firsts))


def check_external(path: Path) -> list[Path]:
    """The files of external data that any tensor of the model lies in, by name, without reading them.

    Raises `BadModel` when the model is none, or such a file is absent or outside the model's own folder.
    """
    locations = _outline(path)["locations"]
    if not locations:
        return []
    folder, found = path.resolve().parent, set()
    for location in locations:
        said = f"{path}: external data {_quoted(location)}"
        try:
            file = (folder / location).resolve()
            if not file.is_relative_to(folder):
                raise BadModel(f"{said} lies outside the model's folder; refused")
            there = file.is_file()
        except (OSError, ValueError) as error:  # a name of 1 MB, a NUL
            raise BadModel(f"{said} is no name of a file ({one_line(error, _SHOWN)})") from error
        if not there:
            raise BadModel(f"{said} is not there; keep it beside the model")
        found.add(file)
    return sorted(found)
