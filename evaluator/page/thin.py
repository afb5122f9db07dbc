"""Fewer points for the eye, with every spike and every gap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_ENDS: Final = 2
"""The first and the last row."""
_EACH: Final = 3
"""Of a bucket and a column at most: the least value, the greatest, and a gap."""


def thin(columns: Sequence[Floats], points: int) -> NDArray[np.intp]:
    """Choose which rows of some columns to draw.

    The rows are cut into buckets, and of each bucket those stay in which any column has its least
    value, its greatest or its first gap; the first and the last row stay too. So what is drawn
    reaches as high and as low as what is not, and no line bridges what is not known.

    Parameters
    ----------
    columns
        Of equal length n; NaN is a gap.
    points
        How many rows may stay, but never fewer than two and three a column.

    Returns
    -------
    Ascending row numbers, all n where these are no more than ``points``.

    Examples
    --------
    >>> spike = np.zeros(1000)
    >>> spike[501] = 9
    >>> chosen = thin([spike], points=10)
    >>> len(chosen) <= 10, 501 in chosen
    (True, True)
    """
    n = len(columns[0]) if columns else 0
    if n <= points:
        return np.arange(n)
    buckets = max((points - _ENDS) // (_EACH * len(columns)), 1)
    chosen = {0, n - 1}
    for rows in np.array_split(np.arange(n), buckets):
        for column in columns:
            chosen |= {int(rows[at]) for at in _telling(column[rows])}
    return np.array(sorted(chosen), np.intp)


def _telling(values: Floats) -> Iterator[np.intp]:
    """Yield where the extremes are, and the first gap."""
    gaps = np.isnan(values)
    if not gaps.all():
        yield np.nanargmin(values)
        yield np.nanargmax(values)
    if gaps.any():
        yield gaps.argmax()
