"""Checks: what must hold of the samples that go into a model, each with the likely cause when it does not.

A mismatch between how a model was trained and how it is calibrated or evaluated costs 10-40 points of accuracy, and
looks like a quantization problem.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt

from ptq.backends.protocol import Predictor
from ptq.checks.float_accuracy import batch_size, check_accuracy
from ptq.checks.near import assert_apart
from ptq.checks.repeats import one_class, repeated
from ptq.checks.slips import completed, readings
from ptq.checks.sound import chosen, classifies, output
from ptq.data.batch import Batch, as_batch
from ptq.data.contract import ContractBroken, InputContract
from ptq.data.samples import ArraySamples, FittedSamples, Labels, Samples, labels_of
from ptq.data.sampling import assert_disjoint
from ptq.engine.pipeline import Pipeline
from ptq.engine.registry import reference_case
from ptq.engine.sample_set import check_batch
from ptq.engine.workload import Workload
from ptq.errors import BadData, PtqError, Unsupported

PASS = 500
"""Samples of a set that are read twice to see whether they stay the same: decoding images costs."""
Read = Callable[[], Samples]
MODEL, PIPELINE = "model", "as_evaluated"
"""What a check may need beside the samples: the float model, or images read as evaluation reads them."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What a check looks at: the samples of one workload and what is known about them.

    Parameters
    ----------
    calibration, evaluation: give batches by input name, or arrays for a model of one input without a name.
    contracts: what each input must be, by name.
    readers: functions that read ``calibration`` and ``evaluation`` anew; those of samples given as they are, are left
        out.
    as_evaluated: reads the images calibration is drawn from through the evaluation pipeline; None when the workload
        does not say how.
    invariants: what else must hold of the evaluation samples, by name.
    predict: loads the float model; the predictor takes any number of inputs.
    classifies: whether the targets are the classes that the largest output names.
    unchecked: checks that do not apply, by name, and why.
    """

    calibration: Samples
    evaluation: Samples
    contracts: Mapping[str, InputContract]
    predict: Callable[[], Predictor]
    readers: Mapping[str, Read] = field(default_factory=dict)
    as_evaluated: Read | None = None
    invariants: Mapping[str, Callable[[Samples], None]] = field(default_factory=dict)
    classifies: bool = True
    unchecked: Mapping[str, str] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Inputs per batch."""
        return batch_size(self.contracts)

    @property
    def both(self) -> dict[str, Samples]:
        """The two sets by what messages call them."""
        return {"calibration": self.calibration, "evaluation": self.evaluation}


@dataclass(frozen=True)
class Check:
    """One invariant, by `name`. `look` raises `BadData` where it does not hold, `Unsupported` where it cannot apply;
    it `needs` `MODEL`, `PIPELINE` or nothing.
    """

    name: str
    look: Callable[[Subject], None]
    needs: str = ""

    def run(self, subject: Subject) -> None:
        """`look`, unless the subject says that the check does not apply."""
        if (reason := subject.unchecked.get(self.name)) is not None:
            raise Unsupported(reason)
        self.look(subject)


def checks() -> tuple[Check, ...]:
    """Every check, the cheap ones first."""
    return (
        Check("contract", check_contract),
        Check("range", check_range),
        Check("channels", check_channels),
        Check("balance", check_balance),
        Check("prefix", check_prefix),
        Check("distinct", check_distinct),
        Check("disjoint", check_disjoint),
        Check("same_pipeline", check_same_pipeline, PIPELINE),
        Check("invariants", check_invariants),
        Check("reproducible", check_reproducible),
        Check("accuracy", check_float_accuracy, MODEL),
    )


def subject(pipeline: Pipeline) -> Subject:
    """What the checks look at in a workload; reads its samples, and of its float model only what it takes."""
    workload, signature = pipeline.workload, pipeline.signature
    read = workload.as_evaluated
    return Subject(
        calibration=pipeline.calibration_samples,
        evaluation=pipeline.evaluation_samples,
        contracts=pipeline.contracts,
        predict=lambda: chosen(pipeline.predictor(reference_case(workload.name)), output(pipeline)),
        readers=pipeline.readers,
        as_evaluated=None if read is None else lambda: FittedSamples(read(), signature, "as_evaluated"),
        invariants=workload.invariants,
        classifies=classifies(pipeline),
        unchecked=workload.unchecked,
    )


def known_unchecked(workload: Workload) -> None:
    """Raise `PtqError` where `unchecked` names no check, or gives no reason."""
    names = [check.name for check in checks()]
    for name, reason in workload.unchecked.items():
        if name not in names:
            raise PtqError(f"{workload.name}: unchecked={name!r}, but should be one of {', '.join(names)}")
        if not isinstance(reason, str) or not reason.strip():
            raise PtqError(f"{workload.name}: unchecked[{name!r}]={reason!r}, but should say why in a sentence")


def check_contract(subject: Subject) -> None:
    """Every batch of both sets has its contract's dtype, shape and layout, and every value is in its range."""
    for name, samples in subject.both.items():
        for batch in samples.batches(subject.batch):
            check_batch(as_batch(batch), subject.contracts, name)


def check_range(subject: Subject) -> None:
    """Both sets really use the range of every contract that has one: 0..1 data under a 0..255 contract is a slip."""
    ranged = {
        name: replace(contract, channel_mean=None)
        for name, contract in subject.contracts.items()
        if contract.low is not None and contract.high is not None
    }
    if not ranged:
        raise Unsupported("no input contract has a low and a high")
    _check_whole(subject, ranged)


