"""A restricted unpickler: reads the pickles CIFAR-10 ships as, and can do nothing else.

It interprets opcodes, whose arguments `pickletools` parses, and never calls, imports or looks up anything a file names.
The three globals the real files need are plain markers here, and an array comes back as the shape, dtype code and bytes
it claims, for the caller to validate. `pickle.Unpickler` with `find_class` overridden is not enough: one opcode can
make its memo claim gigabytes (LONG_BINPUT), and a deeply nested tuple as a dictionary key overflows the C stack.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ptq.errors import BadData, one_line

_RECONSTRUCT, _NDARRAY, _DTYPE = "numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"


@dataclass(frozen=True)
class Global:
    """One of the three admitted names, as ``module name``; nothing is imported."""

    name: str


@dataclass
class Dtype:
    """What a pickle says a dtype is: numpy's code, e.g. ``b"u1"``."""

    code: bytes
    built: bool = False


@dataclass
class Array:
    """What a pickle says an array is; nothing about it is validated but the types of these fields."""

    shape: tuple[int, ...] = ()
    dtype: Dtype = field(default_factory=lambda: Dtype(b""))
    fortran: bool = False
    content: bytes = b""
    built: bool = False


MOST_STEPS = 1_000_000
"""Opcodes of one pickle: CIFAR-10's own have 40,000. Each may take some 100 bytes of memory for its one in the file."""


class _Refused(Exception):
    """Something the real files do not have."""


def load(content: bytes, name: str) -> Any:
    """The object a pickle holds, made of dict, list, tuple, bytes, int, bool, None and `Array`.

    Takes the protocol-2 pickles of Python 2. Raises `BadData`, which calls the file `name`, for a truncated pickle, for
    one that has an opcode, a global or an object the real files do not have, and for more than `MOST_STEPS` of them.
    """
    machine = _Machine()
    stream = io.BytesIO(content)
    steps = 0
    try:
        while code := stream.read(1):
            # pickletools.genops would read an argument of any size first, even of what is refused
            opcode = _OPCODES[code.decode("latin-1")]
            step = _STEPS.get(opcode.name)
            if step is None:
                raise _Refused(f"opcode {opcode.name} at byte {stream.tell() - 1}")
            if (steps := steps + 1) > MOST_STEPS:
                raise _Refused(f"more than {MOST_STEPS} opcodes")
            step(machine, opcode.arg.reader(stream) if opcode.arg else None)
            if opcode.name == "STOP":
                break
        else:
            raise EOFError("it ends without STOP")
        if rest := len(content) - stream.tell():
            raise _Refused(f"{rest} bytes after its end")
        if machine.marks or len(machine.stack) != 1:
            raise _Refused("an unfinished object")
    except _Refused as refused:
        raise BadData(
            f"{name}: the pickle has {refused}, which CIFAR-10's own files do not have; nothing of it was run; "
            "likely cause: a crafted or re-saved file"
        ) from refused
    # A mangled pickle ends in whatever pickletools or the machine trips over.
    except Exception as error:
        fact = f"{type(error).__name__}: {one_line(error, 120)}"
        raise BadData(f"{name}: not a whole pickle ({fact}); likely cause: a truncated or damaged file") from error
    return machine.stack[0]


class _Machine:
    """The stack, the memo and the marks of a pickle machine."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        since, self.stack = self.stack, self.marks.pop()
        return since

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def pack(self, count: int) -> None:
        if len(self.stack) < count:
            raise ValueError("a tuple of more items than there are")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise _Refused("items for something that is not a list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        keys = items[::2]
        if type(target) is not dict or len(items) % 2 or any(type(key) is not bytes for key in keys):
            raise _Refused("a dictionary whose keys are not byte strings")
        target.update(zip(keys, items[1::2], strict=True))

    def find(self, name: str) -> None:
        if name not in (_RECONSTRUCT, _NDARRAY, _DTYPE):
            raise _Refused(f"global {name.replace(' ', '.')[:80]!r}")
        self.push(Global(name))

    def reduce(self, _: Any) -> None:
        arguments, target = self.stack.pop(), self.stack.pop()
        match target, arguments:
            case Global(name=called), (Global(name=made), (0,), b"b") if called == _RECONSTRUCT and made == _NDARRAY:
                self.push(Array())
            case Global(name=called), (bytes() as code, 0, 1) if called == _DTYPE:
                self.push(Dtype(code))
            case _:
                raise _Refused("a call other than of an array or a dtype")

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        match target, state:
            case Dtype(built=False), (3, bytes(), None, None, None, -1, -1, 0):
                target.built = True
            case (
                Array(built=False),
                (1, tuple() as shape, Dtype(built=True) as dtype, bool() as fortran, bytes() as content),
            ) if all(type(each) is int for each in shape):
                target.shape, target.dtype, target.fortran, target.content = shape, dtype, fortran, content
                target.built = True
            case _:
                raise _Refused("a state other than that of an array of numbers or of its dtype")


_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda _, __: None,
    "STOP": lambda _, __: None,
    "MARK": _Machine.mark,
    "NONE": lambda machine, _: machine.push(None),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "BININT": _Machine.push,
    "BININT1": _Machine.push,
    "BININT2": _Machine.push,
    "SHORT_BINSTRING": lambda machine, text: machine.push(text.encode("latin-1")),
    "BINSTRING": lambda machine, text: machine.push(text.encode("latin-1")),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.pack(1),
    "TUPLE2": lambda machine, _: machine.pack(2),
    "TUPLE3": lambda machine, _: machine.pack(3),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "GLOBAL": _Machine.find,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
"""The opcodes Python 2's cPickle writes at protocol 2 for a dict of arrays, lists, strings and small integers."""
