"""Every preprocessing check has sabotage that turns it red, for the right reason."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest

from ptq.checks.preprocessing import Check, Subject, checks
from ptq.data.batch import only
from ptq.data.contract import InputContract
from ptq.data.samples import ArraySamples, FittedSamples
from ptq.data.signature import Signature, Tensor
from ptq.errors import BadData, Unsupported

CLASSES, SIZE = 5, 8
CONTRACT = InputContract((None, SIZE, SIZE, 3), "NHWC", low=0, high=255, channel_mean=(150, 110, 70))
NAMES = ("ant", "bee", "cat", "dog", "eel")
CHECKS = {check.name: check for check in checks()}


def templates():
    """One picture a class: reddish, and different in every pixel, so that order and orientation matter."""
    tint = np.array(CONTRACT.channel_mean)
    noise = np.random.default_rng(5).normal(0, 60, (CLASSES, SIZE, SIZE, 3))
    return np.clip(tint + noise, 0, 255)


def predict(batch):
    """A float model: the nearest template."""
    inputs = only(batch)
    assert inputs.dtype == np.float32
    assert inputs.shape[1:] == (SIZE, SIZE, 3)
    far = ((inputs[:, None].astype(np.float64) - templates()) ** 2).mean(axis=(2, 3, 4))
    return {"p": (-far).astype(np.float32)}


def images(seed: int, per_class: int = 40, seen: str = "samples") -> ArraySamples:
    """Noisy templates, a round of all classes after another."""
    generator = np.random.default_rng(seed)
    labels = np.concatenate([generator.permutation(CLASSES) for _ in range(per_class)]).astype(np.int64)
    pixels = templates()[labels] + generator.normal(0, 90, (len(labels), SIZE, SIZE, 3))
    inputs = np.clip(np.rint(pixels), 0, 255).astype(np.float32)
    return ArraySamples({"x": inputs}, labels, NAMES, seed=seed, name=seen)


def read(which: str) -> ArraySamples:
    return images({"calibration": 1, "evaluation": 2}[which])


def not_black(samples) -> None:
    if not only(next(samples.batches(1))).any():
        raise BadData("batch[0] is black, but should show something; likely cause: an image that cannot be decoded")


def good() -> Subject:
    return Subject(
        calibration=read("calibration"),
        evaluation=read("evaluation"),
        contracts={"x": CONTRACT},
        predict=lambda: predict,
        readers={name: partial(read, name) for name in ("calibration", "evaluation")},
        as_evaluated=partial(images, 1),
        invariants={"not black": not_black},
    )


@pytest.mark.parametrize("check", checks(), ids=lambda check: check.name)
def test_green_on_what_is_right(check: Check):
    check.run(good())


# --- sabotage


@dataclass(frozen=True, eq=False)
class Raw:
    """Samples that are not cast or copied on their way: what a foreign reader may give."""

    inputs: np.ndarray
    targets: np.ndarray | None = None
    class_names: tuple[str, ...] = NAMES
    seed: int | None = None
    name: str = "x"

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self, size: int) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(self.inputs), size):
            yield {self.name: self.inputs[start : start + size]}

    def hashes(self):
        return ArraySamples({"x": self.inputs}).hashes()

    @property
    def digest(self) -> str:
        return ArraySamples({"x": self.inputs}, self.targets).digest


def misread(change, which=("calibration", "evaluation")):
    """Every input of the sets `which` goes through `change` on its way."""

    def sabotage(subject: Subject) -> Subject:
        for name in which:
            samples = getattr(subject, name)
            batches = list(samples.batches(100))
            inputs = change(np.concatenate([only(batch) for batch in batches]))
            subject = replace(subject, **{name: Raw(inputs, samples.targets, name=next(iter(batches[0])))})
        return subject

    return sabotage


def relabelled(change, which=("calibration",)):
    """The labels of the sets `which` go through `change`."""

    def sabotage(subject: Subject) -> Subject:
        for name in which:
            samples = getattr(subject, name)
            subject = replace(subject, **{name: replace(samples, targets=change(samples.targets))})
        return subject

    return sabotage


def taken(choose):
    """Calibration takes only the samples at the indices `choose` gives for the labels."""

    def sabotage(subject: Subject) -> Subject:
        samples = subject.calibration
        at = choose(samples.targets)
        inputs = {"x": samples.inputs["x"][at]}
        return replace(subject, calibration=replace(samples, inputs=inputs, targets=samples.targets[at]))

    return sabotage


def leaked(subject: Subject) -> Subject:
    inputs = subject.calibration.inputs["x"].copy()
    inputs[7] = subject.evaluation.inputs["x"][33]
    return replace(subject, calibration=replace(subject.calibration, inputs={"x": inputs}))


def noisy() -> ArraySamples:
    """A reader with random numbers that nobody seeded."""
    return images(int(np.random.default_rng().integers(1 << 60)))


@dataclass(frozen=True, eq=False)
class Once(Raw):
    """Samples whose iterator is used up by the first pass."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "left", iter([{"x": self.inputs}]))

    def batches(self, size: int) -> Iterator[dict[str, np.ndarray]]:
        return self.left


