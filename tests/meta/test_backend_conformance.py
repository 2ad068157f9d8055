"""What every backend owes, asked of each file in `ptq/backends`: a new one is tested by being there."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import tiny_cnn

from ptq.backends.protocol import Backend, FloatModel, Predictor
from ptq.cases import Case
from ptq.errors import BadModel, NotInstalled, PtqError, Unsupported
from ptq.registry import modules

BACKENDS = cast("dict[str, Backend]", modules("ptq.backends", "BACKEND"))
EVALUATED = tiny_cnn.images(20, seed=4)


def typical(backend: Backend) -> list[Case]:
    """One case of every dtype and granularity it can do: by minmax where there is one."""
    chosen: dict[tuple[str, str], Case] = {}
    for case in backend.cases("tiny"):
        if case.is_float or case.exclude != "none" or backend.unsupported(case) is not None:
            continue
        key = (case.dtype, case.granularity)
        if key not in chosen or (case.method == "minmax" and chosen[key].method != "minmax"):
            chosen[key] = case
    return list(chosen.values())


QUANTIZED = [pytest.param(name, case, id=case.id) for name, each in BACKENDS.items() for case in typical(each)]
FLOAT = [
    pytest.param(name, case, id=name) for name, each in BACKENDS.items() for case in each.cases("tiny") if case.is_float
]


@dataclass
class Workshop:
    """Artifacts of the tiny network, each made once a session."""

    folder: Path

    def __post_init__(self) -> None:
        self._made: dict[Case, Path] = {}
        self._loaded: dict[Case, Predictor] = {}

    @cached_property
    def model(self) -> FloatModel:
        keras: Path | None = None
        if importlib.util.find_spec("tensorflow") is not None:
            keras = self.folder / "tiny.keras"
            subprocess.run([sys.executable, "-c", tiny_cnn.KERAS_SCRIPT, str(keras)], check=True, capture_output=True)
        return tiny_cnn.float_model(self.folder, keras)

    def artifact(self, case: Case) -> Path:
        """The artifact of a case, or a skip that says what is missing."""
        if case not in self._made:
            backend = BACKENDS[case.backend]
            if (reason := backend.missing()) is not None:
                pytest.skip(f"{case.backend} {reason}")
            if case.backend == "tflite" and self.model.keras is None:
                pytest.skip("tensorflow not installed: pip install 'ptq[tf]'")
            out = self.folder / f"{case.id}{backend.suffix(case)}"
            self.make(case, out)
            self._made[case] = out
        return self._made[case]

    def predictor(self, case: Case) -> Predictor:
        """The artifact of a case, loaded once."""
        if case not in self._loaded:
            self._loaded[case] = BACKENDS[case.backend].load(self.artifact(case))
        return self._loaded[case]

    def make(self, case: Case, out: Path) -> dict[str, str]:
        return dict(BACKENDS[case.backend].quantize(case, self.model, tiny_cnn.calibration(self.model), out))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


def outputs(predict: Predictor, size: int = len(EVALUATED)) -> np.ndarray:
    return np.concatenate([predict(EVALUATED[at : at + size]) for at in range(0, len(EVALUATED), size)])


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def sqnr(values: np.ndarray, reference: np.ndarray) -> float:
    noise = float(np.square(values - reference).sum())
    return float("inf") if noise == 0 else 10 * np.log10(float(np.square(reference).sum()) / noise)


@pytest.mark.parametrize("name", BACKENDS)
def test_it_lists_its_cases_without_its_framework(name: str) -> None:
    backend = BACKENDS[name]
    cases = list(backend.cases("w"))
    assert backend.name == name
    assert {each.backend for each in cases} == {name}
    assert {each.workload for each in cases} == {"w"}
    assert len({each.id for each in cases}) == len(cases) > 1
    assert [each.dtype for each in cases].count("fp32") <= 1
    assert all(backend.suffix(each).startswith(".") for each in cases)
    missing = backend.missing()
    assert missing is None or missing.startswith("not installed: ")
    if missing is None:
        versions = backend.versions()
        assert versions
        assert all(isinstance(key, str) and isinstance(value, str) for key, value in versions.items())
    for each in cases:
        reason = backend.unsupported(each)
        assert reason is None or (len(reason) > 20 and "\n" not in reason)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_that_is_not_installed_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = BACKENDS[name]
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("ptq.backends") and hasattr(module, "find_spec"):
            monkeypatch.setattr(module, "find_spec", lambda *_: None)
    reason = backend.missing()
    if reason is None:
        pytest.skip(f"{name}: its framework is a dependency of ptq")
    assert reason.startswith("not installed: ")
    assert "\n" not in reason
    if reason.startswith("not installed: pip install 'ptq["):  # else it is found by other means, and may run by others
        with pytest.raises(NotInstalled, match="pip install"):
            backend.load(Path("some.artifact"))


@pytest.mark.parametrize(("name", "case"), FLOAT)
def test_float_artifacts_agree_with_onnxruntime(name: str, case: Case, workshop: Workshop) -> None:
    values = outputs(workshop.predictor(case))
    if name == "tflite":  # its network is the Keras one
        assert values.shape == (len(EVALUATED), tiny_cnn.CLASSES)
        np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-5)
        return
    reference = outputs(workshop.predictor(Case("tiny", "onnxruntime", "fp32")))
    np.testing.assert_allclose(values, reference, atol=1e-5)


@pytest.mark.parametrize(("name", "case"), QUANTIZED)
def test_quantized_outputs_are_near_the_float_ones_and_not_equal(name: str, case: Case, workshop: Workshop) -> None:
    values = outputs(workshop.predictor(case))
    own = [each for each in BACKENDS[name].cases("tiny") if each.is_float]
    reference = outputs(workshop.predictor(own[0] if own else Case("tiny", "onnxruntime", "fp32")))
    assert values.dtype == np.float32
    assert values.shape == reference.shape
    assert 10 < sqnr(values, reference) < 80, "inf is a conversion that changed nothing"


@pytest.mark.parametrize(("name", "case"), [*FLOAT, *QUANTIZED])
def test_an_artifact_says_what_it_takes(name: str, case: Case, workshop: Workshop) -> None:
    assert BACKENDS[name].input_shape(workshop.artifact(case)) == (None, tiny_cnn.SIZE, tiny_cnn.SIZE, 3)


@pytest.mark.parametrize(("name", "case"), QUANTIZED)
def test_predictions_do_not_depend_on_the_batch_or_the_threads(name: str, case: Case, workshop: Workshop) -> None:
    whole = outputs(workshop.predictor(case))
    for size in (1, 7):
        np.testing.assert_array_equal(outputs(workshop.predictor(case), size), whole)
    with_two = BACKENDS[name].load(workshop.artifact(case), threads=2)
    np.testing.assert_array_equal(outputs(with_two), whole)


FRESH = """
import json, sys
sys.path[:0] = json.loads(sys.argv[2])
from pathlib import Path
import test_backend_conformance as conformance
from ptq.cases import Case
from ptq.store import file_digest

