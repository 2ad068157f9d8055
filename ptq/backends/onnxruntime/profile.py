"""profile: how long onnxruntime takes for each node of a float model, by its own profiler."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ptq.data.batch import Batch
from ptq.files import scratch
from ptq.models.graph import Graph
from ptq.models.onnx_file import load
from ptq.models.session import feed, session

ROUNDS = 3
"""How often every batch is run, after once to warm up; the fastest counts."""
_LAYOUT = "_nchwc"


def node_shares(model: Path, batches: Sequence[Batch]) -> Mapping[str, float]:
    """By node, its share of the time of a run on one thread, 0..1, with all of onnxruntime's optimizations.

    A node that others are fused into has their time. What onnxruntime adds (a change of layout) is in nobody's share,
    so the sum is less than 1. Names are those of `model`, of a node without one that of its first output.
    """
    graph = Graph(load(model).graph)
    known = {node.name: node for node in graph.nodes if node.name}
    with scratch() as folder:
        running = session(model, save_to=folder / "executed.onnx", profile=folder / "profile")
        inputs = [each.name for each in running.get_inputs()]
        for batch in (batch for batch in batches for _ in range(ROUNDS + 1)):
            running.run(None, feed(batch, inputs, model))
        events = json.loads(Path(running.end_profiling()).read_text(encoding="utf-8"))
        made = {node.name: node.output[0] for node in load(folder / "executed.onnx").graph.node}
    fastest: dict[tuple[str, int], int] = {}  # by node and batch: what else the machine does only adds
    runs: Counter[str] = Counter()
    for event in events:
        name, found = str(event["name"]), event["name"].removesuffix("_kernel_time")
        if event.get("cat") != "Node" or found == name:
            continue
        number, again = divmod(runs[found], ROUNDS + 1)
        runs[found] += 1
        if again:  # the first of a batch warms up
            fastest[found, number] = min(event["dur"], fastest.get((found, number), event["dur"]))
    times: Counter[str] = Counter()
    for (found, _), taken in fastest.items():
        times[found] += taken
    shares: Counter[str] = Counter()
    for found, taken in times.items():
        own = found.removesuffix(_LAYOUT)
        maker = known.get(own) or graph.producer.get(own) or graph.producer.get(made.get(found, ""))
        if maker is not None:
            shares[maker.name or maker.output[0]] += taken
    whole = sum(times.values())
    return {name: taken / whole for name, taken in shares.items()}
