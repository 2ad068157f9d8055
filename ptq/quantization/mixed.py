"""mixed: weights of few bits, but for the layers where a byte a weight gains most."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ptq.calibration.layers import Layer, layers
from ptq.calibration.patches import Moments
from ptq.errors import Unsupported
from ptq.models.onnx_file import load
from ptq.quantization import weights
from ptq.quantization.calibration import Calibration
from ptq.quantization.dtype import Integer
from ptq.quantization.gptaq import gptaq
from ptq.quantization.gptq import expected_error, fit_weights
from ptq.quantization.plan import Plan

_WIDE = 7  # bits, held in 8: next to four nothing is lost by it, and no pair saturates a CPU without VNNI


@dataclass(frozen=True)
class Mixed:
    """A `ptq.quantization.plan.Correct` that chooses bits a layer, then does what `gptaq` does.

    `share` is what the weights of all layers may take, of what they would take with a byte each. Layers get one in
    the order of the output error that saves a byte, as long as they fit; no labels are read. Raises `Unsupported` for a
    share that even the dtype's bits do not meet.

    Source: Dong et al. (2019), HAWQ-V2, arXiv:1911.03852, with the expected squared error of a layer's output, over
    its variance, for the Hessian's trace.
    """

    share: float

    def __call__(self, model: Path, out: Path, plan: Plan, calibration: Calibration) -> tuple[Plan, str]:
        found = [each for each in layers(load(model)) if each.node.name not in plan.exclude]
        seen, wide = calibration.moments(), Integer(_WIDE, plan.dtype.weight.signed)
        taken = {each.output: each.weights.size * plan.weight(each.node.input[1]).bits / 8 for each in found}
        most, least = self.share * sum(each.weights.size for each in found), sum(taken.values())
        if least > most:
            raise Unsupported(
                f"{model.name}: a budget of {self.share:.3g} of the weights' 8-bit size is {int(most):,} bytes, but "
                f"{plan.dtype.weight} in every layer takes {int(least):,}: allow {least / most * self.share:.3g}"
            )
        gains = {
            each.output: (_error(each, plan, plan.weight(each.node.input[1]), seen[each.output])
                          - _error(each, plan, wide, seen[each.output])) / each.weights.size
            for each in found
            if each.output in seen and plan.weight(each.node.input[1]).bits < _WIDE
        }  # fmt: skip
        integers, chosen = dict(plan.integers), []
        by_output = {each.output: each for each in found}
        for output in sorted(gains, key=lambda each: (-gains[each], each)):
            layer = by_output[output]
            more = layer.weights.size - taken[output]
            if least + more <= most:
                least += more
                integers[layer.node.input[1]] = wide
                chosen.append(str(layer.node.name))
        plan, said = gptaq(model, out, replace(plan, integers=integers), calibration)
        return plan, f"{wide} in {len(chosen)} of {len(found)} layers ({', '.join(chosen) or 'none'}); {said}"


def _error(layer: Layer, plan: Plan, integer: Integer, seen: Moments) -> float:
    """The expected squared error of a layer's output, over its variance."""
    low, high = weights.ranges(layer.weights, layer.axis if plan.per_channel else None)
    fitted, _, _ = fit_weights(layer.rows, integer.weight_quantizer, low, high, seen, layer.has_bias)
    whole = expected_error(layer.rows, np.zeros_like(layer.rows), seen, layer.has_bias)
    return float(expected_error(layer.rows, fitted, seen, layer.has_bias).sum() / max(float(whole.sum()), 1e-30))