answers = []
for fields, loaded in json.loads(sys.argv[1]):
    case = Case(**fields)
    predict = conformance.BACKENDS[case.backend].load(Path(loaded))
    answers.append(conformance.digest(conformance.outputs(predict)))
out = Path(sys.argv[4])
workshop = conformance.Workshop(out.parent)
workshop.__dict__["model"] = conformance.FloatModel(*[each and Path(each) for each in json.loads(sys.argv[3])])
workshop.make(case, out)
answers.append(file_digest(out))
print(json.dumps(answers))
"""


@pytest.mark.parametrize("name", BACKENDS)
def test_a_fresh_process_makes_the_same_bytes_and_loads_the_same_predictions(
    name: str, workshop: Workshop, tmp_path: Path
) -> None:
    cases = [*(each for each in BACKENDS[name].cases("tiny") if each.is_float), *typical(BACKENDS[name])]
    kept = [workshop.artifact(each) for each in cases]
    model = workshop.model
    forms = [str(model.onnx), str(model.prepared), None if model.keras is None else str(model.keras)]
    jobs = [(each.fields(), str(path)) for each, path in zip(cases, kept, strict=True)]
    arguments = [json.dumps(each) for each in (jobs, [*sys.path, str(Path(__file__).parent)], forms)]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *arguments, str(tmp_path / kept[-1].name)],
        env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *said, made = json.loads(done.stdout.strip().splitlines()[-1])
    assert made == hashlib.sha256(kept[-1].read_bytes()).hexdigest(), f"{cases[-1]}: other bytes in a fresh process"
    for case, each in zip(cases, said, strict=True):
        assert each == digest(outputs(workshop.predictor(case))), f"{case}: other predictions in a fresh process"


@pytest.mark.parametrize(("name", "case"), QUANTIZED)
def test_what_claims_integers_has_them(name: str, case: Case, workshop: Workshop) -> None:
    census = BACKENDS[name].census(workshop.artifact(case))
    stored = {"int8": "int8", "uint8": "uint8", "u8s8": "int8"}[case.dtype]
    assert census.weight_bytes.get(stored, 0) >= 2000, census
    assert census.integer.get("Conv", 0) + census.floating.get("Conv", 0) == 3, census
    assert sum(census.integer.values()) >= 1, census
    # Less than most in integer needs a reason that the report can give.
    assert census.integer_share > 0.6 or census.simulated or census.cause, census


@pytest.mark.parametrize(("name", "case"), FLOAT)
def test_a_float_artifact_claims_no_integers(name: str, case: Case, workshop: Workshop) -> None:
    census = BACKENDS[name].census(workshop.artifact(case))
    assert not census.integer
    assert census.floating.get("Conv") == 3, census
    assert "int8" not in census.weight_bytes
    assert census.integer_share == 0


def refused(backend: Backend, path: Path) -> str:
    with pytest.raises(BadModel) as caught:
        backend.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) > len(str(path)) + 10
    return message


@pytest.mark.parametrize("name", BACKENDS)
def test_an_artifact_that_is_none_is_refused_in_one_line(name: str, workshop: Workshop, tmp_path: Path) -> None:
    backend = BACKENDS[name]
    case = typical(backend)[0]
    whole = workshop.artifact(case).read_bytes()
    suffix = backend.suffix(case)
    refused(backend, tmp_path / f"absent{suffix}")
    for kind, content in {
        "empty": b"",
        "text": b"this is not a model\n" * 40,
        "half": whole[: len(whole) // 2],
        "noise": np.random.default_rng(0).bytes(3000),
    }.items():
        path = tmp_path / f"{kind}{suffix}"
        path.write_bytes(content)
        refused(backend, path)


@pytest.mark.parametrize("name", BACKENDS)
def test_what_it_cannot_do_it_says(name: str, workshop: Workshop, tmp_path: Path) -> None:
    backend = BACKENDS[name]
    impossible = [each for each in backend.cases("tiny") if backend.unsupported(each) is not None]
    if backend.missing() is not None or not impossible:
        pytest.skip(f"{name}: {backend.missing() or 'every case it lists is possible'}")
    for case in impossible:
        out = tmp_path / "out"
        with pytest.raises(PtqError) as caught:
            workshop.make(case, out)
        assert isinstance(caught.value, Unsupported)
        assert str(backend.unsupported(case)) in str(caught.value)
        assert not out.exists()


@pytest.mark.parametrize(("name", "case"), QUANTIZED)
def test_it_lists_what_an_artifact_is_made_of(name: str, case: Case, workshop: Workshop) -> None:
    rows = list(BACKENDS[name].inspect(workshop.artifact(case)))
    assert rows
    assert all(len(row) == 3 and all(isinstance(cell, str) for cell in row) and row[1] for row in rows), rows
