"""Observers of a prepared torch.fx graph: whose tensor each one watches, and fixing what it will answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ptq.calibration.calibration import Calibration
from ptq.methods import Range
from ptq.models.torch_file import Qparams
from ptq.quantizer import Quantizer
from ptq.samples import Float32, Samples

if TYPE_CHECKING:
    import torch

ACTIVATION = Quantizer(bits=8, signed=False, symmetric=False)
"""quint8, whole range: what both of torch's x86 paths take as activations."""

BATCH = 100
"""Calibration batch size. Fixed: torch's HistogramObserver gives other ranges for other batches (801 to 811 of 932
right on ResNet8 over sizes 1 to 1000), and the calibration set is balanced in every 100."""


def observers(prepared: torch.fx.GraphModule, is_weight: Callable[[Any], bool]) -> dict[str, tuple[Any, list[str]]]:
    """Activation observers by name: (the node it watches, the names of every place it sits in, its own first).

    An observer that is shared, e.g. by both sides of a pool, is listed once. `is_weight` tells a weight's observer.
    """
    found: dict[str, tuple[Any, list[str]]] = {}
    first: dict[int, str] = {}
    for node in prepared.graph.nodes:
        if node.op != "call_module" or not str(node.target).startswith("activation_post_process"):
            continue
        observer = prepared.get_submodule(node.target)
        if is_weight(observer):
            continue
        name = first.setdefault(id(observer), str(node.target))
        if name in found:
            found[name][1].append(str(node.target))
        else:
            found[name] = (node.args[0], [name])
    return found


def tensor_names(module: torch.fx.GraphModule, entry: str) -> Callable[[Any], str | None]:
    """A function from a node of any graph traced from `module` to the ONNX tensor it computes, None when unknown.

    `module` is a `graph_module`, not prepared yet; `entry` is the name of the ONNX input. Submodules are named after
    ONNX nodes and know their outputs; a traced node knows the submodule it came from. A fused Conv + ReLU, which
    sits in the convolution's place, computes the output of the ReLU.
    """
    outputs: dict[str, str] = {}
    relus: dict[str, str] = {}
    for node in module.graph.nodes:
        if node.op == "call_module":
            outputs[str(node.target)] = module.get_submodule(node.target).onnx_mapping.outputs[0]
    for node in module.graph.nodes:
        users = list(node.users)
        if node.op == "call_module" and len(users) == 1 and users[0].op == "call_module":
            follower = module.get_submodule(users[0].target)
            if type(follower).__name__ == "ReLU":
                relus[str(node.target)] = outputs[str(users[0].target)]

    def name(node: Any) -> str | None:
        if node.op == "placeholder":
            return entry
        path = _path(node, outputs)
        if path is None or not _is_last(node, path, outputs):
            return None
        owner = node.graph.owning_module
        if node.op == "call_module" and path in relus and "ReLU" in type(owner.get_submodule(path)).__name__:
            return relus[path]
        return outputs[path]

    return name


def handed_over(
    watched: Mapping[str, tuple[Any, list[str]]], name: Callable[[Any], str | None], ranges: Mapping[str, Range]
) -> dict[str, tuple[float, int]]:
    """(scale, zero_point) of every observer whose tensor has a range, from that range."""
    given: dict[str, tuple[float, int]] = {}
    for observer, (node, _) in watched.items():
        tensor = name(node)
        if tensor is not None and tensor in ranges:
            scale, zero_point = ACTIVATION.parameters(*ranges[tensor])
            given[observer] = (float(scale), zero_point)
    return given


def observed(prepared: torch.fx.GraphModule, names: Iterable[str]) -> dict[str, tuple[float, int]]:
    """(scale, zero_point) of observers by name, from what they saw."""
    result = {}
    for each in names:
        scale, zero_point = prepared.get_submodule(each).calculate_qparams()
        result[each] = (float(scale), int(zero_point))
    return result


def fix(
    prepared: torch.fx.GraphModule,
    watched: Mapping[str, tuple[Any, list[str]]],
    qparams: Qparams,
    fixed: Callable[[float, int], Any],
) -> None:
    """Put ``fixed(scale, zero_point)``, an observer that always answers so, in every place of each observer."""
    for name, (_, places) in watched.items():
        observer = fixed(*qparams[name])
        for place in places:
            setattr(prepared, place, observer)


def choose(
    prepared: torch.fx.GraphModule,
    watched: Mapping[str, tuple[Any, list[str]]],
    method: str | None,
    calibration: Calibration,
    name: Callable[[Any], str | None],
    batch: int | None,
) -> tuple[dict[str, tuple[float, int]], dict[str, str]]:
    """(scale, zero_point) by observer, and notes for the report.

    `method` names the one of ptq whose ranges are handed over; None runs the graph's own observers over the
    calibration samples. So does, for those it concerns, a tensor ptq has no statistics of. What a constant's observer
    sees is the constant.
    """
    size = batch or BATCH
    if method is None:
        observe(prepared, calibration.samples, size, batch is not None)
        notes = {"calibration": "own observers", "calibration_batch": str(size)}
        return observed(prepared, watched), notes
    given = handed_over(watched, name, calibration.ranges(method, ACTIVATION))
    alone = [each for each, (node, _) in watched.items() if each not in given and node.op != "get_attr"]
    notes = {"calibration": "ptq statistics"}
    if alone:
        observe(prepared, calibration.samples, size, batch is not None)
        notes["calibration"] = f"ptq statistics, own observers of {len(alone)} in {len(watched)} tensors"
        notes["calibration_batch"] = str(size)
    else:
        # Constants, and weights in graphs that hold them, are seen by any one run.
        observe(prepared, next(iter(calibration.samples.batches(size))), size, batch is not None)
    return {**observed(prepared, set(watched) - set(given)), **given}, notes


def observe(prepared: torch.fx.GraphModule, inputs: Samples | Float32, size: int, fixed: bool) -> None:
    """Run inputs through a prepared graph, `size` at a time.

    A rest that is smaller runs as it is; where the graph's batch is `fixed` it is filled up with its last sample.
    """
    import torch

    for each in (inputs,) if isinstance(inputs, np.ndarray) else inputs.batches(size):
        short = size - len(each) if fixed else 0
        prepared(torch.from_numpy(np.concatenate([each, each[-1:].repeat(short, axis=0)]) if short else each))


def _path(node: Any, known: Mapping[str, str]) -> str | None:
    """The submodule a traced node came from: the innermost that is an ONNX node."""
    if node.op == "call_module" and str(node.target) in known:
        return str(node.target)
    for path, _ in reversed((node.meta.get("nn_module_stack") or {}).values()):
        if path in known:
            return str(path)
    return None


def _is_last(node: Any, path: str, known: Mapping[str, str]) -> bool:
    """Whether no later node of the graph came from the same submodule: only the last one computes its output."""
    follower = node.next
    while follower.op != "output":
        observer = str(follower.target).startswith("activation_post_process")
        if not observer and _path(follower, known) == path:
            return False
        follower = follower.next
    return True
