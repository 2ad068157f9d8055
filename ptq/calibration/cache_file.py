"""Cache file: statistics and ranges on disk, in the JSON that onnxruntime's calibration cache loader reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ptq.calibration.histogram import FINEST, Histogram, empty, exponent_for
from ptq.calibration.statistics import TensorStatistics
from ptq.data.content import read_json
from ptq.data.shape import check_fields
from ptq.errors import BadData, one_line
from ptq.files import write_text

Range = tuple[float, float]

_FIELDS = {"min": float, "max": float, "count": int, "exponent": int, "first": int, "counts": list}
_STATISTICS = "ptq_statistics"
_COARSEST = exponent_for(float(np.finfo(np.float32).max))


def save_statistics(path: Path, statistics: Mapping[str, TensorStatistics]) -> None:
    """Write statistics by tensor name. The same statistics give the same bytes.

    ``onnxruntime.quantization.calibrate.load_tensors_data`` reads the file too, and finds the whole range of every
    tensor in it; the rest is under a key of its own, which it passes over.
    """
    details = {}
    for name, each in statistics.items():
        used = np.flatnonzero(each.histogram.counts)
        first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        details[name] = {
            "min": each.min,
            "max": each.max,
            "count": each.count,
            "exponent": each.histogram.exponent,
            "first": first,
            "counts": each.histogram.counts[first:last].tolist(),
        }
    whole = {name: (each.min, each.max) for name, each in statistics.items()}
    _write(path, {**_tensors_data(whole), _STATISTICS: details})


def load_statistics(path: Path) -> dict[str, TensorStatistics]:
    """What `save_statistics` wrote. Raises `BadData` for a file that is not such a file, or is not there."""
    content = _read(path)
    if _STATISTICS not in content:
        raise BadData(f"{path}: holds ranges only, but should hold statistics (key {_STATISTICS!r}): calibrate again")
    try:
        return {name: _statistics(each) for name, each in content[_STATISTICS].items()}
    except (BadData, ValueError, AttributeError, OverflowError) as error:
        raise BadData(f"{path}: is not whole ({type(error).__name__}: {one_line(error)}), calibrate again") from error


def save_ranges(path: Path, ranges: Mapping[str, Range]) -> None:
    """Write (low, high) by tensor name for ``quantize_static(calibration_cache_path=path)``, as float32."""
    _write(path, _tensors_data(ranges))


def load_ranges(path: Path) -> dict[str, Range]:
    """(low, high) by tensor name: what `save_ranges` or onnxruntime's ``save_tensors_data`` wrote.

    Raises `BadData` for a file that is neither, or is not there.
    """
    content = _read(path)
    try:
        return {name: _range(each) for name, each in content["data"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadData(
            f"{path}: no lowest and highest for every tensor ({type(error).__name__}: {one_line(error)})"
        ) from error


def _tensors_data(ranges: Mapping[str, Range]) -> dict[str, Any]:
    data = {
        name: {"CLS": "TensorData", "lowest": _array(low), "highest": _array(high)}
        for name, (low, high) in ranges.items()
    }
    method = {"CLS": "CalibrationMethod", "value": "CalibrationMethod.MinMax"}
    return {"CLS": "TensorsData", "calibration_method": method, "data": data, "smooth_quant": False}


def _array(value: float) -> dict[str, Any]:
    return {"CLS": "numpy.array", "dtype": "float32", "data": float(np.float32(value))}


def _range(each: Mapping[str, Any]) -> Range:
    low, high = (_number(each[key]) for key in ("lowest", "highest"))
    if not -np.inf < low <= high < np.inf:
        raise ValueError(f"{low:g} to {high:g} is no range")
    return low, high


def _number(value: Any) -> float:
    return float(np.asarray(value["data"] if isinstance(value, dict) else value).reshape(()))


def _statistics(each: Mapping[str, Any]) -> TensorStatistics:
    check_fields(each, _FIELDS, "a tensor")
    counts, kept = empty(), np.asarray(each["counts"], np.int64 if not each["counts"] else None)
    if kept.dtype.kind != "i" or kept.ndim != 1 or (kept < 0).any():
        raise ValueError("counts are no list of whole numbers, each 0 or more")
    if not 0 <= each["first"] <= len(counts) - len(kept):
        raise ValueError(f"{len(kept)} counts from bin {each['first']}, but there are {len(counts)} bins")
    counts[each["first"] : each["first"] + len(kept)] = kept
    counts.setflags(write=False)
    if not FINEST <= each["exponent"] <= _COARSEST:
        raise ValueError(f"exponent {each['exponent']}, but float32 has {FINEST} to {_COARSEST}")
    if int(counts.sum()) != each["count"]:
        raise ValueError(f"{int(counts.sum())} values in the histogram, {each['count']} counted")
    return TensorStatistics(
        float(each["min"]),
        float(each["max"]),
        int(each["count"]),
        Histogram(counts, int(each["exponent"])),
    )


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, sort_keys=True, allow_nan=False) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise BadData(f"{path}: cannot be read as a calibration cache ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise BadData(f"{path}: is {type(content).__name__} in JSON, but should be an object with 'data'")
    return content
