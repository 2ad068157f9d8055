"""A gate against itself: every option and every key of a bar names the test that shows it red, or why it cannot be."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from ptq.checks.preprocessing import checks
from ptq.gate.bars import Bar
from ptq.plugin.options import add_options

HERE = Path(__file__).parent
OPTIONS = {
    "--ptq-data": "test_proof.py::test_a_folder_of_data_with_nothing_in_it_is_red_and_told_once",
    "--ptq-bars": "test_proof.py::test_two_files_of_bars_are_red",
    "--ptq-require": "test_proof.py::test_a_required_workload_of_float_cases_alone_is_red",
    "--ptq-min-cases": "test_proof.py::test_min_cases_are_counted_once",
    "--ptq-json": "test_proof.py::test_a_report_that_cannot_be_written_is_red_after_the_verdicts",
    "--ptq-html": "test_proof.py::test_a_report_that_cannot_be_written_is_red_after_the_verdicts",
    "--ptq-history": "test_history.py::test_a_history_that_cannot_be_written_turns_the_run_red",
    "--ptq-explain": "no gate: it adds a sentence to what is red",
    "--ptq-update": "test_proof.py::test_a_float_model_or_a_set_that_can_tell_nothing_is_red_and_never_stored",
    "--ptq-strict": "test_proof.py::test_a_reference_made_on_other_samples_is_told_and_red_when_strict",
    "--ptq-against": "test_latency_gate.py::test_a_case_slower_than_the_base_revisions_is_red",
    "--ptq-allow-new": "test_latency_gate.py::test_a_base_that_is_not_there_is_red",
    "--ptq-artifacts": "no gate: it saves what --ptq-against is red without",
    "--ptq-modelopt-python": "no gate: it names an interpreter; --ptq-require modelopt is red where there is none",
    "--ptq-dask": "test_dask.py::test_what_cannot_go_with_dask_is_refused_with_a_reason",
    "--ptq-shard": "test_shards.py::test_each_way_to_lose_a_shard_is_red",
    "--ptq-store": "test_remote_store.py::test_a_url_that_is_none_is_red_in_one_line",
    "--ptq-store-read-only": "no gate: it keeps a run from adding to what is shared, and changes no verdict",
    "--ptq-no-cache": "no gate: it changes where things are kept, and no verdict",
}
KEYS = {
    "pattern": "test_plugin.py::test_an_orphaned_bar_is_red",
    "why": "test_bars.py::test_a_bad_file_is_told_in_one_line",
    "floor": "test_plugin.py::test_a_case_under_its_bar_fails_in_one_line",
    "ceiling": "test_judge.py::test_a_loss_is_judged_by_a_ceiling",
    "max_drop": "test_judge.py::test_a_loss_is_judged_by_a_ceiling",
    "min_sqnr_db": "test_judge.py::test_a_loss_is_judged_by_a_ceiling",
    "min_cosine": "test_verdict.py::test_agreement_sqnr_and_cosine_are_gates",
    "min_agreement": "test_verdict.py::test_agreement_sqnr_and_cosine_are_gates",
    "confidence": "test_gates.py::test_a_case_that_cannot_be_told_is_red_with_confidence",
    "min_integer_share": "test_gates.py::test_int8_that_runs_in_float_is_red",
    "min_speedup": "test_latency_gate.py::test_a_ratio_beyond_its_bar_is_red",
    "max_ratio": "test_latency_gate.py::test_a_ratio_beyond_its_bar_is_red",
    "max_ratio_fastest_fp32": "test_fastest.py::test_slower_than_the_fastest_float_model_is_red_by_its_bar",
    "expected_failure": "test_gates.py::test_an_expected_failure_is_not_red_by_its_reference_either",
}
"""For `expected_failure` the twin is that the same loss is red without it."""


def options() -> set[str]:
    """Every option of ptq, as pytest knows them."""
    parser = pytest.Parser(_ispytest=True)
    add_options(parser)
    return {name for option in parser.getgroup("ptq").options for name in option.names()}


def test_every_option_and_every_key_is_listed() -> None:
    assert set(OPTIONS) == options()
    assert set(KEYS) == {field.name for field in fields(Bar)}


@pytest.mark.parametrize("name", [*OPTIONS, *KEYS])
def test_what_is_named_is_there_and_speaks_of_it(name: str) -> None:
    said = (OPTIONS | KEYS)[name]
    if said.startswith("no gate: "):
        return
    file, _, test = said.partition("::")
    text = (HERE / file).read_text(encoding="utf-8")
    found = [each for each in ast.parse(text).body if isinstance(each, ast.FunctionDef) and each.name == test]
    assert found, f"{name}: {said} is not there"
    if name.startswith("--"):
        whole = ast.unparse(found[0])  # with what it is parametrized by
        assert name in whole or name.removeprefix("--ptq-") in test, f"{name}: {said} does not use it"


def test_every_check_has_its_twin() -> None:
    text = (HERE / "test_checks.py").read_text(encoding="utf-8")
    assert [check.name for check in checks() if f'"{check.name}"' not in text] == []
