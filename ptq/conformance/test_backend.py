"""What every backend owes, asked of each one that is registered: a new one is tested by being there."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptq.backends.protocol import COUNTED, Backend
from ptq.cases import Case
from ptq.conformance import network
from ptq.conformance.workshop import EVALUATED, WORKLOAD, Workshop, outputs, typical
from ptq.engine.registry import Registry
from ptq.errors import BadModel, NotInstalled, PtqError, Unsupported
from ptq.quantization.dtype import DTYPES


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def sqnr(values: np.ndarray, reference: np.ndarray) -> float:
    noise = float(np.square(values - reference).sum())
    return float("inf") if noise == 0 else 10 * np.log10(float(np.square(reference).sum()) / noise)


def test_it_lists_its_cases_without_its_framework(backend: Backend, registry: Registry) -> None:
    cases = list(backend.cases("w", registry.methods))
    assert {case.backend for case in cases} == {backend.name}
    assert {case.workload for case in cases} == {"w"}
    assert len({case.id for case in cases}) == len(cases) >= 1
    assert [case.dtype for case in cases].count("fp32") <= 1
    assert {case.dtype for case in cases} <= {"fp32", *DTYPES}
    assert all(backend.suffix(case).startswith(".") for case in cases)
    missing = backend.missing()
    assert missing is None or missing.startswith("not installed: ")
    if missing is None:
        versions = backend.versions()
        assert versions
        assert all(isinstance(key, str) and isinstance(value, str) for key, value in versions.items())
    for case in cases:
        reason = backend.unsupported(case)
        assert reason is None or (len(reason) > 20 and "\n" not in reason)
        nobodys = replace(case, dtype="u3s5")
        assert backend.unsupported(nobodys) is not None, (
            "a dtype that is not known would be made as another, and named so"
        )


def test_a_backend_that_is_not_installed_says_what_to_install(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("ptq.backends") and hasattr(module, "find_spec"):
            monkeypatch.setattr(module, "find_spec", lambda *_: None)
    reason = backend.missing()
    if reason is None:
        pytest.skip(f"{backend.name}: its framework is there already")
    assert reason.startswith("not installed: ")
    assert "\n" not in reason
    if reason.startswith("not installed: pip install 'ptq["):  # else it is found by other means, and may run by others
        with pytest.raises(NotInstalled, match="pip install"):
            backend.load(Path("some.artifact"))


def test_float_artifacts_agree_with_onnxruntime(float_claim: Case, workshop: Workshop) -> None:
    values = outputs(workshop.predictor(float_claim))
    if workshop.registry.backend(float_claim).suffix(float_claim) == ".tflite":  # its network is the Keras one
        assert values.shape == (len(EVALUATED), network.CLASSES)
        np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-5)
        return
    np.testing.assert_allclose(values, outputs(workshop.predictor(workshop.reference)), atol=1e-5)


def test_quantized_outputs_are_near_the_float_ones_and_not_equal(claim: Case, workshop: Workshop) -> None:
    values = outputs(workshop.predictor(claim))
    reference = outputs(workshop.predictor(workshop.float_case(claim)))
    assert values.dtype == np.float32
    assert values.shape == reference.shape
    assert 10 < sqnr(values, reference) < 80, "inf is a conversion that changed nothing"


def test_an_artifact_says_what_it_takes(claim: Case, workshop: Workshop) -> None:
    (taken,) = workshop.registry.backend(claim).signature(workshop.artifact(claim)).inputs
    assert taken.shape == (None, network.SIZE, network.SIZE, 3)


def test_an_artifact_says_what_it_returns(claim: Case, workshop: Workshop) -> None:
    said = workshop.registry.backend(claim).signature(workshop.artifact(claim)).outputs
    have = workshop.predictor(claim)({network.INPUT: EVALUATED[:2]})
    assert len(said) == len(have) == 1


def test_predictions_do_not_depend_on_the_batch_or_the_threads(claim: Case, workshop: Workshop) -> None:
    whole = outputs(workshop.predictor(claim))
    method = workshop.registry.methods.get(claim.method)
    for size in () if method is not None and method.dynamic else (1, 7):  # whose ranges are those of each batch
        np.testing.assert_array_equal(outputs(workshop.predictor(claim), size), whole)
    with_two = workshop.registry.backend(claim).load(workshop.artifact(claim), threads=2)
    np.testing.assert_array_equal(outputs(with_two), whole)


FRESH = """
import json, sys
sys.path[:0] = json.loads(sys.argv[2])
from pathlib import Path
from ptq.backends.protocol import FloatModel
from ptq.cases import Case
from ptq.conformance.test_backend import digest
from ptq.conformance.workshop import Workshop, outputs
from ptq.engine.registry import Registry
from ptq.files import file_digest

out, registry = Path(sys.argv[4]), Registry()
workshop = Workshop(out.parent, registry)
workshop.__dict__["model"] = FloatModel(*[form and Path(form) for form in json.loads(sys.argv[3])])
answers = []
for fields, loaded in json.loads(sys.argv[1]):
    case = Case(**fields)
    answers.append(digest(outputs(registry.backend(case).load(Path(loaded)))))
