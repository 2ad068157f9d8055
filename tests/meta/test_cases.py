"""Case: ids are unique, readable and reversible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptq.cases import Case
from ptq.errors import PtqError
from ptq.pipeline import backends, cases_of, float_case
from ptq.workloads import builtin_workloads

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
    ids = [case.id for workload in builtin_workloads(None) for case in cases_of(workload)]
    assert len(ids) > 50
    assert len(set(ids)) == len(ids)


def test_every_backend_lists_cases_of_its_own_and_has_a_float_case_to_race() -> None:
    for name, backend in backends().items():
        assert float_case(next(iter(backend.cases("any")))).is_float, name
        assert all(case.backend == name and case.workload == "any" for case in backend.cases("any"))
