"""keep_in_float: the few nodes whose own error dominates that of a model's answers, found without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptq.data.samples import Samples
from ptq.errors import BadModel
from ptq.files import scratch
from ptq.models.onnx_file import load
from ptq.quantization.exclude import Exclusion, Scales
from ptq.sensitivity.answers import Answers, Doubles
from ptq.sensitivity.measure import LARGE, activation_bytes, fixed_batch, spread
from ptq.sensitivity.rank import LayerError, rank, to_db

GAIN = 1.5
"""How many times as large the answers' noise must be with a group in integer as with it in float (1.8 dB)."""
CLEAN = 0.01
"""Noise / signal of an answer that nothing is done about (20 dB)."""
STANDS_OUT_DB, WORST_DB = 8.0, 20.0
"""A layer is tried alone when it loses more than `WORST_DB` leaves and so much more than the model's median layer."""
TRIED = 4
"""Layers tried alone at most."""

Make = Callable[[Sequence[str], Path], object]
"""Quantizes all but the named nodes, into a file."""


def keep_in_float(
    model: Path, make: Make, samples: Samples, planned: Sequence[Exclusion] = (), name: Path | None = None
) -> tuple[list[Exclusion], str]:
    """Which nodes to keep in float beside those `planned`, and in one line what was found, or that nothing was.

    Greedy, on a few of the samples, without labels. The groups tried are, for every answer, its head: what lies after
    the last learned layers, and those too; then single layers that stand out in `rank`, with what reads them when it is
    their output's range that loses. A group stays in float
    when it makes the noise of some kind of answer `GAIN` times smaller (`Answers`), which is then more than `CLEAN`.
    At most half of the learned layers are kept.
    """
    large = activation_bytes(load(model)) > LARGE
    batches = spread(samples, 6 if large else 32, fixed_batch(load(model)))
    answers, graph = Answers(model, batches), Scales(model, name)
    found = {each.node: each.reason for each in planned}
    with scratch() as folder:
        trial = _Trial(answers, make, folder / "trial.onnx")
        now = trial(found)
        if now is None:
            return [], "nothing could be tried: all of it would be in float"
        gains: list[str] = []
        for what, group in _heads(graph, answers.names):
            now = _try(trial, graph, found, now, group, what, gains)
        if (now > CLEAN).any():
            trial(found)
            errors = rank(model, trial.path, samples, 2 if large else 8)
            for layer in standing_out(errors)[:TRIED]:
                group = [layer.node, *_readers(graph, layer)]
                now = _try(trial, graph, found, now, group, f"{layer.node} alone", gains)
    added = [Exclusion(node, reason) for node, reason in found.items() if node not in {each.node for each in planned}]
    nothing = f"found nothing{' more' if planned else ''}: no part dominates the noise of {_worst(answers, now)}"
    said = "; ".join(gains) or nothing
    return added, said


def standing_out(errors: Sequence[LayerError]) -> list[LayerError]:
    """The layers that lose much, and much more than the median layer; the worst first."""
    lost = {each.node: min(each.local, each.even) for each in errors if each.integer}
    if not lost:
        return []
    median = float(np.median(list(lost.values())))
    return [each for each in errors if lost.get(each.node, WORST_DB) < min(WORST_DB, median - STANDS_OUT_DB)]


class _Trial:
    """The noise of the answers with some nodes in float; None where nothing would be quantized."""

    def __init__(self, answers: Answers, make: Make, path: Path) -> None:
        self.path = path
        self.answers = answers
        self._make = make

    def __call__(self, nodes: Iterable[str]) -> Doubles | None:
        try:
            self._make(list(nodes), self.path)
        except BadModel:
            return None
        return self.answers.noise(self.path)


def _try(
    trial: _Trial, graph: Scales, found: dict[str, str], now: Doubles, group: Sequence[str], what: str, gains: list[str]
) -> Doubles:
    """Add a group to what is found if it helps; the noise after that."""
    fresh = [node for node in group if node not in found]
    learned = [node.name for node in graph.nodes if graph.is_learned(node)]
    if not fresh or 2 * len({*found, *fresh} & set(learned)) > max(len(learned), 2):
        return now
    after = trial([*found, *fresh])
    if after is None:
        return now
    gain = np.where(now > CLEAN, now / np.maximum(after, 1e-12), 1.0)
    if gain.max() < GAIN:
        return now
    kind = trial.answers.kinds[int(np.unravel_index(gain.argmax(), gain.shape)[0])]
    told = f"{what}: {10 * np.log10(gain.max()):.1f} dB less noise in {kind}"
    found |= dict.fromkeys(fresh, told)
    gains.append(f"{len(fresh)} nodes, {told}")
    return after


def _heads(graph: Scales, answers: Sequence[str]) -> Iterable[tuple[str, list[str]]]:
    """By answer: what lies after the last learned layers, with these."""
    for name in answers:
        if (maker := graph.producer.get(name)) is not None:
            nodes = [maker] if graph.is_learned(maker) else [maker, *graph.tail(maker)]
            yield f"the head of {name}", [graph.name(node) for node in nodes if node.op_type != "Constant"]


def _readers(graph: Scales, layer: LayerError) -> list[str]:
    """What reads the layer's output, where it is its range that loses: a quantized reader would bring that back."""
    own = [each for each in (layer.weights, layer.computed) if each is not None]
    if own and min(own) - layer.local < 3.0:
        return []
    maker: Any = graph.producer.get(layer.tensor)
    return [] if maker is None else [graph.name(maker), *(graph.name(node) for node in graph.passes_to(maker))]


def _worst(answers: Answers, noise: Doubles) -> str:
    at = int(np.unravel_index(noise.argmax(), noise.shape)[0])
    return f"{answers.kinds[at]}, {to_db(float(noise.max())):.1f} dB below it"
