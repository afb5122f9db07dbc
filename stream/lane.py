"""One partition of the clicks, decoded as far ahead as it is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final

import numpy as np

from stream.codec import (
    COLUMNAR,
    JSON,
    Decoded,
    Invalid,
    decode_columnar,
    decode_json,
    decode_record,
    kind_of,
)
from stream.log import LogReader, LogTrimmedError, StoredRecord
from stream.messages import Place, Span
from stream.schema import FeatureSchema

_READ_COLUMNAR: Final = 4
"""Records a read where each holds many events: few, so that they stay in the processor's cache."""
_READ_JSON: Final = 1024
"""Records a read where each holds one event."""


class Lane:
    """The valid events of one partition, in order, and the invalid ones between them.

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
    """

    def __init__(
        self, log: LogReader, partition: int, schema: FeatureSchema, start: Place | None = None
    ) -> None:
        self.ready = 0
        self.ended = False
        self._log = log
        self._partition = partition
        self._schema = schema
        self._start = start
        self._offset: int | None = None if start is None else start.offset
        self._read_records = _READ_COLUMNAR
        self._chunks: deque[Decoded] = deque()
        self._invalid: deque[Invalid] = deque()

    @property
    def over(self) -> bool:
        """The end has been met and everything before it taken."""
        return self.ended and self.ready == 0

    @property
    def unfit(self) -> Sequence[Invalid]:
        """The invalid events met and not taken."""
        return self._invalid

    def fill(self, events: int) -> None:
        """Read until so many events are ready, or there are no more for now."""
        while self.ready < events and not self.ended and self._fetch():
            pass

    def span(self, events: int) -> Span:
        """Tell where the next events stand, of those that are ready."""
        left = events
        for chunk in self._chunks:
            if left <= len(chunk.rows):
                break
            left -= len(chunk.rows)
        return Span(self._partition, _place(self._chunks[0], 0), _place(chunk, left - 1), events)

    def take(self, events: int) -> list[Decoded]:
        """Take the next events, of those that are ready."""
        self.ready -= events
        parts: list[Decoded] = []
        while events:
            chunk = self._chunks.popleft()
            if len(chunk.rows) > events:
                self._chunks.appendleft(_slice(chunk, events, len(chunk.rows)))
                chunk = _slice(chunk, 0, events)
            events -= len(chunk.rows)
            parts.append(chunk)
        return parts

    def skip(self, through: Place | None = None) -> list[Invalid]:
        """Take the invalid events through a place, without one all that were met."""
        skipped = []
        while self._invalid and (through is None or self._invalid[0].place < through):
            skipped.append(self._invalid.popleft())
        return skipped

    def _fetch(self) -> bool:
        """Read and decode some more records; say whether there were any."""
        if self._offset is None:
            self._offset = _first(self._log, self._partition)
        records = self._log.read(self._partition, self._offset, self._read_records)
        for decoded in _decode(records, self._schema):
            self._queue(decoded)
            if self.ended:
                break
        if records:
            self._offset = records[-1].next_offset
            is_json = kind_of(records[-1]) == JSON
            self._read_records = _READ_JSON if is_json else _READ_COLUMNAR
        return bool(records)

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
        self._invalid.extend(invalid)
        if len(decoded.rows):
            self._chunks.append(decoded)
            self.ready += len(decoded.rows)


Lanes = Mapping[int, Lane]
"""By partition, ascending."""


def _first(log: LogReader, partition: int) -> int:
    """Return where a partition begins, refusing one that has lost its first records."""
    begin = log.begin(partition)
    if begin > 0:
        raise LogTrimmedError(
            f"the clicks log begins with offset {begin} of partition {partition}: what stood "
            "before has been trimmed away, and a run begins with the first event; give it a log "
            "that still has it, and let that log keep more"
        )
    return begin


def _decode(records: Sequence[StoredRecord], schema: FeatureSchema) -> Iterator[Decoded]:
    """Decode records, those that hold events all of a kind together that stand together."""
    for kind, run in groupby(records, kind_of):
        if kind == JSON:
            yield decode_json(list(run), schema)
        elif kind == COLUMNAR:
            yield decode_columnar(list(run), schema)
        else:
            yield from (decode_record(stored, schema) for stored in run)


def _place(decoded: Decoded, at: int) -> Place:
    return Place(int(decoded.offsets[at]), int(decoded.rows[at]))


def _slice(decoded: Decoded, begin: int, end: int) -> Decoded:
    """Take some of the valid events, as views."""
    rows = slice(begin, end)
    return Decoded(decoded.batch[rows], decoded.offsets[rows], decoded.rows[rows])
