"""The options of a run, and the files they name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ptq.errors import PtqError
from ptq.gate.whole import asks

MARKERS = (
    "accuracy: judges the accuracy of a case against its bar",
    "preprocessing: checks what goes into a model",
    "structure: judges what of a case really runs in integer",
    "latency: times a case against the float model, side by side; not run by default",
    "slow: takes minutes; not run by default",
    "speed: benchmark of ptq itself against others; not run by default",
    "ptq(workload, backend, dtype, method, granularity, exclude): what a case is, for -m \"ptq(dtype='int8')\"",
)


def add_options(parser: pytest.Parser) -> None:
    """Add ptq's options to pytest's."""
    group = parser.getgroup("ptq", "post-training quantization")
    group.addoption("--ptq-data", metavar="DIR", help="folder with data sets and models (default: PTQ_DATA)")
    group.addoption("--ptq-bars", metavar="FILE", help="the bars (default: tests/bars.toml, else bars.toml)")
    group.addoption(
        "--ptq-require", metavar="NAME", action="append", default=[],
        help="fail unless something of this workload or backend is judged; may be repeated",
    )  # fmt: skip
    group.addoption("--ptq-min-cases", metavar="N", type=int, default=0, help="fail unless N cases are judged")
    group.addoption("--ptq-json", metavar="PATH", help="write the results as JSON")
    group.addoption("--ptq-html", metavar="PATH", help="write the results as one self-contained page")
    group.addoption("--ptq-history", metavar="DIR|URL", help="append the results to a history, see ptq history")
    group.addoption(
        "--ptq-update", action="store_true", help="rewrite reference.json beside the bars, and judge nothing by it"
    )
    group.addoption(
        "--ptq-strict", action="store_true", help="a case without a reference, or the reverse, fails the run"
    )
    group.addoption("--ptq-explain", action="store_true", help="say of every red accuracy case which tensor and why")
    group.addoption("--ptq-artifacts", metavar="DIR", help="save every judged artifact there, by case id")
    group.addoption("--ptq-against", metavar="DIR", help="race artifacts against those saved there, not against fp32")
    group.addoption(
        "--ptq-allow-new", action="store_true", help="with --ptq-against: skip a case that has no artifact there"
    )
    group.addoption("--ptq-modelopt-python", metavar="PATH", help="an interpreter that has nvidia-modelopt")
    group.addoption(
        "--ptq-shard", metavar="I/N", help="judge part I of N of the selected cases; `ptq merge` judges the whole"
    )
    group.addoption(
        "--ptq-dask", metavar="ADDRESS",
        help="let Dask's workers make what is judged: tcp://scheduler:8786, local, local:WORKERS",
    )  # fmt: skip
    group.addoption(
        "--ptq-store", metavar="URL",
        help="share what is made with other machines: s3://, gs://, az://, a folder ... (default: PTQ_STORE)",
    )  # fmt: skip
    group.addoption("--ptq-store-read-only", action="store_true", help="take from --ptq-store, add nothing to it")
    group.addoption("--ptq-no-cache", action="store_true", help="make everything anew, keep nothing")


def data_folder(config: pytest.Config) -> Path | None:
    """The folder of ``--ptq-data`` or ``PTQ_DATA``; `PtqError` when it is not there."""
    given = config.getoption("ptq_data") or os.environ.get("PTQ_DATA")
    if not given:
        return None
    folder: Path = config.invocation_params.dir / given
    if not folder.is_dir():
        raise PtqError(f"--ptq-data {given}: no such folder; name the one that holds the data sets")
    if not any(folder.iterdir()):
        raise PtqError(f"--ptq-data {given}: nothing is in it, but should be: the data sets and models; is it mounted?")
    return folder.resolve()


def bars_file(config: pytest.Config) -> Path:
    """The file of ``--ptq-bars``, else the one in the usual place; `PtqError` when there is none, or two."""
    if given := config.getoption("ptq_bars"):
        return Path(config.invocation_params.dir / given)
    # pytest takes the DIR of `--ptq-data DIR` for a test path when it looks for its root, so that may be elsewhere
    folders = dict.fromkeys((config.rootpath, Path(config.invocation_params.dir)))
    usual = [folder / name for folder in folders for name in ("tests/bars.toml", "bars.toml")]
    there = [path for path in usual if path.is_file()]
    if len({path.resolve() for path in there}) > 1:
        raise PtqError(f"two files of bars, {there[0]} and {there[1]}: name the one that holds with --ptq-bars=FILE")
    if there:
        return there[0]
    raise PtqError(f"no bars: {usual[0]} and {usual[1].name} are not there; write one, or name it with --ptq-bars=FILE")


def selected(config: pytest.Config, marker: str) -> bool:
    """Whether ``-m`` asks for a marker by name."""
    return asks(config.option.markexpr, marker)


def benchmarks_disabled(config: pytest.Config) -> str | None:
    """Why nothing would be timed here; None when it would."""
    if hasattr(config, "workerinput"):
        return "xdist runs tests side by side"
    if config.getoption("benchmark_disable", False) or not config.pluginmanager.hasplugin("benchmark"):
        return "benchmarks are disabled"
    return None
