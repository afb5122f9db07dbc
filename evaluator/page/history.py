"""A run as the page knows it: what the ``windows`` log holds, gathered by kind."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from evaluator.page.pace import WorkerPace
from evaluator.page.table import PSI, Table
from evaluator.story import Band
from stream.keyed import FirstWins
from stream.log import StoredRecord
from stream.messages import (
    Alarm,
    AnyMessage,
    DeadLetters,
    Decision,
    Lifetime,
    Progress,
    Stability,
    Verdict,
    Window,
    parse,
)

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


class History:
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
    repeats
        Offsets of records that repeat an earlier one.
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
    >>> from stream.log import Record
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
    >>> history = History()
    >>> history.take(StoredRecord(0, 7, 8, Record(dump(alarm))))
    >>> history.offset, history.happened[0].message.count
    (7, 500)
    """

    def __init__(self, recent: int = RECENT) -> None:
        self.offset = -1
        self.forgotten = -1
        self.repeats: set[int] = set()
        self.events = 0
        self.models: tuple[str, ...] = ()
        self.tables: dict[int, Table] = {}
        self.lifetimes: dict[int, Lifetime] = {}
        self.workers: dict[str, WorkerPace] = {}
        self.happened: list[Event] = []
        self.letters: list[DeadLetters] = []
        self._recent: deque[Entry] = deque(maxlen=recent)
        self._first = FirstWins()
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

    def take(self, stored: StoredRecord) -> None:
        """Take a record in; a repeat is passed over."""
        value = stored.record.value
        message = parse(value)
        self.offset = stored.offset
        if isinstance(message, Progress):
            self._told(message)
        elif self._first.accept(message.key, value):
            self._sort_in(stored.offset, message)
        else:
            self.repeats.add(stored.offset)
            return
        if len(self._recent) == self._recent.maxlen:
            self.forgotten = self._recent[0].offset
        self._recent.append(Entry(stored.offset, message.kind, value))

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
            self.tables.setdefault(window.size, Table()).add(window)

    def _skipped(self, told: DeadLetters) -> None:
        """Lengthen the last stretch, where this one begins at its end."""
        if self.letters and self.letters[-1].count == told.begin:
            last = self.letters.pop()
            reasons = dict(Counter(last.reasons) + Counter(told.reasons))
            told = DeadLetters(begin=last.begin, count=told.count, reasons=reasons)
        self.letters.append(told)
