"""Checks: what must hold of the samples that go into a model, each with the likely cause when it does not.

A mismatch between how a model was trained and how it is calibrated or evaluated costs 10-40 points of accuracy, and
looks like a quantization problem.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ptq.backends.protocol import Predictor
from ptq.calibration.sampling import assert_disjoint
from ptq.contract import ContractBroken, InputContract
from ptq.errors import BadData, Unsupported
from ptq.float_accuracy import check_accuracy
from ptq.readings import READINGS
from ptq.samples import ArraySamples, Float32, Labels, Samples

if TYPE_CHECKING:
    from ptq.pipeline import Pipeline

BATCH = 100
"""Samples that are looked at at a time, where the contract does not fix it."""
PASS = 500
"""Samples of a set that are read twice to see whether they stay the same: decoding images costs."""
Read = Callable[[], Samples]


@dataclass(frozen=True, eq=False)
class Subject:
    """What a check looks at: the samples of one workload and what is known about them.

    Parameters
    ----------
    readers: functions that read ``calibration`` and ``evaluation`` anew; those of samples given as they are, are left
        out.
    as_evaluated: reads the images calibration is drawn from through the evaluation pipeline; None when the workload
        does not say how.
    invariants: what else must hold of the evaluation samples, by name.
    predict: loads the float model; the predictor takes any number of inputs.
    """

    calibration: Samples
    evaluation: Samples
    contract: InputContract
    predict: Callable[[], Predictor]
    readers: Mapping[str, Read] = field(default_factory=dict)
    as_evaluated: Read | None = None
    invariants: Mapping[str, Callable[[Samples], None]] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Inputs per batch."""
        return self.contract.shape[0] or BATCH

    @property
    def both(self) -> dict[str, Samples]:
        """The two sets by what messages call them."""
        return {"calibration": self.calibration, "evaluation": self.evaluation}


@dataclass(frozen=True)
class Check:
    """One invariant. `run` raises `BadData` where it does not hold, `Unsupported` where it does not apply."""

    name: str
    run: Callable[[Subject], None]


def checks() -> tuple[Check, ...]:
    """Every check, the cheap ones first."""
    return (
        Check("contract", check_contract),
        Check("range", check_range),
        Check("channels", check_channels),
        Check("balance", check_balance),
        Check("prefix", check_prefix),
        Check("disjoint", check_disjoint),
        Check("same_pipeline", check_same_pipeline),
        Check("invariants", check_invariants),
        Check("reproducible", check_reproducible),
        Check("accuracy", check_float_accuracy),
    )


def subject(pipeline: Pipeline) -> Subject:
    """What the checks look at in a workload; reads its samples, not its float model."""
    workload = pipeline.workload
    given = {"calibration": workload.calibration, "evaluation": workload.evaluation}
    return Subject(
        calibration=pipeline.calibration_samples,
        evaluation=pipeline.evaluation_samples,
        contract=workload.contract,
        predict=partial(_load, pipeline),
        readers={name: read for name, read in given.items() if callable(read)},
        as_evaluated=workload.as_evaluated,
        invariants=workload.invariants,
    )


def _load(pipeline: Pipeline) -> Predictor:
    from ptq.pipeline import backends

    predict, size = backends()["onnxruntime"].load(pipeline.source.onnx), pipeline.batch

    def in_batches(inputs: Float32) -> Float32:
        return np.concatenate([predict(inputs[start : start + size]) for start in range(0, len(inputs), size)])

    return in_batches


def check_contract(subject: Subject) -> None:
    """Every batch of both sets has the contract's dtype, shape and layout, and every value is in its range."""
    for name, samples in subject.both.items():
        for batch in samples.batches(subject.batch):
            with _naming(name):
                subject.contract.check(batch)


def check_range(subject: Subject) -> None:
    """Both sets really use the contract's range: 0..1 data under a 0..255 contract is a slip."""
    _check_whole(subject, replace(subject.contract, channel_mean=None))


