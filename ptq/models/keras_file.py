"""A Keras model's file (.h5, .keras), read so that it runs nothing of its own."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptq.errors import BadModel
from ptq.models.tensorflow_process import one_line

if TYPE_CHECKING:
    import keras

SUFFIXES = (".h5", ".hdf5", ".keras")
LARGEST_CONFIG = 64 << 20
# What a config can name that is, or calls, code: Python functions, stored bytecode, functions by module path.
_CODE = frozenset({"Lambda", "__lambda__", "function", "TFOpLambda", "SlicingOpLambda"})


def load_keras(source: Path) -> keras.Model:
    """The model, not compiled; `BadModel` unless `check_config` lets it pass and Keras can load it."""
    check_config(source)
    import keras

    try:
        return keras.models.load_model(source, compile=False, safe_mode=True)
    # Keras raises anything for a file it cannot use.
    except Exception as error:
        raise BadModel(f"{source}: Keras cannot load it ({one_line(error)})") from error


def check_config(source: Path) -> None:
    """Raise `BadModel` unless the model's own description names Keras's classes only, and no code.

    Read as JSON before Keras sees the file: safe mode has been bypassed before (CVE-2025-1550, CVE-2025-9906), and
    did not always cover .h5.
    """
    for part in _parts(_config(source)):
        name, module = part.get("class_name"), part.get("module")
        if name in _CODE:
            raise BadModel(
                f"{source}: has a {name}, which is code to run, but should have Keras's own layers only; not loaded"
            )
        if module is not None and str(module).split(".")[0] != "keras":
            raise BadModel(
                f"{source}: names {str(module)[:60]}.{str(name)[:60]}, "
                "but should name Keras's own classes only; not loaded"
            )


def _config(source: Path) -> Any:
    """The JSON that describes a model: an attribute of an .h5, a member of a .keras."""
    try:
        if source.suffix == ".keras":
            with zipfile.ZipFile(source) as archive, archive.open("config.json") as file:
                text: str | bytes = file.read(LARGEST_CONFIG)
        else:
            import h5py

            with h5py.File(source, "r") as file:
                text = file.attrs["model_config"]
        return json.loads(text)
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile, RecursionError) as error:
        raise BadModel(
            f"{source}: not a whole Keras model ({one_line(error)}); it should be saved by model.save()"
        ) from error


def _parts(config: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary in a config, at any depth."""
    queue = [config]
    while queue:
        each = queue.pop()
        if isinstance(each, dict):
            yield each
            queue.extend(each.values())
        elif isinstance(each, list):
            queue.extend(each)
