"""Layers: the SQNR of each layer of some cases, as a file of JSON has it, for the page to show.

One object a case, alone or in a list: ``case``, its id, and ``layers``, in the order of the graph. Each has ``name``,
``sqnr_db`` of its output in the quantized model against the float one, and, where it is known, ``local_sqnr_db``: of
its output where this layer alone is quantized. null is an output equal to the bit. ``sentence`` may say what was found.
What `ptq explain --json` writes is such a file too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from ptq.data.content import read_json
from ptq.data.shape import check
from ptq.errors import BadData, one_line


class _Explained(TypedDict):
    case: str
    layers: list[dict[str, Any]]


class _Layer(TypedDict):
    name: str
    sqnr_db: float | None
    local_sqnr_db: float | None


def load_layers(paths: Sequence[Path]) -> dict[str, Mapping[str, Any]]:
    """What files say, by case id; raises `BadData`, one line, for what is no such file."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in paths:
        try:
            content = read_json(path)
            for each in map(_of_explain, content if isinstance(content, list) else [content]):
                check(each, _Explained, "explained")
                check(each.setdefault("sentence", ""), str, "explained.sentence")
                for layer in each["layers"]:
                    layer.setdefault("local_sqnr_db", None)
                check(each["layers"], list[_Layer], "layers")
                found[each["case"]] = each
        except (OSError, ValueError, KeyError, AttributeError, TypeError, BadData, RecursionError) as error:
            raise BadData(f"{path}: not the SQNR of layers ({one_line(error)}); see ptq/report/layers.py") from error
    return found


def _of_explain(content: Any) -> Any:
    """An explanation as such an object; anything else as it is."""
    if not isinstance(content, dict) or not str(content.get("schema")).startswith("ptq-explain/"):
        return content
    names = {"name": "node", "sqnr_db": "propagated", "local_sqnr_db": "local"}
    layers = [{ours: row.get(theirs) for ours, theirs in names.items()} for row in content["rows"]]
    return {"case": content["name"], "sentence": content["sentence"], "layers": layers}