def check_channels(subject: Subject) -> None:
    """The channel means of both sets are nearer to the contract's than to its reverse: RGB, not BGR."""
    if subject.contract.channel_mean is None:
        raise Unsupported("the input contract has no channel_mean to tell RGB from BGR by")
    # Whether the range is used is another check's business.
    _check_whole(subject, replace(subject.contract, used=-np.inf))


def check_balance(subject: Subject) -> None:
    """The calibration set has exactly as many samples of one class as of any other."""
    counts = _one_hot(subject).sum(axis=0)
    if counts.min() != counts.max():
        raise BadData(
            f"calibration has {_named(subject, counts)}, but should have as many of every class; "
            "likely cause: drawn without stratification, or cut off"
        )


def check_prefix(subject: Subject) -> None:
    """In the first m calibration samples, whatever m, the counts of two classes differ by at most 1.

    Several tools read only the first 100 or 300 samples: a set sorted by class ruins them.
    """
    running = np.cumsum(_one_hot(subject), axis=0)
    bad = np.flatnonzero(running.max(axis=1) - running.min(axis=1) > 1)
    if len(bad):
        stop = int(bad[0]) + 1
        labels = _labels(subject.calibration)
        cause = "sorted by class" if bool((np.diff(labels) >= 0).all()) else "shuffled as a whole, not in rounds"
        raise BadData(
            f"the first {stop} calibration samples have {_named(subject, running[stop - 1])}, "
            f"but counts should differ by at most 1; likely cause: {cause}"
        )


def check_disjoint(subject: Subject) -> None:
    """No calibration input is an evaluation input, byte for byte."""
    assert_disjoint(subject.calibration, subject.evaluation)


def check_same_pipeline(subject: Subject) -> None:
    """Calibration gives the model the bytes evaluation would give it for the same image."""
    if subject.as_evaluated is None:
        raise Unsupported("the workload does not say how to read calibration images as evaluation does (as_evaluated)")
    # Not Samples.hashes: those may be of the files the inputs are made from.
    known = set(_hashes(subject.as_evaluated(), subject.batch))
    unknown = [index for index, each in enumerate(_hashes(subject.calibration, subject.batch)) if each not in known]
    if unknown:
        image = _sample(subject.calibration, unknown[0])
        raise BadData(
            f"{len(unknown)} of {len(subject.calibration)} calibration samples, the first at index {unknown[0]}, are "
            "not what the evaluation pipeline makes of the same images, but should be, byte for byte; "
            f"likely cause: {_slip(image, subject.contract, known) or 'another resize, crop or rounding'}"
        )


def check_invariants(subject: Subject) -> None:
    """What the workload itself says must hold of its evaluation samples, e.g. where a letterbox puts its padding."""
    if not subject.invariants:
        raise Unsupported("the workload has no invariants of its own")
    for name, holds in subject.invariants.items():
        try:
            holds(subject.evaluation)
        except BadData as error:
            raise BadData(f"{name}: {error}") from error


def check_reproducible(subject: Subject) -> None:
    """Samples are the same on each pass, on each reading, and in another process.

    A reader that cannot be sent to another process (a closure, say) is called anew in this one.
    """
    for name, samples in subject.both.items():
        if _content(samples, subject.batch) != _content(samples, subject.batch):
            raise BadData(
                f"{name}: two passes over the samples differ, but should not; "
                "likely cause: an iterator that is used up, or augmentation while reading"
            )
    for name, read in subject.readers.items():
        want = subject.both[name].digest
        if (have := _digest_elsewhere(read)) != want:
            raise BadData(
                f"{name}: read anew its digest is {have[:12]}, but should be {want[:12]}; likely cause: a draw from "
                "global random state, from a set or folder in arbitrary order, or without a seed"
            )


def check_float_accuracy(subject: Subject) -> None:
    """The float model is as good on calibration as on evaluation samples, and no other reading of them does better."""
    labelled = {name: samples for name, samples in subject.both.items() if samples.labels is not None}
    if not labelled:
        _labels(subject.evaluation)
    for name, samples in labelled.items():
        with _naming(name):
            subject.contract.check(next(samples.batches(subject.batch)))
    check_accuracy(subject.predict(), labelled, subject.contract)


