"""convert: a float model of another framework as ONNX, checked against that framework.

It runs in a process of its own, see `ptq.models.tensorflow_process`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ptq.errors import BadModel, NotInstalled, one_line
from ptq.files import scratch, write_bytes
from ptq.models import from_keras, from_saved_model, from_tflite, keras_file
from ptq.models.canonical import canonical
from ptq.models.from_saved_model import is_saved_model
from ptq.models.onnx_file import signature
from ptq.models.original import Original
from ptq.models.parity import Parity, random_inputs
from ptq.models.session import session
from ptq.models.tensorflow_process import answer, ask

FOLDER = "SavedModel"
READERS: Mapping[str, Callable[[Path], Original]] = {
    **dict.fromkeys(keras_file.SUFFIXES, from_keras.read),
    ".tflite": from_tflite.read,
    FOLDER: from_saved_model.read,
}
"""By suffix of the file, or `FOLDER`: what reads it and makes its ONNX form, in TensorFlow's process."""
SUFFIXES = tuple(kind for kind in READERS if kind != FOLDER)
LIBRARIES = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "numpy")
"""The distributions whose versions can change the ONNX form or its parity."""


def is_model(path: Path) -> bool:
    """Whether `to_onnx` takes what is at `path`: a file of `SUFFIXES` or a SavedModel folder."""
    return _kind(path) is not None


def missing() -> str | None:
    """None when a model can be converted here, else one line that says what to install."""
    absent = [name for name in ("tensorflow", "tf2onnx") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} not installed: pip install 'ptq[tf]'" if absent else None


def to_onnx(source: Path, out: Path) -> str:
    """Write `source` as ONNX to `out`; one line that says how near the two are on random inputs.

    Names, layout and dtypes of inputs stay as the framework has them; the batch dimension varies where it does there,
    and is called N. The same file, versions and platform give the same bytes, but for a model with loops or branches
    inside. Nothing is written unless the two models agree (`Parity.check`), and no code a file names is run.

    Raises `NotInstalled` without tensorflow or tf2onnx, `BadModel` when `source` is no such model or cannot be
    converted.
    """
    if not is_model(source):
        fact = f"suffix {source.suffix!r}" if source.exists() else "no such file"
        raise BadModel(f"{source}: {fact}, but should be {', '.join(SUFFIXES)} or a SavedModel folder")
    if (reason := missing()) is not None:
        raise NotInstalled(f"{source.name}: cannot be converted; {reason}")
    note: str = ask("ptq.models.convert", {"source": str(source.absolute()), "out": str(out.absolute())})["note"]
    return note


def _kind(path: Path) -> str | None:
    if path.is_file():
        return path.suffix if path.suffix in SUFFIXES else None
    return FOLDER if is_saved_model(path) else None


def _parity(source: Path, original: Original, content: bytes) -> Parity:
    with scratch() as folder:
        made = folder / "model.onnx"
        made.write_bytes(content)
        said = signature(made)
        running = session(made)
    inputs = random_inputs(said)
    names = [tensor.name for tensor in said.outputs]
    try:
        want, have = original.run(inputs), running.run(names, inputs)
    except Exception as error:
        raise BadModel(f"{source}: does not run on random inputs ({one_line(error)})") from error
    return Parity.of(have, [want[name] for name in names], 0, 255)


def _work(job: dict[str, Any]) -> dict[str, Any]:
    """Does in its own process what `to_onnx` was asked."""
    import onnx

    source = Path(job["source"])
    original = READERS[_kind(source) or FOLDER](source)
    content = canonical(original.onnx)
    try:
        onnx.checker.check_model(content, full_check=True)
    except Exception as error:
        raise BadModel(f"{source}: tf2onnx gave an invalid model ({one_line(error)})") from error
    parity = _parity(source, original, content)
    parity.check(source.name, "ONNX", original.form)
    write_bytes(Path(job["out"]), content)
    return {"note": "; ".join(part for part in (f"onnx and {original.form}: {parity}", original.note) if part)}


if __name__ == "__main__":
    answer(_work)
