"""Work that needs TensorFlow, in a process of its own: ``python -m MODULE JOB``.

TensorFlow logs below Python, where no filter reaches, takes half a gigabyte that the caller keeps otherwise, and what
is built on it orders by Python's string hashes, so that equal bytes need a fixed hash seed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ptq.errors import BadModel, PtqError

Job = dict[str, Any]

_SETTINGS = {
    "PYTHONHASHSEED": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "KERAS_BACKEND": "tensorflow",
    "CUDA_VISIBLE_DEVICES": "",
    # Sums of floats must not depend on the cores there are.
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}


def ask(module: str, job: Job) -> Job:
    """The answer of `module`, which ends with `answer`, to `job`; plain JSON both.

    `job` has a ``source``, the file it is about. Raises `BadModel` with the answer's ``error``, or when there is none.
    """
    # This package as the caller sees it, whether it is installed or not.
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(job)],
        env={**os.environ, **_SETTINGS, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode or not last.startswith("{"):
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BadModel(f"{job['source']}: the conversion ended with exit code {done.returncode}: {said[:200]}")
    found: Job = json.loads(last)
    if "error" in found:
        raise BadModel(found["error"])
    return found


def answer(work: Callable[[Job], Job]) -> None:
    """The other end of `ask`: prints what `work` makes of the job, or its error, as the last line."""
    try:
        found = work(json.loads(sys.argv[1]))
    except PtqError as error:
        found = {"error": str(error)}
    print(json.dumps(found))


def one_line(error: BaseException) -> str:
    """What a library said, short and on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
