"""Keeping labels at the ends of lines apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights apart as little as need be, keeping their order.

    Examples
    --------
    >>> spread([0.5, 0.5, 0.9], gap=0.1)
    [0.45, 0.55, 0.9]
    """
    order = np.argsort(heights, kind="stable")
    groups: list[list[float]] = []
    for height in np.asarray(heights)[order].tolist():
        groups.append([height])
        while len(groups) > 1 and _top(groups[-2], gap) + gap > _bottom(groups[-1], gap):
            last = groups.pop()
            groups[-1] += last
    placed = [_bottom(group, gap) + i * gap for group in groups for i in range(len(group))]
    found = np.empty(len(placed))
    found[order] = placed
    return [float(height) for height in found]


def _bottom(group: Sequence[float], gap: float) -> float:
    """Return where the lowest of a group stands, the group centred on its mean."""
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: Sequence[float], gap: float) -> float:
    return _bottom(group, gap) + gap * (len(group) - 1)
