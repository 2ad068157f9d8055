"""Preparation leaves nothing behind, whatever the libraries it calls do."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_model import small_model

from ptq.calibration.prepare import prepare


def test_a_failed_shape_inference_leaves_no_file_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime saves the model it could not infer under a name of its own, where the process is."""
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    def fail(*_: object) -> None:
        Path("sym_shape_infer_temp.onnx").write_bytes(b"left")
        raise RuntimeError("Incomplete symbolic shape inference")

    monkeypatch.setattr(SymbolicShapeInference, "infer_shapes", fail)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    notes = prepare(small_model(tmp_path / "model.onnx"), tmp_path / "prepared.onnx")
    assert "Incomplete symbolic shape inference" in notes["symbolic shapes"]
    assert Path.cwd() == here
    assert list(here.iterdir()) == []
