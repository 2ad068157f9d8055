"""Environment: the machine and the libraries behind a number, without anything that names the machine or its user."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ISA = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve")
"""The instruction sets that decide how fast int8 is: x86, then Arm, by their names in /proc/cpuinfo."""

LIBRARIES = (
    "ptq", "numpy", "scipy", "onnx", "onnxruntime", "tensorflow", "tf2onnx", "torch", "torchvision", "torchao",
    "onnx2torch", "ai-edge-litert", "opencv-python-headless", "pycocotools", "tokenizers", "pytest", "pytest-benchmark",
)  # fmt: skip
_CPUINFO = Path("/proc/cpuinfo")


def environment(cpuinfo: Path = _CPUINFO) -> dict[str, Any]:
    """What a result depends on, as JSON.

    ``python``, ``platform`` (system and machine), ``cpu`` (model), ``isa`` (those of `ISA` it has; empty where the
    system does not say), ``cores`` (that this process may use), ``libraries`` (versions of those installed). No host
    name, no user, no path.
    """
    model, flags = _cpu(cpuinfo)
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": model or platform.processor() or platform.machine(),
        "isa": [each for each in ISA if each in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "libraries": versions(LIBRARIES),
    }


@cache
def instruction_sets() -> tuple[str, ...]:
    """The machine's architecture and those of `ISA` it has: what kernels, and so rounding, depend on."""
    _, flags = _cpu(_CPUINFO)
    return (f"{platform.system()} {platform.machine()}", *(each for each in ISA if each in flags))


def commit(folder: Path) -> str | None:
    """The commit of the sources in a folder, ``+`` behind it where they have changed since; None where no git knows."""
    said = []
    for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no")):
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=60, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        said.append(done.stdout.strip())
    return said[0] + ("+" if said[1] else "")


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Versions of those of `libraries` that are installed, by distribution name; without importing any."""
    return {name: found for name in libraries if (found := _version(name)) is not None}


def _cpu(cpuinfo: Path) -> tuple[str, frozenset[str]]:
    """(model, flags) of the first processor listed; ("", none) where the file is absent."""
    model, flags = "", frozenset[str]()
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return model, flags
    for line in lines:
        key, _, value = (each.strip() for each in line.partition(":"))
        if key == "model name" and not model:
            model = value
        elif key in ("flags", "Features") and not flags:
            flags = frozenset(value.split())
    return model, flags


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
