"""Ranges of every tensor by every method: a table for a terminal, a picture a tensor."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptq.calibration.statistics import TensorStatistics
from ptq.errors import NotInstalled
from ptq.quantization.method import Method, Range
from ptq.quantization.quantizer import Quantizer

_COLOURS = ("tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink")


@dataclass(frozen=True, eq=False)
class TensorRanges:
    """One tensor: what was seen of it, and (low, high) by method, in its units."""

    name: str
    seen: TensorStatistics
    ranges: Mapping[str, Range]

    def clipped(self, method: str) -> float:
        """Share of the values, 0..1, outside the method's range; to the resolution of one bin."""
        low, high = self.ranges[method]
        histogram = self.seen.histogram
        outside = histogram.counts[(histogram.rights < low) | (histogram.lefts > high)].sum()
        return float(outside) / self.seen.count


def tensor_ranges(
    statistics: Mapping[str, TensorStatistics], quantizer: Quantizer, methods: Mapping[str, Method]
) -> list[TensorRanges]:
    """Every tensor with the range each of `methods` has for `quantizer`, by name; one that corrects weights on top of
    another's ranges, or transforms the model first, is left out.
    """
    known = {name: method for name, method in methods.items() if method.corrects is None and not method.transforms}
    return [
        TensorRanges(name, seen, {key: method.choose(seen, quantizer) for key, method in known.items()})
        for name, seen in sorted(statistics.items())
    ]


def table(tensors: list[TensorRanges], width: int = 140, color: bool = False) -> str:
    """A line a tensor: its range and rms, and each method's range and clipped share."""
    names = list(tensors[0].ranges) if tensors else []
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("tensor", overflow="ellipsis", no_wrap=True, min_width=12)
    for heading in ("min", "max", "rms", *(f"{name} (clipped %)" for name in names if name != "minmax")):
        shown.add_column(heading, justify="right", no_wrap=True)
    for each in tensors:
        cells: list[Text | str] = [
            Text(each.name),
            f"{each.seen.min:.4g}",
            f"{each.seen.max:.4g}",
            f"{each.seen.histogram.rms:.4g}",
        ]
        for name in (name for name in names if name != "minmax"):
            low, high = each.ranges[name]
            cells.append(f"{low:.4g}..{high:.4g} ({100 * each.clipped(name):.3f})")
        shown.add_row(*cells)
    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=color, color_system="standard" if color else None)
    console.print(shown)
    return output.getvalue()


def plot(tensors: list[TensorRanges], folder: Path) -> list[Path]:
    """A PNG a tensor in `folder`: its histogram on a log scale with each method's range drawn in.

    Returns the files, named after the tensors in order. Raises `NotInstalled` without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NotInstalled("pictures need matplotlib: pip install 'ptq[plot]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, each in enumerate(tensors):
        figure = Figure(figsize=(8, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        histogram = each.seen.histogram
        used = np.flatnonzero(histogram.counts)
        part = slice(used[0], used[-1] + 1)
        edges = np.append(histogram.lefts[part], histogram.rights[used[-1]])
        axes.stairs(histogram.counts[part], edges, fill=True, color="tab:blue", alpha=0.6)
        for color, (name, bounds) in zip(_COLOURS, sorted(each.ranges.items()), strict=False):
            for bound, label in zip(bounds, (None, f"{name} {bounds[0]:.4g}..{bounds[1]:.4g}"), strict=True):
                axes.axvline(bound, color=color, linewidth=1.2, label=label)
        axes.set_title(each.name, parse_math=False)
        axes.set(xlabel="value", ylabel="count", yscale="log")
        axes.legend(fontsize="small")
        path = folder / f"{index:03d}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', each.name)[-80:]}.png"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of letters its font does not have
            figure.savefig(path, dpi=100, metadata={"Software": None})
        paths.append(path)
    return paths