workshop.make(case, out)
answers.append(file_digest(out))
print("ptq", json.dumps(answers))
"""


def test_a_fresh_process_makes_the_same_bytes_and_loads_the_same_predictions(
    backend: Backend, registry: Registry, workshop: Workshop, tmp_path: Path
) -> None:
    """And it is silent: the process prints what it is told to, and nothing else."""
    if backend.name not in Registry().backends:
        pytest.skip(f"{backend.name} comes from a hook, which another process does not have: use an entry point")
    floats = [case for case in backend.cases(WORKLOAD, registry.methods) if case.is_float]
    cases = [*floats, *typical(backend, registry)]
    kept = [workshop.artifact(case) for case in cases]
    model = workshop.model
    forms = [str(model.onnx), str(model.prepared), None if model.keras is None else str(model.keras)]
    jobs = [(case.fields(), str(path)) for case, path in zip(cases, kept, strict=True)]
    arguments = [json.dumps(part) for part in (jobs, sys.path, forms)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", FRESH, *arguments, str(tmp_path / kept[-1].name)],
        env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if not line.startswith("ptq ")] == [], "it is not silent"
    *said, made = json.loads(done.stdout.strip().splitlines()[-1].removeprefix("ptq "))
    assert made == hashlib.sha256(kept[-1].read_bytes()).hexdigest(), f"{cases[-1]}: other bytes in a fresh process"
    for case, answer in zip(cases, said, strict=True):
        assert answer == digest(outputs(workshop.predictor(case))), f"{case}: other predictions in a fresh process"


def test_it_is_silent(claim: Case, workshop: Workshop, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    backend = workshop.registry.backend(claim)
    workshop.artifact(claim)  # or a skip
    capfd.readouterr()
    out = tmp_path / f"again{backend.suffix(claim)}"
    workshop.make(claim, out)
    outputs(backend.load(out))
    backend.census(out)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_it_asks_the_network_for_nothing(
    claim: Case, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def refuse(self: socket.socket, address: object) -> None:
        asked.append(address)
        raise OSError("no network in this test")

    workshop.artifact(claim)  # or a skip
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *host, **_: refuse(None, host))  # type: ignore[arg-type]
    backend = workshop.registry.backend(claim)
    out = tmp_path / f"again{backend.suffix(claim)}"
    workshop.make(claim, out)
    outputs(backend.load(out))
    assert asked == []


THREADS = """
import json, sys
sys.path[:0] = json.loads(sys.argv[2])
from pathlib import Path
from ptq.cases import Case
from ptq.conformance.workshop import outputs
from ptq.engine.registry import Registry

def ticks():
    stats = {task.name: (task / "stat").read_text() for task in Path("/proc/self/task").iterdir()}
    return {name: int(stat.rsplit(")", 1)[1].split()[11]) for name, stat in stats.items()}


case = Case(**json.loads(sys.argv[1]))
predict = Registry().backend(case).load(Path(sys.argv[3]), threads=1)
outputs(predict)
before = ticks()
for _ in range(200):
    outputs(predict)
taken = sorted((after - before.get(name, 0) for name, after in ticks().items()), reverse=True)
print("ptq", json.dumps(taken))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the work of threads is read from /proc, not here")
def test_it_honours_threads(claim: Case, workshop: Workshop) -> None:
    """With one thread, one alone does the work: the others of the process take less than a fifth of its time."""
    if claim.backend not in Registry().backends:
        pytest.skip(f"{claim.backend} comes from a hook, which another process does not have: use an entry point")
    arguments = [json.dumps(part) for part in (claim.fields(), sys.path)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", THREADS, *arguments, str(workshop.artifact(claim))],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    busiest, *others = json.loads(done.stdout.strip().splitlines()[-1].removeprefix("ptq "))
    assert sum(others) <= max(busiest / 5, 5), f"ticks of the threads: {busiest}, {others}"


def test_what_claims_integers_has_them(claim: Case, workshop: Workshop) -> None:
    census = workshop.registry.backend(claim).census(workshop.artifact(claim))
    stored = DTYPES[claim.dtype].weight.numpy
    few = census.weight_bytes.get(stored, 0) * 8 / DTYPES[claim.dtype].weight.bits  # weights; mixed has some of 8 bits
    wider = census.weight_bytes.get("int8", 0) if stored == "int4" else 0
    assert few + wider >= 2000, census
    assert census.integer.get("Conv", 0) + census.floating.get("Conv", 0) == 3, census
    assert {*census.integer, *census.floating} <= COUNTED, census
    # Less than most in integer needs a reason that the report can give.
    assert census.integer_share > 0.6 or census.simulated or census.cause, census


def test_a_float_artifact_claims_no_integers(float_claim: Case, workshop: Workshop) -> None:
    census = workshop.registry.backend(float_claim).census(workshop.artifact(float_claim))
    assert not census.integer
    assert census.floating.get("Conv") == 3, census
    assert {*census.floating} <= COUNTED, census
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


def test_an_artifact_that_is_none_is_refused_in_one_line(
    backend: Backend, registry: Registry, workshop: Workshop, tmp_path: Path
) -> None:
    case = typical(backend, registry)[0]
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


def test_what_it_cannot_do_it_says(backend: Backend, registry: Registry, workshop: Workshop, tmp_path: Path) -> None:
    impossible = [case for case in backend.cases(WORKLOAD, registry.methods) if backend.unsupported(case) is not None]
    if backend.missing() is not None or not impossible:
        pytest.skip(f"{backend.name}: {backend.missing() or 'every case it lists is possible'}")
    for case in impossible:
        out = tmp_path / "out"
        with pytest.raises(PtqError) as caught:
            workshop.make(case, out)
        assert isinstance(caught.value, Unsupported)
        assert str(backend.unsupported(case)) in str(caught.value)
        assert not out.exists()


def test_it_lists_what_an_artifact_is_made_of(claim: Case, workshop: Workshop) -> None:
    rows = list(workshop.registry.backend(claim).inspect(workshop.artifact(claim)))
    assert rows
    assert all(len(row) == 3 and all(isinstance(cell, str) for cell in row) and row[1] for row in rows), rows
