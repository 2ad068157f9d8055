"""How near a quantized model is to what its activations allow: agreement with the float model, by what is rounded.

    python tests/benchmarks/limits.py cifar10 u8s8 mse_gptaq --ptq-data DATA

Prints what the case gives in exact arithmetic, what the same activations give with float weights, and what its weights
give with float activations: the case cannot be much better than the second. Both are of the model as the
method's transforms have it.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
from pathlib import Path

import numpy as np

from ptq.cases import Case
from ptq.data.batch import as_batch
from ptq.engine.pipeline import Pipeline
from ptq.engine.store import Store
from ptq.models.onnx_file import load
from ptq.models.session import session
from ptq.quantization.calibration import Calibration
from ptq.quantization.correct import pool_globally
from ptq.quantization.dtype import DTYPES
from ptq.quantization.edges import with_edges
from ptq.quantization.plan import Plan
from ptq.quantization.rounded import Rounded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload")
    parser.add_argument("dtype")
    parser.add_argument("method")
    parser.add_argument("--ptq-data", type=Path, required=True)
    given = parser.parse_args()
    declared = importlib.import_module(f"ptq.workloads.{given.workload}").WORKLOAD(given.ptq_data)
    pipeline = Pipeline(declared, Store())
    case, dtype = Case(given.workload, "onnxruntime", given.dtype, given.method, "channel"), DTYPES[given.dtype]
    passes = pipeline.passes_of(case)  # over the model as the method's transforms have it
    prepared, methods = passes.prepared.path, pipeline.registry.methods
    calibration = Calibration(passes.checked, lambda: passes.statistics, methods, lambda: passes.moments)
    plan = Plan(dtype, calibration.ranges(case.method, dtype.quantizer), per_channel=True)
    plan = with_edges(prepared, plan, case.method, calibration)
    corrects = calibration.method(case.method).corrects
    batches = [as_batch(batch) for batch in pipeline.evaluation_samples.batches(pipeline.batch)]
    output = pipeline.signature.outputs[0].name

    def run(model: Path) -> np.ndarray:
        running = session(model, optimize=False)
        return np.concatenate([running.run([output], dict(batch))[0] for batch in batches])

    want = run(prepared)
    print(f"{'the case':40}{_said(run(pipeline.artifact(case).path), want)}")
    with tempfile.TemporaryDirectory() as folder:
        corrected = Path(folder) / "corrected.onnx"
        if corrects is not None:
            plan, _ = corrects(prepared, corrected, plan, calibration)
            print(f"{'float activations, its weights':40}{_said(run(corrected), want)}")
    pooled = load(prepared)
    pool_globally(pooled)  # as corrections have it
    rounded = Rounded(pooled, plan, prepared)
    have = []
    for batch in batches:
        seen = rounded.settle(dict(batch))
        for index in range(len(rounded.graph.nodes)):
            seen.update(rounded.settle(rounded.run(index, seen)))
        have.append(seen[output])
    print(f"{'its activations, float weights':40}{_said(np.concatenate(have), want)}")


def _said(have: np.ndarray, want: np.ndarray) -> str:
    agreement = (have.argmax(axis=-1) == want.argmax(axis=-1)).mean()
    sqnr = 10 * np.log10(np.square(want).sum() / np.square(have - want).sum())
    return f"agreement {100 * agreement:.2f} %, SQNR {sqnr:.1f} dB"


if __name__ == "__main__":
    main()
