"""The peers in one table: each quantizer by its own documented recipe and by its best, on the same calibration images.

Every recipe (``recipes/NAME.py``) runs in an environment of its own and in a process of its own, whose seconds and peak
memory are taken; all artifacts are then judged by ptq as foreign artifacts of one workload, in one run, beside ptq's
own case and those of torch and TFLite. Which recipe is best is what the tool's documentation says of accuracy: nobody
looked at the images that are judged. A recipe that cannot be installed or that fails is a row with the reason.

    python tests/benchmarks/peers.py --data DIR --work FOLDER [--workload cifar10] [--python NAME=INTERPRETER] ...

writes FOLDER/WORKLOAD/peers.md. tox -e peers does.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RECIPES = ("documented", "best")
SECONDS = 1800
"""That a recipe may take."""
OURS = {
    "onnxruntime-u8s8-mse_gptq-channel": "ptq, best", "onnxruntime-uint8-mse_gptq-channel": "ptq, best on this CPU",
    "onnxruntime-u8s8-minmax": "ptq, minmax", "torch-u8s8-default-channel": "torch (FX), documented",
    "torch_pt2e-u8s8-histogram-channel": "torch (PT2E), documented", "tflite-int8-minmax-channel": "TFLite, documented",
}  # fmt: skip
"""Cases that ptq makes itself: its own, and those of frameworks that its backends drive, by their ids."""
CONFTEST = """
import dataclasses, json, os
from pathlib import Path
import ptq

def pytest_ptq_workloads(data):
    given = json.loads(Path(__file__).with_name("artifacts.json").read_text())
    (found,) = [each for each in ptq.builtin_workloads(data) if each.name == given["workload"]]
    made = {name: ptq.Artifact("onnxruntime", each["dtype"], each["path"]) for name, each in given["artifacts"].items()}
    ours = set(given["ours"])
    include = lambda case: case.is_float or case.method in made or case.id.partition("-")[2] in ours
    return [dataclasses.replace(found, artifacts=made, include=include)]
"""
BARS = '["*"]\nfloor = 0.0\nmin_integer_share = 0.0\nmax_ratio = 1000.0\nwhy = "peers are compared here, not judged"\n'


def main() -> None:
    """Make, judge, and write the table."""
    if sys.argv[1:2] == ["make"]:
        make(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("PTQ_DATA"), help="as --ptq-data")
    parser.add_argument("--work", type=Path, required=True, help="where environments, artifacts and tables go")
    parser.add_argument("--workload", default="cifar10", help="cifar10 or imagenet")
    parser.add_argument("--peer", action="append", help="only this; may be repeated")
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="an environment that is there"
    )
    parser.add_argument("--judge", default="accuracy or structure or latency", help="parts of the suite; '' for none")
    given = parser.parse_args()
    if given.data is None:
        parser.error("no data: name the folder with --data or PTQ_DATA")
    folder = (given.work / given.workload).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    pythons = dict(each.split("=", 1) for each in given.python)
    float_model, inputs = prepared(given.workload, Path(given.data), folder)
    kept = folder / "rows.json"  # a peer that is not made now is as it was made last
    rows = json.loads(kept.read_text()) if kept.is_file() else {}
    for path in sorted((HERE / "recipes").glob("*.py")):
        if not given.peer or path.stem in given.peer:
            rows.update(made(path, pythons.get(path.stem), float_model, inputs, folder))
            kept.write_text(json.dumps(rows, indent=1))
    if not given.judge:
        return
    report = judged(given.workload, Path(given.data), folder, rows, given.judge)
    exact = exactly(given.workload, Path(given.data), folder / "float.onnx", rows)
    text = table(given.workload, rows, report, exact)
    (folder / "peers.md").write_text(text)
    print(text)


def make(recipe: str, name: str, model: str, inputs: str, out: str) -> None:
    """Run one recipe here, and write what it took beside the artifact."""
    import resource

    import numpy as np

    found = load(Path(recipe))
    arrays = dict(np.load(inputs))
    start = time.perf_counter()
    getattr(found, name)(Path(model), arrays, Path(out))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    Path(out).with_suffix(".json").write_text(json.dumps({"seconds": seconds, "mb": peak}))


def load(path: Path) -> Any:
    """A recipe's module, under a name that no installed package has."""
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepared(workload: str, data: Path, folder: Path) -> tuple[Path, Path]:
    """The float model as ONNX, and the calibration images by input name, both as files."""
    import numpy as np

    import ptq
    from ptq.engine.pipeline import Pipeline
    from ptq.engine.store import Store

    found = [each for each in ptq.builtin_workloads(data) if each.name == workload]
    if not found:
        sys.exit(f"peers: no workload {workload!r} in this ptq")
    pipeline = Pipeline(found[0], Store())
    model, inputs = folder / "float.onnx", folder / "calibration.npz"
    model.write_bytes(pipeline.source.onnx.read_bytes())
    (name,) = pipeline.contracts
    parts = list(pipeline.calibration_samples.batches(64))
    rows = [part[name] if isinstance(part, Mapping) else part for part in parts]
    np.savez(inputs, **{name: np.concatenate(rows).astype(np.float32)})
    return model, inputs


