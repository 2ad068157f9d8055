"""Dask makes what is judged: equal to the byte, and whatever dies, nothing is red that would not be without it."""

from __future__ import annotations

import hashlib
import json
import resource
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign import CONFTEST, LATENCY, images, run, write_model
from test_runs import NO_TORCH

import ptq
from ptq.data.samples import ArraySamples
from ptq.engine.registry import Registry
from ptq.engine.store import Store
from ptq.engine.workload import Workload
from ptq.errors import PtqError
from ptq.gate.graph import ARTIFACT, EVALUATION, MODEL, Task, tasks
from ptq.plugin.cluster import check_cluster, distribute
from ptq.plugin.worker import Job, Told, differs, identity, work
from ptq.quantization.method import EXTREMES, HISTOGRAM, MOMENTS


def test_who_makes_a_pass_goes_first(tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx")
    samples = ArraySamples(np.zeros((1, 8, 8, 1), np.float32))
    workload, registry = Workload("mine", tmp_path / "model.onnx", samples, samples), Registry()
    made = ("int8-entropy", "int8-minmax", "uint8-mse_gptq-channel", "u8s8-mse_gptq-channel", "u8s8-minmax", "fp32")
    by_id = {case.id: case for case in registry.grid("mine")}
    todo = tasks([by_id[f"mine-onnxruntime-{each}"] for each in made[:5]], {"mine": workload}, registry)
    needs = {task.case.removeprefix("mine-onnxruntime-"): task.needs for task in todo}
    assert set(needs) == set(made)
    order = [task.case for task in todo]
    assert all(order.index(name) < order.index(task.case) for task in todo for name in task.needs)
    assert needs["fp32"] == ()
    assert needs["u8s8-minmax"] == ("mine-onnxruntime-fp32", "mine-onnxruntime-int8-minmax")
    assert "mine-onnxruntime-int8-entropy" in needs["u8s8-mse_gptq-channel"]
    assert "mine-onnxruntime-u8s8-mse_gptq-channel" in needs["uint8-mse_gptq-channel"]
    some = [by_id[f"mine-onnxruntime-{each}"] for each in made[:5]]
    parted = tasks(some, {"mine": workload}, registry, {"mine": (3, 2)})
    names = [task.name for task in parted]
    assert len(set(names)) == len(names)
    assert all(names.index(name) < names.index(task.name) for task in parted for name in task.needs)
    passes = [task.part for task in parted if task.part and task.part[0] not in (ARTIFACT, EVALUATION, MODEL)]
    assert sorted(passes) == [(need, number, 0) for need in (EXTREMES, HISTOGRAM, MOMENTS) for number in range(3)]
    needs = {task.name.removeprefix("mine-onnxruntime-"): task.needs for task in parted}
    assert {f"mine-onnxruntime-int8-entropy histogram {number} 0" for number in range(3)} <= set(
        needs["int8-entropy artifact 0 0"]
    )
    for each in made:
        assert needs[each] == tuple(f"mine-onnxruntime-{each} evaluation {number} 0" for number in range(2))
    assert "mine-onnxruntime-int8-entropy artifact 0 0" in needs["u8s8-mse_gptq-channel artifact 0 0"]
    (alone,) = {task.needs for task in parted if task.part == (MOMENTS, 1, 0)}
    assert alone == ("mine-onnxruntime-u8s8-mse_gptq-channel model 0 0",)


def test_a_transformed_model_is_seen_in_blocks_after_what_it_is_made_from(tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx")
    samples, registry = ArraySamples(np.zeros((1, 8, 8, 1), np.float32)), Registry()
    workload = Workload("mine", tmp_path / "model.onnx", samples, samples)
    case = next(each for each in registry.grid("mine") if each.method == "cle_mse_gptq" and each.exclude == "none")
    parted = tasks([case], {"mine": workload}, registry, {"mine": (2, 1)})
    (model,) = (task for task in parted if task.part == (MODEL, 0, 1))
    before = {task.name for task in parted if task.part and task.part[2] == 0}
    assert set(model.needs) == {"mine-onnxruntime-fp32", *before}
    seen = [task for task in parted if task.part and task.part[2] == 1 and task is not model]
    assert {task.part for task in seen if task.part} >= {(HISTOGRAM, 0, 1), (HISTOGRAM, 1, 1), (MOMENTS, 1, 1)}
    assert {task.needs for task in seen} == {(model.name,)}
    assert set(parted[-1].needs) >= {task.name for task in seen}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    with distributed.LocalCluster(
        n_workers=3, threads_per_worker=1, processes=False, memory_limit=0, dashboard_address="127.0.0.1:0"
    ) as found:
        yield found


def note(folder: str, case: str, after: Sequence[object] = (), part: object = None) -> Told:
    """Work that leaves a file; everything it is to come after has to be there."""
    time.sleep(0.01)
    (Path(folder) / f"{case}.{len(after)}").touch()
    return Told(1)


def picky(folder: str, case: str, after: Sequence[object] = (), part: object = None) -> Told:
    """Work that some refuse."""
    return Told(fault="would give other results (onnxruntime 1.0, but here 2.0)") if case == "b" else Told(1)


TODO = [Task("a"), Task("b", ("a",)), Task("c", ("a",)), Task("d", ("a", "b"))]


def test_all_tasks_are_done_after_what_they_need(cluster: Any, tmp_path: Path) -> None:
    done = distribute(cluster.scheduler_address, TODO, str(tmp_path), print, note)
    assert (done.finished, done.workers, done.faults) == (4, 3, [])
    assert {path.name for path in tmp_path.iterdir()} == {"a.0", "b.1", "c.1", "d.2"}


def test_what_workers_do_not_make_is_one_line(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = distribute(cluster.scheduler_address, TODO, str(tmp_path), print, picky)
    assert done.finished == 3
    assert len(done.faults) == 2
    assert "onnxruntime 1.0" in done.faults[0]
    monkeypatch.setattr("ptq.plugin.cluster.WAIT", 0.2)
    done = distribute("tcp://127.0.0.1:9", TODO, str(tmp_path), print, note)
    assert done.finished == 0
    assert len(done.faults) == 1
    assert "made here" in done.faults[0]


def test_a_worker_that_would_give_other_results_is_told_and_makes_nothing(tmp_path: Path) -> None:
    here = identity()
    assert not differs(here, here)
    assert "numpy 1.0, but here" in differs({**here, "numpy": "1.0"}, here)
    job = Job(str(tmp_path), (), str(tmp_path / "cache"), tuple(sorted({**here, "onnxruntime": "9.9"}.items())))
    told = work(job, "mine-onnxruntime-fp32")
    assert "onnxruntime" in told.fault
    assert "9.9" in told.fault
    assert not (tmp_path / "cache").exists()
    missing = work(replace(job, needs=tuple(sorted(here.items())), folder=str(tmp_path / "none")), "x")
    assert missing.fault.startswith("cannot declare")


@pytest.mark.parametrize("address", ["", "host:8786", "local:0", "local:x", "tcp://", "tcp:// a"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    pytest.importorskip("distributed", reason="dask is not installed")
    with pytest.raises(PtqError, match="--ptq-dask"):
        check_cluster(address)


def timeless(path: Path) -> Any:
    content = json.loads(path.read_text())
    for row in content["results"]:
        del row["seconds"]
    return content


def test_a_run_through_dask_is_equal_to_the_byte(
    repository: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="dask is not installed")
    pictures, labels = images(5500)  # three blocks of calibration, and three of evaluation
    np.save(repository.path / "images.npy", pictures)
    np.save(repository.path / "labels.npy", labels)
    (repository.path / "conftest.py").write_text(NO_TORCH + CONFTEST.replace("90", "1000"))
    few = ("-k", "fp32 or minmax and not channel")
    for name, more in (("alone", ()), ("dask", ("--ptq-dask=local:2",))):
        monkeypatch.setenv("PTQ_CACHE", str(tmp_path / name))
        result = run(repository, *few, "--ptq-json", f"{name}.json", "--ptq-artifacts", name, *more)
        result.assert_outcomes(passed=4, deselected=3)
    result.stdout.fnmatch_lines(["ptq: store: 0 made, *", "ptq: dask: 24 of 24 tasks made by 2 workers in * s"])
    assert len(list((tmp_path / "dask" / "predictions").glob("??/*.npz"))) == 4 * (3 + 1)
    assert timeless(repository.path / "alone.json") == timeless(repository.path / "dask.json")
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (repository.path / name).iterdir()}
        for name in ("alone", "dask")
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 4
    with monkeypatch.context() as patch:  # all is there: a warm run takes no second longer than one without
        patch.setattr("ptq.plugin.cluster.distribute", lambda *_: pytest.fail("nothing need be made"))
        result = run(repository, *few, "--ptq-json", "warm.json", "--ptq-dask=local:2")
    result.assert_outcomes(passed=4, deselected=3)
    result.stdout.fnmatch_lines(["ptq: dask: all that tests will ask for is in the store: no worker was asked"])
    assert timeless(repository.path / "alone.json") == timeless(repository.path / "warm.json")
    score = next(path for path in (tmp_path / "dask" / "score").glob("??/*.json") if ".made" not in path.name)
    score.write_bytes(b"damaged")
    result = run(repository, *few, "--ptq-json", "mended.json", "--ptq-dask=local:1")
    result.stdout.fnmatch_lines(["ptq: store: 0 made, *", "ptq: dask: * tasks made by 1 workers in * s"])
    assert timeless(repository.path / "alone.json") == timeless(repository.path / "mended.json")


def test_what_cannot_go_with_dask_is_refused_with_a_reason(repository: pytest.Pytester) -> None:
    pytest.importorskip("distributed", reason="dask is not installed")
    for arguments, words in (
        (("--ptq-dask=nowhere",), "should be tcp://"),
        (("--ptq-dask=local", "-m", "latency"), "latency is never distributed"),
    ):
        result = run(repository, *arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert any(words in line for line in result.errlines)
    result = run(repository, "--ptq-dask=tcp://127.0.0.1:9")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert any("give --ptq-store" in line for line in [*result.errlines, *result.outlines])
    (repository.path / "test_mine.py").write_text("import pytest\n" + LATENCY)
    result = run(repository, "--ptq-dask=local:1", "-k", "uint8-minmax-batch1")
    assert result.ret == 1
    assert any("latency is never distributed" in line for line in result.outlines)


def calibration() -> Any:
    return np.random.default_rng(3).uniform(0, 16, (40, 8, 8, 1)).astype(np.float32)


@pytest.mark.parametrize("pool", [None, ThreadPoolExecutor, pytest.param(ProcessPoolExecutor, marks=pytest.mark.slow)])
def test_any_executor_quantizes_all(tmp_path: Path, pool: Any) -> None:
    write_model(tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", calibration())
    alone = ptq.quantize(tmp_path / "model.onnx", tmp_path / "x.npy", dtype="int8", method="minmax",
                         granularity="tensor", store=Store(tmp_path / "alone"))  # fmt: skip
    store = Store(tmp_path / "cache")
    wanted: dict[str, Any] = {"dtype": ("int8", "uint8"), "method": ("minmax", "entropy"), "granularity": "tensor"}

    def made(executor: Any) -> list[ptq.Quantized]:
        return ptq.quantize_all(
            tmp_path / "model.onnx", tmp_path / "x.npy", out=tmp_path / "out", executor=executor, store=store, **wanted
        )

    if pool is None:
        found = made(None)
    else:
        import multiprocessing

        options = {} if pool is ThreadPoolExecutor else {"mp_context": multiprocessing.get_context("spawn")}
        with pool(2, **options) as executor:
            found = made(executor)
    assert len(found) == 4
    assert {each.path.name for each in found} == {path.name for path in (tmp_path / "out").iterdir()}
    assert (tmp_path / "out" / "model-onnxruntime-int8-minmax.onnx").read_bytes() == alone.path.read_bytes()
    assert len(list((tmp_path / "cache" / "statistics").rglob("*.made.json"))) == 2


def test_what_nobody_has_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx")
    with pytest.raises(PtqError, match="method 'nobodys': onnxruntime has "):
        ptq.quantize_all(tmp_path / "model.onnx", calibration(), method="nobodys")
    with pytest.raises(PtqError, match="backend 'nobodys' is not known"):
        ptq.quantize_all(tmp_path / "model.onnx", calibration(), backend="nobodys")


def sleeping(folder: str, case: str, after: Sequence[object] = (), part: object = None) -> Told:
    """A runtime that takes 10 to 30 s, and nothing of the processor."""
    time.sleep(seconds(case))
    return Told(1)


def seconds(case: str) -> float:
    return 10 + 20 * hashlib.sha256(case.encode()).digest()[0] / 255


@pytest.mark.slow
def test_a_thousand_cases_keep_fifty_workers_busy_and_memory_small() -> None:
    """30 workloads: of each a reference, two cases that make passes, and the others that wait for those."""
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    todo = [Task(f"w{model}-r-fp32") for model in range(30)]
    todo += [Task(f"w{model}-r-int8-m{way}", (f"w{model}-r-fp32",)) for way in range(2) for model in range(30)]
    todo += [
        Task(f"w{model}-r-int8-m{way}", (f"w{model}-r-fp32", f"w{model}-r-int8-m{way % 2}"))
        for way in range(2, 33)
        for model in range(30)
    ][: 1000 - len(todo)]
    assert len(todo) == 1000
    with distributed.LocalCluster(
        n_workers=50, threads_per_worker=1, processes=False, memory_limit=0, dashboard_address="127.0.0.1:0"
    ) as cluster:
        distribute(cluster.scheduler_address, todo[:60], "", print, sleeping)
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        done = distribute(cluster.scheduler_address, todo, "", print, sleeping)
        took = time.perf_counter() - start
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    busy = sum(map(seconds, (task.case for task in todo))) / (50 * took)
    print(f"{busy:.1%} busy, {took:.1f} s; controller, scheduler and 50 workers grew by {grown:.1f} MB together")
    assert (done.finished, done.workers, done.faults) == (1000, 50, [])
    # 94.1 % where no time is lost between tasks: at first there are 30 references for 50 workers
    assert busy >= 0.9
    assert grown < 150
