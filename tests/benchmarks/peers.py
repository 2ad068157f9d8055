"""The peers in one table: each quantizer by its own documented recipe and by its best, on the same calibration images.

Every recipe (``recipes/NAME.py``) runs in a process of its own, in an environment that lies over this one: what is here
is not installed twice, and what the tool wants otherwise hides it. Seconds and peak memory are of that process. All
files are then judged by ptq as foreign artifacts of one workload, in one run, and timed against the float model of
their runtime. Which recipe is best is what the tool's documentation says of accuracy: nobody looked at the images that
are judged. A recipe that cannot be installed, fails, takes longer than LIMIT, or has no time left in the minutes of the
whole run is a row with the reason.

    python tests/benchmarks/peers.py --data DIR --work FOLDER [--workload cifar10] [--peer nncf] [--minutes 50] ...

writes FOLDER/peers.md, after each workload. tox -e peers does. A second call with the same FOLDER makes what is
missing: environments, and artifacts whose recipe's file is as it was, are kept. With --recipes w4a8 the recipes are of
that folder, weights of 4 bits, and all but the environments goes to FOLDER/w4a8.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WORKLOADS = ("cifar10", "imagenet")
RECIPES = ("documented", "best")
LIMIT = 600
"""Processor seconds that a recipe may take: five minutes of two cores. By the clock it may take twice as many, as a
machine that others use needs, so that what hangs ends too."""
MINUTES, JUDGING = 50.0, 8.0
"""Minutes of the run, so that with tox's own environment it is an hour, and those kept for judging each workload."""
Row = dict[str, Any]


def main() -> None:
    """Make, judge, and write the table."""
    if sys.argv[1:2] == ["make"]:
        make(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("PTQ_DATA"), help="as --ptq-data")
    parser.add_argument("--work", type=Path, required=True, help="where environments, artifacts and tables go")
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="only this; may be repeated")
    parser.add_argument("--peer", action="append", help="make only this again; others are as they were made last")
    parser.add_argument(
        "--limit", type=int, default=LIMIT, help="processor seconds of a recipe; by the clock twice as many"
    )
    parser.add_argument("--recipes", choices=("recipes", "w4a8"), default="recipes", help="the folder they lie in")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of the whole run")
    given = parser.parse_args()
    if given.data is None:
        parser.error("no data: name the folder with --data or PTQ_DATA")
    from peers_table import exactly, judged, raced, table  # not above: the tools' environments have no ptq

    from ptq.files import write_text

    start, data, base = time.perf_counter(), Path(given.data).resolve(), Path(given.work).resolve()
    work = base if given.recipes == "recipes" else base / given.recipes
    every = sorted((HERE / given.recipes).glob("*.py"))
    recipes = [path for path in every if not given.peer or path.stem in given.peer]
    names, pythons, models, rows = given.workload or WORKLOADS, {}, {}, {}
    for name in names:
        (work / name).mkdir(parents=True, exist_ok=True)
        models[name] = prepared(name, data, work / name)[:2]
        kept = work / name / "rows.json"
        rows[name] = json.loads(kept.read_text()) if kept.is_file() else {}
        note(f"{name}: prepared", start)
    for name, path, recipe in ordered(names, recipes):
        folder, key = work / name, f"{path.stem}_{recipe}"
        if not given.peer and is_made(rows[name].get(key), path):
            continue
        end = start + 60 * (given.minutes - JUDGING * len(names))
        left = end - time.perf_counter()
        if left > 0 and path not in pythons:
            pythons[path] = environment(path.stem, load(path), base / "environments", left)
            note(f"environment of {path.stem}", start)
            left = end - time.perf_counter()
        why = f"no time left in {given.minutes:g} minutes" if left <= 0 else pythons[path][1]
        if why:
            rows[name][key] = row(path, recipe, folder, why)
        else:
            taken = models[name][0 if hasattr(load(path), "SOURCE") else 1]
            seconds = min(2.0 * given.limit, left)
            rows[name][key] = made(path, recipe, pythons[path][0], taken, folder, given.limit, seconds)
            if seconds == left and (rows[name][key]["failed"] or "").startswith("not ended"):
                rows[name][key]["failed"] += f", what was left of {given.minutes:g} minutes"
        write_text(folder / "rows.json", json.dumps(rows[name], indent=1))
        note(f"{name}: {key}: {rows[name][key]['failed'] or 'made'}", start)
    tables: list[str] = []
    for name in names:
        report = judged(work / name, data)
        note(f"{name}: judged", start)
        exact = exactly(work / name, data, rows[name], report)
        note(f"{name}: scored in exact arithmetic", start)
        end = start + 60 * (given.minutes - JUDGING * (len(names) - 1 - len(tables)))
        tables.append(table(name, rows[name], report, exact, raced(work / name, data, rows[name], end)))
        note(f"{name}: timed", start)
        foot = f"Made and judged in {spent(start)}, each recipe within {given.limit} s of the processor.\n"
        write_text(work / "peers.md", "\n".join([*tables, foot]))
    print((work / "peers.md").read_text())


