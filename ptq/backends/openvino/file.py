"""An .ovz file: a model for OpenVINO as one file, a zip of what OpenVINO reads: model.onnx, or model.xml and model.bin.

OpenVINO's own form (IR) is two files, and its export of a compiled model is for one CPU and one version. Nothing is
compressed, so that a file takes no more memory than it has bytes, and nothing is unpacked: members have fixed names and
are read from memory. ``unzip`` gives the files back.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptq.backends.protocol import Predictor
from ptq.data.batch import Batch
from ptq.data.signature import Signature, Tensor
from ptq.errors import BadModel, one_line
from ptq.files import write_bytes
from ptq.models.graph import tensors
from ptq.models.onnx_file import load, serialized
from ptq.models.session import feed, shapes

ONNX, IR, WEIGHTS = "model.onnx", "model.xml", "model.bin"
_FORMS = ([ONNX], [WEIGHTS, IR])
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say: the same content gives the same bytes
_REPEATS = frozenset({"Loop", "TensorIterator", "If"})  # the last may hold one
_TYPES = {"f32": "float32", "f64": "float64", "f16": "float16", "boolean": "bool"}


def pack(members: Mapping[str, bytes], out: Path) -> None:
    """Write the `members`, by name, to `out`; the same members give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(members.items()):
            archive.writestr(zipfile.ZipInfo(name, date_time=_LONG_AGO), content)
    write_bytes(out, buffer.getvalue())


@dataclass(frozen=True, eq=False)
class Opened:
    """A file OpenVINO has accepted: its `model`, an ``openvino.Model``, and what that takes and returns."""

    path: Path
    model: Any
    signature: Signature

    def compiled(self, threads: int = 1) -> Any:
        """The model ready to run; `BadModel` when OpenVINO cannot compile it.

        In float32 whatever the CPU has: by itself OpenVINO computes the float parts in bfloat16 where there are
        instructions for it, so that the same float model would decide otherwise than on another CPU.
        """
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # else it may share a core with another process while one is idle
        }
        try:
            return openvino.Core().compile_model(self.model, "CPU", settings)
        except Exception as error:
            raise BadModel(f"{self.path}: OpenVINO cannot compile it ({said(error)})") from error

    def predictor(self, threads: int = 1) -> Predictor:
        """Inputs by name, in the batch they come in; outputs by name."""
        request = self.compiled(threads).create_infer_request()
        inputs, outputs = ([each.name for each in side] for side in (self.signature.inputs, self.signature.outputs))
        places = [inputs.index(name) for name in inputs]

        def predict(batch: Batch) -> Batch:
            given = feed(batch, inputs, self.path)
            try:
                answers = request.infer(dict(zip(places, given.values(), strict=True)), share_inputs=True)
                return dict(zip(outputs, answers.to_tuple(), strict=True))
            except Exception as error:
                raise BadModel(f"{self.path}: does not run with {shapes(given)} ({said(error)})") from error

        return predict

    @property
    def loops(self) -> bool:
        """Whether it may run for ever."""
        return any(node.get_type_name() in _REPEATS for node in self.model.get_ordered_ops())

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(name, operation, element types of its inputs) of every operation, in order."""
        for node in self.model.get_ordered_ops():
            kinds = ", ".join(each.get_element_type().to_string() for each in node.inputs())
            yield one_line(node.get_friendly_name(), 80) or "(no name)", node.get_type_name(), kinds


def predictor(artifact: Path, threads: int = 1) -> Predictor:
    """`Opened.predictor` of a file."""
    return opened(artifact).predictor(threads)


def opened(artifact: Path) -> Opened:
    """The model in an .ovz file, or an .onnx file as it is; `BadModel` when it is neither."""
    if not artifact.is_file():
        raise BadModel(f"{artifact}: no such file, but should be an .ovz or .onnx file")
    members = _members(artifact)
    import openvino

    try:
        if ONNX in members:
            _require_whole(artifact, members[ONNX])
            model = openvino.Core().read_model(members[ONNX])
        else:
            weights = np.frombuffer(members[WEIGHTS] or b"\0", np.uint8)
            model = openvino.Core().read_model(members[IR], openvino.Tensor(weights.copy()))
        for node in model.get_ordered_ops():
            node.get_friendly_name()  # raises for one that is not UTF-8
        signature = Signature(_tensors(artifact, model.inputs), _tensors(artifact, model.outputs))
    except BadModel:
        raise
    except Exception as error:
        raise BadModel(f"{artifact}: OpenVINO cannot read the model in it ({said(error)})") from error
    if not signature.inputs or not signature.outputs:
        have = f"{len(signature.inputs)} inputs and {len(signature.outputs)} outputs"
        raise BadModel(f"{artifact}: {have}, but should have at least 1 of each")
    return Opened(artifact, model, signature)


def said(error: Exception) -> str:
    """What OpenVINO said, without the places in its source that it says first."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from src/")]
    return one_line("; ".join(lines) or error)


def _members(artifact: Path) -> dict[str, bytes]:
    form = f"a zip of {ONNX}, or of {IR} and {WEIGHTS}, nothing compressed"
    if artifact.suffix == ".onnx":  # as any model is, with the external data it may have
        return {ONNX: serialized(load(artifact), artifact)}
    if artifact.suffix == ".xml":
        raise BadModel(f"{artifact}: is one of two files, but should be {form}: zip -0 model.ovz {IR} {WEIGHTS}")
    try:
        with zipfile.ZipFile(artifact) as archive:
            held = archive.infolist()
            names = sorted(each.filename for each in held)
            if names not in _FORMS:
                raise BadModel(f"{artifact}: holds {one_line(', '.join(names) or 'nothing', 80)}, but should be {form}")
            if any(each.compress_type != zipfile.ZIP_STORED or each.flag_bits & 1 for each in held):
                raise BadModel(f"{artifact}: is compressed or encrypted, but should be {form}: pack it with zip -0")
            if sum(each.file_size for each in held) > artifact.stat().st_size:
                raise BadModel(f"{artifact}: claims more bytes than it has, but should be {form}")
            return {name: archive.read(name) for name in names}
    # a file that was cut raises BadZipFile, EOFError, ValueError, NotImplementedError, struct.error, ...
    except BadModel:
        raise
    except Exception as error:
        raise BadModel(f"{artifact}: is not a whole .ovz file, {form} ({one_line(error)})") from error


def _require_whole(artifact: Path, content: bytes) -> None:
    """No tensor may be another file's bytes: OpenVINO would look for it in the current folder, or anywhere."""
    import onnx

    model = onnx.ModelProto.FromString(content)
    if any(each.data_location == onnx.TensorProto.EXTERNAL or each.external_data for each in tensors(model)):
        raise BadModel(f"{artifact}: weights of the model in it lie in another file; refused")


def _tensors(artifact: Path, ports: Any) -> tuple[Tensor, ...]:
    return tuple(_tensor(artifact, port) for port in ports)


def _tensor(artifact: Path, port: Any) -> Tensor:
    names = sorted(port.get_names())
    shape = port.get_partial_shape()
    if not names or shape.rank.is_dynamic:
        raise BadModel(f"{artifact}: an input or output has no name or no rank, but should have both")
    sizes = tuple(None if each.is_dynamic else int(each.get_length()) for each in shape)
    kind = port.get_element_type().to_string()
    width = kind.removeprefix("u").removeprefix("i")
    return Tensor(names[0], sizes, _TYPES.get(kind) or f"{'u' if kind[0] == 'u' else ''}int{width}")