def made(path: Path, python: str | None, model: Path, inputs: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """What each recipe of a peer gave, by ``PEER_RECIPE``: an artifact and what it took, or why not."""
    recipe = load(path)
    rows: dict[str, dict[str, Any]] = {}
    interpreter, failed = (python, None) if python else environment(path.stem, recipe, folder.parent / "environments")
    for name in RECIPES:
        out = folder / f"{path.stem}_{name}.onnx"
        row: dict[str, Any] = {
            "peer": f"{recipe.__doc__.split(':')[0]}, {name}", "dtype": recipe.DTYPE, "path": str(out), "failed": failed
        }  # fmt: skip
        rows[f"{path.stem}_{name}"] = row
        if failed is not None:
            continue
        for old in (out, out.with_suffix(".json")):
            old.unlink(missing_ok=True)
        command = [
            interpreter,
            str(Path(__file__).resolve()),
            "make",
            str(path),
            name,
            str(model),
            str(inputs),
            str(out),
        ]
        # without this checkout's folder, whose names would hide those of the tools
        isolated = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONSAFEPATH": "1"}
        row["failed"] = run(command, folder, isolated)
        if row["failed"] is None and out.is_file():
            row.update(json.loads(out.with_suffix(".json").read_text()))
    return rows


def environment(name: str, recipe: Any, folder: Path) -> tuple[str, str | None]:
    """(interpreter, why not): this one where it has what the peer requires, else a fresh one."""
    asked = "import importlib.metadata as m, sys; [m.version(name) for name in sys.argv[1:]]"
    if run([sys.executable, "-c", asked, *recipe.REQUIRES], None, None) is None:
        return sys.executable, None
    there = folder / name
    venv.EnvBuilder(with_pip=True, clear=True).create(there)
    python = str(there / "bin" / "python")
    alone = list(getattr(recipe, "NO_DEPENDENCIES", ()))
    rest = [each for each in recipe.REQUIRES if each not in alone]
    for packages in ([*rest], ["--no-deps", *alone] if alone else []):
        if packages and (failed := run([python, "-m", "pip", "install", "--quiet", *packages], None, None)) is not None:
            return python, f"not installed: {failed}"
    return python, None


def run(command: list[str], folder: Path | None, environment: Mapping[str, str] | None) -> str | None:
    """Run a command; its last words when it fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"took more than {SECONDS} s"
    if done.returncode == 0:
        return None
    said = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    told = (
        [line for line in said if re.match(r"(\w+\.)*\w*(Error|Exception)\b|ERROR", line)] or said or ["said nothing"]
    )
    return told[-1][:160]


def judged(
    workload: str, data: Path, folder: Path, rows: Mapping[str, Mapping[str, Any]], parts: str
) -> Mapping[str, Any]:
    """The JSON report of one run over all artifacts, ptq's own cases and those of its other backends."""
    artifacts = {
        name: {"dtype": row["dtype"], "path": row["path"]} for name, row in rows.items() if row["failed"] is None
    }
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "bars.toml").write_text(BARS)
    (folder / "artifacts.json").write_text(
        json.dumps({"workload": workload, "artifacts": artifacts, "ours": list(OURS)})
    )
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "--pyargs", "ptq.suite", "-m", parts, "-q"]
    options = [
        "--ptq-data",
        str(data.resolve()),
        "--ptq-json",
        "out.json",
        "--ptq-html",
        "out.html",
        "-p",
        "no:randomly",
    ]
    subprocess.run([*command, *options, "-p", "no:cacheprovider"], cwd=folder, check=False)
    report: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return report


