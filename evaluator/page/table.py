"""The windows of one size, as columns."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluator.config import DENSE
from evaluator.page.thin import thin
from evaluator.story import Band, drift_on
from stream.messages import ModelScore, Window

Floats = NDArray[np.float64]
Cells = list[float | None]

PSI: Final = "psi"
"""The largest population stability index of a feature."""
_OF_EVENTS: Final = ("weight", "clicks", "click_rate", "bayes_ce")
_OF_MODELS: Final = tuple(name for name in ModelScore.model_fields if name != "versions")
_RELATIVE: Final = ("relative_ce", "relative_ce.low", "relative_ce.high")


def columns_of(models: Sequence[str]) -> tuple[str, ...]:
    """Name every column that windows of some models can have.

    >>> [name for name in columns_of(["dense", "sparse"]) if "ce" in name][:4]
    ['bayes_ce', 'dense.ce', 'dense.ece', 'sparse.ce']
    """
    found = [*_OF_EVENTS, PSI]
    for model in models:
        names = _OF_MODELS if model == DENSE else _OF_MODELS + _RELATIVE
        found += [f"{model}.{name}" for name in names]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Lines:
    """Some columns, thinned."""

    at: list[int]
    """The count at which each window ends, or another x."""
    columns: dict[str, Cells]
    rows: int
    """How many there were before thinning."""


class Table:
    """The whole windows of one size: eight bytes a figure."""

    def __init__(self) -> None:
        self.newest: Window | None = None
        self.bands: list[Band] = []
        self._end = array("q")
        self._columns: dict[str, array[float]] = {}

    def __len__(self) -> int:
        return len(self._end)

    def add(self, window: Window) -> None:
        """Append a window; a figure that it lacks is NaN."""
        figures = dict(_figures(window))
        for name in figures.keys() - self._columns.keys():
            self._columns[name] = array("d", [np.nan]) * len(self)
        for name, values in self._columns.items():
            values.append(figures.get(name, np.nan))
        self._end.append(window.end)
        self.newest = window
        drift_on(self.bands, window)

    def amend(self, end: int, name: str, value: float) -> None:
        """Put one more figure to the newest window, if that is the one which ends there."""
        if self._end and self._end[-1] == end:
            blank = array("d", [np.nan]) * len(self)
            self._columns.setdefault(name, blank)[-1] = value

    def lines(self, columns: Sequence[str], stretch: tuple[int, int], points: int) -> Lines:
        """Return columns of the windows that end in ``(begin, end]``, thinned.

        Parameters
        ----------
        columns
            Such as ``dense.ne``; one that no window has a figure for is all gaps. Of none, all
            that there are.
        stretch
            ``begin`` and ``end``, counts of events.
        points
            As of :func:`evaluator.page.thin.thin`.
        """
        ends = np.array(self._end, np.int64)
        begin, end = np.searchsorted(ends, stretch, side="right")
        rows = slice(int(begin), int(end))
        models = self.newest.models if self.newest else ()
        names = columns or [name for name in columns_of(tuple(models)) if name in self._columns]
        return lines(ends[rows], {name: self._column(name)[rows] for name in names}, points)

    def last_through(self, name: str, count: int) -> float | None:
        """Return a figure of the last window that ends at or before a count."""
        return self._figure(name, int(np.searchsorted(np.array(self._end), count, "right")) - 1)

    def first_from(self, name: str, count: int, size: int) -> float | None:
        """Return a figure of the first window, of ``size`` events, that begins behind a count."""
        return self._figure(name, int(np.searchsorted(np.array(self._end), count + size, "left")))

    def _figure(self, name: str, row: int) -> float | None:
        values = self._column(name)
        return cells(values[row : row + 1])[0] if 0 <= row < len(self) else None

    def _column(self, name: str) -> Floats:
        known = self._columns.get(name)
        return np.full(len(self), np.nan) if known is None else np.array(known, np.float64)


def lines(at: NDArray[np.int64], columns: dict[str, Floats], points: int) -> Lines:
    """Thin columns that stand over the same x."""
    chosen = thin(list(columns.values()), points) if columns else np.arange(len(at))
    plain = {name: cells(column[chosen]) for name, column in columns.items()}
    return Lines(at[chosen].tolist(), plain, len(at))


def cells(values: Floats) -> Cells:
    """Turn NaN into None, which JSON has a word for."""
    return [None if np.isnan(value) else value for value in values.tolist()]


def _figures(window: Window) -> Iterator[tuple[str, float]]:
    """Yield every figure of a window by the name of its column; what is not known is left out."""
    for name in _OF_EVENTS:
        value = getattr(window, name)
        if value is not None:
            yield name, value
    for model, score in window.models.items():
        found = [(name, getattr(score, name)) for name in _OF_MODELS] if score else []
        yield from ((f"{model}.{name}", value) for name, value in found if value is not None)
    for model, interval in window.relative_ce.items():
        if interval is not None:
            values = (interval.mean, interval.low, interval.high)
            found = list(zip(_RELATIVE, values, strict=True))
            yield from ((f"{model}.{name}", value) for name, value in found if value is not None)
