"""Reading clicks in batches that are cut by count."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from stream.batch import ClickBatch
from stream.codec import JSON, Decoded, Invalid, decode_json, decode_record, kind_of
from stream.log import LogIdentityError, LogReader, StoredRecord
from stream.messages import Place, Span
from stream.schema import FeatureSchema

_PARTITION: Final = 0
_READ_COLUMNAR: Final = 4
"""Records a read where each holds many events."""
_READ_JSON: Final = 1024
"""Records a read where each holds one event."""


class ClickCursor(BaseModel):
    """How far a reader has come: what stands before has been handed out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: str
    """The log that the position is in."""
    count: int = 0
    """Valid events handed out since the start of the run."""
    offset: int = 0
    row: int = 0
    """With ``offset``: the place to read next."""
    ended: bool = False
    """The input has ended, and nothing of it is left."""


@dataclass(frozen=True, slots=True)
class CountedBatch:
    """The valid events number ``begin + 1`` to ``end``."""

    begin: int
    batch: ClickBatch
    spans: tuple[Span, ...]
    """Where the events stand."""
    invalid: tuple[Invalid, ...]
    """Events skipped since the batch before, in order."""
    last: bool
    """The input ended inside this batch, which is short. An input that ends exactly where a batch
    does has no such batch: ask :attr:`ClickReader.ended`.
    """

    @property
    def end(self) -> int:
        """Valid events through the end of this batch."""
        return self.begin + len(self.batch)


class ClickReader:
    """Cuts the ``clicks`` log into batches of ``batch_events`` valid events.

    The batches depend on the log alone, not on the sizes of its records nor on when they were
    written. One reader has one owner: it is not shared between threads.

    Parameters
    ----------
    log
        The log to read, of one partition.
    schema
        Decides how events are encoded and which are valid.
    batch_events
        Events a batch; only the one right before the end of the input may be shorter.
    cursor
        Where to go on; None begins at the start of the log.
    """

    def __init__(
        self,
        log: LogReader,
        schema: FeatureSchema,
        batch_events: int,
        cursor: ClickCursor | None = None,
    ) -> None:
        if batch_events < 1:
            raise ValueError(f"batch_events is {batch_events}; it must be at least 1")
        if log.partitions != (_PARTITION,):
            raise ValueError(
                f"the clicks log has partitions {log.partitions}; only a log of partition 0 alone "
                "can be read"
            )
        self._log = log
        self._schema = schema
        self._batch_events = batch_events
        self._cursor = _checked(cursor, log.identity)
        self._offset = self._cursor.offset
        self._read_records = _READ_COLUMNAR
        self._chunks: deque[Decoded] = deque()
        self._ready = 0
        self._invalid: deque[Invalid] = deque()
        self._end_seen = self._cursor.ended

    @property
    def cursor(self) -> ClickCursor:
        """The place after the last batch handed out."""
        return self._cursor

    @property
    def ended(self) -> bool:
        """Whether the end of the input has been reached and every batch handed out."""
        return self._end_seen and self._ready == 0

    def next(self) -> CountedBatch | None:
        """Return the next batch; None where it is not all there yet, or the input has ended."""
        while self._ready < self._batch_events and not self._end_seen and self._fetch():
            pass
        if self._ready >= self._batch_events:
            return self._cut(self._batch_events)
        if self._end_seen and self._ready:
            return self._cut(self._ready)
        return None

    def drain_invalid(self) -> tuple[Invalid, ...]:
        """Return the invalid events after the last batch, once the input has ended.

        The cursor passes them, so publish them before it is kept.
        """
        if not self.ended:
            return ()
        invalid = tuple(self._invalid)
        self._invalid.clear()
        self._cursor = self._cursor.model_copy(update={"ended": True})
        return invalid

    def _fetch(self) -> bool:
        """Read and decode some more records; say whether there were any."""
        records = self._log.read(_PARTITION, self._offset, self._read_records)
        for is_json, run in groupby(records, lambda stored: kind_of(stored) == JSON):
            self._read_records = _READ_JSON if is_json else _READ_COLUMNAR
            if is_json:
                self._take(decode_json(list(run), self._schema))
            else:
                self._take_each(run)
            if self._end_seen:
                break
        if records:
            self._offset = records[-1].next_offset
        return bool(records)

    def _take_each(self, run: Iterable[StoredRecord]) -> None:
        for stored in run:
            self._take(decode_record(stored, self._schema))
            if self._end_seen:
                return

    def _take(self, decoded: Decoded) -> None:
        """Queue what was decoded, without what stands before the cursor."""
        start = Place(self._cursor.offset, self._cursor.row)
        self._invalid.extend(one for one in decoded.invalid if one.place >= start)
        self._end_seen = decoded.end
        if len(decoded.rows) and (decoded.offsets[0], decoded.rows[0]) < start:
            done = (decoded.offsets == start.offset) & (decoded.rows < start.row)
            decoded = _slice(decoded, int(np.count_nonzero(done)), len(decoded.rows))
        if len(decoded.rows):
            self._chunks.append(decoded)
            self._ready += len(decoded.rows)

    def _cut(self, events: int) -> CountedBatch:
        """Hand out the first events of the queue."""
        parts: list[Decoded] = []
        missing = events
        while missing:
            chunk = self._chunks.popleft()
            if len(chunk.rows) > missing:
                self._chunks.appendleft(_slice(chunk, missing, len(chunk.rows)))
                chunk = _slice(chunk, 0, missing)
            missing -= len(chunk.rows)
            parts.append(chunk)
        self._ready -= events
        return self._counted(parts, last=events < self._batch_events)

    def _counted(self, parts: Sequence[Decoded], last: bool) -> CountedBatch:
        """Count a batch, and move the cursor behind it."""
        batch = ClickBatch.concat([part.batch for part in parts])
        span = Span(_PARTITION, _place(parts[0], 0), _place(parts[-1], -1), len(batch))
        begin = self._cursor.count
        self._cursor = ClickCursor(
            identity=self._cursor.identity,
            count=begin + len(batch),
            offset=span.last.offset,
            row=span.last.row + 1,
            ended=last,
        )
        return CountedBatch(begin, batch, (span,), self._skipped(span.last, last), last)

    def _skipped(self, through: Place, last: bool) -> tuple[Invalid, ...]:
        """Take the invalid events through a place, at the end of the input all."""
        skipped = []
        while self._invalid and (last or self._invalid[0].place < through):
            skipped.append(self._invalid.popleft())
        return tuple(skipped)


def _checked(cursor: ClickCursor | None, identity: str) -> ClickCursor:
    """Return where to begin in a log, refusing a position in another."""
    if cursor is None:
        return ClickCursor(identity=identity)
    if cursor.identity != identity:
        raise LogIdentityError(
            f"the position is in the clicks log {cursor.identity}, this one is {identity}: it was "
            "deleted and made again; begin with a new state folder"
        )
    return cursor


def _place(decoded: Decoded, at: int) -> Place:
    return Place(int(decoded.offsets[at]), int(decoded.rows[at]))


def _slice(decoded: Decoded, begin: int, end: int) -> Decoded:
    """Take some of the valid events, as views."""
    rows = slice(begin, end)
    return Decoded(decoded.batch[rows], decoded.offsets[rows], decoded.rows[rows])
