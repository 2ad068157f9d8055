"""Mutants of the embedded model, put through three commands: ``python mutants.py FIRST LAST`` prints a line a mutant.

A process of its own: what a mutant does to a runtime in native code ends this process, and not the test's.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np
import onnx

from ptq.cli import main
from ptq.workloads.digits import MODEL

SECONDS = 10
"""Of processor time for a command; other work on the machine takes none of it."""
WAIT = 90
"""Seconds by the clock: for a command that waits for something."""
MEMORY = 2 << 30
COMMANDS = {
    "inspect": ("inspect", "m.onnx"),
    "evaluate": ("evaluate", "m.onnx", "--data", "x.npy", "--targets", "y.npy"),
    "quantize": ("quantize", "m.onnx", "--data", "x.npy", "--dtype", "uint8", "--method", "minmax", "-o", "q.onnx"),
}


def mutant(number: int, content: bytes, places: list[int]) -> bytes:
    """The model with a few bytes changed, cut out, doubled or cut off; most of them at `places`."""
    chance = random.Random(number)
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.choice(places) if chance.random() < 0.9 else chance.randrange(len(changed))
        at = min(at, len(changed) - 1)
        size = chance.choice((1, 1, 2, 8, 100))
        way = chance.randrange(6)
        if way < 3:
            changed[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, changed[at] ^ 1 << chance.randrange(8)))
        elif way == 3:
            del changed[at : at + size]
        elif way == 4:
            changed[at:at] = changed[at : at + size]
        elif chance.random() < 0.2:
            del changed[at:]
    return bytes(changed)


def structure(content: bytes) -> list[int]:
    """Where a byte is not a weight's: seven of eight are, and what is done to these is only another number."""
    weights: set[int] = set()
    for tensor in onnx.load_from_string(content).graph.initializer:
        start = content.find(tensor.raw_data)
        weights.update(range(start, start + len(tensor.raw_data)))
    return [at for at in range(len(content)) if at not in weights]


def fault(*words: str, limit: bool = True) -> str | None:
    """What is wrong with how a command ended: it may answer, or refuse in one line."""
    out, err = io.StringIO(), io.StringIO()
    # nobody handles the signals: they end this process, whatever it does
    signal.setitimer(signal.ITIMER_PROF, SECONDS if limit else 0)
    signal.alarm(WAIT if limit else 0)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(words)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    said = [line for line in err.getvalue().splitlines() if not line.endswith(" ...")]
    shown = out.getvalue() + err.getvalue()
    if code not in (0, 2) or len(said) != (code == 2):
        return f"exit code {code}, {len(said)} lines: {said[:3]}"
    if not shown.replace("\n", "").isprintable() or max(map(len, shown.splitlines())) > 1200:
        return f"not fit for a terminal: {shown[:200]!r}"
    return None


def run(first: int, last: int) -> None:
    content = MODEL.read_bytes()
    places = structure(content)
    np.save("x.npy", np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32))
    np.save("y.npy", np.arange(4))
    Path("m.onnx").write_bytes(content)
    for words in COMMANDS.values():  # what is imported once may take its time
        assert fault(*words, limit=False) is None
    for number in range(first, last):
        Path("m.onnx").write_bytes(mutant(number, content, places))
        os.environ["PTQ_CACHE"] = f"cache{number}"
        found = {name: said for name, words in COMMANDS.items() if (said := fault(*words)) is not None}
        shutil.rmtree(os.environ["PTQ_CACHE"], ignore_errors=True)
        print(json.dumps([number, found]), flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        run(int(sys.argv[1]), int(sys.argv[2]))
