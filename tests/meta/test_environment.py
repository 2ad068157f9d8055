"""ptq.engine.environment: what a number depends on, and nothing that names the machine or its user."""

from __future__ import annotations

import getpass
import json
import platform
from pathlib import Path

import numpy as np

from ptq.engine.environment import environment

X86 = "model name : Some CPU @ 2.00GHz\nflags : fpu avx2 avx512_vnni amx_int8\n\nprocessor : 1\nflags : sse\n"
ARM = "processor : 0\nFeatures : fp asimd asimddp i8mm\n"


def test_isa_comes_from_the_first_processor(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(X86)
    found = environment(path)
    assert (found["cpu"], found["isa"]) == ("Some CPU @ 2.00GHz", ["avx2", "avx512_vnni", "amx_int8"])
    path.write_text(ARM)
    assert environment(path)["isa"] == ["asimddp", "i8mm"]


def test_without_cpuinfo_it_says_what_it_knows(tmp_path: Path) -> None:
    found = environment(tmp_path / "absent")
    assert found["isa"] == []
    assert found["cpu"]
    assert found["cores"] >= 1
    assert found["libraries"]["numpy"] == np.__version__


def test_it_is_json_and_anonymous() -> None:
    found = environment()
    text = json.dumps(found)
    assert json.loads(text) == found
    words = {each for value in found.values() for each in str(value).replace("'", " ").split()}
    assert platform.node() not in words
    assert getpass.getuser() not in words
    assert str(Path.home()) not in text or str(Path.home()) == "/"
    assert str(Path.cwd()) not in text
