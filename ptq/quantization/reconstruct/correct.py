"""reconstruct: a correction that learns, see `learn`, from where GPTQ leaves the model."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ptq.calibration.layers import Layer, layers
from ptq.errors import NotInstalled
from ptq.files import write_bytes
from ptq.models.graph import Graph
from ptq.models.onnx_file import load, serialized
from ptq.quantization.calibration import Calibration
from ptq.quantization.correct import correct, pool_globally
from ptq.quantization.plan import Correct, Plan, WeightGrid
from ptq.quantization.reconstruct.learn import Recipe, learn
from ptq.quantization.reconstruct.network import Network


def reconstruct(recipe: Recipe) -> Correct:
    """A `ptq.quantization.plan.Correct` by `recipe`.

    Raises `NotInstalled` without torch, `Unsupported` for a model with an operator that no gradient is known of here.
    """

    def corrected(model: Path, out: Path, plan: Plan, calibration: Calibration) -> tuple[Plan, str]:
        if find_spec("torch") is None:
            raise NotInstalled("reconstruction needs gradients: not installed: pip install 'ptq[torch]'")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "start.onnx"
            start, said = correct(model, path, plan, calibration)
            proto = load(path)
        exact = load(model)
        pool_globally(exact)
        network = Network(exact, proto, start, model)
        learned = learn(network, calibration.samples, recipe)
        if learned.better:
            start = _write(network, proto, start)
            said += f", then learned in {learned.steps} steps: error {learned.before:.3g} to {learned.after:.3g}"
        write_bytes(out, serialized(proto, model))
        return start, said

    return corrected


def _write(network: Network, proto: Any, plan: Plan) -> Plan:
    """Put what was learned into the model and the plan."""
    from onnx import numpy_helper

    constants = Graph(proto.graph).initializers
    grids = dict(plan.grids)
    for layer in list(layers(proto)):
        rows = network.weights.get(layer.output)
        if rows is None:
            continue
        name = layer.node.input[1]
        grid = grids[name]
        grids[name] = WeightGrid(grid.integer, rows.scale, grid.zero_point, grid.axis)
        values = rows().detach().numpy()
        constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
        if layer.output in network.biases:
            _set_bias(constants, layer, network)
    ranges = dict(plan.ranges)
    for tensor, owner in network.points.items():
        if network.activations[owner].moved:
            ranges[tensor] = network.activations[owner].range
    return replace(plan, grids=grids, ranges=ranges)


def _set_bias(constants: dict[str, Any], layer: Layer, network: Network) -> None:
    from onnx import numpy_helper

    name = layer.node.input[2]  # one of its own: GPTQ's correction gave it
    value = network.bias(layer.output).detach().numpy()
    constants[name].CopyFrom(numpy_helper.from_array(value, name))
