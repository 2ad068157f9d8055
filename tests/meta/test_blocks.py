"""Blocks: what parts see adds up to what the whole sees, to the bit, however the parts are cut."""

from __future__ import annotations

from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_model import small_model

from ptq.calibration import extremes as extremes_module
from ptq.calibration.extremes import extremes, part
from ptq.calibration.moments_pass import finished, moments, sums
from ptq.calibration.patches import load_sums, save_moments, save_sums
from ptq.calibration.statistics import added, outermost
from ptq.calibration.statistics_pass import statistics
from ptq.data import blocks as blocks_module
from ptq.data.batch import as_batch, only
from ptq.data.blocks import Blocks, whole
from ptq.data.samples import ArraySamples
from ptq.engine import predictions
from ptq.engine.passes import ExtremesPass, MomentsPass, Pass, Statistics
from ptq.engine.pipeline import Pipeline
from ptq.engine.registry import reference_case
from ptq.engine.store import Store
from ptq.engine.workload import Workload
from ptq.errors import BadData

IMAGES = np.random.default_rng(5).normal(size=(50, 3, 8, 8)).astype(np.float32)


class Files:
    """Samples that are read one by one, and remember which."""

    order = None

    def __init__(self, values: Any) -> None:
        self.values, self.asked = values, []

    def __len__(self) -> int:
        return len(self.values)

    def batches(self, size: int) -> Any:
        for start in range(0, len(self), size):
            yield self.values[start : start + size]

    def read(self, index: int) -> Any:
        self.asked.append(index)
        return self.values[index]


