"""Work that needs TensorFlow, in a process of its own: ``python -P -m MODULE JOB``.

TensorFlow logs below Python, where no filter reaches, takes half a gigabyte that the caller keeps otherwise, and what
is built on it orders by Python's string hashes, so that equal bytes need a fixed hash seed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ptq.errors import BadModel, PtqError, Unsupported, one_line
from ptq.files import scratch

Job = dict[str, Any]
SECONDS = 2 * 60 * 60
"""The longest that work may take: a model's own loop may never end."""

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


def ask(module: str, job: Job, seconds: float = SECONDS, work: str = "the conversion") -> Job:
    """The answer of `module`, which ends with `answer`, to `job`; plain JSON both. `work` is what messages call it.

    `job` has a ``source``, the file it is about; its paths are absolute, as the work is done in an empty folder. No
    module is imported from the caller's folder: beside a model lies what came with it. Raises `BadModel` or
    `Unsupported` with the answer's ``error``, `BadModel` when there is no answer.
    """
    with scratch() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", module, json.dumps(job), str(int(seconds) + 60)],
                cwd=folder,
                env={**os.environ, **_SETTINGS, "PYTHONPATH": _path(), "TMPDIR": str(folder)},
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise BadModel(
                f"{job['source']}: {work} took more than {seconds:,g} seconds; likely cause: a loop that does not end, "
                "or too many samples"
            ) from error
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode or not last.startswith("{"):
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BadModel(f"{job['source']}: {work} ended with exit code {done.returncode}: {one_line(said)}")
    found: Job = json.loads(last)
    if "error" in found:
        raise (Unsupported if found["unsupported"] else BadModel)(found["error"])
    return found


def answer(work: Callable[[Job], Job]) -> None:
    """The other end of `ask`: prints what `work` makes of the job, or its error, as the last line.

    It ends when its time is over whatever it does, as whoever asked may have been killed.
    """
    if hasattr(signal, "alarm"):
        signal.alarm(int(sys.argv[2]))
    try:
        found = work(json.loads(sys.argv[1]))
    except PtqError as error:
        found = {"error": str(error), "unsupported": isinstance(error, Unsupported)}
    print(json.dumps(found))


def _path() -> str:
    """PYTHONPATH without the current folder, under any name it has, and with this package as the caller sees it."""
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(entry).is_absolute()]
    kept = [entry for entry in given if Path(entry).resolve() != Path.cwd()]
    return os.pathsep.join([*kept, str(Path(__file__).resolve().parents[2])])
