"""The table and the pictures of `ptq calibrate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ptq.calibration.statistics import collect
from ptq.engine.registry import Registry
from ptq.quantization.quantizer import Quantizer
from ptq.report.ranges import TensorRanges, plot, table, tensor_ranges


@pytest.fixture
def tensors() -> list[TensorRanges]:
    generator = np.random.default_rng(0)
    relu = np.maximum(generator.normal(size=(10, 5000)), 0).astype(np.float32)
    both = generator.normal(size=(10, 500)).astype(np.float32)
    seen = collect([{"relu[1]": relu, "add/x:0": both, "zero": np.zeros((10, 4), np.float32)}])
    return tensor_ranges(seen, Quantizer(), Registry().methods)


def test_the_clipped_share_is_what_lies_outside(tensors: list[TensorRanges]) -> None:
    by_name = {each.name: each for each in tensors}
    assert set(by_name["relu[1]"].ranges) == {each.name for each in Registry().methods.values() if not each.corrects}
    for each in tensors:
        assert each.clipped("minmax") == 0.0
    relu = by_name["relu[1]"]
    assert relu.clipped("percentile") == pytest.approx(0.00005, abs=0.00003)  # one side of 99.99 %
    half = TensorRanges("half", relu.seen, {"half": (0.0, 0.6745)})  # the 75 % quantile of a normal
    assert half.clipped("half") == pytest.approx(0.25, abs=0.01)


def test_the_table_has_a_line_a_tensor_and_takes_brackets_for_text(tensors: list[TensorRanges]) -> None:
    lines = table(tensors).splitlines()
    assert [line.split()[0] for line in lines] == ["tensor", "add/x:0", "relu[1]", "zero"]
    assert "mse (clipped %)" in lines[0]
    assert "\x1b[" not in table(tensors)


def test_a_picture_a_tensor(tensors: list[TensorRanges], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="draws pictures")
    paths = plot(tensors, tmp_path / "plots")
    assert [path.name for path in paths] == ["000_add_x_0.png", "001_relu_1_.png", "002_zero.png"]
    for path in paths:
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert path.stat().st_size > 5_000
    again = plot(tensors, tmp_path / "again")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
