"""Reports, histories, references and bars that are damaged: the commands that read them answer, or say one line."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from foreign import STRUCTURE, SUITE, run

from ptq.cli import main

NASTY: list[Any] = [
    *(
        None,
        True,
        0,
        -1,
        2,
        10**30,
        -(10**400),
        1e308,
        0.5,
        5e-324,
        float("nan"),
        float("inf"),
        "",
        "x",
        "pass",
        "AAAA",
    ),
    *("\ud800", "\x1b[31m\n", "[/a][red]x", "</script><script>", "a" * 10**5, "../../etc/passwd", "/dev/zero", "\0"),
    *([], {}, [[]], {"x": 1}, [None], [float("nan")] * 4, json.loads("[" * 400 + "]" * 400), ["x"], [["a", "b"]]),
]
COMMANDS = {
    "merge": (["1.json", "2.json"], "merge 1.json 2.json --bars bars.toml --json o.json --html o.html"),
    "report": (["1.json"], "report 1.json -o r.html --benchmark b.json"),
    "diff": (["1.json"], "diff good.json 1.json --markdown"),
    "history": (["runs/history.jsonl"], "history runs --fail-on regression"),
    "reference": (["reference.json"], "bars bars.toml"),
}
"""By name: the files that are changed, and the command that reads them."""


def mutant(chance: random.Random, content: Any) -> Any:
    """JSON with one to three of its parts replaced, left out, twice there, swapped, or under another name."""
    content = copy.deepcopy(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        part = content
        while keys := list(part) if isinstance(part, dict) else list(range(len(part))):
            key = chance.choice(keys)
            if isinstance(part[key], dict | list) and part[key] and chance.randrange(5):
                part = part[key]
                continue
            how, other = chance.randrange(12), chance.choice(keys)
            if how == 0:
                del part[key]
            elif how == 1 and isinstance(part, list):
                part.append(copy.deepcopy(part[key]))
            elif how == 2:
                part[key], part[other] = part[other], part[key]
            elif how == 3 and isinstance(part, dict):
                part[chance.choice(["x", "\x1b", "[/a]", "", "a" * 1000])] = part.pop(key)
            else:
                part[key] = copy.deepcopy(chance.choice(NASTY))
            break
    return content


def fault(words: list[str]) -> str | None:
    """What is wrong with how a command ended."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(words)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        return traceback.format_exc()
    shown, told = out.getvalue() + err.getvalue(), err.getvalue().splitlines()
    if code not in (0, 1, 2, 5) or len(told) != (code == 2):
        return f"exit code {code}, {told[:3]}"
    if not shown.replace("\n", "").isprintable() or max(map(len, shown.splitlines()), default=0) > 3000:
        return f"not fit for a terminal: {shown[:300]!r}"
    return None


@pytest.fixture
def files(repository: pytest.Pytester) -> Callable[[str], str]:
    """Reads a file of a run of two shards, of its history, and of its references."""
    (repository.path / "test_mine.py").write_text(SUITE + STRUCTURE)
    for number in ("1", "2"):
        words = (f"--ptq-shard={number}/2", f"--ptq-json={number}.json", "--ptq-history=runs")
        run(repository, "-k", "uint8 or fp32", *words)
    run(repository, "-k", "fp32 and accuracy", "--ptq-update")
    Path("good.json").write_text(Path("1.json").read_text())
    return lambda name: Path(name).read_text()


@pytest.mark.parametrize("count", [40, pytest.param(600, marks=pytest.mark.slow)])
def test_a_mutant_is_answered_or_refused_in_one_line(files: Callable[[str], str], count: int) -> None:
    wrong: dict[tuple[str, int], str] = {}
    for name, (changed, words) in COMMANDS.items():
        assert fault(words.split()) is None, name
        for number in range(count):
            chance = random.Random(f"{name} {number}")
            path = chance.choice(changed)
            good = files(path)
            *first, last = good.splitlines() if path.endswith("jsonl") else [good]
            Path(path).write_text("\n".join([*first, json.dumps(mutant(chance, json.loads(last)))]))
            if said := fault(words.split()):
                wrong[name, number] = said
            Path(path).write_text(good)
    assert wrong == {}


DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "integer_share": lambda content: content["structure"][0].update(integer_share={}),
    "no 'red'": lambda content: content["structure"][0].pop("red"),
    "not JSON compliant": lambda content: content["structure"][0].update(other=float("nan")),
    "environment.isa": lambda content: content["environment"].update(isa=3),
    "environment": lambda content: content["environment"].update(cpu=[[]]),
    "size_bytes": lambda content: content["results"][0].update(size_bytes=-4),
    "shard.exit=256": lambda content: content["shard"].update(exit=256),
    "of no case of the run": lambda content: content["structure"][0].update(id="mine-x"),
}


@pytest.mark.parametrize("words", DAMAGE)
def test_each_damage_once_found_is_refused(
    words: str, files: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(files("1.json"))
    if not content["structure"]:
        content["structure"] = json.loads(files("2.json"))["structure"]
    DAMAGE[words](content)
    Path("1.json").write_text(json.dumps(content))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(COMMANDS["merge"][1].split())
    said = capsys.readouterr().err
    assert (stop.value.code, words in said, said.count("\n")) == (2, True, 1), said
