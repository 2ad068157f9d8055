"""The pages of verdicts say what the code says: their example lines are made, and their files are read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ptq.backends.protocol import Census
from ptq.engine.score import Compared
from ptq.gate.bars import Bar, load_bars
from ptq.gate.verdict import Verdict, judge_accuracy, judge_structure
from ptq.metrics.interval import Interval
from ptq.metrics.metric import Score
from ptq.metrics.top1 import Top1

DOCS = Path(__file__).parents[2] / "ptq" / "report" / "verdicts"
NO_VNNI = ("Linux x86_64", "avx2")


def block(page: str, language: str = "") -> str:
    """The code block of a language on a page."""
    found = re.search(rf"^```{language}\n(.*?)\n```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def judged(case: str, value: float, fp32: float, interval: Interval, bar: Bar, n: int) -> Verdict:
    score, other = (Score(each, n, None, {}, np.zeros(n), chance=0.1) for each in (value, fp32))
    return judge_accuracy(case, Top1(), Compared(score, other, interval, 0.9, 20.0), bar, NO_VNNI)


def test_unresolved_reads_as_documented() -> None:
    bar = Bar("*", "w", max_drop=1.0)
    found = judged("cifar10-onnxruntime-int8-minmax", 0.8727, 0.8777, Interval(0.5, -0.3, 1.4, 0.95), bar, 932)
    assert (found.name, found.red) == ("unresolved", False)
    assert found.reason == block("unresolved.md")


def test_an_expected_failure_reads_as_documented(tmp_path: Path) -> None:
    (tmp_path / "bars.toml").write_text(block("expected-failure.md", "toml"))
    case = "mine-onnxruntime-u8s8-minmax"
    bar = load_bars(tmp_path / "bars.toml").of(case)
    found = judged(case, 0.95, 0.995, Interval(4.5, 3.0, 6.5, 0.95), bar, 600)
    assert (found.name, found.red) == ("fail", False)
    assert found.reason in (DOCS / "expected-failure.md").read_text()


def test_simulated_reads_as_documented() -> None:
    census = Census({}, {"Conv": 9}, simulated="Q/DQ around float kernels")
    found = judge_structure("mine-modelopt-int8-max", census, Bar("*", "w", min_integer_share=1.0))
    assert (found.name, found.red) == ("fail", True)
    assert found.reason == block("simulated.md")


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_a_page_is_short_and_says_what_to_do(page: Path) -> None:
    text = page.read_text()
    assert len(text.splitlines()) < 60
    assert "**What it says.**" in text
    assert "**What to do" in text or "**When is it right?**" in text
