"""Statistics and ranges on disk: whole, the same bytes, and readable by onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ptq.calibration.cache_file import load_ranges, load_statistics, save_ranges, save_statistics
from ptq.calibration.statistics import TensorStatistics, collect
from ptq.errors import BadData


@pytest.fixture
def statistics() -> dict[str, TensorStatistics]:
    generator = np.random.default_rng(0)
    return collect(
        [
            {
                "relu": np.maximum(generator.normal(size=(4, 100)), 0).astype(np.float32),
                "tiny": np.full((4, 1), 1e-44, np.float32),
                "zero": np.zeros((4, 2), np.float32),
                "huge": (generator.normal(size=(4, 9)) * 1e30).astype(np.float32),
            }
        ]
    )


def test_statistics_survive_and_give_the_same_bytes(statistics: dict[str, TensorStatistics], tmp_path: Path) -> None:
    save_statistics(tmp_path / "one.json", statistics)
    again = load_statistics(tmp_path / "one.json")
    save_statistics(tmp_path / "two.json", dict(reversed(again.items())))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    for name, each in statistics.items():
        assert (each.min, each.max, each.count) == (again[name].min, again[name].max, again[name].count)
        assert each.histogram.exponent == again[name].histogram.exponent
        assert np.array_equal(each.histogram.counts, again[name].histogram.counts)


def test_onnxruntime_reads_both(statistics: dict[str, TensorStatistics], tmp_path: Path) -> None:
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate", reason="onnxruntime reads the files")
    save_statistics(tmp_path / "statistics.json", statistics)
    save_ranges(tmp_path / "ranges.json", {name: (each.min, each.max) for name, each in statistics.items()})
    for name in ("statistics.json", "ranges.json"):
        read = calibrate.load_tensors_data(tmp_path / name)
        assert read.calibration_method == calibrate.CalibrationMethod.MinMax
        for tensor, each in statistics.items():
            assert tuple(map(float, read[tensor].range_value)) == (each.min, each.max)
    calibrate.save_tensors_data(read, tmp_path / "theirs.json")
    assert load_ranges(tmp_path / "theirs.json") == load_ranges(tmp_path / "ranges.json")
    assert load_ranges(tmp_path / "statistics.json") == load_ranges(tmp_path / "ranges.json")


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (None, "cannot be read as a calibration cache"),
        ("{", "cannot be read as a calibration cache"),
        ("[]", "is list in JSON, but should be an object"),
        ('{"data": {}}', "holds ranges only, but should hold statistics"),
        ('{"ptq_statistics": {"x": {"min": 0}}}', "is not whole"),
        ('{"ptq_statistics": 3}', "is not whole"),
    ],
)
def test_a_file_that_is_not_statistics_is_named(content: str | None, fact: str, tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadData, match=rf"cache\.json: {fact}"):
        load_statistics(path)


def test_a_count_that_does_not_add_up_is_refused(statistics: dict[str, TensorStatistics], tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    save_statistics(path, statistics)
    content = json.loads(path.read_text())
    content["ptq_statistics"]["relu"]["count"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(BadData, match=r"is not whole .*400 values in the histogram, 401 counted"):
        load_statistics(path)


@pytest.mark.parametrize(("key", "value"), [("exponent", 2000), ("exponent", -2000), ("counts", [10**30])])
def test_numbers_that_no_float_has_are_refused(
    key: str, value: object, statistics: dict[str, TensorStatistics], tmp_path: Path
) -> None:
    path = tmp_path / "cache.json"
    save_statistics(path, statistics)
    content = json.loads(path.read_text())
    content["ptq_statistics"]["relu"][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(BadData, match=r"cache\.json: is not whole"):
        load_statistics(path)


def test_ranges_without_bounds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    path.write_text('{"data": {"x": {"lowest": 0}}}')
    with pytest.raises(BadData, match="no lowest and highest for every tensor"):
        load_ranges(path)
