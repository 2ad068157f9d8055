"""Step: one stage of a case: what it depends on, and how its file is made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ptq.engine.environment import instruction_sets
from ptq.engine.fingerprint import code_digest, describe

if TYPE_CHECKING:
    from ptq.engine.store import Store

Notes = Mapping[str, str]


class Step:
    """One stage. A subclass is a frozen dataclass whose fields are all that `make` reads, and nothing more.

    The key holds the settings, the keys or digests of the inputs among them, and the code of everything that makes the
    result: the step's own file, what it imports of ptq, and the files of `code`. The CPU is part of it: kernels differ,
    so does rounding, and a store may be shared by machines.
    """

    kind: ClassVar[str]
    """Where the store keeps it, of `ptq.engine.store.KINDS`."""

    @property
    def suffix(self) -> str:
        """File suffix of what is made."""
        return ".json"

    @property
    def title(self) -> str:
        """What is shown while it is made, if that takes long."""
        return self.kind

    def settings(self) -> Mapping[str, Any]:
        """What the result depends on beside code: digests of inputs, settings, versions; anything `describe` knows."""
        raise NotImplementedError

    def code(self) -> tuple[object, ...]:
        """Objects from elsewhere whose code makes the result: a metric, a method, a backend, a decode function."""
        return ()

    def make(self, out: Path, store: Store) -> Notes | None:
        """Write the result to `out`; may ask the store for other steps. Returns notes to keep beside it."""
        raise NotImplementedError

    @cached_property
    def key(self) -> str:
        """sha256 in hex; computed once."""
        code = code_digest(type(self), *self.code())
        content = [self.kind, type(self).__qualname__, describe(self.settings()), code, list(instruction_sets())]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
