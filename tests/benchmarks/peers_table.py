"""The table of the peers: ptq judges all files as foreign artifacts of one workload, in one run, and races them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peers import images, note

HERE = Path(__file__).parent
CONFTEST = """
import sys
from pathlib import Path

sys.path.insert(0, {here!r})
import peers_table


def pytest_ptq_workloads(data):
    return [peers_table.workload(Path(__file__).parent, data)]
"""
BARS = '["*"]\nfloor = 0.0\nmin_integer_share = 0.0\nwhy = "peers are compared here, not judged"\n'
HEAD = (
    "| quantizer | right | agree | SQNR, dB | right here | int | time / FP32, batch 1 | batch 64 | s (CPU) | MB |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)
Rows = dict[str, dict[str, Any]]


def workload(folder: Path, data: Path | None) -> Any:
    """The workload of a folder with every file that was made as a foreign artifact; of ptq's own cases FP32 alone."""
    import dataclasses

    import ptq

    rows = json.loads((folder / "rows.json").read_text())
    made = {
        key: ptq.Artifact(row["backend"], row["dtype"], row["path"])
        for key, row in rows.items()
        if row["failed"] is None
    }
    backends = {"onnxruntime", *(each.backend for each in made.values())}
    (found,) = (each for each in ptq.builtin_workloads(data) if each.name == folder.name)
    return dataclasses.replace(found, artifacts=made, include=lambda case: case.is_float and case.backend in backends)


def judged(folder: Path, data: Path) -> Mapping[str, Any]:
    """The JSON report of one run over all artifacts and the float models."""
    (folder / "conftest.py").write_text(CONFTEST.format(here=str(HERE)))
    (folder / "bars.toml").write_text(BARS)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "--pyargs", "ptq.suite", "-m", "accuracy or structure", "-q", "-n", "2"]
    options = ["--ptq-data", str(data), "--ptq-json", "out.json", "--ptq-html", "out.html"]
    (folder / "out.json").unlink(missing_ok=True)
    subprocess.run([*command, *options, "-p", "no:randomly", "-p", "no:cacheprovider"], cwd=folder, check=False)
    if not (folder / "out.json").is_file():
        sys.exit(f"peers: pytest wrote no {folder / 'out.json'}; what was made is kept, and the same command goes on")
    report: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return report


def raced(folder: Path, data: Path, rows: Rows, end: float) -> dict[str, dict[int, float]]:
    """Time ratios to the float model of the same runtime, on one thread, by row and batch; none after `end`.

    Files of the same nodes and the same shapes are raced once: scales do not change how long a kernel takes.
    """
    import ptq
    from ptq.engine.pipeline import Pipeline
    from ptq.engine.store import Store
    from ptq.latency.race import BATCHES, race
    from ptq.latency.ratio import Budget, measure_ratio

    pipeline, budget = Pipeline(workload(folder, data), Store()), Budget(seconds=4, first=2)
    known: dict[Any, dict[int, float]] = {}
    for key, row in rows.items():
        if row["failed"] is None and (graph := graph_of(row)) not in known:
            known[graph] = {}
            case = ptq.Case(folder.name, row["backend"], row["dtype"], key)
            for batch in BATCHES if time.perf_counter() < end else ():
                try:
                    ready = race(pipeline, case, batch, None, None, ())
                    ratio = measure_ratio(ready.reference, ready.predict, ready.inputs, None, budget)
                except ptq.PtqError as error:
                    note(f"{case.id} batch {batch}: {error}", time.perf_counter())
                else:
                    known[graph][batch] = ratio.value
    return {key: known[graph_of(row)] for key, row in rows.items() if row["failed"] is None}


def graph_of(row: Mapping[str, Any]) -> Any:
    """What a file's time depends on: nodes, and the types and shapes of what is constant; its name where not ONNX."""
    if row["backend"] != "onnxruntime":
        return row["path"]
    import onnx

    graph = onnx.load(row["path"]).graph
    return (
        tuple((node.op_type, len(node.input)) for node in graph.node),
        tuple(sorted((each.data_type, tuple(each.dims)) for each in graph.initializer)),
    )


