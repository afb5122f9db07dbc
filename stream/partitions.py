"""The clicks of one partition: decoded ahead of those who take them, the invalid ones counted."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from stream.batch import ClickBatch
from stream.codec import Decoded, Invalid
from stream.log.api import LogReader, LogTrimmedError
from stream.messages import Position, PositionRange
from stream.schema import FeatureSchema
from stream.sharing import decoder_of
from stream.start_position import SETTING, describe_begin

_DETAIL: Final = 120
"""Characters that are kept of what is wrong: it may quote a name that the event itself brings."""
_MOST_INVALID: Final = 10_000
"""Invalid events read at a time, so that the caller can do something else in between."""

OnInvalid = Callable[[Sequence[Invalid]], None]
"""Takes invalid events of one partition, at least one, in order, as soon as they are read."""


@dataclass(frozen=True, slots=True)
class InvalidRun:
    """Invalid events with no valid one between them."""

    valid_before: int
    """Valid events that were read before them."""
    first: str
    """What is wrong with the first."""
    reasons: Counter[str] = field(default_factory=Counter)


class PartitionReader:
    """Reads the valid events of one partition, in order, and counts the invalid ones between them.

    Parameters
    ----------
    log
        The clicks.
    partition
        The partition to read.
    schema
        Decides how events are encoded and which are valid.
    start
        The position to read next; None begins with the first event. A partition that has lost its
        first records is then refused, since nobody could tell which events are missing.

    Attributes
    ----------
    ready
        Valid events that are decoded and not taken yet.
    ended
        The end record has been read: nothing comes after the events that are ready.
    on_invalid
        Takes every invalid event; by default nobody does.
    """

    def __init__(
        self, log: LogReader, partition: int, schema: FeatureSchema, start: Position | None = None
    ) -> None:
        self.ready = 0
        self.ended = False
        self.on_invalid: OnInvalid | None = None
        self._log, self._partition, self._start = log, partition, start
        self._decoder = decoder_of(log, schema)
        self._offset = None if start is None else start.offset
        self._chunks: deque[Decoded] = deque()
        self._taken = 0
        self._invalid: deque[InvalidRun] = deque()
        self._valid_read = self._invalid_read = 0

    @property
    def exhausted(self) -> bool:
        """The end has been read, and every event before it taken."""
        return self.ended and self.ready == 0

    @property
    def invalid(self) -> int:
        """Invalid events that were read and are not skipped yet."""
        return sum(run.reasons.total() for run in self._invalid)

    @property
    def first_invalid(self) -> str:
        """What is wrong with the first of them."""
        return self._invalid[0].first if self._invalid else ""

    def fill(self, events: int) -> bool:
        """Read until so many events are ready, there are no more for now, or many were invalid.

        Returns True in the last case: more may be there.
        """
        most = self._invalid_read + _MOST_INVALID
        while self.ready < events and not self.ended and self._read():
            if self._invalid_read >= most:
                return True
        return False

    def span(self, events: int) -> PositionRange:
        """Return where the next events stand; so many must be ready."""
        first = _position(self._chunks[0], self._taken)
        left = self._taken + events
        for chunk in self._chunks:
            if left <= len(chunk.rows):
                break
            left -= len(chunk.rows)
        return PositionRange(self._partition, first, _position(chunk, left - 1), events)

    def take(self, events: int) -> list[ClickBatch]:
        """Take the next events, as views; so many must be ready."""
        self.ready -= events
        parts: list[ClickBatch] = []
        while events:
            chunk, begin = self._chunks[0], self._taken
            end = self._taken = min(begin + events, len(chunk.rows))
            parts.append(chunk.batch[begin:end])
            events -= end - begin
            if end == len(chunk.rows):
                self._chunks.popleft()
                self._taken = 0
        return parts

    def skip(self, *, last: bool = False) -> Counter[str]:
        """Count by reason the invalid events before the last one taken, or all that were read.

        Each is counted once.
        """
        taken = self._valid_read - self.ready
        skipped: Counter[str] = Counter()
        while self._invalid and (last or self._invalid[0].valid_before < taken):
            skipped += self._invalid.popleft().reasons
        return skipped

    def _read(self) -> bool:
        """Read and decode some more records; return whether there were any."""
        if self._offset is None:
            self._offset = _begin(self._log, self._partition)
        chunk = self._decoder.fetch(self._partition, self._offset)
        if chunk is None:
            return False
        self._offset = chunk.end
        for _, decoded in chunk.pieces:
            self._queue(decoded)
            if self.ended:
                break
        return True

    def _queue(self, decoded: Decoded) -> None:
        """Keep what was decoded, without what stands before the start."""
        self.ended = decoded.end
        start, invalid = self._start, decoded.invalid
        if start is not None:
            invalid = tuple(one for one in invalid if one.place >= start)
            if len(decoded.rows) and _position(decoded, 0) < start:
                done = (decoded.offsets == start.offset) & (decoded.rows < start.row)
                rows = slice(int(np.count_nonzero(done)), None)
                decoded = Decoded(decoded.batch[rows], decoded.offsets[rows], decoded.rows[rows])
        if invalid:
            self._note(invalid, decoded)
        if len(decoded.rows):
            self._chunks.append(decoded)
            self.ready += len(decoded.rows)
            self._valid_read += len(decoded.rows)

    def _note(self, invalid: Sequence[Invalid], decoded: Decoded) -> None:
        """Count invalid events by where they stand among the valid ones, and hand them out."""
        rows = range(len(decoded.rows))
        for one in invalid:
            at = bisect_left(rows, one.place, key=lambda row: _position(decoded, row))
            before = self._valid_read + at
            if not self._invalid or self._invalid[-1].valid_before != before:
                self._invalid.append(InvalidRun(before, one.detail[:_DETAIL]))
            self._invalid[-1].reasons[one.reason.value] += 1
        self._invalid_read += len(invalid)
        if self.on_invalid is not None:
            self.on_invalid(invalid)


PartitionReaders = Mapping[int, PartitionReader]
"""By partition, ascending."""


def _begin(log: LogReader, partition: int) -> int:
    """Return where a partition begins, refusing one that has lost its first records."""
    begin = log.begin(partition)
    if begin > 0:
        raise LogTrimmedError(
            f"the clicks log begins with {describe_begin(log, partition)}: what stood before has "
            f"been trimmed away, and a run begins with the first event; say with {SETTING} from "
            "which time or offsets on it is to read, or give it a log that still has all, and let "
            'that log keep more: stream.retention.clicks = "all"'
        )
    return begin


def _position(decoded: Decoded, row: int) -> Position:
    return Position(int(decoded.offsets[row]), int(decoded.rows[row]))
