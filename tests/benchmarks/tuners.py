"""Three searches in one table: ptq tune, NNCF's `quantize_with_accuracy_control`, Neural Compressor's `autotune`.

All have the same float model, calibration images, bar, and half of the labelled images to tune on, and each runs in a
process of its own that nothing is kept for. The answers are judged on the other half, by onnxruntime on this machine.

    python tests/benchmarks/tuners.py --data DIR --work FOLDER [--workload cifar10] [--max-drop 0.5] [--tuner NAME] ...

writes FOLDER/WORKLOAD/tuners.md. tox -e tuners does, for ResNet8 and EfficientNet-Lite0.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from peers import HERE, environment, load, prepared, run

Floats = npt.NDArray[np.float32]
Score = Callable[[Any], float]


def main() -> None:
    """Tune with each, judge, and write the table."""
    if sys.argv[1:2] == ["make"]:
        make(sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("PTQ_DATA"), help="as --ptq-data")
    parser.add_argument("--work", type=Path, required=True, help="where environments, answers and tables go")
    parser.add_argument("--workload", default="cifar10", help="cifar10 or imagenet")
    parser.add_argument("--max-drop", type=float, default=0.5, help="percentage points")
    parser.add_argument("--seconds", type=float, default=600.0, help="ptq's budget; the others have none to give")
    parser.add_argument("--tuner", action="append", choices=list(TUNERS), help="only this; may be repeated")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="an environment there is")
    given = parser.parse_args()
    if given.data is None:
        parser.error("no data: name the folder with --data or PTQ_DATA")
    folder = (given.work / given.workload).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    prepared(given.workload, Path(given.data), folder)
    split(given.workload, Path(given.data), folder)
    pythons = dict(each.split("=", 1) for each in given.python)
    rows = [
        tuned(name, folder, given.max_drop, given.seconds, pythons.get(name))
        for name in TUNERS
        if not given.tuner or name in given.tuner
    ]
    text = table(given.workload, given.max_drop, rows)
    (folder / "tuners.md").write_text(text)
    print(text)


def split(workload: str, data: Path, folder: Path) -> None:
    """The labelled images as files: those to tune on and those to report, every second one."""
    import ptq
    from ptq.engine.pipeline import Pipeline
    from ptq.engine.store import Store

    (found,) = (each for each in ptq.builtin_workloads(data) if each.name == workload)
    samples = Pipeline(found, Store()).evaluation_samples
    images = np.concatenate([next(iter(batch.values())) for batch in samples.batches(50)]).astype(np.float32)
    labels = np.asarray(samples.targets)
    for which, name in enumerate(("tuned", "reported")):
        np.savez(folder / f"{name}.npz", images=images[which::2], labels=labels[which::2])


def tuned(name: str, folder: Path, max_drop: float, seconds: float, python: str | None) -> dict[str, Any]:
    """What one search gave, and what it took, judged on what none of them has seen."""
    import ptq
    from ptq.engine.store import Store

    row: dict[str, Any] = {"tuner": name, "failed": None}
    if name != "ptq" and python is None:
        python, row["failed"] = environment(name, load(HERE / "recipes" / f"{name}.py"), folder.parent / "environments")
    out = folder / f"{name}.onnx"
    out.unlink(missing_ok=True)
    command = [python or sys.executable, str(Path(__file__).resolve()), "make", name, str(folder), str(max_drop)]
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" or name == "ptq"}
    if row["failed"] is None:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        row["failed"] = run([*command, str(seconds)], folder, alone)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        row["processor"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if row["failed"] is None and not out.is_file():
        row["failed"] = "left no model"
    if row["failed"] is None:
        row["seconds"] = json.loads(out.with_suffix(".json").read_text())["seconds"]
        reported, model, store = np.load(folder / "reported.npz"), folder / "float.onnx", Store(folder / "judged")
        found = ptq.evaluate(out, reported["images"], reported["labels"], baseline=model, store=store)
        raced = ptq.compare(model, out, reported["images"][:1], store=store)
        row |= {"n": found.score.n, "right": found.score.correct, "sqnr": found.sqnr_db, "integer": found.integer_share}
        row |= {"drop": found.interval, "ratio": raced.ratio.value, "bytes": out.stat().st_size}
    return row


def make(name: str, folder: Path, max_drop: float, seconds: float) -> None:
    """Run one search here, and write what it took beside its answer."""
    start = time.perf_counter()
    TUNERS[name](folder, max_drop, seconds, folder / f"{name}.onnx")
    (folder / f"{name}.json").write_text(json.dumps({"seconds": time.perf_counter() - start}))


def by_ptq(folder: Path, max_drop: float, seconds: float, out: Path) -> None:
    """Both halves are given, put together again: the search takes every second image, and reports the others."""
    import tempfile

    import ptq
    from ptq.engine.store import Store

    calibration = np.load(folder / "calibration.npz")
    halves = [np.load(folder / f"{name}.npz") for name in ("tuned", "reported")]
    images, labels = ([half[key] for half in halves] for key in ("images", "labels"))
    order = np.argsort(np.concatenate([2 * np.arange(len(images[0])), 2 * np.arange(len(images[1])) + 1]))
    with tempfile.TemporaryDirectory() as kept:
        found = ptq.tune(
            folder / "float.onnx", dict(calibration), np.concatenate(images)[order], np.concatenate(labels)[order],
            max_drop=max_drop, out=out, seconds=seconds, store=Store(Path(kept)),
        )  # fmt: skip
    print(found)


def by_nncf(folder: Path, max_drop: float, seconds: float, out: Path) -> None:
    """Defaults, with all calibration images; validation is given an onnx.ModelProto, and gives a number an image."""
    import nncf
    import onnx
    import onnxruntime

    calibration, tuned_on = np.load(folder / "calibration.npz"), np.load(folder / "tuned.npz")
    (entry,) = calibration
    feeds = [{entry: image[None]} for image in calibration[entry]]
    pairs = list(zip(tuned_on["images"], tuned_on["labels"], strict=True))

    def validate(model: Any, items: Any) -> tuple[float, list[float]]:
        running = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        right = [float(running.run(None, {entry: image[None]})[0].argmax() == label) for image, label in items]
        return float(np.mean(right)), right

    made = nncf.quantize_with_accuracy_control(
        onnx.load(folder / "float.onnx"), nncf.Dataset(feeds), nncf.Dataset(pairs), validate,
        max_drop=max_drop / 100, drop_type=nncf.DropType.ABSOLUTE, subset_size=len(feeds),
    )  # fmt: skip
    onnx.save(made, out)


def by_neural_compressor(folder: Path, max_drop: float, seconds: float, out: Path) -> None:
    """Its own set of static recipes, in QDQ; the tolerable loss is relative to the float model there."""
    import onnx
    import onnxruntime
    from onnx_neural_compressor.quantization import QuantFormat, config, tuning

    calibration, tuned_on = np.load(folder / "calibration.npz"), np.load(folder / "tuned.npz")
    (entry,) = calibration
    reader = load(HERE / "recipes" / "onnxruntime.py").Reader({entry: calibration[entry]})
    reader.rewind = lambda: reader.__init__({entry: calibration[entry]})

    def score(model: str) -> float:
        running = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        answers = [running.run(None, {entry: image[None]})[0].argmax() for image in tuned_on["images"]]
        return float(np.mean(np.array(answers) == tuned_on["labels"]))

    float_model = str(folder / "float.onnx")
    recipes = config.StaticQuantConfig.get_config_set_for_tuning(
        quant_format=QuantFormat.QDQ,
        calibration_sampling_size=len(calibration[entry]),
        calibration_data_reader=reader,
    )
    made = tuning.autotune(
        float_model,
        tuning.TuningConfig(config_set=recipes, tolerable_loss=max_drop / 100 / score(float_model)),
        score,
        calibration_data_reader=reader,
    )
    onnx.save(made, out)


TUNERS = {"ptq": by_ptq, "nncf": by_nncf, "neural_compressor": by_neural_compressor}


def table(workload: str, max_drop: float, rows: list[dict[str, Any]]) -> str:
    """Markdown: a line a search."""
    lines = [
        f"{workload}, max_drop {max_drop:g} pp\n",
        "| search | minutes | of two cores' time | right | drop, pp | time / FP32 | kB | int | SQNR, dB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        if row["failed"] is not None:
            lines.append(f"| {row['tuner']} | {row['failed']} | | | | | | | |")
            continue
        drop = row["drop"]
        lines.append(
            f"| {row['tuner']} | {row['seconds'] / 60:.1f} | {row['processor'] / 120:.1f} | {row['right']}/{row['n']} "
            f"| {drop.drop:+.2f} [{drop.low:+.2f}, {drop.high:+.2f}] | {row['ratio']:.2f} | {row['bytes'] / 1000:.0f} "
            f"| {row['integer']:.2f} | {row['sqnr']:.1f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
