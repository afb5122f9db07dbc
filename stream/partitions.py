"""One partition of the clicks, decoded as far ahead as it is asked for."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from stream.batch import ClickBatch
from stream.codec import Decoded, Invalid
from stream.log import LogReader, LogTrimmedError
from stream.messages import Position, PositionRange
from stream.schema import FeatureSchema
from stream.sharing import decoder_of
from stream.start_position import SETTING, describe_begin

_DETAIL: Final = 120
"""Characters that are kept of what is wrong: it may quote a name that the event itself brings."""
_MOST_INVALID: Final = 10_000
"""Invalid events met at a time: whoever reads is to get on with something else in between."""

OnInvalid = Callable[[Sequence[Invalid]], None]
"""Takes invalid events of one partition, at least one, in order, as soon as they are met."""


@dataclass(frozen=True, slots=True)
class InvalidRun:
    """Invalid events with no valid one between them."""

    behind: int
    """Valid events that the lane had met before them."""
    first: str
    """What is wrong with the first."""
    reasons: Counter[str] = field(default_factory=Counter)


class PartitionReader:
    """The valid events of one partition, in order, and how many invalid ones stand between them.

    The invalid ones themselves are not held: they are handed out as they are met.

    Parameters
    ----------
    log
        The clicks.
    partition
        Which part of them.
    schema
        Decides how events are encoded and which are valid.
    start
        The place to read next; None begins with the first event. A partition that has lost its
        first records is then refused, since nobody could tell which events are missing.

    Attributes
    ----------
    ready
        Valid events that are decoded and not taken.
    ended
        The end record has been met: nothing comes behind what is ready.
    met
        Is handed every invalid event; by default nobody.
    """

    def __init__(
        self, log: LogReader, partition: int, schema: FeatureSchema, start: Position | None = None
    ) -> None:
        self.ready = 0
        self.ended = False
        self.met: OnInvalid = _look_away
        self._log = log
        self._partition = partition
        self._clicks = decoder_of(log, schema)
        self._start = start
        self._offset: int | None = None if start is None else start.offset
        self._chunks: deque[Decoded] = deque()
        self._taken = 0
        self._gaps: deque[InvalidRun] = deque()
        self._queued = 0
        self._invalid = 0

    @property
    def over(self) -> bool:
        """The end has been met and everything before it taken."""
        return self.ended and self.ready == 0

    @property
    def unfit(self) -> int:
        """Invalid events met and not skipped."""
        return sum(gap.reasons.total() for gap in self._gaps)

    @property
    def first_unfit(self) -> str:
        """What is wrong with the first of them."""
        return self._gaps[0].first if self._gaps else ""

    def fill(self, events: int) -> bool:
        """Read until so many events are ready, there are no more for now, or many were invalid.

        Returns True in the last case: there may be more to read at once.
        """
        most = self._invalid + _MOST_INVALID
        while self.ready < events and not self.ended and self._fetch():
            if self._invalid >= most:
                return True
        return False

    def span(self, events: int) -> PositionRange:
        """Tell where the next events stand, of those that are ready."""
        first = _place(self._chunks[0], self._taken)
        left = self._taken + events
        for chunk in self._chunks:
            if left <= len(chunk.rows):
                break
            left -= len(chunk.rows)
        return PositionRange(self._partition, first, _place(chunk, left - 1), events)

    def take(self, events: int) -> list[ClickBatch]:
        """Take the next events, of those that are ready, as views."""
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
        """Count by reason the invalid events before the last one taken, or all that were met.

        Each is counted once.
        """
        taken = self._queued - self.ready
        skipped: Counter[str] = Counter()
        while self._gaps and (last or self._gaps[0].behind < taken):
            skipped += self._gaps.popleft().reasons
        return skipped

    def _fetch(self) -> bool:
        """Read and decode some more records; say whether there were any."""
        if self._offset is None:
            self._offset = _first(self._log, self._partition)
        chunk = self._clicks.fetch(self._partition, self._offset)
        if chunk is None:
            return False
        for _, decoded in chunk.pieces:
            self._queue(decoded)
            if self.ended:
                break
        self._offset = chunk.end
        return True

    def _queue(self, decoded: Decoded) -> None:
        """Keep what was decoded, without what stands before the start."""
        self.ended = decoded.end
        start = self._start
        invalid = decoded.invalid
        if start is not None:
            invalid = tuple(one for one in invalid if one.place >= start)
            if len(decoded.rows) and _place(decoded, 0) < start:
                done = (decoded.offsets == start.offset) & (decoded.rows < start.row)
                decoded = _slice(decoded, int(np.count_nonzero(done)), len(decoded.rows))
        if invalid:
            self._note(invalid, decoded)
        if len(decoded.rows):
            self._chunks.append(decoded)
            self.ready += len(decoded.rows)
            self._queued += len(decoded.rows)

    def _note(self, invalid: Sequence[Invalid], decoded: Decoded) -> None:
        """Count what is invalid by where it stands among the valid events, and hand it out."""
        rows, place = range(len(decoded.rows)), partial(_place, decoded)
        for one in invalid:
            behind = self._queued + bisect_left(rows, one.place, key=place)
            if not self._gaps or self._gaps[-1].behind != behind:
                self._gaps.append(InvalidRun(behind, one.detail[:_DETAIL]))
            self._gaps[-1].reasons[one.reason.value] += 1
        self._invalid += len(invalid)
        self.met(invalid)


PartitionReaders = Mapping[int, PartitionReader]
"""By partition, ascending."""


def _look_away(_: Sequence[Invalid]) -> None:
    """Leave invalid events to others."""


def _first(log: LogReader, partition: int) -> int:
    """Return where a partition begins, refusing one that has lost its first records."""
    begin = log.begin(partition)
    if begin > 0:
        raise LogTrimmedError(
            f"the clicks log begins with {describe_begin(log, partition)}: what stood before has "
            f"been trimmed away, and a run begins with the first event; say with {SETTING} from "
            "which time or offsets on it is to read, or give it a log that still has all, and let "
            "that log keep more"
        )
    return begin


def _place(decoded: Decoded, at: int) -> Position:
    return Position(int(decoded.offsets[at]), int(decoded.rows[at]))


def _slice(decoded: Decoded, begin: int, end: int) -> Decoded:
    """Take some of the valid events, as views."""
    rows = slice(begin, end)
    return Decoded(decoded.batch[rows], decoded.offsets[rows], decoded.rows[rows])
