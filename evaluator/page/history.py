"""Fewer points for the eye, with every spike and every gap."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluator.config import DENSE
from evaluator.run.history import Band, drift_on
from stream.follow import LoggedMessage
from stream.messages import (
    Alarm,
    AnyMessage,
    DeadLetters,
    Decision,
    Lifetime,
    ModelScore,
    Progress,
    Stability,
    Verdict,
    Window,
)

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


class WindowTable:
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
            As of :func:`evaluator.page.history.thin`.
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


RECENT: Final = 1_000
"""Records that are kept as they stand in the log, for those who follow."""
_SOON_MS: Final = 10_000
"""Workers tell the time every few seconds; between two that are further apart it is not known."""
_LAST: Final = "evaluator"
"""The worker that is done once the input has ended, and all of it is scored and decided."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record for those who follow; its offset is what a viewer goes on from."""

    offset: int
    kind: str
    value: bytes = field(repr=False)
    """As it stands in the log."""


class Event(NamedTuple):
    """A message that tells of something that happened, and where it stands."""

    offset: int
    message: Decision | Verdict | Alarm
    time_ms: int | None = None
    """Unix time at which it was copied, to a few seconds; None where nobody told the time soon
    before and soon after."""


class PageHistory:
    """Gathers the records of a ``windows`` log, each key once.

    What grows with the run is figures, not messages: some hundred bytes a window.

    Parameters
    ----------
    recent
        Records that are kept as they stand in the log.

    Attributes
    ----------
    offset
        Of the last record taken; -1 before the first.
    forgotten
        Of the last record that is not kept as it stands any more.
    tables
        Whole windows by size.
    lifetimes
        The newest, by where they begin.
    workers
        What each worker told of its progress.
    happened
        Verdicts, alarms, and the decisions by which anything changed.
    letters
        Events that did not validate, neighbouring stretches in one.

    Examples
    --------
    >>> from stream.messages import Alarm, dump
    >>> alarm = Alarm(
    ...     detector="click_rate",
    ...     feature=None,
    ...     count=500,
    ...     since=400,
    ...     statistic=2,
    ...     threshold=1,
    ...     reason="it fell",
    ... )
    >>> history = PageHistory()
    >>> history.take(LoggedMessage(7, alarm, dump(alarm)))
    >>> history.offset, history.happened[0].message.count
    (7, 500)
    """

    def __init__(self, recent: int = RECENT) -> None:
        self.offset = -1
        self.forgotten = -1
        self.events = 0
        self.models: tuple[str, ...] = ()
        self.tables: dict[int, WindowTable] = {}
        self.lifetimes: dict[int, Lifetime] = {}
        self.workers: dict[str, WorkerPace] = {}
        self.happened: list[Event] = []
        self.letters: list[DeadLetters] = []
        self._recent: deque[Entry] = deque(maxlen=recent)
        self._time_ms: int | None = None
        self._untimed: list[int] = []

    @property
    def is_finished(self) -> bool:
        """The input has ended and all is told of it, as far as the workers say."""
        last = self.workers.get(_LAST)
        return (last is not None and last.last.done) or (
            bool(self.workers) and all(pace.last.done for pace in self.workers.values())
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the windows there are."""
        return tuple(sorted(self.tables))

    @property
    def bands(self) -> list[Band]:
        """Stretches of true drift, by the smallest windows."""
        return self.tables[self.sizes[0]].bands if self.tables else []

    def take(self, logged: LoggedMessage[Any]) -> None:
        """Take a message in."""
        self.offset, message, value = logged
        if isinstance(message, Progress):
            self._told(message)
        else:
            self._sort_in(self.offset, message)
        if len(self._recent) == self._recent.maxlen:
            self.forgotten = self._recent[0].offset
        self._recent.append(Entry(self.offset, message.kind, value))

    def top_up(self, last: Progress) -> None:
        """Take in what a worker told last, where the log lacks it.

        The evaluator cannot copy what is told by those who end after it.
        """
        known = self.workers.get(last.worker)
        if known is None or known.last != last:
            self._told(last)

    def after(self, offset: int) -> list[Entry]:
        """Return the records behind an offset that is not before ``forgotten``."""
        found = []
        for entry in reversed(self._recent):
            if entry.offset <= offset:
                break
            found.append(entry)
        return found[::-1]

    def _sort_in(self, offset: int, message: AnyMessage) -> None:
        match message:
            case Window():
                self._closed(message)
            case Lifetime():
                self.lifetimes[message.begin] = message
            case Stability(begin=begin, end=end, psi=psi) if end - begin in self.tables and psi:
                self.tables[end - begin].amend(end, PSI, max(psi.values()))
            case Verdict() | Alarm():
                self._happened(offset, message)
            case Decision() if message.rebuild or message.rollback or message.declined:
                self._happened(offset, message)
            case DeadLetters():
                self._skipped(message)

    def _happened(self, offset: int, message: Decision | Verdict | Alarm) -> None:
        self._untimed.append(len(self.happened))
        self.happened.append(Event(offset, message))

    def _told(self, progress: Progress) -> None:
        known = self.workers.get(progress.worker)
        self._clock(progress.time_ms)
        if known is None:
            self.workers[progress.worker] = WorkerPace(progress)
        else:
            known.add(progress)

    def _clock(self, time_ms: int) -> None:
        """Note the time, and put it to what has happened since it was told last."""
        if self._time_ms is not None and abs(time_ms - self._time_ms) <= _SOON_MS:
            for at in self._untimed:
                self.happened[at] = self.happened[at]._replace(time_ms=time_ms)
        self._untimed, self._time_ms = [], time_ms

    def _closed(self, window: Window) -> None:
        self.events = max(self.events, window.end)
        self.models = tuple(window.models)
        if not window.partial:
            self.tables.setdefault(window.size, WindowTable()).add(window)

    def _skipped(self, told: DeadLetters) -> None:
        """Lengthen the last stretch, where this one begins at its end."""
        if self.letters and self.letters[-1].count == told.begin:
            last = self.letters.pop()
            reasons = dict(Counter(last.reasons) + Counter(told.reasons))
            told = DeadLetters(begin=last.begin, count=told.count, reasons=reasons)
        self.letters.append(told)
