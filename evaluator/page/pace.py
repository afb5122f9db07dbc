"""The workers by the wall clock, as columns."""

from __future__ import annotations

from array import array
from typing import Final

import numpy as np

from evaluator.page.table import Lines, lines
from stream.messages import Progress

FIGURES: Final = ("count", "events_per_second", "lag_events", "lag_seconds")
_MS: Final = 1_000


class WorkerPace:
    """What one worker has told of its progress.

    Parameters
    ----------
    first
        The first that it told.

    Examples
    --------
    >>> told = Progress(
    ...     worker="dense", count=0, events=0, wall_seconds=0, waiting_for=None, time_ms=0
    ... )
    >>> pace = WorkerPace(told)
    >>> pace.add(told.model_copy(update={"events": 500, "wall_seconds": 2, "time_ms": 2_000}))
    >>> pace.lines(points=10).columns["events_per_second"]
    [None, 250.0]
    """

    def __init__(self, first: Progress) -> None:
        self.last = first
        self._time = array("q")
        self._columns = {name: array("d") for name in FIGURES}
        self.add(first)

    def add(self, told: Progress) -> None:
        """Append what the worker told; its rate is since the last time, if in the same life."""
        values = (told.count, _rate(self.last, told), told.lag_events, told.lag_seconds)
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(np.nan if value is None else value)
        self._time.append(told.time_ms)
        self.last = told

    def lines(self, points: int) -> Lines:
        """Return all columns over Unix time in milliseconds, thinned."""
        columns = {name: np.array(values, np.float64) for name, values in self._columns.items()}
        return lines(np.array(self._time, np.int64), columns, points)


def _rate(before: Progress, told: Progress) -> float | None:
    """Return events a second; None where the worker was begun anew in between."""
    if told.wall_seconds <= before.wall_seconds or told.events < before.events:
        return None
    passed = told.time_ms - before.time_ms
    return _MS * (told.events - before.events) / passed if passed > 0 else None
