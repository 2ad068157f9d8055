"""The Pareto front: the cases that no other beats in accuracy and in cost at once."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the points, (cost, value), that none beats: lower cost is better, higher value is better.

    Sorted by cost; of equal points the first one stands for all.
    """
    kept: list[int] = []
    best = float("-inf")
    for position in sorted(range(len(points)), key=lambda at: (points[at][0], -points[at][1], at)):
        if points[position][1] > best:
            kept.append(position)
            best = points[position][1]
    return kept
