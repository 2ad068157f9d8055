"""Passes over the calibration samples, each a step: what they see of the prepared model's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ptq.calibration.cache_file import load_ranges, load_statistics, save_ranges, save_statistics
from ptq.calibration.extremes import extremes
from ptq.calibration.moments_pass import moments
from ptq.calibration.patches import Moments, load_moments, save_moments
from ptq.calibration.statistics import Extremes, TensorStatistics
from ptq.calibration.statistics_pass import statistics
from ptq.data.contract import InputContract
from ptq.data.signature import Signature
from ptq.engine.environment import versions
from ptq.engine.sample_set import CheckedSamples, SampleSet
from ptq.engine.step import Notes, Step

if TYPE_CHECKING:
    from ptq.engine.store import Entry, Store

RUNTIME = ("onnxruntime", "onnx", "numpy")
"""What computes the passes, whatever the backend."""


@dataclass(frozen=True, eq=False)
class Pass(Step):
    """One pass of the prepared model over the calibration samples."""

    kind: ClassVar[str] = "statistics"
    what: ClassVar[str]
    name: str
    prepared: Entry
    samples: SampleSet
    signature: Signature
    contracts: Mapping[str, InputContract]

    def settings(self) -> Mapping[str, Any]:
        return {
            "prepared": self.prepared.digest,
            "calibration": self.samples.identity,
            "contracts": self.contracts,
            "versions": versions(RUNTIME),
        }

    @property
    def title(self) -> str:
        return f"{self.name}: {self.what} over {self.samples.facts.n} samples"

    @property
    def checked(self) -> CheckedSamples:
        """The samples, every batch held to the contracts."""
        return CheckedSamples(self.samples, self.signature, self.contracts)


class Statistics(Pass):
    """Counts every value of every tensor."""

    what = "one calibration pass"

    def make(self, out: Path, store: Store) -> Notes | None:
        save_statistics(out, statistics(self.prepared.path, self.checked))
        return None


class ExtremesPass(Pass):
    """Looks for the smallest and the largest value of every tensor alone."""

    what = "the extremes"

    def make(self, out: Path, store: Store) -> Notes | None:
        seen = extremes(self.prepared.path, self.checked)
        save_ranges(out, {name: (bounds.min, bounds.max) for name, bounds in seen.items()})
        return None


class MomentsPass(Pass):
    """Sums up what every layer multiplies its weights with."""

    what = "the moments of every layer"

    @property
    def suffix(self) -> str:
        return ".npz"

    def make(self, out: Path, store: Store) -> Notes | None:
        save_moments(out, moments(self.prepared.path, self.checked))
        return None


@dataclass(frozen=True, eq=False)
class Passes:
    """What every pass saw, each made at the first call and read once; so is the prepared model."""

    store: Store
    name: str
    prepare: Step
    samples: SampleSet
    signature: Signature
    contracts: Mapping[str, InputContract]

    @cached_property
    def prepared(self) -> Entry:
        """The model the passes run."""
        return self.store.get(self.prepare)

    @property
    def checked(self) -> CheckedSamples:
        """The calibration samples, every batch held to the contracts."""
        return CheckedSamples(self.samples, self.signature, self.contracts)

    @cached_property
    def statistics(self) -> Mapping[str, TensorStatistics]:
        """By tensor name, what one pass saw."""
        return load_statistics(self.entry(Statistics).path)

    @cached_property
    def extremes(self) -> Mapping[str, Extremes]:
        """By tensor name, its smallest and largest value."""
        return {name: Extremes(*bounds) for name, bounds in load_ranges(self.entry(ExtremesPass).path).items()}

    @cached_property
    def moments(self) -> Mapping[str, Moments]:
        """By a layer's output tensor, the moments of its patches."""
        return load_moments(self.entry(MomentsPass).path)

    def entry(self, kind: type[Pass]) -> Entry:
        """The stored file of a pass."""
        step = kind(self.name, self.prepared, self.samples, self.signature, self.contracts)
        return self.store.get(step)