def exactly(folder: Path, data: Path, rows: Rows, report: Mapping[str, Any]) -> dict[str, tuple[int, float, float]]:
    """(right, agreement, SQNR in dB) of onnxruntime's u8s8 files in float arithmetic between quantizers, by row.

    That is what a CPU with exact kernels gives. One without VNNI saturates sums of 16 bits in u8s8, whoever made the
    file; on one with VNNI nothing is to be done here.
    """
    import numpy as np
    import onnxruntime as ort

    from ptq.engine.pipeline import Pipeline
    from ptq.engine.store import Store

    if any("vnni" in each for each in report["environment"]["isa"]):
        return {}
    pipeline = Pipeline(workload(folder, data), Store())
    (name,) = pipeline.contracts
    samples = pipeline.evaluation_samples
    targets, inputs = np.asarray(samples.targets), images(samples, name)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4

    def outputs(path: Path) -> Any:
        session = ort.InferenceSession(unoptimized(path), options, providers=["CPUExecutionProvider"])
        parts = np.array_split(inputs, len(inputs) // 50)
        return np.concatenate([session.run(None, {session.get_inputs()[0].name: part})[0] for part in parts])

    reference, found = outputs(folder / "float.onnx"), {}
    for key, row in rows.items():
        if row["failed"] is None and row["backend"] == "onnxruntime":
            made = outputs(Path(row["path"]))
            right, same = (made.argmax(1) == targets).sum(), (made.argmax(1) == reference.argmax(1)).mean()
            noise = max(float(((reference - made) ** 2).sum()), 1e-30)
            found[key] = int(right), float(same), float(10 * np.log10(float((reference**2).sum()) / noise))
    return found


def unoptimized(path: Path) -> bytes:
    """The model, valid without the optimizer: a bias has one axis, whatever Neural Compressor says of its scales."""
    import onnx

    model = onnx.load(path)
    flat = {each.name for each in model.graph.initializer if len(each.dims) == 1}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in flat:
            for attribute in node.attribute:
                attribute.i = 0 if attribute.name == "axis" else attribute.i
    return model.SerializeToString()


def table(
    name: str, rows: Mapping[str, Mapping[str, Any]], report: Mapping[str, Any],
    exact: Mapping[str, tuple[int, float, float]], times: Mapping[str, Mapping[int, float]],
) -> str:  # fmt: skip
    """Markdown: a line an artifact, nearest to the float model first, then those that are not, then what it ran on."""
    by = {row["method"]: row for row in report["results"]}
    (fp32,) = (row for row in report["results"] if row["id"] == f"{name}-onnxruntime-fp32")
    lines = list(_lines(rows, by, exact, times))
    failed = [f"| {row['peer']} | | | | | | | | | {row['failed']} |" for row in rows.values() if row["failed"]]
    environment = report["environment"]
    isa, exactness = ", ".join(environment["isa"]), "All columns are as it runs there."
    if exact:
        exactness = (
            "It has no VNNI: its u8s8 kernels saturate sums of 16 bits, so files for onnxruntime are scored with float "
            "arithmetic between the quantizers, as a CPU with VNNI computes them; `right here` is as it runs."
        )
    foot = f"{name}: FP32 {fp32['correct']}/{fp32['n']}, on {environment['cpu']} ({isa}). {exactness}"
    return "\n".join([HEAD, *lines, *failed, "", foot, ""])


def _lines(
    rows: Mapping[str, Mapping[str, Any]], by: Mapping[str, Mapping[str, Any]],
    exact: Mapping[str, tuple[int, float, float]], times: Mapping[str, Mapping[int, float]],
) -> Iterator[str]:  # fmt: skip
    cells = []
    for key, row in rows.items():
        if row["failed"] is None:
            result = by[key]
            if result["value"] is None:
                cells.append((0.0, [row["peer"], *[""] * 8, result["reason"]]))
                continue
            here = (result["correct"], result["agreement"], result["sqnr_db"])
            right, agreement, sqnr = exact.get(key, here)
            cells.append((agreement, [
                f"{row['peer']} ({row['version']}, `{row['dtype']}`)", str(right), f"{agreement:.4f}",
                _form(sqnr, ".1f"), str(here[0]), _form(result["integer_share"], ".2f"),
                _form(times.get(key, {}).get(1), ".2f"), _form(times.get(key, {}).get(64), ".2f"),
                f"{row['seconds']:.0f} ({row['cpu']:.0f})", _form(row["mb"], ".0f"),
            ]))  # fmt: skip
    for _, line in sorted(cells, key=lambda pair: -pair[0]):
        yield f"| {' | '.join(line)} |"


def _form(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
