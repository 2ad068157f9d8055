"""Missing: which cases cannot be judged from what is kept, on this machine or in the remote store."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from ptq.cases import Case
from ptq.engine.registry import reference_case
from ptq.engine.store import NotThere
from ptq.gate.judge import Judge

AT_ONCE = 16
"""Cases that are asked for at a time: of a remote, nearly all is waiting."""


def missing(judge: Judge, cases: Collection[Case]) -> list[Case]:
    """Those of the cases of which something would have to be made. Nothing is made; what the remote has is fetched.

    A case that fails without anything being made, is not missing: where it is judged says why.
    """

    def absent(case: Case) -> bool:
        try:
            judge.result(case)
        except NotThere:
            return True
        except Exception:
            return False
        return False

    with judge.store.making_nothing():
        if judge.store.remote is None:
            return [case for case in cases if absent(case)]
        for name in {case.workload for case in cases}:  # what all cases of a workload ask for is fetched once
            absent(reference_case(name))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return [case for case, gone in zip(cases, pool.map(absent, cases), strict=True) if gone]
