"""Observers of a prepared torch.fx graph: whose tensor each one watches, and fixing what it will answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ptq.backends.batching import filled
from ptq.backends.torch.census import path_of
from ptq.backends.torch.file import Qparams
from ptq.backends.torch.from_onnx import TorchGraph
from ptq.backends.torch.runtime import tensors
from ptq.data.batch import Array, Batch, as_batch
from ptq.data.signature import Signature
from ptq.quantization.calibration import Calibration
from ptq.quantization.method import Range
from ptq.quantization.quantizer import Quantizer

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


def tensor_names(graph: TorchGraph) -> Callable[[Any], str | None]:
    """A function from a node of any graph traced from a `TorchGraph` to the ONNX tensor it computes, None when unknown.

    A traced node knows the submodule it came from, and placeholders are in the order of the inputs. A fused Conv +
    ReLU, which sits in the convolution's place, computes the output of the ReLU.
    """
    outputs, module = graph.outputs, graph.module
    relus: dict[str, str] = {}
    for node in module.graph.nodes:
        users = list(node.users)
        if node.op == "call_module" and len(users) == 1 and users[0].op == "call_module":
            follower = module.get_submodule(users[0].target)
            if type(follower).__name__ == "ReLU":
                relus[str(node.target)] = outputs[str(users[0].target)]

    def name(node: Any) -> str | None:
        if node.op == "placeholder":
            entries = [other for other in node.graph.nodes if other.op == "placeholder"]
            return graph.signature.inputs[entries.index(node)].name
        path = path_of(node, outputs)
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
    signature: Signature,
) -> tuple[dict[str, tuple[float, int]], dict[str, str]]:
    """(scale, zero_point) by observer, and notes for the report.

    `method` names the one of ptq whose ranges are handed over; None runs the graph's own observers over the
    calibration samples. So does, for those it concerns, a tensor ptq has no statistics of. What a constant's observer
    sees is the constant.
    """
    size = signature.batch or BATCH
    samples = calibration.samples.batches(size)
    if method is None:
        observe(prepared, samples, signature)
        notes = {"calibration": "own observers", "calibration_batch": str(size)}
        return observed(prepared, watched), notes
    given = handed_over(watched, name, calibration.ranges(method, ACTIVATION))
    alone = [each for each, (node, _) in watched.items() if each not in given and node.op != "get_attr"]
    notes = {"calibration": "ptq statistics"}
    if alone:
        observe(prepared, samples, signature)
        notes["calibration"] = f"ptq statistics, own observers of {len(alone)} in {len(watched)} tensors"
        notes["calibration_batch"] = str(size)
    else:
        # Constants, and weights in graphs that hold them, are seen by any one run.
        observe(prepared, [next(iter(samples))], signature)
    return {**observed(prepared, set(watched) - set(given)), **given}, notes


def observe(prepared: torch.fx.GraphModule, batches: Iterable[Array | Batch], signature: Signature) -> None:
    """Run batches through a prepared graph; one too small for a model of fixed batch is filled up."""
    for batch in batches:
        prepared(*tensors(filled(as_batch(batch), signature.batch or 0), signature))


def _is_last(node: Any, path: str, known: Mapping[str, str]) -> bool:
    """Whether no later node of the graph came from the same submodule: only the last one computes its output."""
    follower = node.next
    while follower.op != "output":
        observer = str(follower.target).startswith("activation_post_process")
        if not observer and path_of(follower, known) == path:
            return False
        follower = follower.next
    return True
