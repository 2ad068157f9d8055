"""Sums of 16 bits that saturate on x86 CPUs without VNNI, predicted from the integers, whatever CPU this is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ptq.calibration.layers import Layer, layers
from ptq.diagnosis.evidence import Evidence, Weights, db
from ptq.diagnosis.finding import LAYER, MACHINE, Cause, Finding
from ptq.models.graph import Graph
from ptq.models.onnx_file import load

LARGEST = 2**15 - 1
LEFT_DB = 20.0
"""A layer is told of when saturation leaves less than this of its sums."""
_PATCHES, _CHANNELS = 64, 64
Integers = npt.NDArray[np.int64]


def find(evidence: Evidence) -> Iterable[Finding]:
    """Layers with unsigned activations and signed weights whose pairs of products pass 16 bits.

    Without VNNI, `vpmaddubsw` adds two neighbouring products, of an unsigned and a signed byte each, in 16 bits and
    saturates. Neighbours are consecutive channels at one place of the kernel, as the kernels lay them out.
    """
    kind = LAYER if evidence.mixed_saturates else MACHINE
    here = "this CPU, which has no VNNI," if evidence.mixed_saturates else "a CPU without VNNI"
    for name, left, share in predicted(evidence):
        if left < LEFT_DB:
            yield Finding(
                "saturation", name,
                f"saturates the 16-bit sums of {here} in {100 * share:.2g} % of the pairs of products: "
                f"{left:.1f} dB of its sums are left",
                "use uint8, or a CPU with VNNI, or weights of 7 bits (reduce_range)",
                # of two faults as bad as one another, the model's own is told before the machine's
                len(evidence.graph.nodes) + evidence.place.get(_output(evidence, name), -1), left, kind, 0.9,
                {"sqnr_db": left, "pairs": share},
            )  # fmt: skip


def predicted(evidence: Evidence) -> list[tuple[str, float, float]]:
    """By layer that may saturate: its node, what saturation leaves of its sums in dB, the share of pairs that do."""
    weights = {each.node.output[0]: each for each in evidence.weights if each.integers.dtype == np.int8}
    known = {layer.output: layer for layer in layers(load(evidence.model)) if layer.output in weights}
    unsigned = set(evidence.ranges) - evidence.signed
    risky = {
        output: layer
        for output, layer in known.items()
        if layer.node.input[0] in unsigned and _worst(weights[output], layer) > LARGEST and not _depthwise(layer)
    }
    if not risky:
        return []
    found = []
    values = evidence.values([layer.node.input[0] for layer in risky.values()])
    for output, layer in risky.items():
        patches = [layer.window.patches(each[layer.node.input[0]], _PATCHES, at) for at, each in enumerate(values)]
        left, share = _saturated(evidence, layer, weights[output], np.concatenate(patches, axis=1))
        found.append((layer.node.name or output, left, share))
    return found


def _saturated(
    evidence: Evidence, layer: Layer, weights: Weights, patches: npt.NDArray[np.float32]
) -> tuple[float, float]:
    low, high = evidence.ranges[layer.node.input[0]]
    scale = (high - low) / 255
    groups = len(patches)
    sums, errors, pairs, cut = 0.0, 0.0, 0, 0
    rows = _rows(weights, layer).reshape(groups, -1, patches.shape[2])
    for group in range(groups):
        given = np.clip(np.rint((patches[group] - low) / scale), 0, 255).astype(np.int64)
        chosen = rows[group][:: max(1, len(rows[group]) // _CHANNELS)]
        given, chosen = (_in_order(each, layer) for each in (given, chosen))
        exact = (given[:, None, 0::2] * chosen[None, :, 0::2]) + (given[:, None, 1::2] * chosen[None, :, 1::2])
        held = np.clip(exact, -LARGEST - 1, LARGEST)
        whole = exact.sum(axis=2)
        errors += float(np.square((held.sum(axis=2) - whole).astype(np.float64)).sum())
        sums += float(np.square(whole - whole.mean(axis=0)).sum())
        pairs, cut = pairs + exact.size, cut + int((held != exact).sum())
    return db(np.array(errors), np.array(sums)), cut / max(pairs, 1)


def _rows(weights: Weights, layer: Layer) -> Integers:
    """Integer weights of shape (outputs, length)."""
    moved = np.moveaxis(weights.integers.astype(np.int64), layer.axis, 0)
    return moved.reshape(moved.shape[0], -1)


def _in_order(rows: Integers, layer: Layer) -> Integers:
    """Rows with channels next to one another at each place of the kernel, of an even length."""
    if layer.window.kernel:
        places = int(np.prod(layer.window.kernel))
        rows = rows.reshape(len(rows), -1, places).transpose(0, 2, 1).reshape(len(rows), -1)
    return np.pad(rows, [(0, 0), (0, rows.shape[1] % 2)])


def _worst(weights: Weights, layer: Layer) -> float:
    """The largest a pair of products can be."""
    rows = np.abs(_in_order(_rows(weights, layer), layer))
    return float(255 * (rows[:, 0::2] + rows[:, 1::2]).max(initial=0))


def _depthwise(layer: Layer) -> bool:
    """Whether every output reads one channel: such kernels add up in 32 bits."""
    return bool(layer.window.kernel) and layer.weights.shape[1] == 1 and layer.window.groups > 1


def _output(evidence: Evidence, name: str) -> str:
    graph: Graph = evidence.graph
    node: Any = next((each for each in graph.nodes if each.name == name), None)
    return name if node is None else str(node.output[0])


CAUSE = Cause("saturation", find)
