"""Inputs: what a user names or hands over as a model's inputs, as samples."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ptq.data import cifar10
from ptq.data.array_files import read_array, read_arrays
from ptq.data.batch import UNNAMED, Array, fitted
from ptq.data.image_files import SUFFIXES, entries
from ptq.data.images import Split
from ptq.data.pictures import ImageOptions, class_folders, pictures
from ptq.data.samples import ArraySamples, Samples, first_batch
from ptq.data.sampling import PER_CLASS, SEED, calibration_samples, evaluation_samples
from ptq.data.signature import Signature
from ptq.data.stream import Again, StreamSamples, array_of, is_sample, parted, truth_of
from ptq.errors import BadData, NoData, PtqError, one_line

KINDS = "an .npy or .npz file, a folder of .npz files or of images, or file.py:function"


def read_inputs(
    spec: str | Path, options: ImageOptions | None = None, signature: Signature | None = None, split: Split = "train"
) -> Samples:
    """The samples a path names.

    Parameters
    ----------
    spec: one of

        - ``.npy``: one array (N, ...), for a model of one input; mapped from disk.
        - ``.npz``: arrays (N, ...) by input name; ``targets`` or ``labels`` is the truth.
        - a folder of ``.npz``: a batch each, or one sample each; samples may differ in shape and are never padded.
        - a folder of images, see `ImageOptions`; its sub-folders, if any, are classes, in the order of their names.
        - ``file.py:function``: what the function returns, see `samples_of`. The file is run, with all it does.
        - CIFAR-10's folder or archive: for ``train`` 100 images a class, drawn with seed 42; for ``test`` all of them.
    options: how images become inputs; for images alone.
    signature: what the model takes; where given, the first batch is held against it here.
    split: of CIFAR-10.

    Raises `NoData` for what is absent or empty, `BadData` for what is not as it should be, on one line.
    """
    return checked(_read(spec, options, signature, split), signature, str(spec))


def samples_of(value: Any, signature: Signature | None = None, name: str = "inputs") -> Samples:
    """The samples that a Python object stands for.

    `value` is `Samples`, or an array of shape (N, ...), or a mapping by input name of arrays or of lists with one array
    a sample (which may differ in shape; they are never padded), or a list of mappings, or any iterable of batches that
    can be iterated again, pairs (inputs, targets) among them; or a tuple (one of these, targets), or a function that
    returns one of all these.

    Raises `BadData` for anything else, and for an iterator, which can be read only once.
    """
    if hasattr(value, "batches") and hasattr(value, "digest"):
        return checked(value, signature, name)
    if callable(value) and not isinstance(value, Iterable):
        made = value()
        value = Again(value) if isinstance(made, Iterable) and iter(made) is made else made
        return samples_of(value, signature, name)
    if isinstance(value, tuple) and len(value) == 2:
        return with_targets(samples_of(value[0], signature, name), value[1])
    if isinstance(value, Mapping):
        inputs, truth = parted(value, signature)
        columns = {key: _column(values, f"{name}: {key!r}") for key, values in inputs.items()}
        found: Samples = ArraySamples(columns, None if truth is None else truth_of(truth, name), name=name)
    elif hasattr(value, "__array__"):
        array = array_of(value, name)
        if array.ndim == 0:
            raise BadData(f"{name}: a single number, but should be an array of shape (N, ...)")
        found = ArraySamples(array, name=name)
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        if iter(value) is value:
            raise BadData(
                f"{name}: a {type(value).__name__} can be read only once, but samples are read several times: give a "
                "list, or the function that makes it"
            )
        found = _listed(value, signature, name)
    else:
        raise BadData(
            f"{name}: {type(value).__name__}, but should be an array, a mapping of arrays by input name, a list of "
            f"batches, ptq.Samples, or {KINDS}"
        )
    return checked(found, signature, name)


def checked(samples: Samples, signature: Signature | None, where: str) -> Samples:
    """The samples, once their first is what the model takes; `BadData` when it is not."""
    if signature is not None:
        if len(samples) == 0:
            raise NoData(f"{where}: 0 samples, but there should be at least 1")
        fitted(first_batch(samples, 1), signature, where)
    return samples


@dataclass(frozen=True, eq=False)
class Targeted:
    """Samples with targets of their own, one a sample: `BadData` when there are more or fewer."""

    samples: Samples
    targets: Array

    def __post_init__(self) -> None:
        if len(self.targets) != len(self.samples):
            raise BadData(
                f"{len(self.targets)} targets for {len(self.samples)} samples, but there should be one a sample"
            )

    @property
    def digest(self) -> str:
        content = f"{self.samples.digest} {self.targets.dtype.str} {self.targets.shape}".encode()
        return hashlib.sha256(content + self.targets.tobytes()).hexdigest()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.samples, name)

    def __len__(self) -> int:
        return len(self.samples)


def with_targets(samples: Samples, targets: Any) -> Samples:
    """The samples with these targets: an array, a list, or the path of an .npy file; None leaves what they have."""
    if targets is None:
        return samples
    read = read_array(_present(Path(targets))) if isinstance(targets, str | Path) else targets
    truth = np.atleast_1d(truth_of(read, f"{targets}" if isinstance(targets, str | Path) else "targets"))
    return Targeted(samples, np.ascontiguousarray(truth))


def load_object(spec: str) -> Any:
    """What ``file.py:name`` names: the file is run, by its path alone. `BadData` says where it fails."""
    file, _, name = spec.rpartition(":")
    module = load_module(file)
    if not hasattr(module, name):
        raise BadData(f"{spec}: {Path(file).name} has no {name!r}, but should define it")
    return getattr(module, name)


def load_module(file: str) -> ModuleType:
    """The module of a Python file, found by its path alone; `NoData`, or `BadData` that says where it fails."""
    path = _present(Path(file))
    found = importlib.util.spec_from_file_location(f"_ptq_{path.stem}", path)
    if found is None or found.loader is None:
        raise BadData(f"{file}: cannot be imported, but should be a Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses and what compares code look themselves up
    loader = found.loader
    called(lambda: loader.exec_module(module), path, file)
    return module


def is_object(spec: object) -> bool:
    """Whether a text is ``file.py:name``."""
    file, colon, name = str(spec).rpartition(":")
    return bool(colon) and file.endswith(".py") and name.isidentifier()


def _read(spec: str | Path, options: ImageOptions | None, signature: Signature | None, split: Split) -> Samples:
    path = _present(Path(str(spec).rpartition(":")[0] if is_object(spec) else spec))
    kinds = _kinds(path, split) if path.is_dir() else ()
    if len(kinds) > 1:
        raise BadData(f"{path}: {' and '.join(kinds)} side by side, but should hold one kind")
    if kinds == ("images",):
        return pictures(path, options, signature)
    if options is not None:
        raise BadData(f"{path}: options for images ({options}), but it is no folder of images: leave them out")
    if is_object(spec):
        function = load_object(str(spec))
        if not callable(function):
            raise BadData(f"{spec}: a {type(function).__name__}, but should be a function that returns inputs")
        return samples_of(lambda: _asked(function, path, str(spec)), signature, str(spec))
    if kinds == ("CIFAR-10",) or path.suffix in (".gz", ".tgz"):
        images = cifar10.read(path, split)
        return calibration_samples(images, PER_CLASS, SEED) if split == "train" else evaluation_samples(images)
    if kinds:
        return StreamSamples(_Archives(tuple(sorted(path.glob("*.npz")))), str(path), signature)
    if path.is_dir():
        raise NoData(f"{path}: neither .npz files, images nor CIFAR-10 in it, but should hold one kind")
    if path.suffix == ".npy":
        return samples_of(read_array(path), signature, str(path))
    if path.suffix == ".npz":
        return samples_of(read_arrays(path), signature, str(path))
    raise BadData(f"{path}: ends in {path.suffix!r}, but should be {KINDS}")


def _kinds(path: Path, split: Split) -> tuple[str, ...]:
    """What a folder holds."""
    try:
        if cifar10.files(path, split):
            return ("CIFAR-10",)
    except NoData:
        pass
    suffixes = {each.suffix.lower() for each in entries(path) if not each.is_dir()}
    found = {
        ".npz files": ".npz" in suffixes,
        "images": bool(suffixes & set(SUFFIXES)),
        "sub-folders": bool(class_folders(path)),
    }
    if found["sub-folders"] and not (found[".npz files"] or found["images"]):
        return ("images",)  # a folder a class
    return tuple(kind for kind, there in found.items() if there)


@dataclass(frozen=True)
class _Archives:
    paths: tuple[Path, ...]

    def __iter__(self) -> Any:
        return map(read_arrays, self.paths)


def _column(values: Any, where: str) -> Any:
    """One input of every sample: an array, or a list of arrays that differ in shape."""
    if not isinstance(values, list | tuple):
        return array_of(values, where)
    rows = [array_of(row, where) for row in values]
    return np.stack(rows) if rows and len({row.shape for row in rows}) == 1 else rows


def _listed(value: Iterable[Any], signature: Signature | None, name: str) -> Samples:
    """A list of samples in memory is run sorted by shape; anything else batch by batch."""
    if isinstance(value, list | tuple) and value:
        parts = [parted(item, signature) for item in value]
        rows = [
            {key: array_of(each, f"{name}[{at}]") for key, each in part[0].items()} for at, part in enumerate(parts)
        ]
        names = set(rows[0])
        if all(is_sample(row, signature) and set(row) == names for row in rows):
            truth = [part[1] for part in parts if part[1] is not None]
            if len(truth) not in (0, len(rows)):
                raise BadData(f"{name}: targets with {len(truth)} of {len(rows)} samples, but all or none should have")
            columns = {key: _column([row[key] for row in rows], f"{name}: {key!r}") for key in rows[0]}
            only = columns[UNNAMED] if names == {UNNAMED} else columns
            return ArraySamples(only, truth_of(truth, f"{name}: targets") if truth else None, name=name)
    return StreamSamples(value, name, signature)


def _present(path: Path) -> Path:
    try:
        if path.exists():
            return path
    except OSError as error:  # a name that is too long, a folder that is closed
        raise BadData(f"{path}: cannot be read ({error.strerror}); inputs are {KINDS}") from error
    raise NoData(f"{path}: no such file or folder; inputs are {KINDS}")


def _asked(function: Callable[[], Any], path: Path, spec: str) -> Any:
    made = called(function, path, spec)
    return _guarded(made, path, spec) if isinstance(made, Iterator) else made


def _guarded(items: Iterator[Any], path: Path, spec: str) -> Iterator[Any]:
    while (item := called(lambda: next(items, None), path, spec)) is not None:
        yield item


def called(function: Callable[[], Any], path: Path, spec: str) -> Any:
    """What the user's function returns; what it raises is one line that says where."""
    try:
        return function()
    except PtqError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        at = f", line {lines[-1]}" if lines else ""
        raise BadData(f"{spec}{at}: {type(error).__name__}: {one_line(error)}; mend it there") from error
