"""Fetching: what the remote store has of the selected cases is fetched before tests ask for it, many at a time."""

from __future__ import annotations

from collections import Counter

import pytest

from ptq.cases import Case
from ptq.gate.missing import missing
from ptq.plugin.judging import judge_of


class Fetching:
    """What goes before the tests of a run; `counts` are the files that came, by (``fetched``, kind); `lines` is what
    the terminal says of it.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.lines: list[str] = []
        self.counts: Counter[tuple[str, str]] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        self.missing(session)

    def missing(self, session: pytest.Session) -> list[Case]:
        """The cases whose accuracy the selected tests judge, and of which something is still to be made."""
        params = [getattr(getattr(item, "callspec", None), "params", {}) for item in session.items]
        cases = {each["case"]: None for each in params if isinstance(each.get("case"), Case) and "batch" not in each}
        if not cases or self._config.option.collectonly or session.testsfailed:
            return []
        judge = judge_of(self._config)
        found = missing(judge, [case for case in cases if case.workload in judge.pipelines])
        self.counts.update({(how, kind): n for (kind, how), n in judge.store.counts.items() if how == "fetched"})
        return found
