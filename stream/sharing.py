"""Decoding the clicks: by each reader for itself, or once for all readers of a process."""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Final

from stream.codec import JSON, Decoded, RecentIds, decode, kind_of
from stream.log.api import (
    LogReader,
    LogStore,
    LogStoreView,
    LogTrimmedError,
    LogUnreachableError,
    StoredRecord,
)
from stream.messages import Position
from stream.schema import FeatureSchema
from stream.topics import CLICKS

_READ_COLUMNAR: Final = 4
"""Records a read where each holds many events: few, so that they stay in the processor's cache."""
_READ_JSON: Final = 1024
"""Records that are read besides where each holds one event."""
_INVALID_BYTES: Final = 500
"""What an invalid event takes, besides its own bytes."""
_SHARED_BYTES: Final = 64 * 1024 * 1024
"""Some 500,000 decoded events."""


_WINDOWS: Final = 8
"""Places in the clicks for which the ids before them are kept at hand."""


def fetch(
    log: LogReader,
    schema: FeatureSchema,
    partition: int,
    offset: int,
    recent: RecentIds | None = None,
) -> Decoded | None:
    """Read and decode the next clicks of a partition; None where there are none yet."""
    records = list(log.read(partition, offset, _READ_COLUMNAR))
    if not records:
        return None
    if len(records) == _READ_COLUMNAR and kind_of(records[-1]) == JSON:
        records += log.read(partition, records[-1].next_offset, _READ_JSON)
    return decode(records, schema, offset, recent)


class _Deduplication:
    """Decodes clicks, with the ids of the events before them at hand.

    Parameters
    ----------
    log
        The clicks.
    schema
        Of them.
    offsets
        How far before an event its id is looked for; 0: duplicates are events like any other.
    """

    def __init__(self, log: LogReader, schema: FeatureSchema, offsets: int) -> None:
        self._log, self._schema, self._offsets = log, schema, offsets
        self._recent: dict[tuple[int, int], RecentIds] = {}
        """By partition and offset, of the events before it."""

    def fetch(self, partition: int, offset: int) -> Decoded | None:
        """Read and decode the next clicks of a partition; None where there are none yet."""
        if not self._offsets:
            return fetch(self._log, self._schema, partition, offset)
        recent = self._recent.pop((partition, offset), None) or self._before(partition, offset)
        decoded = fetch(self._log, self._schema, partition, offset, recent)
        self._recent[partition, offset if decoded is None else decoded.next_offset] = recent
        while len(self._recent) > _WINDOWS * len(self._log.partitions):
            del self._recent[next(iter(self._recent))]
        return decoded

    def _before(self, partition: int, offset: int) -> RecentIds:
        """Read the ids before an offset back from the log."""
        recent = RecentIds(self._offsets)
        at = max(0, offset - self._offsets)
        try:
            while at < offset:
                records = self._log.read(partition, at, _READ_JSON)
                records = [one for one in records if one.offset < offset]
                if not records:
                    break
                at = decode(records, self._schema, at, recent).next_offset
        except LogTrimmedError as error:
            raise LogTrimmedError(
                f"which events are duplicates after offset {offset} of partition {partition} "
                f"depends on the {self._offsets} offsets before it (stream.deduplicate_events), of "
                f"which the clicks have lost some: {error}; begin with a new state folder, and let "
                "the log keep more"
            ) from error
        return recent


def share_clicks(
    store: LogStore,
    schema: FeatureSchema,
    max_bytes: int = _SHARED_BYTES,
    deduplicate_events: int = 0,
) -> LogStoreView:
    """Let all readers of the clicks in this process share the reading, checking and hashing.

    The readers of the log ``clicks`` that the returned store opens are used like any other, each
    by one thread at a time; a :class:`~stream.reader.ClickReader` with the same schema then takes
    from them what has been decoded already.

    Parameters
    ----------
    store
        Holds the logs.
    schema
        Of the clicks.
    max_bytes
        Of decoded clicks that are kept. A reader that is further behind the others than these
        reach decodes for itself.
    deduplicate_events
        How many offsets before a JSON event its id is looked for: if it is there, the event is a
        duplicate, and not valid; 0: it is not looked for.
    """
    shared = _SharedClicks(store, schema, max_bytes, deduplicate_events)
    return LogStoreView(store, CLICKS, lambda: SharedClickReader(shared))


