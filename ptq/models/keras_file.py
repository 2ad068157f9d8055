"""A Keras model's file (.h5, .hdf5, .keras), read so that it runs nothing and takes no more memory than it holds."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptq.errors import BadModel, one_line
from ptq.files import scratch

if TYPE_CHECKING:
    import h5py
    import keras

SUFFIXES = (".h5", ".hdf5", ".keras")
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
LARGEST_CONFIG = 64 << 20
FREE, RATIO = 64 << 20, 20
"""A file may unfold to `FREE` bytes, or to `RATIO` times its own size: weights are hard to compress."""
# What a config can name that is, or calls, code: Python functions, stored bytecode, functions by module path.
_CODE = frozenset({"Lambda", "__lambda__", "function", "TFOpLambda", "SlicingOpLambda"})
# What Keras 2 wrote for layers that never had the choice, and Keras 3 does not know.
_NO_GROUPS = (
    "DepthwiseConv1D DepthwiseConv2D Conv1DTranspose Conv2DTranspose Conv3DTranspose SeparableConv1D SeparableConv2D"
)
_OBSOLETE: dict[str, tuple[str, object]] = {
    **dict.fromkeys(_NO_GROUPS.split(), ("groups", 1)),
    **dict.fromkeys(("SimpleRNN", "GRU", "LSTM", "RNN"), ("time_major", False)),
}


def load_keras(source: Path) -> keras.Model:
    """The model, not compiled; `BadModel` unless `check_config` lets it pass and Keras can load it."""
    config = check_config(source)
    import keras

    with scratch() as folder:
        copy = folder / f"model{source.suffix}"
        try:
            loaded = _mended(source, config, copy) if _mend(config) else source
            return keras.models.load_model(loaded, compile=False, safe_mode=True)
        # Keras raises anything for a file it cannot use.
        except Exception as error:
            raise BadModel(f"{source}: Keras cannot load it ({one_line(error)})") from error


def check_config(source: Path) -> Any:
    """A model's own description; `BadModel` unless it names Keras's classes only, and no code.

    Read as JSON before Keras sees the file: safe mode has been bypassed before (CVE-2025-1550, CVE-2025-9906), and
    did not always cover .h5. The weights must be inside the file, and be about as large as it is: a few bytes can
    declare terabytes, or another file.
    """
    try:
        config = _config(source)
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile, RecursionError) as error:
        raise BadModel(
            f"{source}: not a whole Keras model ({one_line(error)}); it should be saved by model.save()"
        ) from error
    for part in _parts(config):
        name, module = part.get("class_name"), part.get("module")
        if isinstance(name, str) and name in _CODE:
            raise BadModel(
                f"{source}: has a {name}, which is code to run, but should have Keras's own layers only; not loaded"
            )
        if module is not None and str(module).split(".")[0] != "keras":
            raise BadModel(
                f"{source}: names {one_line(str(module), 60)}.{one_line(str(name), 60)}, "
                "but should name Keras's own classes only; not loaded"
            )
    return config


def _config(source: Path) -> Any:
    """The JSON that describes a model: an attribute of an .h5, a member of a .keras."""
    import h5py

    most = FREE + RATIO * source.stat().st_size
    if source.suffix != ".keras":
        with h5py.File(source, "r") as file:
            _check_weights(source, file, most)
            held = file.attrs.get_id("model_config")
            if held.shape != () or held.dtype.itemsize > LARGEST_CONFIG:
                raise ValueError("its model_config is no text")
            return json.loads(file.attrs["model_config"])
    with zipfile.ZipFile(source) as archive:
        if (size := sum(member.file_size for member in archive.infolist())) > most:
            raise BadModel(f"{source}: unfolds to {size:,} bytes, but should to at most {most:,}; not loaded")
        if archive.getinfo(CONFIG).file_size > LARGEST_CONFIG:
            raise ValueError(f"its {CONFIG} is larger than {LARGEST_CONFIG:,} bytes")
        if WEIGHTS in archive.namelist():
            with archive.open(WEIGHTS) as member, h5py.File(member, "r") as file:
                _check_weights(source, file, most)
        return json.loads(archive.read(CONFIG))


def _check_weights(source: Path, file: h5py.File, most: int) -> None:
    """Raise `BadModel` for weights that lie in another file, or declare more than `most` bytes."""
    import h5py

    total = 0

    def link(name: str, found: object) -> str | None:
        return None if isinstance(found, h5py.HardLink) else f"{one_line(name, 60)!r} is a link to elsewhere"

    def item(name: str, found: object) -> str | None:
        nonlocal total
        if not isinstance(found, h5py.Dataset):
            return None
        if found.external or found.is_virtual:
            return f"{one_line(name, 60)!r} lies in another file"
        total += found.nbytes
        return None if total <= most else f"declares {total:,} bytes of weights or more, but has {most:,} at most"

    # both stop at the first callback that returns something
    if said := file.visititems_links(link) or file.visititems(item):
        raise BadModel(f"{source}: {said}; it should hold its weights itself; not loaded")


def _mend(config: Any) -> bool:
    """Take what is obsolete out of a config; whether there was any."""
    found = False
    for part in _parts(config):
        name, given = part.get("class_name"), part.get("config")
        key, neutral = _OBSOLETE.get(name, ("", None)) if isinstance(name, str) else ("", None)
        if isinstance(given, dict) and key in given and given[key] == neutral:
            del given[key]
            found = True
    return found


def _mended(source: Path, config: Any, copy: Path) -> Path:
    """`copy`, which is `source` with another config."""
    if source.suffix != ".keras":
        import h5py

        shutil.copyfile(source, copy)
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = json.dumps(config).encode()
        return copy
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(copy, "w") as made:
        for name in archive.namelist():
            made.writestr(name, json.dumps(config) if name == CONFIG else archive.read(name))
    return copy


def _parts(config: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary in a config, at any depth."""
    queue = [config]
    while queue:
        part = queue.pop()
        if isinstance(part, dict):
            yield part
            queue.extend(part.values())
        elif isinstance(part, list):
            queue.extend(part)
