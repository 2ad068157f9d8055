"""TorchFile: what a .pt of this project holds. Tensors, strings and an ONNX graph without its weights; never code."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptq.backends.torch.plain import require_plain
from ptq.errors import BadModel, one_line
from ptq.files import write_bytes

if TYPE_CHECKING:
    import onnx
    import torch

FORMAT = "ptq-torch-2"
_SMALL = 16  # elements: below, a float initializer may be a setting (Clip, Resize) and stays in the graph
_GROWTH = 32  # float bytes a graph may ask for over those of its int8 state: a made-up shape asks for terabytes

Qparams = Mapping[str, tuple[float, int]]
"""(scale, zero_point) by name of the observer that a prepared graph has in that place."""


@dataclass(frozen=True, eq=False)
class TorchFile:
    """A model as a state and what is needed to rebuild the modules that take it.

    Parameters
    ----------
    kind: which backend's steps rebuild it: ``float``, ``fx`` or ``pt2e``.
    settings: what those steps need, as plain strings, e.g. ``{"granularity": "channel"}``.
    graph: the float model, serialized ONNX; its large weights are dropped on save, the state has them.
    state: a state_dict as torch gives it, with its versions; quantized weights as ``qint8`` or ``int8`` tensors.
    qparams: of activations.
    """

    kind: str
    settings: Mapping[str, str]
    graph: bytes
    state: Mapping[str, Any]
    qparams: Qparams = field(default_factory=dict)

    def save(self, out: Path) -> None:
        """Write it so that it loads with ``weights_only=True``; same contents, same bytes."""
        import torch

        content = {
            "format": FORMAT,
            "kind": self.kind,
            "settings": dict(self.settings),
            "graph": torch.from_numpy(np.frombuffer(_without_weights(self.graph), np.uint8).copy()),
            "state": self.state,
            "qparams": {name: [scale, point] for name, (scale, point) in sorted(self.qparams.items())},
        }
        # torch.save names the archive after the file when given a path: the bytes would depend on the name.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_bytes(out, buffer.getvalue())

    @classmethod
    def read(cls, path: Path, *kinds: str) -> TorchFile:
        """The file at `path`; nothing in it is run.

        Raises `BadModel` when it is absent, is not such a file, asks to run code, or is of none of `kinds`.
        """
        import torch

        try:
            if _packed(path):
                raise BadModel(f"{path}: is compressed, but a .pt of ptq is not; refused before it unfolds")
            with warnings.catch_warnings():
                # torch warns of its own way to read quantized tensors back; the report says so of quantizing.
                warnings.filterwarnings("ignore", message=".*deprecated", category=UserWarning)
                content = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise BadModel(f"{path}: no such file, but should be a .pt made by ptq") from error
        except BadModel:
            raise
        # torch raises UnpicklingError, RuntimeError, EOFError, ... for what it refuses or cannot read.
        except Exception as error:
            if "weights_only" in str(error) or "Unsupported" in str(error):
                raise BadModel(f"{path}: refused, holds more than tensors (torch.load weights_only=True)") from error
            raise BadModel(f"{path}: is not a whole .pt file ({one_line(error)})") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise BadModel(
                f"{path}: is not a .pt of format {FORMAT}; make the file anew (`ptq convert`, `ptq quantize`)"
            )
        if not isinstance(content.get("state"), dict):
            raise BadModel(f"{path}: its state is not a state_dict; make the file anew")
        try:
            file = cls(
                str(content["kind"]),
                {str(key): str(value) for key, value in content["settings"].items()},
                content["graph"].numpy().tobytes(),
                content["state"],
                {str(name): (float(scale), int(point)) for name, (scale, point) in content["qparams"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise BadModel(f"{path}: a part of the .pt is absent or wrong ({one_line(error)})") from error
        require_plain((*map(str, file.state), *file.qparams), str(path))
        if file.kind not in kinds:
            raise BadModel(
                f"{path}: holds a model of kind {one_line(repr(file.kind))}, but should be one of {', '.join(kinds)}"
            )
        return file

    def model(self, name: str) -> onnx.ModelProto:
        """The ONNX model, zeros where weights were dropped; `BadModel` names `name`."""
        import onnx

        try:
            model = onnx.ModelProto.FromString(self.graph)
        # Protobuf's errors share no base class.
        except Exception as error:
            raise BadModel(f"{name}: its graph is not ONNX ({one_line(error)})") from error
        dropped = [tensor for tensor in model.graph.initializer if _dropped(tensor)]
        asked, stored = 4 * sum(math.prod(tensor.dims) for tensor in dropped), _stored_bytes(self.state)
        if asked > _GROWTH * stored or any(size < 0 for tensor in dropped for size in tensor.dims):
            raise BadModel(f"{name}: its graph asks for {asked:,} bytes of weights, but its state has {stored:,}")
        for tensor in dropped:
            tensor.raw_data = bytes(4 * math.prod(tensor.dims))
        return model


def load_state(module: torch.nn.Module, state: Mapping[str, Any], name: str) -> None:
    """Load every tensor of a state into a module that has exactly those; `BadModel`, naming `name`, otherwise."""
    try:
        module.load_state_dict(state, strict=True)
    # Packed parameters raise AttributeError and TypeError of their own besides torch's RuntimeError.
    except Exception as error:
        raise BadModel(f"{name}: its state does not fit its graph ({one_line(error)})") from error


def _stored_bytes(state: Mapping[str, Any]) -> int:
    """Of every storage once: a tensor can claim a shape far beyond what it has."""
    import torch

    values = [part for value in state.values() for part in (value if isinstance(value, tuple | list) else (value,))]
    storages = [value.untyped_storage() for value in values if isinstance(value, torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _droppable(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_type == tensor.FLOAT) and math.prod(tensor.dims) > _SMALL


def _dropped(tensor: onnx.TensorProto) -> bool:
    return _droppable(tensor) and not (tensor.raw_data or tensor.float_data or tensor.external_data)


def _without_weights(graph: bytes) -> bytes:
    import onnx

    model = onnx.ModelProto.FromString(graph)
    for tensor in model.graph.initializer:
        if _droppable(tensor):
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    return bytes(model.SerializeToString(deterministic=True))


def _packed(path: Path) -> bool:
    """Whether an archive holds more bytes than it has."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist()) > path.stat().st_size
