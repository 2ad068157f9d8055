"""Passes over the calibration samples, each a step: what they see of the prepared model's tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ptq.calibration.cache_file import load_ranges, load_statistics, save_ranges, save_statistics
from ptq.calibration.extremes import extremes, part
from ptq.calibration.moments_pass import finished, moments, sums
from ptq.calibration.patches import Moments, load_moments, load_sums, save_moments, save_sums
from ptq.calibration.statistics import Extremes, TensorStatistics, added
from ptq.calibration.statistics_pass import statistics
from ptq.data.blocks import Blocks, whole
from ptq.data.contract import InputContract
from ptq.data.signature import Signature
from ptq.engine.environment import versions
from ptq.engine.sample_set import CheckedSamples, SampleSet
from ptq.engine.step import Notes, Step
from ptq.quantization.method import EXTREMES, HISTOGRAM, MOMENTS

if TYPE_CHECKING:
    from ptq.engine.store import Entry, Store

P = TypeVar("P", bound="Pass")

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


@dataclass(frozen=True, eq=False)
class BlockOf(Pass):
    """One block of a pass, see `ptq.data.blocks`: what other machines see of the samples, to be added up here."""

    number: int = 0

    def settings(self) -> Mapping[str, Any]:
        return {**super().settings(), "block": self.number}

    @property
    def block(self) -> Blocks:
        """The samples of the block."""
        return whole(self.checked, self.signature.batch).one(self.number)


class StatisticsBlock(BlockOf):
    """Counts every value of every tensor in a block."""

    what = "part of a calibration pass"

    def make(self, out: Path, store: Store) -> Notes | None:
        save_statistics(out, statistics(self.prepared.path, self.block))
        return None


class ExtremesBlock(BlockOf):
    """Looks, in a block, for the smallest and the largest value of every tensor and where they are."""

    what = "part of the extremes"

    def make(self, out: Path, store: Store) -> Notes | None:
        seen = part(self.prepared.path, self.block)
        out.write_text(
            json.dumps({name: [each.min, each.max, each.lowest, each.highest] for name, each in seen.items()})
        )
        return None


class MomentsBlock(BlockOf):
    """Sums up, in a block, what every layer multiplies its weights with."""

    what = "part of the moments of every layer"

    @property
    def suffix(self) -> str:
        return ".npz"

    def make(self, out: Path, store: Store) -> Notes | None:
        (block,) = sums(self.prepared.path, self.block)
        save_sums(out, block)
        return None


class Blockwise(Pass):
    """A pass whose blocks add up to the whole, to the bit: where others made them all, they are not made here."""

    part: ClassVar[type[BlockOf]]

    @property
    def parts(self) -> list[BlockOf]:
        """The steps of all blocks; none where there is but one."""
        count = whole(self.samples.raw, self.signature.batch).count
        fields = (self.name, self.prepared, self.samples, self.signature, self.contracts)
        return [self.part(*fields, number) for number in range(count)] if count > 1 else []


class Statistics(Blockwise):
    """Counts every value of every tensor."""

    what = "one calibration pass"
    part = StatisticsBlock

    def make(self, out: Path, store: Store) -> Notes | None:
        if blocks := store.all_of(self.parts):
            save_statistics(out, added(map(load_statistics, blocks)))
        else:
            save_statistics(out, statistics(self.prepared.path, self.checked))
        return None


class ExtremesPass(Blockwise):
    """Looks for the smallest and the largest value of every tensor alone."""

    what = "the extremes"
    part = ExtremesBlock

    def make(self, out: Path, store: Store) -> Notes | None:
        blocks = [
            {name: Extremes(*each) for name, each in json.loads(path.read_text()).items()}
            for path in store.all_of(self.parts)
        ]
        seen = extremes(self.prepared.path, self.checked, blocks)
        save_ranges(out, {name: (bounds.min, bounds.max) for name, bounds in seen.items()})
        return None


class MomentsPass(Blockwise):
    """Sums up what every layer multiplies its weights with."""

    what = "the moments of every layer"
    part = MomentsBlock

    @property
    def suffix(self) -> str:
        return ".npz"

    def make(self, out: Path, store: Store) -> Notes | None:
        blocks = store.all_of(self.parts)
        save_moments(out, finished(map(load_sums, blocks)) if blocks else moments(self.prepared.path, self.checked))
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

    def make_block(self, need: str, number: int) -> None:
        """Make one block of the pass that a need of methods stands for; nothing where the pass is one block,
        or there."""
        step = self.step({EXTREMES: ExtremesPass, HISTOGRAM: Statistics, MOMENTS: MomentsPass}[need])
        if number < len(parts := step.parts) and self.store.find(step) is None:
            self.store.get(parts[number])

    def step(self, kind: type[P]) -> P:
        """The step of a pass."""
        return kind(self.name, self.prepared, self.samples, self.signature, self.contracts)

    def entry(self, kind: type[Pass]) -> Entry:
        """The stored file of a pass."""
        return self.store.get(self.step(kind))