def exactly(workload: str, data: Path, model: Path, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Right, agreement and SQNR of peers' artifacts in float arithmetic between quantizers, in words, by row.

    That is what a CPU with exact kernels gives. One without VNNI saturates sums of 16 bits in u8s8, whoever made it.
    """
    import numpy as np
    import onnxruntime as ort

    import ptq
    from ptq.engine.pipeline import Pipeline
    from ptq.engine.store import Store

    (found,) = (each for each in ptq.builtin_workloads(data) if each.name == workload)
    samples = Pipeline(found, Store()).evaluation_samples
    targets, batches = np.asarray(samples.targets), list(samples.batches(50))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4

    def outputs(path: Path) -> Any:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        parts = [next(iter(part.values())) if isinstance(part, Mapping) else part for part in batches]
        return np.concatenate([session.run(None, {name: part.astype(np.float32)})[0] for part in parts])

    reference, told = outputs(model), {}
    for name, row in rows.items():
        if row["failed"] is None:
            try:
                made = outputs(Path(row["path"]))
            except Exception as error:  # onnxruntime's own kinds: a file that only its optimizer makes valid
                told[name] = type(error).__name__
                continue
            right, same = (made.argmax(1) == targets).sum(), (made.argmax(1) == reference.argmax(1)).mean()
            noise = max(float(((reference - made) ** 2).sum()), 1e-30)
            sqnr = 10 * np.log10(float((reference**2).sum()) / noise)
            told[name] = f"{right}/{len(targets)}, {same:.4f}, {sqnr:.1f}"
    return told


def table(
    workload: str, rows: Mapping[str, Mapping[str, Any]], report: Mapping[str, Any], exact: Mapping[str, str]
) -> str:
    """Markdown: a line an artifact, nearest to the float model first, then those that are not."""
    by = {row["id"].partition("-")[2]: row for row in report["results"]}
    named = {
        f"onnxruntime-{row['dtype']}-{name}": (row["peer"], {**row, "exact": exact.get(name)})
        for name, row in rows.items()
    }
    named |= {case: (peer, {"failed": None}) for case, peer in OURS.items()}
    lines = list(_judged(by, named, report["latency"]))
    failed = [f"| {row['peer']} | | | | | | | | | {row['failed']} |" for _, row in named.values() if row["failed"]]
    isa = ", ".join(report["environment"]["isa"])
    return "\n".join([
        f"{workload}, one run on {report['environment']['cpu']} ({isa})\n",
        "| quantizer | right | agree | SQNR, dB | int | time / FP32, batch 1 | batch 64 | s to make | MB, peak "
        "| exact: right, agree, SQNR |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|", *lines, *failed, "",
    ])  # fmt: skip


def _judged(by: Mapping[str, Any], named: Mapping[str, Any], races: list[Mapping[str, Any]]) -> Iterator[str]:
    for case, row in sorted(by.items(), key=lambda pair: -(pair[1]["agreement"] or 0)):
        if case not in named:
            continue
        peer, took = named[case]
        if row["value"] is None:
            yield f"| {peer} | | | | | | | | | {row['reason']} |"
            continue
        ratios = {race["batch"]: race["ratio"] for race in races if row["id"] in race["stands_for"]}
        whole = sum(row["seconds"].get(name) or 0.0 for name in ("calibrate", "quantize"))  # a peer's hold both
        cells = [
            f"{peer} (`{row['dtype']}`)", f"{row['correct']}/{row['n']}", f"{row['agreement']:.4f}",
            _form(row["sqnr_db"], ".1f"),
            _form(row["integer_share"], ".2f"), _form(ratios.get(1), ".2f"), _form(ratios.get(64), ".2f"),
            _form(took.get("seconds", whole or None), ".1f"), _form(took.get("mb"), ".0f"),
            took.get("exact") or "",
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def _form(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    main()
