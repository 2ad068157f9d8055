"""Workshop: artifacts of the small network by every backend, each made once a session."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from ptq.backends.protocol import Backend, FloatModel, Predictor
from ptq.cases import Case
from ptq.conformance import network
from ptq.engine.registry import Registry, reference_case

EVALUATED = network.images(20, seed=4)
WORKLOAD = "small"


def typical(backend: Backend, registry: Registry) -> list[Case]:
    """One case of every dtype and granularity the backend can do: by minmax where there is one."""
    chosen: dict[tuple[str, str], Case] = {}
    for case in backend.cases(WORKLOAD, registry.methods):
        if case.is_float or case.exclude != "none" or backend.unsupported(case) is not None:
            continue
        key = (case.dtype, case.granularity)
        if key not in chosen or (case.method == "minmax" and chosen[key].method != "minmax"):
            chosen[key] = case
    return list(chosen.values())


@dataclass
class Workshop:
    """Makes and loads artifacts of `ptq.conformance.network` in `folder`."""

    folder: Path
    registry: Registry

    def __post_init__(self) -> None:
        self._made: dict[Case, Path] = {}
        self._loaded: dict[Case, Predictor] = {}

    @cached_property
    def model(self) -> FloatModel:
        """The network in every form a backend starts from; as Keras where TensorFlow is installed."""
        keras: Path | None = None
        if importlib.util.find_spec("tensorflow") is not None:
            keras = self.folder / "small.keras"
            subprocess.run(
                [sys.executable, "-P", "-c", network.KERAS_SCRIPT, str(keras)], check=True, capture_output=True
            )
        return network.float_model(self.folder, keras)

    def artifact(self, case: Case) -> Path:
        """The artifact of a case, or a skip that says what is missing."""
        if case not in self._made:
            backend = self.registry.backend(case)
            if (reason := backend.missing()) is not None:
                pytest.skip(f"{case.backend} {reason}")
            if backend.suffix(case) == ".tflite" and self.model.keras is None:
                pytest.skip("tensorflow not installed: pip install 'ptq[tf]'")
            out = self.folder / f"{case.id}{backend.suffix(case)}"
            self.make(case, out)
            self._made[case] = out
        return self._made[case]

    def predictor(self, case: Case) -> Predictor:
        """The artifact of a case, loaded once."""
        if case not in self._loaded:
            self._loaded[case] = self.registry.backend(case).load(self.artifact(case))
        return self._loaded[case]

    def make(self, case: Case, out: Path) -> dict[str, str]:
        """Write the artifact of a case to `out`; the backend's notes."""
        calibration = network.calibration(self.model)
        return dict(self.registry.backend(case).quantize(case, self.model, calibration, out))

    def float_case(self, case: Case) -> Case:
        """What a case is compared with: its backend's own float case, else the reference."""
        return self.registry.float_case(case)

    @property
    def reference(self) -> Case:
        """The float case of all."""
        return reference_case(WORKLOAD)


def outputs(predict: Predictor, size: int = len(EVALUATED)) -> np.ndarray:
    """The first output for all `EVALUATED` images, `size` at a time."""
    parts = [
        next(iter(predict({network.INPUT: EVALUATED[at : at + size]}).values()))
        for at in range(0, len(EVALUATED), size)
    ]
    return np.concatenate(parts)
