"""part: every second of a set's samples, so that what is chosen on one half is reported on the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from ptq.data.samples import Samples
from ptq.errors import BadData


def part(samples: Any, which: int, group: int = 1) -> Samples:
    """The samples of one half, `which` being 0 or 1: every second target, with all samples that belong to it; of
    targets that belong together, `group` in a row, every second group.

    Of a dataclass of samples (`ArraySamples`, `ImageFiles`, ...): each field that holds one entry a sample, or one a
    target, is cut. Raises `BadData` for samples of another kind, and where a half would be empty.
    """
    count = len(samples)
    targets = samples.targets
    answers = count if targets is None else len(targets)
    if not is_dataclass(type(samples)):
        raise BadData(f"samples are {type(samples).__name__}, but should be a dataclass, to be halved")
    if answers < 2 * group or count % answers:
        raise BadData(
            f"{count} samples with {answers} targets, but there should be {2 * group} targets or more, to be halved"
        )
    kept = {
        size: [at for at in range(size) if at // (group * size // answers) % 2 == which] for size in (count, answers)
    }

    def cut(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: cut(held) for name, held in value.items()}
        if isinstance(value, np.ndarray) and value.ndim and len(value) in kept:
            return value[kept[len(value)]]
        if isinstance(value, list | tuple) and len(value) in kept:
            return type(value)([value[at] for at in kept[len(value)]])
        return value

    left_alone = {"class_names", "name", "seed", "size"}
    changes = {
        field.name: cut(getattr(samples, field.name))
        for field in fields(samples)
        if field.init and field.name not in left_alone
    }
    found: Samples = replace(samples, **changes)
    return found
