"""Decoding the clicks: by each reader for itself, or once for all readers of a process."""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, NamedTuple

from numpy.typing import NDArray

from stream.codec import (
    COLUMNAR,
    JSON,
    Decoded,
    decode_columnar,
    decode_json,
    decode_record,
    kind_of,
)
from stream.log.api import LogReader, LogStore, LogStoreView, LogUnreachableError, StoredRecord
from stream.schema import FeatureSchema
from stream.topics import CLICKS

_READ_COLUMNAR: Final = 4
"""Records a read where each holds many events: few, so that they stay in the processor's cache."""
_READ_JSON: Final = 1024
"""Records a read where each holds one event."""
_INVALID_BYTES: Final = 500
"""What an invalid event takes, besides its own bytes."""
_SHARED_BYTES: Final = 64 * 1024 * 1024
"""Some 500,000 decoded events."""


class _Piece(NamedTuple):
    """Records that were decoded together."""

    offset: int
    """Of the first of them."""
    decoded: Decoded


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive records of one partition, decoded."""

    begin: int
    """The offset of the first record."""
    end: int
    """Where the next read begins."""
    pieces: tuple[_Piece, ...]

    @property
    def size(self) -> int:
        """Bytes in memory."""
        invalid = [one for _, decoded in self.pieces for one in decoded.invalid]
        texts = sum(_INVALID_BYTES + len(one.raw) for one in invalid)
        return texts + sum(array.nbytes for array in self.arrays())

    def arrays(self) -> Iterator[NDArray[Any]]:
        """Yield all arrays."""
        for _, one in self.pieces:
            batch = one.batch
            yield from (batch.label, batch.weight, batch.time_ms, batch.numeric, batch.categorical)
            yield from (one.offsets, one.rows)

    def since(self, offset: int) -> Chunk:
        """Return what stands from an offset on."""
        if offset <= self.begin:
            return self
        pieces = []
        for first, decoded in self.pieces:
            if first < offset:
                kept = decoded.offsets >= offset
                decoded = Decoded(
                    decoded.batch[kept],
                    decoded.offsets[kept],
                    decoded.rows[kept],
                    tuple(one for one in decoded.invalid if one.offset >= offset),
                )
            if first >= offset or len(decoded.rows) or decoded.invalid:
                pieces.append(_Piece(max(first, offset), decoded))
        return replace(self, begin=offset, pieces=tuple(pieces))


class RecordDecoder:
    """Decodes the records of a log for one reader.

    Parameters
    ----------
    log
        The clicks.
    schema
        Decides how events are encoded and which are valid.
    """

    def __init__(self, log: LogReader, schema: FeatureSchema) -> None:
        self._log = log
        self._schema = schema
        self._read_records = dict.fromkeys(log.partitions, _READ_COLUMNAR)

    def fetch(self, partition: int, offset: int) -> Chunk | None:
        """Return the next events of a partition; None where there are none yet."""
        records = self._log.read(partition, offset, self._read_records[partition])
        if not records:
            return None
        is_json = kind_of(records[-1]) == JSON
        self._read_records[partition] = _READ_JSON if is_json else _READ_COLUMNAR
        return Chunk(offset, records[-1].next_offset, tuple(_decode(records, self._schema)))


def _decode(records: Sequence[StoredRecord], schema: FeatureSchema) -> Iterator[_Piece]:
    """Decode records; those that hold events of one kind and follow each other, together."""
    for kind, run in groupby(records, kind_of):
        decode = _TOGETHER.get(kind)
        if decode is None:
            yield from (_Piece(stored.offset, decode_record(stored, schema)) for stored in run)
        else:
            together = list(run)
            yield _Piece(together[0].offset, decode(together, schema))


_TOGETHER = {JSON: decode_json, COLUMNAR: decode_columnar}


def share_clicks(
    store: LogStore, schema: FeatureSchema, max_bytes: int = _SHARED_BYTES
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
    """
    return LogStoreView(store, CLICKS, _SharedClicks(store, schema, max_bytes).reader)