class _SharedClicks:
    """What the readers of one process share."""

    def __init__(
        self, store: LogStore, schema: FeatureSchema, max_bytes: int, deduplicate_events: int
    ) -> None:
        self.store, self.schema, self.deduplicate_events = store, schema, deduplicate_events
        self.log = store.reader(CLICKS)
        self._decoder = _Deduplication(self.log, schema, deduplicate_events)
        self.kept_bytes = dict.fromkeys(self.log.partitions, 0)
        """By partition, of all that is kept."""
        self._max_bytes = max_bytes // len(self.log.partitions)
        self._kept: dict[int, list[Decoded]] = {p: [] for p in self.log.partitions}
        """By partition, in the order of where they begin."""
        self._guard, self._decoding = threading.Lock(), threading.Lock()
        self._readers = self._failures = 0
        self._failure: Exception = LogUnreachableError()

    def count_reader(self, more: int) -> None:
        """Take a reader in, or let it go; the last one closes the log."""
        with self._guard:
            self._readers += more
            is_last = not self._readers
        if is_last:
            with self._decoding:
                self.log.close()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Use the log alone; who has waited while it could not be reached does not wait again."""
        failures = self._failures
        with self._decoding:
            if self._failures > failures:
                raise self._failure
            try:
                yield
            except LogUnreachableError as error:
                self._failure, self._failures = error, self._failures + 1
                raise

    def is_behind(self, partition: int, offset: int) -> bool:
        """Whether the others are so far ahead that what stands here is not kept any more."""
        with self._guard:
            kept = self._kept[partition]
            return bool(kept) and offset < kept[0].begin

    def fetch(self, partition: int, offset: int) -> Decoded | None:
        """Return what another reader has had decoded, or decode it for all of them."""
        found = self._find(partition, offset)
        if found is None:
            with self.turn():
                found = self._find(partition, offset) or self._decode(partition, offset)
        return found

    def _find(self, partition: int, offset: int) -> Decoded | None:
        with self._guard:
            kept = self._kept[partition]
            at = bisect_right(kept, offset, key=attrgetter("begin")) - 1
            found = kept[at] if at >= 0 and kept[at].next_offset > offset else None
        return found and found.since(Position(offset, 0))

    def _decode(self, partition: int, offset: int) -> Decoded | None:
        decoded = self._decoder.fetch(partition, offset)
        if decoded is not None:
            for array in (*decoded.batch.arrays, decoded.places):
                array.flags.writeable = False
            with self._guard:
                kept = self._kept[partition]
                insort(kept, decoded, key=attrgetter("begin"))
                self.kept_bytes[partition] += _bytes(decoded)
                while self.kept_bytes[partition] > self._max_bytes and len(kept) > 1:
                    self.kept_bytes[partition] -= _bytes(kept.pop(0))
        return decoded


def _bytes(decoded: Decoded) -> int:
    """Return what decoded clicks take in memory."""
    invalid = sum(_INVALID_BYTES + len(one.raw) for one in decoded.invalid)
    return invalid + sum(array.nbytes for array in (*decoded.batch.arrays, decoded.places))


class SharedClickReader:
    """A reader of the clicks that takes what other readers have had decoded.

    All but that it does for itself, as any :class:`~stream.log.LogReader` of that log.

    Parameters
    ----------
    shared
        What it shares with the others; use :func:`share_clicks`.
    """

    def __init__(self, shared: _SharedClicks) -> None:
        self.shared, self.schema = shared, shared.schema
        self.identity, self.partitions = shared.log.identity, shared.log.partitions
        self._own: LogReader | None = None
        self._decoder: _Deduplication | None = None
        self._closed = False
        shared.count_reader(1)

    def fetch(self, partition: int, offset: int) -> Decoded | None:
        """Return the next events of a partition; None where there are none yet."""
        if self.shared.is_behind(partition, offset):
            if self._decoder is None:
                window = self.shared.deduplicate_events
                self._decoder = _Deduplication(self._alone(), self.schema, window)
            return self._decoder.fetch(partition, offset)
        return self.shared.fetch(partition, offset)

    def read(self, partition: int, offset: int, max_records: int = 64) -> Sequence[StoredRecord]:
        """Return records, not decoded."""
        return self._alone().read(partition, offset, max_records)

    def begin(self, partition: int) -> int:
        """Return the offset of the oldest record that is kept; each asks for it at its start."""
        with self.shared.turn():
            return self.shared.log.begin(partition)

    def end(self, partition: int) -> int:
        """Return the offset that the next record will get; each asks for it at its start."""
        with self.shared.turn():
            return self.shared.log.end(partition)

    def last(self, partition: int) -> StoredRecord | None:
        """Return the newest record, None where the partition holds none."""
        return self._alone().last(partition)

    def seek(self, partition: int, time_ms: int) -> int:
        """Return the first offset whose event time is at or after ``time_ms``, else the end."""
        return self._alone().seek(partition, time_ms)

    def sync(self) -> None:
        """Return once all that can be read now survives a crash of the machine."""
        self.shared.log.sync()

    def close(self) -> None:
        """Release the log."""
        if self._own is not None:
            self._own.close()
        if not self._closed:
            self._closed = True
            self.shared.count_reader(-1)

    def _alone(self) -> LogReader:
        """Open a reader of its own, where it needs one."""
        if self._own is None:
            self._own = self.shared.store.reader(CLICKS)
        return self._own
