"""Case: ids are unique, readable and reversible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptq.cases import Case
from ptq.engine.pipeline import Pipeline
from ptq.engine.registry import Registry, declared
from ptq.engine.store import Store
from ptq.errors import PtqError

words = st.from_regex(r"[a-z0-9_.]{1,12}", fullmatch=True)


def test_the_id_leaves_defaults_out() -> None:
    assert Case("cifar10", "onnxruntime", "fp32").id == "cifar10-onnxruntime-fp32"
    assert Case("cifar10", "onnxruntime", "int8", "minmax").id == "cifar10-onnxruntime-int8-minmax"
    assert Case("coco", "onnxruntime", "u8s8", "mse", "channel", "auto").id == "coco-onnxruntime-u8s8-mse-channel-auto"


@pytest.mark.parametrize("bad", ["", "a-b", "A", "a b", "a/b", "a\n"])
def test_a_field_that_would_break_an_id_is_refused(bad: str) -> None:
    with pytest.raises(PtqError, match="method="):
        Case("w", "b", "int8", bad)


@given(words, words, words)
def test_fields_make_the_case_again(workload: str, dtype: str, method: str) -> None:
    case = Case(workload, "onnxruntime", dtype, method)
    assert Case(**case.fields()) == case


def test_the_ids_of_the_whole_grid_are_unique() -> None:
    registry = Registry()
    ids = [case.id for each in declared(registry, None) for case in Pipeline(each, Store(), registry).cases()]
    assert len(ids) > 50
    assert len(set(ids)) == len(ids)


def test_every_backend_lists_cases_of_its_own_and_has_a_float_case_to_race() -> None:
    registry = Registry()
    for name, backend in registry.backends.items():
        cases = list(backend.cases("any", registry.methods))
        assert registry.float_case(cases[0]).is_float, name
        assert all(case.backend == name and case.workload == "any" for case in cases)