class _SharedClicks:
    """What the readers of one process share."""

    def __init__(self, store: LogStore, schema: FeatureSchema, max_bytes: int) -> None:
        self.store, self.schema = store, schema
        self.log = store.reader(CLICKS)
        self._decoder = RecordDecoder(self.log, schema)
        self._max_bytes = max_bytes // len(self.log.partitions)
        self._chunks: dict[int, list[Chunk]] = {partition: [] for partition in self.log.partitions}
        """By partition, in the order of where they begin."""
        self._sizes = dict.fromkeys(self.log.partitions, 0)
        self._guard, self._decoding = threading.Lock(), threading.Lock()
        self._readers = self._failures = 0
        self._failure: Exception = LogUnreachableError()

    def reader(self) -> SharedClickReader:
        """Open a reader."""
        with self._guard:
            self._readers += 1
        return SharedClickReader(self)

    def release(self) -> None:
        """Let a reader go; the last one closes the log."""
        with self._decoding, self._guard:
            self._readers -= 1
            if not self._readers:
                self.log.close()

    @property
    def kept_bytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(self._sizes.values())

    def begin(self, partition: int) -> int:
        """Return the offset of the oldest record; each reader asks for it at its start."""
        with self._turn():
            return self.log.begin(partition)

    def is_behind(self, partition: int, offset: int) -> bool:
        """Whether the others are so far ahead that what stands here is not kept any more."""
        with self._guard:
            chunks = self._chunks[partition]
            return bool(chunks) and offset < chunks[0].begin

    def fetch(self, partition: int, offset: int) -> Chunk | None:
        """Return what another reader has had decoded, or decode it for all of them."""
        found = self._find(partition, offset)
        if found is None:
            with self._turn():
                found = self._find(partition, offset) or self._decode(partition, offset)
        return found

    @contextmanager
    def _turn(self) -> Iterator[None]:
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

    def _find(self, partition: int, offset: int) -> Chunk | None:
        with self._guard:
            chunks = self._chunks[partition]
            at = bisect_right(chunks, offset, key=_begin) - 1
            found = chunks[at] if at >= 0 and chunks[at].end > offset else None
        return found.since(offset) if found is not None else None

    def _decode(self, partition: int, offset: int) -> Chunk | None:
        chunk = self._decoder.fetch(partition, offset)
        if chunk is not None:
            for array in chunk.arrays():
                array.flags.writeable = False
            with self._guard:
                chunks = self._chunks[partition]
                insort(chunks, chunk, key=_begin)
                self._sizes[partition] += chunk.size
                while self._sizes[partition] > self._max_bytes and len(chunks) > 1:
                    self._sizes[partition] -= chunks.pop(0).size
        return chunk


_begin = attrgetter("begin")


class SharedClickReader:
    """A reader of the clicks that takes what other readers have had decoded.

    All but that it does for itself, as any :class:`~stream.log.LogReader` of that log.

    Parameters
    ----------
    shared
        What it shares with the others; use :func:`share_clicks`.
    """

    def __init__(self, shared: _SharedClicks) -> None:
        self.schema = shared.schema
        self.identity, self.partitions = shared.log.identity, shared.log.partitions
        self._shared = shared
        self._own: tuple[LogReader, RecordDecoder] | None = None
        self._closed = False

    @property
    def kept_bytes(self) -> int:
        """Bytes of decoded clicks that are kept for all readers."""
        return self._shared.kept_bytes

    def fetch(self, partition: int, offset: int) -> Chunk | None:
        """Return the next events of a partition; None where there are none yet."""
        if self._shared.is_behind(partition, offset):
            return self._alone()[1].fetch(partition, offset)
        return self._shared.fetch(partition, offset)

    def read(self, partition: int, offset: int, max_records: int = 64) -> Sequence[StoredRecord]:
        """Return records, not decoded."""
        return self._alone()[0].read(partition, offset, max_records)

    def begin(self, partition: int) -> int:
        """Return the offset of the oldest record that is kept."""
        return self._shared.begin(partition)

    def end(self, partition: int) -> int:
        """Return the offset that the next record will get."""
        return self._alone()[0].end(partition)

    def last(self, partition: int) -> StoredRecord | None:
        """Return the newest record, None where the partition holds none."""
        return self._alone()[0].last(partition)

    def seek(self, partition: int, time_ms: int) -> int:
        """Return the first offset whose event time is at or after ``time_ms``, else the end."""
        return self._alone()[0].seek(partition, time_ms)

    def close(self) -> None:
        """Release the log."""
        if self._own is not None:
            self._own[0].close()
        if not self._closed:
            self._closed = True
            self._shared.release()

    def _alone(self) -> tuple[LogReader, RecordDecoder]:
        """Open a reader of its own, where it needs one."""
        if self._own is None:
            log = self._shared.store.reader(CLICKS)
            self._own = log, RecordDecoder(log, self.schema)
        return self._own


def decoder_of(log: LogReader, schema: FeatureSchema) -> RecordDecoder | SharedClickReader:
    """Return what decodes the clicks of a log: the log itself, where readers share that work."""
    if isinstance(log, SharedClickReader) and log.schema == schema:
        return log
    return RecordDecoder(log, schema)
