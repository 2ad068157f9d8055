"""Apart: a model with loops, of a runtime that cannot be stopped, is asked in a process of its own, which can."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from operator import is_
from pathlib import Path

import numpy as np

from ptq.backends.protocol import Predictor
from ptq.data.batch import Array, Batch
from ptq.files import scratch
from ptq.models import session
from ptq.models.tensorflow_process import Job, answer, ask


def apart(inside: Predictor, maker: Callable[..., Predictor], artifact: Path, threads: int) -> Predictor:
    """`inside`, which never runs what it might not return from.

    A batch goes to a process that makes the model's predictor by ``maker(artifact, threads)``, a function of a module,
    and is killed after `ptq.models.session.SECONDS`: `BadModel` then. The same arrays again, as in a race, run here.
    """
    ended: list[Array] = []

    def predict(batch: Batch) -> Batch:
        values = list(batch.values())
        if ended and len(ended) == len(values) and all(map(is_, ended, values)):
            return inside(batch)
        with scratch() as folder:
            given, said = folder / "given.npz", folder / "said.npz"
            np.savez(given, **{str(at): each for at, each in enumerate(values)})  # type: ignore[arg-type]
            job = {
                "source": str(artifact.absolute()), "module": maker.__module__, "maker": maker.__name__,
                "threads": threads, "names": list(batch), "given": str(given), "said": str(said),
            }  # fmt: skip
            names = ask(__name__, job, session.SECONDS, "a batch")["names"]
            with np.load(said, allow_pickle=False) as arrays:
                answers = {name: arrays[str(at)] for at, name in enumerate(names)}
        ended[:] = values
        return answers

    return predict


def _work(job: Job) -> Job:
    maker = getattr(importlib.import_module(job["module"]), job["maker"])
    with np.load(job["given"], allow_pickle=False) as arrays:
        batch = {name: arrays[str(at)] for at, name in enumerate(job["names"])}
    answers = maker(Path(job["source"]), job["threads"])(batch)
    np.savez(job["said"], **{str(at): each for at, each in enumerate(answers.values())})
    return {"names": list(answers)}


if __name__ == "__main__":
    answer(_work)