@given(st.integers(1, 70), st.integers(1, 20), st.integers(1, 25), st.integers(0, 6), st.integers(1, 4), st.booleans())
def test_a_part_gives_its_rows_and_no_batch_leaves_its_block(
    n: int, length: int, size: int, first: int, count: int, files: bool
) -> None:
    rows = np.arange(n, dtype=np.float32)[:, None]
    samples: Any = Files(rows) if files else ArraySamples(rows)
    part = Blocks(samples, first, first + count, length)
    found = [only(as_batch(each))[:, 0].tolist() for each in part.batches(size)] if len(part) > 0 else []
    given = list(chain.from_iterable(found))
    if part.count == 1:
        assert given == ([] if first else list(range(n)))
        return
    assert given == list(range(min(first * length, n), min((first + count) * length, n)))
    assert len(part) == len(given)
    for each in found:
        assert len(each) <= size
        assert each[0] // length == each[-1] // length
        assert len(each) == size or each[-1] + 1 in (n, (each[-1] // length + 1) * length)
    if files:
        assert samples.asked == given  # nothing is decoded in vain


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "BLOCK", 8)


@pytest.mark.parametrize("cuts", [(0, 7), (0, 2, 7), (0, 1, 2, 3, 4, 5, 6, 7)])
def test_parts_add_up_to_the_bit(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    model = small_model(tmp_path / "m.onnx")
    samples = ArraySamples(IMAGES)
    parts = [Blocks(samples, a, b, 8) for a, b in pairwise(cuts)]
    assert sum(map(len, parts)) == 50
    one, all_ = statistics(model, samples), added(statistics(model, part) for part in parts)
    assert one.keys() == all_.keys()
    for name, each in one.items():
        other = all_[name]
        assert (each.min, each.max, each.count) == (other.min, other.max, other.count)
        assert each.histogram.exponent == other.histogram.exponent
        assert np.array_equal(each.histogram.counts, other.histogram.counts)
    kept = []
    for number, each in enumerate(parts):
        for place, block in enumerate(sums(model, each)):
            kept.append(tmp_path / f"{number}-{place}.npz")
            save_sums(kept[-1], block)
    assert len(kept) == 7
    save_moments(tmp_path / "one", moments(model, samples))
    save_moments(tmp_path / "all", finished(map(load_sums, kept)))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "all").read_bytes()


def test_a_value_that_is_not_finite_is_named_by_its_place_in_the_whole(tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.onnx")
    bad = IMAGES.copy()
    bad[21, 0, 0, 0] = np.inf
    with pytest.raises(BadData, match="sample 21"):
        statistics(model, Blocks(ArraySamples(bad), 2, 4, 8))


@pytest.mark.parametrize("fast", [True, False])
def test_extremes_of_parts_are_those_of_the_whole(tmp_path: Path, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extremes_module, "_pays", lambda *_: fast)
    model, samples = small_model(tmp_path / "m.onnx"), ArraySamples(IMAGES)
    blocks = [part(model, Blocks(samples, number, number + 1, 8)) for number in range(7)]
    assert {each.lowest // 8 for each in outermost(blocks).values()} - {0}  # not all from the first block
    assert outermost(blocks) == part(model, samples)
    assert extremes(model, samples, blocks) == extremes(model, samples)


@pytest.mark.parametrize("kind", [Statistics, MomentsPass, ExtremesPass])
def test_blocks_that_others_made_are_added_up(tmp_path: Path, kind: type[Pass]) -> None:
    samples = ArraySamples(IMAGES, np.zeros(50, np.int64))
    workload = Workload("mine", small_model(tmp_path / "m.onnx"), samples, samples)
    alone, parted = (Pipeline(workload, Store(tmp_path / name)) for name in ("alone", "parted"))
    step: Any = parted.passes.step(kind)
    assert len(step.parts) == 7
    for each in step.parts[:-1]:
        parted.store.get(each)
    assert parted.store.all_of(step.parts) == []  # one is missing
    parted.store.get(step.parts[-1])
    assert len(parted.store.all_of(step.parts)) == 7
    assert parted.passes.entry(kind).digest == alone.passes.entry(kind).digest
    assert alone.store.counts["statistics", "made"] == 1


@pytest.mark.parametrize("fixed", [None, 3])
def test_an_evaluation_in_blocks_is_that_of_the_whole_to_the_byte(
    tmp_path: Path, fixed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "EVALUATED", 8)
    monkeypatch.setattr("ptq.engine.pipeline.BATCH", 4)
    samples = ArraySamples(IMAGES[:48], np.arange(48) % 3)
    workload = Workload("mine", small_model(tmp_path / "m.onnx", fixed or "n"), samples, samples)
    alone, parted = (Pipeline(workload, Store(tmp_path / name)) for name in ("alone", "parted"))
    case = next(each for each in alone.cases() if each.method == "minmax" and each.backend == "onnxruntime")
    count = predictions.block_count(48, parted.signature, parted.batch)
    assert count == (6 if fixed is None else 8)  # of 8 or 6 samples: whole batches
    for each in (reference_case("mine"), case):
        for number in range(count + 1):
            parted.evaluate_block(each, number)
    assert parted.store.counts["predictions", "made"] == 2 * count
    monkeypatch.setattr(predictions.Evaluation, "outputs", lambda *_: pytest.fail("all blocks are there"))
    found = parted.measured(case, 0.95)
    monkeypatch.undo()
    monkeypatch.setattr("ptq.engine.pipeline.BATCH", 4)
    assert alone.measured(case, 0.95).compared.as_json() == found.compared.as_json()
    kept = {
        path.relative_to(alone.store.root): path.read_bytes() for path in alone.store.root.glob("predictions/*/*.npz")
    }
    assert len(kept) == 2
    assert all((parted.store.root / name).read_bytes() == content for name, content in kept.items())


def test_samples_that_differ_in_shape_and_odd_batches_are_one_block(tmp_path: Path) -> None:
    ragged = ArraySamples([np.zeros(3), np.zeros(2)] * 20)
    assert whole(ragged).count == 1
    assert whole(ArraySamples(IMAGES), fixed=3).count == 1
    assert whole(ArraySamples(IMAGES), fixed=4).count == 7


def test_sums_that_are_none_are_told(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"none")
    with pytest.raises(BadData, match="sums"):
        load_sums(tmp_path / "x.npz")