def check_channels(subject: Subject) -> None:
    """The channel means of both sets are nearer to the contract's than to its reverse: RGB, not BGR."""
    # whether the range is used is another check's business
    coloured = {
        name: replace(contract, used=-np.inf)
        for name, contract in subject.contracts.items()
        if contract.channel_mean is not None
    }
    if not coloured:
        raise Unsupported("no input contract has a channel_mean to tell RGB from BGR by")
    _check_whole(subject, coloured)


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


def check_distinct(subject: Subject) -> None:
    """Either set is as large as it says: not one image over and over, nor labels of one class."""
    for name, samples in subject.both.items():
        labels = labels_of(samples) if subject.classifies else None
        if (line := repeated(samples.batches(subject.batch)) or one_class(labels)) is not None:
            raise BadData(f"{name}: {line}")


def check_disjoint(subject: Subject) -> None:
    """No calibration input is an evaluation input, byte for byte or but for a rounding."""
    assert_disjoint(subject.calibration, subject.evaluation)
    assert_apart(subject.calibration, subject.evaluation, subject.batch)


def check_same_pipeline(subject: Subject) -> None:
    """Calibration gives the model the bytes evaluation would give it for the same image."""
    if subject.as_evaluated is None:
        raise Unsupported("the workload does not say how to read calibration images as evaluation does (as_evaluated)")
    # not Samples.hashes: those may be of the files the inputs are made from
    known = set(_hashes(subject.as_evaluated(), subject.batch))
    unknown = [index for index, each in enumerate(_hashes(subject.calibration, subject.batch)) if each not in known]
    if unknown:
        image = next(islice(subject.calibration.batches(1), unknown[0], None))
        raise BadData(
            f"{len(unknown)} of {len(subject.calibration)} calibration samples, the first at index {unknown[0]}, are "
            "not what the evaluation pipeline makes of the same images, but should be, byte for byte; "
            f"likely cause: {_slip(as_batch(image), subject.contracts, known) or 'another resize, crop or rounding'}"
        )


def check_invariants(subject: Subject) -> None:
    """What the workload itself says must hold of its evaluation samples, e.g. where a letterbox puts its padding."""
    if not subject.invariants:
        raise Unsupported("the workload has no invariants of its own")
    given = subject.evaluation
    for name, holds in subject.invariants.items():
        try:
            holds(given.samples if isinstance(given, FittedSamples) else given)
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
    labelled = {name: samples for name, samples in subject.both.items() if labels_of(samples) is not None}
    if not labelled:
        raise Unsupported(_NO_CLASSES)
    if not subject.classifies:
        raise Unsupported("the workload has a metric of its own, so its targets need not be the classes of an output")
    for name, samples in labelled.items():
        check_batch(as_batch(next(iter(samples.batches(subject.batch)))), subject.contracts, name)
    check_accuracy(subject.predict(), labelled, subject.contracts)


def _check_whole(subject: Subject, contracts: Mapping[str, InputContract]) -> None:
    for name, samples in subject.both.items():
        for key, contract in contracts.items():
            try:
                _check_input(samples, subject.batch, key, contract)
            except ContractBroken as error:
                where = f"{name}: input {key!r}" if len(subject.contracts) > 1 else name
                raise BadData(f"{where}: {error}") from error


def _check_input(samples: Samples, size: int, key: str, contract: InputContract) -> None:
    axis = contract.channels
    lowest, highest, count = np.inf, -np.inf, 0
    total = np.zeros(1)
    for batch in samples.batches(size):
        values = as_batch(batch)[key]
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
        rest = tuple(dimension for dimension in range(values.ndim) if dimension != axis)
        total = total + values.sum(axis=rest, dtype=np.float64)
        count += values.size // (1 if axis is None else values.shape[axis])
    if contract.channel_mean is not None and total.shape != (len(contract.channel_mean),):
        raise ContractBroken(
            f"{total.size} channels, but the contract has {len(contract.channel_mean)}; "
            "likely cause: NCHW where NHWC should be, or the other way round"
        )
    contract.check_whole(lowest, highest, total / count)


_NO_CLASSES = "the samples have no class labels"


def _labels(samples: Samples) -> Labels:
    labels = labels_of(samples)
    if labels is None:
        raise Unsupported(_NO_CLASSES)
    return labels


def _one_hot(subject: Subject) -> npt.NDArray[np.int64]:
    """(N, classes): 1 at the class of each calibration sample."""
    labels = _labels(subject.calibration)
    evaluated = labels_of(subject.evaluation)
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


def _slip(image: Batch, contracts: Mapping[str, InputContract], known: set[str]) -> str | None:
    """Which slip of one input, undone, makes a known sample of an unknown one."""
    for name, values in image.items():
        if values.dtype.kind != "f":
            continue
        contract = completed(contracts.get(name), values.shape, float(values.min()), float(values.max()))
        where = f"input {name!r} " if len(image) > 1 else ""
        slips = [(reading.cause, reading.undo(values, contract)) for reading in readings(values.shape, contract)]
        if values.ndim == 4:
            slips.append(("NCHW where NHWC should be", values.transpose(0, 2, 3, 1)))
            slips.append(("NHWC where NCHW should be", values.transpose(0, 3, 1, 2)))
        for cause, undone in slips:
            # undoing a division leaves a rounding error where values are whole
            for candidate in () if undone is None else (undone, np.rint(undone)):
                if set(ArraySamples({**image, name: candidate}).hashes()) & known:
                    return where + cause
    return None


def _hashes(samples: Samples, size: int) -> Iterator[str]:
    """`ArraySamples.hashes` of the inputs themselves, whatever `samples` are."""
    for batch in samples.batches(size):
        yield from ArraySamples(as_batch(batch)).hashes()


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