def ordered(names: Sequence[str], paths: Sequence[Path]) -> list[tuple[str, Path, str]]:
    """(workload, recipe's file, recipe): of a workload what is documented, then the best; what is slow at the end."""
    found = {path: load(path) for path in paths}
    all_of = [
        (name, path, recipe) for name in names for recipe in RECIPES for path in paths if hasattr(found[path], recipe)
    ]
    return sorted(all_of, key=lambda each: each[2] in getattr(found[each[1]], "SLOW", ()))


def is_made(kept: Row | None, path: Path) -> bool:
    """Whether an earlier run made the artifact by the recipe as it is now."""
    return (
        kept is not None
        and kept["failed"] is None
        and kept.get("recipe") == digest(path)
        and Path(kept["path"]).is_file()
    )


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def note(what: str, start: float) -> None:
    """A line of progress."""
    print(f"peers: {what}: {spent(start)} so far", flush=True)


def spent(start: float) -> str:
    """Minutes since `start`, and those of the processor, of this process and all that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in used)
    return f"{(time.perf_counter() - start) / 60:.1f} minutes ({cpu / 60:.1f} of the processor)"


def make(recipe: str, name: str, model: str, inputs: str, out: str, limit: str) -> None:
    """Run one recipe here, and write what it took beside the artifact; the kernel ends it at the limit."""
    from importlib.metadata import version

    import numpy as np

    resource.setrlimit(resource.RLIMIT_CPU, (int(limit), resource.RLIM_INFINITY))
    found = load(Path(recipe))
    arrays = dict(np.load(inputs))
    start, used = time.perf_counter(), time.process_time()
    getattr(found, name)(Path(model), arrays, Path(out))
    inner = resource.getrusage(resource.RUSAGE_CHILDREN)  # ptq runs TensorFlow in a process of its own
    took = {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - used + inner.ru_utime + inner.ru_stime,
        "mb": max(inner.ru_maxrss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024,
        "version": version(found.REQUIRES[0]),
    }
    Path(out).with_suffix(".json").write_text(json.dumps(took))


def load(path: Path) -> Any:
    """A recipe's module, under a name that no installed package has."""
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepared(name: str, data: Path, folder: Path) -> tuple[Path, Path, Path]:
    """The float model as it was given and as ONNX, and the calibration images by input name, all as files."""
    import numpy as np

    import ptq
    from ptq.engine.pipeline import Pipeline
    from ptq.engine.store import Store

    found = [each for each in ptq.builtin_workloads(data) if each.name == name]
    if not found:
        sys.exit(f"peers: no workload {name!r} in this ptq")
    pipeline = Pipeline(found[0], Store())
    model, inputs = folder / "float.onnx", folder / "calibration.npz"
    model.write_bytes(pipeline.source.onnx.read_bytes())
    (name,) = pipeline.contracts
    np.savez(inputs, **{name: images(pipeline.calibration_samples, name)})
    original = found[0].model
    return original() if callable(original) else Path(original), model, inputs