def shuffled(labels):
    return np.random.default_rng(3).permutation(labels)


def divided(inputs):
    return inputs / np.float32(255)


def bgr(inputs):
    return inputs[..., ::-1]


def nchw(inputs):
    return inputs.transpose(0, 3, 1, 2)


def reshaped(inputs):
    return inputs.transpose(0, 3, 1, 2).reshape(inputs.shape)


ONE, OTHER = ("calibration",), ("evaluation",)
SABOTAGE = {
    # what is done: the check that must turn red, what it must say, the sabotage
    "float64": ("contract", r"calibration: batch\.dtype=float64, but should be float32", misread(np.float64)),
    "nchw": ("contract", "calibration: .*likely cause: NCHW where NHWC should be", misread(nchw)),
    "evaluation nchw": ("contract", "evaluation: .*likely cause: NCHW where NHWC should be", misread(nchw, OTHER)),
    "zero mean": ("contract", "likely cause: normalised to zero mean", misread(lambda x: x / 127.5 - np.float32(1))),
    "nan": (
        "contract",
        "likely cause: a division by zero",
        misread(lambda x: np.where(x > 250, np.float32(np.nan), x)),
    ),
    "/255": ("range", "calibration: max=1 over .*likely cause: divided by 255", misread(divided)),
    "evaluation /255": ("range", "evaluation: max=1 over .*likely cause: divided by 255", misread(divided, OTHER)),
    "bgr": ("channels", "calibration: channel means .*likely cause: BGR where RGB should be", misread(bgr)),
    "evaluation bgr": ("channels", "evaluation: .*likely cause: BGR where RGB should be", misread(bgr, OTHER)),
    "nchw means": ("channels", "8 channels, but the contract has 3; likely cause: NCHW", misread(nchw)),
    "one missing": ("balance", "calibration has 39 of .*likely cause: drawn without", taken(lambda x: np.arange(199))),
    "no cat": ("balance", "calibration has 0 of 'cat' and 40 of", taken(lambda x: np.flatnonzero(x != 2))),
    "sorted": ("prefix", "first 2 calibration samples.*likely cause: sorted by class", taken(np.argsort)),
    "shuffled whole": ("prefix", "likely cause: shuffled as a whole", taken(lambda x: shuffled(np.arange(len(x))))),
    "overlap": (
        "disjoint",
        r"^1 of 200 .*calibration\[7\] == evaluation\[33\]; likely cause: calibration images drawn",
        leaked,
    ),
    "pipeline /255": ("same_pipeline", "^200 of 200 .*likely cause: divided by 255", misread(divided, ONE)),
    "pipeline bgr": ("same_pipeline", "at index 0.*likely cause: BGR where RGB should be", misread(bgr, ONE)),
    "pipeline nchw": ("same_pipeline", "likely cause: NCHW where NHWC should be", misread(nchw, ONE)),
    "pipeline planes": ("same_pipeline", "likely cause: colour planes reshaped", misread(reshaped, ONE)),
    "pipeline resize": (
        "same_pipeline",
        "likely cause: another resize, crop or",
        misread(lambda x: np.roll(x, 1, 1), ONE),
    ),
    "own": ("invariants", "^not black: .*likely cause: an image that cannot", misread(np.zeros_like, OTHER)),
    "no seed": (
        "reproducible",
        "calibration: read anew its digest is .*likely cause: a draw from global random state",
        lambda subject: replace(subject, readers={"calibration": noisy}),
    ),
    "no seed, closure": (
        "reproducible",
        "evaluation: read anew its digest",
        lambda subject: replace(subject, readers={"evaluation": lambda: noisy()}),
    ),
    "used up": (
        "reproducible",
        "two passes over the samples differ.*likely cause: an iterator that is used up",
        lambda subject: replace(subject, evaluation=Once(subject.evaluation.inputs["x"]), readers={}),
    ),
    "accuracy /255": ("accuracy", "^calibration: .*likely cause: divided by 255", misread(divided, ONE)),
    "accuracy bgr": ("accuracy", "^calibration: .*likely cause: BGR where RGB should be", misread(bgr)),
    "accuracy evaluation bgr": (
        "accuracy",
        "^evaluation: .*likely cause: BGR where RGB should be",
        misread(bgr, OTHER),
    ),
    "accuracy nchw": ("accuracy", "likely cause: NCHW where NHWC should be", misread(nchw)),
    "accuracy planes": ("accuracy", "likely cause: colour planes reshaped", misread(reshaped)),
    "accuracy rotated": ("accuracy", "likely cause: height and width swapped", misread(lambda x: x.swapaxes(1, 2))),
    "accuracy inverted": ("accuracy", "likely cause: inverted", misread(lambda x: 255 - x)),
    "shuffled labels": ("accuracy", "^calibration: .*likely cause: shuffled labels", relabelled(shuffled)),
    "shuffled everywhere": (
        "accuracy",
        "no better than chance.*likely cause: shuffled labels",
        relabelled(shuffled, (*ONE, *OTHER)),
    ),
    "half shuffled": (
        "accuracy",
        "^calibration: .*should be within .*likely cause: shuffled labels in calibration",
        relabelled(lambda labels: np.concatenate([labels[:100], shuffled(labels[100:])])),
    ),
    "one image": (
        "distinct",
        "calibration: only 1 of 200 samples",
        misread(lambda x: np.repeat(x[:1], 200, axis=0), ONE),
    ),
    "two images": (
        "distinct",
        "evaluation: only 2 of 200 samples are different",
        misread(lambda x: np.tile(x[:2], (100, 1, 1, 1)), OTHER),
    ),
    "one class": ("distinct", "calibration: every one of 200 labels is 0", relabelled(np.zeros_like)),
    "other order": (
        "accuracy",
        r"likely cause: classes in another order, e\.g\. label 0 \(ant\) is the model's output 4",
        relabelled(lambda labels: (labels + 1) % CLASSES),
    ),
    "labels from 1": (
        "accuracy",
        r"labels span 1\.\.5, but should lie in 0\.\.4",
        relabelled(lambda labels: labels + 1),
    ),
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_red_on_sabotage_for_the_right_reason(what):
    name, reason, sabotage = SABOTAGE[what]
    with pytest.raises(BadData, match=reason) as caught:
        CHECKS[name].run(sabotage(good()))
    assert "\n" not in str(caught.value)


def test_a_leak_that_was_moved_is_seen_and_another_image_is_not():
    """Eight bits round by less than what is near; a sample without any spread is near to nothing."""
    seen = good()
    for moved in (lambda x: x + np.float32(0.001), lambda x: x + np.float32(0.3), lambda x: x * np.float32(1.0001)):
        subject = leaked(seen)
        inputs = subject.calibration.inputs["x"].copy()
        inputs[7] = moved(inputs[7])
        subject = replace(subject, calibration=replace(subject.calibration, inputs={"x": inputs}))
        with pytest.raises(BadData, match=r"^1 of 200 evaluation .*calibration\[7\] and evaluation\[33\]"):
            CHECKS["disjoint"].run(subject)
    inputs[7] += np.random.default_rng(2).normal(0, 9, inputs[7].shape)
    CHECKS["disjoint"].run(replace(subject, calibration=replace(subject.calibration, inputs={"x": inputs})))


def test_every_check_has_sabotage():
    assert {name for name, _, _ in SABOTAGE.values()} == set(CHECKS)


# --- where a check does not apply, and what it looks at


@pytest.mark.parametrize("name", ["balance", "prefix", "accuracy"])
@pytest.mark.parametrize("targets", [None, np.eye(200, dtype=np.float32)], ids=["no targets", "one vector a sample"])
def test_samples_without_class_labels(name, targets):
    subject = good()
    unlabelled = [replace(samples, targets=targets) for samples in (subject.calibration, subject.evaluation)]
    with pytest.raises(Unsupported, match="no class labels"):
        CHECKS[name].run(replace(subject, calibration=unlabelled[0], evaluation=unlabelled[1]))


def test_what_a_workload_does_not_say():
    with pytest.raises(Unsupported, match="has a channel_mean"):
        CHECKS["channels"].run(replace(good(), contracts={"x": replace(CONTRACT, channel_mean=None)}))
    with pytest.raises(Unsupported, match="no input contract has a low and a high"):
        CHECKS["range"].run(replace(good(), contracts={"x": InputContract(CONTRACT.shape)}))
    with pytest.raises(Unsupported, match="as_evaluated"):
        CHECKS["same_pipeline"].run(replace(good(), as_evaluated=None))
    with pytest.raises(Unsupported, match="no invariants"):
        CHECKS["invariants"].run(replace(good(), invariants={}))
    with pytest.raises(Unsupported, match="a metric of its own"):
        CHECKS["accuracy"].run(replace(good(), classifies=False))


def test_a_check_that_does_not_apply_is_not_run_and_says_why():
    unbalanced = taken(lambda labels: np.flatnonzero(labels != 2))(good())
    with pytest.raises(BadData):
        CHECKS["balance"].run(unbalanced)
    with pytest.raises(Unsupported, match="cats are rare by nature"):
        CHECKS["balance"].run(replace(unbalanced, unchecked={"balance": "cats are rare by nature"}))


def test_every_input_of_a_model_is_checked():
    """Two images a sample: what is wrong with the second is as wrong as what is with the first."""

    def twins(samples, change=lambda inputs: inputs):
        inputs = samples.inputs["x"]
        return replace(samples, inputs={"x": inputs, "y": np.ascontiguousarray(change(inputs))})

    subject = replace(good(), contracts={"x": CONTRACT, "y": CONTRACT}, as_evaluated=lambda: twins(images(1)))
    subject = replace(subject, calibration=twins(subject.calibration), evaluation=twins(subject.evaluation), readers={})
    for check in checks():
        check.run(subject)
    for name, change, told in (
        ("contract", nchw, "^calibration: input 'y': .*NCHW where NHWC"),
        ("range", divided, "^calibration: input 'y': .*divided by 255"),
        ("channels", bgr, "^calibration: input 'y': .*BGR where RGB"),
        ("same_pipeline", bgr, "likely cause: input 'y' BGR where RGB should be"),
    ):
        with pytest.raises(BadData, match=told):
            CHECKS[name].run(replace(subject, calibration=twins(good().calibration, change)))

    def second(batch):
        return predict({"x": batch["y"]})

    with pytest.raises(BadData, match=r"^evaluation: .*likely cause: input 'y' BGR where RGB should be"):
        CHECKS["accuracy"].run(
            replace(
                subject, evaluation=twins(good().evaluation, bgr), predict=lambda: second, contracts={"x": CONTRACT}
            )
        )


def test_the_pipeline_check_looks_at_inputs_not_at_files():
    """Samples may hash the files they are made from, which are the same however they are read."""

    class Files(Raw):
        def hashes(self):
            return tuple(str(index) for index in range(len(self)))

    subject = good()
    inputs = subject.calibration.inputs["x"]
    with pytest.raises(BadData, match="likely cause: divided by 255"):
        CHECKS["same_pipeline"].run(
            replace(subject, calibration=Files(divided(inputs)), as_evaluated=lambda: Files(inputs))
        )


def test_invariants_are_given_the_samples_as_the_workload_gave_them():
    """Not what fits them to the model: they may know more of themselves, a letterbox for one."""
    seen = []
    subject = good()
    fitted = FittedSamples(subject.evaluation, Signature((Tensor("x", CONTRACT.shape, "float32"),), ()), "evaluation")
    CHECKS["invariants"].run(replace(subject, evaluation=fitted, invariants={"seen": seen.append}))
    assert seen == [subject.evaluation]


def test_a_contract_with_a_fixed_batch_is_looked_at_in_such_batches():
    one = replace(CONTRACT, shape=(1, SIZE, SIZE, 3))
    CHECKS["contract"].run(replace(good(), contracts={"x": one}))


def test_a_sorted_evaluation_set_is_looked_at_all_over():
    """A sample from the start of a sorted set would see one class only."""
    subject = good()
    evaluation = images(4, per_class=600)
    order = np.argsort(evaluation.targets, kind="stable")
    inputs = {"x": evaluation.inputs["x"][order]}
    evaluation = replace(evaluation, inputs=inputs, targets=evaluation.targets[order])
    seen = []

    def watched(batch):
        seen.append(len(only(batch)))
        return predict(batch)

    CHECKS["accuracy"].run(replace(subject, calibration=evaluation, evaluation=evaluation, predict=lambda: watched))
    assert sum(seen) == 2 * 500


def telling(path) -> ArraySamples:
    """A reader that leaves the number of the process it ran in."""
    path.write_text(str(os.getpid()))
    return read("calibration")


def test_a_reader_is_called_in_another_process(tmp_path):
    CHECKS["reproducible"].run(replace(good(), readers={"calibration": partial(telling, tmp_path / "pid")}))
    assert int((tmp_path / "pid").read_text()) != os.getpid()


def test_the_embedded_workload_is_judged_by_a_real_model(tmp_path):
    """Divided by 255 on its way into the real ResNet8, digits turn the accuracy check red; as they are, green."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from ptq.checks.preprocessing import subject
    from ptq.engine.pipeline import Pipeline
    from ptq.engine.store import Store
    from ptq.workloads import digits

    workload = digits.WORKLOAD(None)
    real = subject(Pipeline(workload, Store(tmp_path)))
    assert real.predict().__module__ == "ptq.backends.onnxruntime"
    CHECKS["accuracy"].run(real)
    for name, cause, change in (("range", "divided by 255", divided), ("accuracy", "divided by 255", divided)):
        with pytest.raises(BadData, match=f"likely cause: {cause}"):
            CHECKS[name].run(misread(change)(real))
    with pytest.raises(BadData, match="likely cause: inverted"):
        CHECKS["accuracy"].run(misread(lambda x: 255 - x, OTHER)(real))


@pytest.mark.parametrize("swapped", [False, True])
def test_evaluation_samples_are_looked_at_without_calibration_labels(swapped: bool):
    subject = good()
    pixels = subject.evaluation.inputs["x"]
    subject = replace(
        subject,
        calibration=ArraySamples(subject.calibration.inputs),
        evaluation=ArraySamples({"x": pixels[..., ::-1] if swapped else pixels}, subject.evaluation.targets, NAMES),
    )
    if not swapped:
        CHECKS["accuracy"].run(subject)
        return
    with pytest.raises(BadData, match=r"^evaluation: .*likely cause: BGR where RGB should be"):
        CHECKS["accuracy"].run(subject)
