"""Fingerprint: what an object is, code and settings alike, so that a key can never be older than what it stands for.

Code is known by its files: the one an object was defined in and, from there, every file that one imports, within ptq,
within the object's own package, and among a user's own files; installed libraries are known by their versions, which
are keyed elsewhere. A file is read as Python reads it: comments, docstrings and layout change nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, TypedDict

import numpy as np

from ptq.stamps import known_digest, remembered

_PACKAGE = Path(__file__).resolve().parents[1]
_FRAMEWORKS = frozenset({
    *("numpy", "scipy", "sklearn", "cv2", "PIL", "onnx", "onnxruntime", "onnx2torch", "torch", "torchvision"),
    *("torchao", "tensorflow", "keras", "tf2onnx", "pytest", "tokenizers"),
})  # fmt: skip
_INSTALLED = tuple(
    {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_DEPTH = 12
_PLAIN = (str, bool, int)
Import = tuple[str, list[str], int]
"""(module, names taken from it, level)."""


class Source(TypedDict):
    """A file of code as Python reads it."""

    digest: str
    imports: list[Import]


def fingerprint(*objects: object) -> str:
    """sha256 in hex over the code and the settings of objects: functions, partials, instances, plain values."""
    content = json.dumps([[describe(value) for value in objects], code_digest(*objects)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def describe(value: object, depth: int = 0) -> Any:
    """The settings of an object as JSON: fields, arguments, what a function closes over; files by their bytes.

    A folder counts by its name alone: what is read from it is keyed where it is read.
    """
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, float | complex):
        return repr(value)
    if depth > _DEPTH:
        return f"{type(value).__module__}.{type(value).__qualname__}"

    def inner(part: object) -> Any:
        return describe(part, depth + 1)

    match value:
        case list() | tuple():  # these and plain values first: they are most
            return [part if isinstance(part, _PLAIN) else inner(part) for part in value]
        case bytes() | bytearray():
            return hashlib.sha256(value).hexdigest()
        case Path():
            return known_digest(value) if value.is_file() else value.name
        case np.ndarray():
            held = value.tobytes() if value.dtype != object else repr(value.tolist()).encode()
            return [str(value.dtype), list(value.shape), hashlib.sha256(held).hexdigest()]
        case Mapping():
            return sorted(([inner(key), inner(part)] for key, part in value.items()), key=repr)
        case set() | frozenset():
            return sorted((inner(part) for part in value), key=repr)
        case functools.partial():
            return ["partial", inner(value.func), inner(value.args), inner(value.keywords)]
        case MethodType():
            return ["method", inner(value.__func__), inner(value.__self__)]
        case FunctionType():
            held_by = [_cell(cell) for cell in value.__closure__ or ()]
            return [_name(value), inner(held_by), inner(value.__defaults__), inner(value.__kwdefaults__)]
        case type() | ModuleType():
            return _name(value)
    if is_dataclass(value):
        return [_name(type(value)), [[field.name, inner(getattr(value, field.name))] for field in fields(value)]]
    return [_name(type(value)), inner(getattr(value, "__dict__", {}))]


def code_digest(*objects: object) -> str:
    """sha256 in hex over the code that objects are made of, see the module."""
    try:
        return _known_digest(objects)
    except TypeError:  # one of them cannot be a key
        return _digest(objects)


@lru_cache(maxsize=1024)
def _known_digest(objects: tuple[object, ...]) -> str:
    return _digest(objects)


def _digest(objects: tuple[object, ...]) -> str:
    digests: set[str] = set()
    for value in _parts(objects, set(), 0):
        path = _file_of(value)
        if path is not None:
            stat = path.stat()
            digests |= _closure(path, _module_name(value), (stat.st_mtime_ns, stat.st_size))
        elif isinstance(value, FunctionType) and not Path(value.__code__.co_filename).is_file():  # typed in
            digests.add(_bytecode(value.__code__))
    return hashlib.sha256(" ".join(sorted(digests)).encode()).hexdigest()


def _parts(value: object, seen: set[int], depth: int) -> Iterator[object]:
    """The functions, classes and modules an object is made of."""
    if depth > _DEPTH or id(value) in seen or isinstance(value, str | bytes | int | float | np.ndarray | Path):
        return
    seen.add(id(value))
    inner: Iterable[object] = ()
    match value:
        case None:
            return
        case ModuleType():
            yield value
        case type():
            yield from (base for base in value.__mro__ if base is not object)
        case functools.partial():
            inner = (value.func, *value.args, *value.keywords.values())
        case MethodType():
            inner = (value.__func__, value.__self__)
        case FunctionType():
            yield value
            inner = [*(_cell(cell) for cell in value.__closure__ or ()), *(value.__defaults__ or ())]
        case Mapping():
            inner = value.values()
        case list() | tuple() | set() | frozenset():
            inner = value
        case _:
            inner = (type(value), *getattr(value, "__dict__", {}).values())
    for part in inner:
        yield from _parts(part, seen, depth + 1)


def _file_of(value: object) -> Path | None:
    """The source file of a function, class or module; None for what is built in, installed by itself or typed in."""
    if isinstance(value, FunctionType):
        name: str | None = value.__code__.co_filename
    elif isinstance(value, ModuleType):
        name = getattr(value, "__file__", None)
    else:
        methods = [part for part in vars(value).values() if isinstance(part, FunctionType)]
        own = [part.__code__.co_filename for part in methods if part.__module__ == getattr(value, "__module__", None)]
        real = [each for each in own if not each.startswith("<")]
        name = real[0] if real else getattr(sys.modules.get(getattr(value, "__module__", "")), "__file__", None)
    return _followed(name) if name and name.endswith(".py") else None


@lru_cache(maxsize=4096)
def _followed(name: str) -> Path | None:
    """A file of code, unless it is not there or `_is_standard`."""
    path = Path(name).resolve()
    return path if path.is_file() and not _is_standard(path) else None


def _is_standard(path: Path) -> bool:
    """Whether a file is Python's own or a framework's: results are keyed by the versions of these."""
    if path.is_relative_to(_PACKAGE):
        return False
    for name in ("site-packages", "dist-packages"):
        if name in path.parts:
            return path.parts[path.parts.index(name) + 1] in _FRAMEWORKS
    return any(path.is_relative_to(folder) for folder in _INSTALLED)


def _module_name(value: object) -> str:
    if isinstance(value, ModuleType):
        return value.__name__
    return str(getattr(value, "__module__", ""))


@remembered(f"source 2 {sys.version_info[:2]}")
def _source(path: Path) -> Source:
    """A file as Python reads it: to parse them all is most of the time of a first run."""
    digest, imports = _parsed(path.read_bytes())
    return {"digest": digest, "imports": imports}


def _parsed(text: bytes) -> tuple[str, list[Import]]:
    """(digest, imports), one walk for both."""
    said: list[str] = []
    imports: list[Import] = []
    try:
        _walk(ast.parse(text), said, imports)
    except (SyntaxError, ValueError, RecursionError):
        return hashlib.sha256(text).hexdigest(), []
    return hashlib.sha256("\0".join(said).encode("utf-8", "surrogatepass")).hexdigest(), imports


def _walk(node: ast.AST, said: list[str], imports: list[Import]) -> None:
    """Say what a node runs. Docstrings, other strings that nothing reads, and what is for type checkers, do not."""
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            return
        case ast.Import():
            imports += [(alias.name, [], 0) for alias in node.names]
        case ast.ImportFrom():
            imports.append((node.module or "", [alias.name for alias in node.names], node.level))
        case ast.Attribute(value=ast.Name(id="ptq")):
            imports.append(("ptq", [node.attr], 0))
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            node.body = []
    said.append(type(node).__name__)
    for name in node._fields:
        value = getattr(node, name, None)
        for part in value if isinstance(value, list) else (value,):
            if isinstance(part, ast.AST):
                _walk(part, said, imports)
            else:
                said.append(repr(part))
        said.append("]")


@lru_cache(maxsize=1024)
def _closure(path: Path, module: str, stamp: tuple[int, int]) -> frozenset[str]:
    """The digests of a file and of every file it imports, as far as they are ptq's, of the same package, or a user's
    own. Kept while the file, known by its `stamp`, does not change: what a process has imported stays what it is.
    """
    found: dict[Path, str] = {}
    queue = [(path, _ptq_name(path) or module)]
    while queue:
        path, module = queue.pop()
        if path not in found:
            stat = path.stat()
            found[path], imported = _links(path, module, (stat.st_mtime_ns, stat.st_size))
            queue += imported
    return frozenset(found.values())


@lru_cache(maxsize=4096)
def _links(path: Path, module: str, stamp: tuple[int, int]) -> tuple[str, list[tuple[Path, str]]]:
    """(digest, files it imports and their modules) of a file; many closures have it in them."""
    source = _source(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imported: dict[tuple[Path, str], None] = {}
    for name, taken, level in source["imports"]:
        base = ".".join(package.split(".")[: len(package.split(".")) - level + 1]) if level else ""
        for target in _targets(".".join(part for part in (base, name) if part), taken):
            if (located := _locate(target, module.partition(".")[0])) is not None:
                imported[located, target] = None
    return source["digest"], list(imported)


def _targets(module: str, taken: list[str]) -> list[str]:
    """The modules that ``from module import taken`` reads; of ptq itself, those its names come from."""
    if module != "ptq":
        return [module, *(f"{module}.{name}" for name in taken)]
    root = sys.modules.get("ptq")
    values = [getattr(root, name, None) for name in taken]
    return [value.__name__ if isinstance(value, ModuleType) else _module_name(value) for value in values if value]


@lru_cache(maxsize=4096)
def _locate(module: str, reader: str) -> Path | None:
    """The file of a module, if its code is to be followed from package `reader`; without importing it."""
    top, *rest = module.split(".")
    if not top:
        return None
    if top == "ptq":
        folder = _PACKAGE.joinpath(*rest)
        path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        return path if rest and path.is_file() else None
    try:
        spec = importlib.util.find_spec(top) if top not in sys.modules else sys.modules[top].__spec__
        origin = getattr(sys.modules.get(top), "__file__", None) or getattr(spec, "origin", None)
    except (ImportError, ValueError, AttributeError):
        return None
    if not origin or not origin.endswith(".py"):
        return None
    path = Path(origin).resolve()
    if rest:
        folder = path.parent.joinpath(*rest)
        path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    if not path.is_file():
        return None
    foreign = any(path.is_relative_to(part) for part in _INSTALLED)
    return None if foreign and top != reader else path


def _ptq_name(path: Path) -> str | None:
    """The module name of a file of ptq."""
    if not path.is_relative_to(_PACKAGE):
        return None
    parts = path.relative_to(_PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _cell(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # a name not bound yet
        return None


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}"


def _bytecode(code: CodeType) -> str:
    parts = [part if not isinstance(part, CodeType) else _bytecode(part) for part in code.co_consts]
    content = repr((sys.version, code.co_code, parts, code.co_names, code.co_varnames))
    return hashlib.sha256(content.encode()).hexdigest()