def _check_whole(subject: Subject, contract: InputContract) -> None:
    axis = contract.channels
    for name, samples in subject.both.items():
        lowest, highest, count = np.inf, -np.inf, 0
        total = np.zeros(1)
        for batch in samples.batches(subject.batch):
            lowest, highest = min(lowest, float(batch.min())), max(highest, float(batch.max()))
            rest = tuple(each for each in range(batch.ndim) if each != axis)
            total = total + batch.sum(axis=rest, dtype=np.float64)
            count += batch.size // (1 if axis is None else batch.shape[axis])
        with _naming(name):
            if contract.channel_mean is not None and total.shape != (len(contract.channel_mean),):
                raise ContractBroken(
                    f"{total.size} channels, but the contract has {len(contract.channel_mean)}; "
                    "likely cause: NCHW where NHWC should be, or the other way round"
                )
            contract.check_whole(lowest, highest, total / count)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Puts the name of a set before what is wrong with it."""
    try:
        yield
    except ContractBroken as error:
        raise BadData(f"{name}: {error}") from error


def _labels(samples: Samples) -> Labels:
    if samples.labels is None:
        raise Unsupported("the samples have no class labels")
    return samples.labels


def _one_hot(subject: Subject) -> npt.NDArray[np.int64]:
    """(N, classes): 1 at the class of each calibration sample."""
    labels = _labels(subject.calibration)
    evaluated = subject.evaluation.labels
    highest = max(int(labels.max()), -1 if evaluated is None else int(evaluated.max()))
    if labels.min() < 0:
        raise BadData(f"calibration has a label {labels.min()}, but labels should be class indices from 0")
    classes = max(len(subject.calibration.class_names), highest + 1)
    return np.eye(classes, dtype=np.int64)[labels]


def _named(subject: Subject, counts: npt.NDArray[np.int64]) -> str:
    """The smallest and the largest count, by class name."""
    given = subject.calibration.class_names
    names = given if len(given) >= len(counts) else tuple(str(each) for each in range(len(counts)))
    order = np.argsort(counts, kind="stable")
    return f"{counts[order[0]]} of {names[order[0]]!r} and {counts[order[-1]]} of {names[order[-1]]!r}"


def _sample(samples: Samples, index: int) -> Float32:
    """The sample at `index`, as a batch of one."""
    return next(islice(samples.batches(1), index, None))


def _slip(image: Float32, contract: InputContract, known: set[str]) -> str | None:
    """Which slip, undone, makes a known image of an unknown one."""
    if image.ndim != len(contract.layout):
        return None
    for reading in READINGS:
        undone = reading.undo(image, contract)
        # Undoing a division leaves a rounding error.
        if undone is not None and set(ArraySamples(np.rint(undone)).hashes()) & known:
            return reading.cause
    for swapped, axes in (("NCHW where NHWC should be", (0, 2, 3, 1)), ("NHWC where NCHW should be", (0, 3, 1, 2))):
        if image.ndim == 4 and set(ArraySamples(image.transpose(axes)).hashes()) & known:
            return swapped
    return None


def _hashes(samples: Samples, size: int) -> Iterator[str]:
    """`ArraySamples.hashes` of the inputs themselves, whatever `samples` are."""
    for batch in samples.batches(size):
        yield from ArraySamples(batch).hashes()


def _content(samples: Samples, size: int) -> list[str]:
    """The hashes of the first `PASS` inputs."""
    return list(islice(_hashes(samples, size), PASS))


def _digest_of(read: Read) -> str:
    return read().digest


def _digest_elsewhere(read: Read) -> str:
    """The digest of what `read` reads in a fresh process."""
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_digest_of, read).result()
    except (pickle.PicklingError, AttributeError, TypeError, BrokenProcessPool):
        return _digest_of(read)
