"""ptq.latency.ratio: the ratio gate passes a model against itself and fails a slower one, noise or not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq.backends.protocol import Predictor
from ptq.data.batch import Batch
from ptq.errors import PtqError
from ptq.gate.bars import Bar
from ptq.gate.verdict import FAIL, PASS, UNRESOLVED, judge_ratio
from ptq.latency.ratio import Budget, Ratio, clock_for, measure_ratio, median_interval

BATCH = {"x": np.zeros((4, 128), np.float32)}
BAR = Bar("*", "test", max_drop=1.0, max_ratio=1.05)


class Machine:
    """A clock, and predictors that take their time on it: noise without a noisy machine."""

    def __init__(self, noise: Callable[[np.random.Generator], float], seed: int = 0) -> None:
        self.now = 0.0
        self._noise, self._random = noise, np.random.default_rng(seed)
        self.calls: list[float] = []

    def clock(self) -> float:
        return self.now

    def predictor(self, seconds: float) -> Predictor:
        def predict(batch: Batch) -> Batch:
            self.calls.append(seconds)
            self.now += seconds * self._noise(self._random)
            return batch

        return predict


def bursts(random: np.random.Generator) -> float:
    """2 % of jitter, and one call in ten held up for up to 20 times as long."""
    jitter = 1 + 0.02 * abs(random.standard_normal())
    return jitter * (random.uniform(2, 20) if random.random() < 0.1 else 1.0)


def run(machine: Machine, slower: float, budget: Budget | None = None, bar: float | None = 1.05) -> Ratio:
    reference, other = machine.predictor(0.01), machine.predictor(0.01 * slower)
    return measure_ratio(reference, other, BATCH, bar, budget, machine.clock)


@pytest.mark.parametrize(("slower", "verdict"), [(1.0, PASS), (0.7, PASS), (1.15, FAIL), (3.0, FAIL)])
def test_bursts_of_noise_do_not_move_the_verdict(slower: float, verdict: str) -> None:
    for seed in range(20):
        ratio = run(Machine(bursts, seed), slower)
        assert judge_ratio("case", ratio, BAR).name == verdict
        assert ratio.low <= ratio.value <= ratio.high
        assert ratio.value == pytest.approx(slower, rel=0.03)
        assert ratio.speedup == pytest.approx(1 / ratio.value)


def test_a_ratio_at_the_bar_is_unresolved_when_the_budget_ends() -> None:
    machine = Machine(lambda random: random.lognormal(sigma=0.3))
    ratio = run(machine, 1.05, Budget(seconds=0.05))
    verdict = judge_ratio("case", ratio, BAR)
    assert verdict.name == UNRESOLVED
    assert not verdict.red
    assert "would resolve it" in verdict.reason
    sure = Bar("*", "test", max_drop=1.0, max_ratio=1.05, confidence=0.95)
    assert judge_ratio("case", ratio, sure).red


def test_drift_cancels() -> None:
    """A machine that slows down 0.5 % a call would make the later model look slower, were it always the same one."""

    class Slowing(Machine):
        def predictor(self, seconds: float) -> Predictor:
            def predict(batch: Batch) -> Batch:
                self.calls.append(seconds)
                self.now += seconds * 1.005 ** len(self.calls)
                return batch

            return predict

    ratio = run(Slowing(bursts), 1.0)
    assert ratio.value == pytest.approx(1.0, abs=0.006)
    assert judge_ratio("case", ratio, BAR).name == PASS


def test_models_take_turns_and_short_calls_are_repeated() -> None:
    machine = Machine(lambda random: 1.0)
    ratio = measure_ratio(
        machine.predictor(0.00038), machine.predictor(0.00019), BATCH, None, Budget(first=2), machine.clock
    )
    assert ratio.value == pytest.approx(0.5)
    assert (ratio.reference_ms, ratio.other_ms) == pytest.approx((0.38, 0.19))
    timed = machine.calls[10:]
    blocks = [timed[0]] + [now for before, now in itertools.pairwise(timed) if now != before]
    assert len(blocks) >= 6 * ratio.rounds  # A B B A B A A B: six changes of model a round
    assert timed.count(0.00038) == 6 * 4 * ratio.rounds
    assert timed.count(0.00019) == 11 * 4 * ratio.rounds


def test_without_a_bar_there_is_nothing_to_fail() -> None:
    ratio = run(Machine(bursts), 4.0, bar=None)
    assert judge_ratio("case", ratio, Bar("*", "test", floor=0.5)).name == PASS
    assert ratio.high / ratio.low - 1 <= 0.1


def test_min_speedup_is_a_ratio_too() -> None:
    fast, slow = run(Machine(bursts), 0.8, bar=1 / 1.1), run(Machine(bursts), 0.95, bar=1 / 1.1)
    bar = Bar("*", "test", floor=0.5, min_speedup=1.1)
    assert judge_ratio("case", fast, bar).name == PASS
    verdict = judge_ratio("case", slow, bar)
    assert (verdict.name, verdict.red) == (FAIL, True)
    assert "> 0.909" in verdict.reason
    known = Bar("*", "test", floor=0.5, min_speedup=1.1, expected_failure=("latency",))
    assert not judge_ratio("case", slow, known).red
    here = Bar("*", "test", floor=0.5, min_speedup=1.1, expected_failure=("latency without vnni",))
    assert not judge_ratio("case", slow, here, ("Linux x86_64", "avx2")).red
    assert judge_ratio("case", slow, here, ("Linux x86_64", "avx2", "avx_vnni")).red


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=80), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_median_interval_holds_the_median_and_is_reproducible(values: list[float], seed: int) -> None:
    array = np.asarray(values)
    first = median_interval(array, 0.95, np.random.default_rng(seed))
    assert first == median_interval(array, 0.95, np.random.default_rng(seed))
    middle, low, high = first
    assert min(values) <= low <= middle <= high <= max(values)
    assert middle == pytest.approx(float(np.median(array)))


def test_median_interval_covers() -> None:
    random, inside = np.random.default_rng(5), 0
    for _ in range(200):
        _, low, high = median_interval(random.standard_cauchy(25), 0.95, random)
        inside += low <= 0 <= high
    assert inside >= 180


def test_a_budget_that_cannot_be_is_told() -> None:
    with pytest.raises(PtqError, match="first should be at least 2"):
        Budget(first=1)


def test_many_threads_are_timed_by_the_wall_clock() -> None:
    assert clock_for(2).__name__ == "perf_counter"


def chain(layers: int, path: Path, threads: int = 1) -> Predictor:
    """An onnxruntime model of so many equal MatMuls, loaded."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(1)
    nodes, weights = [], []
    for each in range(layers):
        matrix = (random.standard_normal((128, 128)) / math.sqrt(128)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{each}"))
        nodes.append(helper.make_node("MatMul", [f"x{each}", f"w{each}"], [f"x{each + 1}"]))
    shape = [None, 128]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"x{layers}", TensorProto.FLOAT, shape)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda batch: {"y": session.run(None, {"x0": batch["x"]})[0]}


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "verdict"), [(40, PASS), (46, FAIL)], ids=["the same model", "15 % slower"])
def test_gate_on_real_models(layers: int, verdict: str, tmp_path: Path) -> None:
    """At max_ratio 1.05, at least 19 of 20 runs: a model against itself passes, one with 15 % more work fails."""
    batch = {"x": np.random.default_rng(2).standard_normal((32, 128)).astype(np.float32)}
    seen = []
    for each in range(20):
        reference, other = chain(40, tmp_path / f"reference{each}.onnx"), chain(layers, tmp_path / f"other{each}.onnx")
        seen.append(judge_ratio("case", measure_ratio(reference, other, batch, BAR.ratio), BAR))
    assert [each.name for each in seen].count(verdict) >= 19, "\n".join(each.reason for each in seen)
