"""SampleSet: one of a workload's two sets of samples: known without being read, read at most once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ptq.data.batch import Array, Batch
from ptq.data.contract import ContractBroken, InputContract
from ptq.data.reader import Reader
from ptq.data.samples import FittedSamples, Samples, labels_of
from ptq.data.signature import Signature
from ptq.engine.environment import versions
from ptq.engine.fingerprint import fingerprint
from ptq.engine.step import Notes, Step
from ptq.errors import BadData
from ptq.stamps import known_digest

if TYPE_CHECKING:
    from ptq.engine.store import Store

DECODERS = ("numpy", "opencv-python-headless", "opencv-python", "pillow", "scikit-learn", "tokenizers")
"""Libraries that turn files into inputs: their versions are part of what samples are known by."""


@dataclass(frozen=True)
class Facts:
    """What is known of a set: `n` samples, the `seed` they were drawn with, their `digest`, the names of classes, and
    what the targets are: ``classes``, ``other`` or ``none``.
    """

    n: int
    seed: int | None
    digest: str
    class_names: tuple[str, ...]
    targets: str

    @classmethod
    def of(cls, samples: Samples) -> Facts:
        kind = "none" if samples.targets is None else "other" if labels_of(samples) is None else "classes"
        return cls(len(samples), samples.seed, samples.digest, tuple(samples.class_names), kind)


@dataclass(frozen=True, eq=False)
class ReadFacts(Step):
    """The facts of a set that a `Reader` reads."""

    kind: ClassVar[str] = "samples"
    where: str
    reader: Reader
    read: Callable[[], Samples]

    @property
    def title(self) -> str:
        return f"{self.where}: reading samples"

    def settings(self) -> Mapping[str, Any]:
        files = [(path.name, known_digest(path)) for path in self.reader.files()]
        return {"files": files, "read": self.reader.read, "versions": versions(DECODERS)}

    def code(self) -> tuple[object, ...]:
        return (self.reader.read,)

    def make(self, out: Path, store: Store) -> Notes | None:
        out.write_text(json.dumps(asdict(Facts.of(self.read()))))
        return None


@dataclass(frozen=True, eq=False)
class SampleSet:
    """Calibration or evaluation samples, as a workload gives them.

    `where` is what messages call it. `given` are samples, or what reads them.
    """

    where: str
    given: Samples | Reader | Callable[[], Samples]
    store: Store

    @cached_property
    def raw(self) -> Samples:
        """The samples as the workload gives them, read at the first call."""
        found = self.given() if callable(self.given) else self.given
        if not hasattr(found, "batches"):
            raise BadData(
                f"{self.where}: samples are {type(found).__name__}, but should be ptq.Samples: wrap arrays in "
                "ptq.ArraySamples(inputs, targets)"
            )
        return found

    @cached_property
    def facts(self) -> Facts:
        """What is known of the set; a `Reader`'s set is not read where it is known from an earlier run."""
        if not isinstance(self.given, Reader):
            return Facts.of(self.raw)
        entry = self.store.get(ReadFacts(self.where, self.given, lambda: self.raw))
        content = json.loads(entry.path.read_text())
        return Facts(**{**content, "class_names": tuple(content["class_names"])})

    @cached_property
    def identity(self) -> str:
        """What keys hold of the set, sha256 in hex: its content, and the code that makes inputs of it."""
        if isinstance(self.given, Reader):
            code = fingerprint(self.given.read)
        else:  # a digest of image files is of their bytes: whatever decodes them counts, too
            held = (
                [value for value in vars(self.raw).values() if callable(value)] if hasattr(self.raw, "__dict__") else []
            )
            code = fingerprint(type(self.raw), *held)
        facts = self.facts
        content = [facts.digest, facts.class_names, code, sorted(versions(DECODERS).items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def fitted(self, signature: Signature) -> FittedSamples:
        """The samples as a model takes them."""
        return FittedSamples(self.raw, signature, self.where)


class CheckedSamples(FittedSamples):
    """Fitted samples every batch of which keeps the contracts, by input name: `ContractBroken` when one does not.

    The set is read when a batch is asked for: a case that cannot be is known without it.
    """

    def __init__(self, given: SampleSet, signature: Signature, contracts: Mapping[str, InputContract]) -> None:
        for name, value in {"_given": given, "signature": signature, "where": given.where, "_held": contracts}.items():
            object.__setattr__(self, name, value)

    @property
    def samples(self) -> Samples:
        """The samples as the workload gives them."""
        return self._given.raw

    _given: SampleSet
    _held: Mapping[str, InputContract]

    def fit(self, batches: Iterable[Array | Batch]) -> Iterator[dict[str, Array]]:
        for batch in super().fit(batches):
            check_batch(batch, self._held, self.where)
            yield batch


def check_batch(batch: Mapping[str, Array], contracts: Mapping[str, InputContract], where: str) -> None:
    """Raise `ContractBroken` unless every input keeps its contract; the message starts with `where`."""
    for name, contract in contracts.items():
        try:
            contract.check(batch[name])
        except ContractBroken as error:
            raise ContractBroken(
                f"{where}: input {name!r}: {error}" if len(contracts) > 1 else f"{where}: {error}"
            ) from error
