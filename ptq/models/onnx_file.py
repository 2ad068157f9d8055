"""An ONNX file: read it without trusting it, know its signature and its digest."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptq.errors import BadModel
from ptq.store import file_digest


@dataclass(frozen=True)
class Signature:
    """The one input of a model: `shape` has None for every dimension that varies."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def batch(self) -> int | None:
        """The fixed batch size, None when it varies."""
        return self.shape[0] if self.shape else None


def load(path: Path) -> Any:
    """The `onnx.ModelProto` at `path`, external data included.

    Raises `BadModel` when the file is absent, is not ONNX, or points at data outside its own folder.
    """
    import onnx

    _external_files(path)
    try:
        return onnx.load(str(path))
    except Exception as error:
        raise BadModel(f"{path}: external data cannot be read ({_first_line(error)})") from error


def signature(path: Path) -> Signature:
    """The signature of the model's only input; `BadModel` when it has none or several, or no fixed rank."""
    import onnx

    graph = _graph(path).graph
    constants = {each.name for each in graph.initializer}
    inputs = [each for each in graph.input if each.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs) or "none"
        raise BadModel(f"{path}: {len(inputs)} inputs ({names}), but should have exactly 1")
    tensor = inputs[0].type.tensor_type
    if not tensor.HasField("shape"):
        raise BadModel(f"{path}: input {inputs[0].name!r} has no shape, but should have one; export it with shapes")
    shape = tuple(each.dim_value if each.dim_value > 0 else None for each in tensor.shape.dim)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return Signature(inputs[0].name, shape, dtype)


def digest(path: Path) -> str:
    """sha256 in hex over the file and, by name order, the external data it points at."""
    whole = hashlib.sha256(file_digest(path).encode())
    for each in _external_files(path):
        whole.update(each.name.encode() + file_digest(each).encode())
    return whole.hexdigest()


def write_whole(path: Path, out: Path) -> None:
    """Copy a model to `out` as one file, with the external data it points at inside; the same bytes where it has none.

    Raises `BadModel` as `load` does.
    """
    if not _external_files(path):
        shutil.copyfile(path, out)
        return
    import onnx

    onnx.save_model(load(path), str(out))


def _graph(path: Path) -> Any:
    import onnx

    try:
        return onnx.load(str(path), load_external_data=False)
    except FileNotFoundError as error:
        raise BadModel(f"{path}: no such file") from error
    except Exception as error:
        raise BadModel(f"{path}: not an ONNX model ({_first_line(error)})") from error


def _external_files(path: Path) -> list[Path]:
    folder = path.resolve().parent
    files = set()
    for tensor in _graph(path).graph.initializer:
        for entry in tensor.external_data:
            if entry.key != "location":
                continue
            file = (folder / entry.value).resolve()
            if not file.is_relative_to(folder):
                raise BadModel(f"{path}: external data {entry.value!r} lies outside the model's folder; refused")
            if not file.is_file():
                raise BadModel(f"{path}: external data {entry.value!r} is not there; keep it beside the model")
            files.add(file)
    return sorted(files)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