def images(samples: Any, name: str) -> Any:
    """All of them as one array of float32."""
    import numpy as np

    parts = [part[name] if isinstance(part, Mapping) else part for part in samples.batches(64)]
    return np.concatenate(parts).astype(np.float32)


def row(path: Path, name: str, folder: Path, failed: str | None) -> Row:
    """A row that has no figures yet: whose recipe it is, where its artifact goes, and why there is none."""
    recipe = load(path)
    return {
        "peer": f"{recipe.__doc__.split(':')[0]}, {name}", "backend": getattr(recipe, "BACKEND", "onnxruntime"),
        "dtype": recipe.DTYPE, "path": str(folder / f"{path.stem}_{name}{getattr(recipe, 'SUFFIX', '.onnx')}"),
        "recipe": digest(path), "failed": failed,
    }  # fmt: skip


def made(
    path: Path, name: str, python: str, model: Path, folder: Path, limit: int = LIMIT, seconds: float | None = None
) -> Row:
    """An artifact and what it took, or why not; within `limit` s of the processor, and `seconds` by the clock."""
    found = row(path, name, folder, None)
    out = Path(found["path"])
    for old in filter(Path.is_file, folder.glob(f"{out.stem}.*")):  # weights beside the file are some tools' too
        old.unlink()
    words = (Path(__file__).resolve(), "make", path, name, model, folder / "calibration.npz", out, limit)
    with tempfile.TemporaryDirectory() as store:
        # without this checkout's folder, whose names would hide those of the tools
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        isolated = {**kept, "PYTHONSAFEPATH": "1", "PTQ_CACHE": store}
        why = run([python, *map(str, words)], folder, isolated, seconds)
    return {**found, "failed": why} if why else {**found, **json.loads(out.with_suffix(".json").read_text())}


def environment(name: str, recipe: Any, folder: Path, seconds: float | None = None) -> tuple[str, str | None]:
    """(interpreter, why not): this one where it has what the peer requires, else one that lies over it, made once."""
    asked = "import importlib.metadata as m, sys; [m.version(name) for name in sys.argv[1:]]"
    if run([sys.executable, "-c", asked, *recipe.REQUIRES], None, None) is None:
        return sys.executable, None
    there = folder / name
    python = there / "bin" / "python"
    if python.is_file() and run([str(python), "-c", asked, *recipe.REQUIRES], None, None) is None:
        return str(python), None
    venv.EnvBuilder(with_pip=True, clear=True).create(there)
    (site,) = there.glob("lib/python*/site-packages")
    (site / "beneath.pth").write_text("\n".join(dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib")))))
    alone = list(getattr(recipe, "NO_DEPENDENCIES", ()))
    rest = [each for each in recipe.REQUIRES if each not in alone]
    for packages in ([*rest], ["--no-deps", *alone] if alone else []):
        command = [str(python), "-m", "pip", "install", "--quiet", *packages]
        if packages and (failed := run(command, None, None, seconds)) is not None:
            return str(python), f"not installed: {failed}"
    return str(python), None


def run(
    command: list[str], folder: Path | None, environment: Mapping[str, str] | None, seconds: float | None = None
) -> str | None:
    """Run a command; its last words when it fails. After `seconds` it is ended, with the processes that it started."""
    with subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL, start_new_session=True,
    ) as done:  # fmt: skip
        try:
            out, err = done.communicate(timeout=seconds)
        except BaseException as error:
            os.killpg(done.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return f"not ended in {seconds:.0f} s"
    if done.returncode == 0:
        return None
    if done.returncode == -signal.SIGXCPU:
        return f"over {command[-1]} s of the processor"
    said = [line.strip() for line in (out + "\n" + err).splitlines() if line.strip()]
    errors = [line for line in said if re.match(r"(\w+\.)*\w*(Error|Exception)\b|ERROR|\S+-fp32: |\S+: unsupp", line)]
    return (errors or said or [f"ended by signal {-done.returncode}"])[-1][:160]


if __name__ == "__main__":
    main()
