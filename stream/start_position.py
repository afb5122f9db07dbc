"""Where in the clicks a run starts, if not with the first event, and which records end them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from stream.batch import EPOCH, MILLISECOND
from stream.codec import END, kind_of
from stream.log.api import LogReader, LogStore, LogStoreView, StoredRecord
from stream.topics import CLICKS

log = logging.getLogger(__name__)

SETTING: Final = "stream.begin"
"""The setting that says it."""
StartPosition = datetime | dict[int, int]
"""A time, in UTC, or an offset for each partition."""
_BACKWARDS: Final = 64
"""Offsets that are looked at first for the newest record that is not passed over."""
_SHOWN: Final = 40
"""Characters of a header that are shown."""


def parse_start_position(given: object) -> StartPosition | None:
    """Read the setting, as any of its sources may give it.

    >>> parse_start_position("2026-05-01T14:00:00+02:00").isoformat()
    '2026-05-01T12:00:00+00:00'
    >>> parse_start_position({"0": 1234})
    {0: 1234}
    >>> parse_start_position(1234)
    Traceback (most recent call last):
    ...
    ValueError: it is neither a time, such as '2026-05-01T12:00:00Z', nor an offset for each
        partition, such as {"0": 1234}
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        if not given:
            raise ValueError("it names no partition; name an offset for each")
        return {_whole(partition): _whole(offset) for partition, offset in given.items()}
    time: object = given
    with suppress(ValueError, OverflowError):
        time = datetime.fromisoformat(given) if isinstance(given, str) else given
        if isinstance(time, datetime) and time.tzinfo is not None:
            return time.astimezone(UTC)
    if isinstance(time, datetime) and time.tzinfo is None:
        raise ValueError("a time needs its zone: write '2026-05-01T12:00:00Z' for UTC")
    raise ValueError(
        "it is neither a time, such as '2026-05-01T12:00:00Z', nor an offset for each "
        'partition, such as {"0": 1234}'
    )


def start_offsets(clicks: LogReader, position: StartPosition) -> dict[int, int]:
    """Find the offset of each partition from which a run is to read.

    For a time, it is that of the first record at or after it; in a partition that has none, the
    end, so that the run begins with what comes next. An end record is never passed over: after it
    nobody would know that the input has ended.

    Raises :class:`ValueError` for offsets that the log does not hold.
    """
    if isinstance(position, datetime):
        time_ms = (position - EPOCH) // MILLISECOND
        found = {p: clicks.seek(p, time_ms) for p in clicks.partitions}
    else:
        _check(clicks, position)
        found = {p: position[p] for p in clicks.partitions}
    for partition, offset in found.items():
        last = clicks.last(partition)
        if last is not None and kind_of(last) == END:
            found[partition] = min(offset, last.offset)
    return found


class LogReaderFrom:
    """A log as if each partition had a hole from offset 0 to where it is to begin.

    So it begins with offset 0, as the log of every run does, and positions in it are those in the
    whole log.

    Parameters
    ----------
    log
        The whole log.
    offsets
        For each partition the first that is seen; one that was added later is seen whole.
    """

    def __init__(self, log: LogReader, offsets: Mapping[int, int]) -> None:
        self._log, self._offsets = log, offsets
        self.identity, self.partitions = log.identity, log.partitions
        self.end, self.sync, self.close = log.end, log.sync, log.close

    def read(self, partition: int, offset: int, max_records: int = 64) -> Sequence[StoredRecord]:
        """Return up to ``max_records`` records from ``offset`` on, without those in the hole."""
        return self._log.read(partition, max(offset, self._offsets.get(partition, 0)), max_records)

    def begin(self, partition: int) -> int:
        """Return 0, where the hole begins."""
        return 0

    def last(self, partition: int) -> StoredRecord | None:
        """Return the newest record, None where there is none after the hole."""
        last = self._log.last(partition)
        return None if last is None or last.offset < self._offsets.get(partition, 0) else last

    def seek(self, partition: int, time_ms: int) -> int:
        """Return the first offset after the hole at or after ``time_ms``, else the end."""
        return max(self._log.seek(partition, time_ms), self._offsets.get(partition, 0))


def clicks_from(store: LogStore, offsets: Mapping[int, int]) -> LogStoreView:
    """Return a store whose readers see the clicks from some offsets on only, by partition."""
    return LogStoreView(store, CLICKS, lambda: LogReaderFrom(store.reader(CLICKS), offsets))


class KnownEnds:
    """A log of clicks without the end records that do not count.

    They are as if they were not there, wherever they stand: also as the newest record, and after
    an end that counts.

    Parameters
    ----------
    log
        The whole log.
    counts
        Says of an end record whether it ends the input.
    on_stray
        Is told of one that does not.
    """

    def __init__(
        self,
        log: LogReader,
        counts: Callable[[StoredRecord], bool],
        on_stray: Callable[[StoredRecord], None],
    ) -> None:
        self._log, self._counts, self._on_stray = log, counts, on_stray
        self.identity, self.partitions = log.identity, log.partitions
        self.begin, self.end, self.seek = log.begin, log.end, log.seek
        self.sync, self.close = log.sync, log.close

    def read(self, partition: int, offset: int, max_records: int = 64) -> Sequence[StoredRecord]:
        """Return up to ``max_records`` records from ``offset`` on; none at the end alone."""
        while found := self._log.read(partition, offset, max_records):
            if kept := [one for one in found if not self._is_stray(one)]:
                return kept
            offset = found[-1].next_offset
        return ()

    def last(self, partition: int) -> StoredRecord | None:
        """Return the newest record, None where there is none."""
        last = self._log.last(partition)
        if last is None or not self._is_stray(last):
            return last
        # A log is read forwards only: from ever further back.
        begin, stop, width = self._log.begin(partition), last.offset, _BACKWARDS
        while stop > begin:
            start, found = max(begin, stop - width), None
            at = start
            while at < stop and (records := self.read(partition, at)):
                found = next((one for one in reversed(records) if one.offset < stop), found)
                at = records[-1].next_offset
            if found is not None:
                return found
            stop, width = start, 2 * width
        return None

    def _is_stray(self, stored: StoredRecord) -> bool:
        """Tell of an end record that does not count."""
        if kind_of(stored) != END or self._counts(stored):
            return False
        self._on_stray(stored)
        return True


def clicks_with_known_ends(store: LogStore, counts: Callable[[StoredRecord], bool]) -> LogStoreView:
    """Return a store whose readers pass over end records of the clicks that do not count.

    The first of them is warned of.
    """
    said: list[StoredRecord] = []

    def on_stray(stored: StoredRecord) -> None:
        if not said:
            said.append(stored)
            log.warning(
                "the end record at offset %d of partition %d of the clicks is passed over: it is "
                "of %s, which this run does not know (stream.ends names whose ends count); further "
                "ones are passed over too",
                stored.offset,
                stored.partition,
                describe_producer(stored),
            )

    return LogStoreView(store, CLICKS, lambda: KnownEnds(store.reader(CLICKS), counts, on_stray))


def describe_producer(stored: StoredRecord) -> str:
    """Say in words what the headers of a record tell of who wrote it.

    >>> from stream.codec import end_record
    >>> describe_producer(StoredRecord(0, 7, 8, end_record(headers=(("source", b"shop"),))))
    "source 'shop'"
    """
    found = [(name, stored.header(name)) for name in ("source", "file", "schema")]
    named = [f"{n} {v.decode(errors='replace')[:_SHOWN]!r}" for n, v in found if v is not None]
    return ", ".join(named) or "a producer that names itself in no header"


def describe_begin(clicks: LogReader, partition: int) -> str:
    """Say in words with which record a partition begins."""
    begin = clicks.begin(partition)
    found = clicks.read(partition, begin, 1)
    if not found:
        return f"offset {begin} of partition {partition}"
    [first] = found
    time = f"{first.record.time_ms} ms"
    with suppress(OverflowError):
        moment = EPOCH + first.record.time_ms * MILLISECOND
        time = moment.isoformat().removesuffix("+00:00") + "Z"
    return f"offset {first.offset} of partition {partition}, of {time}"


def _whole(given: object) -> int:
    """Read the number of a partition, or an offset."""
    text = str(given)
    if not text.isdecimal() or isinstance(given, bool):
        raise ValueError(f"{given!r} is no whole number from 0 on; partitions and offsets are")
    return int(text)


def _check(clicks: LogReader, offsets: Mapping[int, int]) -> None:
    """Refuse offsets of other partitions than the log has, or that it does not hold."""
    if set(offsets) != set(clicks.partitions):
        named, there = (", ".join(map(str, sorted(some))) for some in (offsets, clicks.partitions))
        raise ValueError(
            f"{SETTING} names the partitions {named}, the clicks log has {there}; "
            "name an offset for each of them"
        )
    for partition, offset in sorted(offsets.items()):
        where = f"{SETTING} = {offset} in partition {partition}"
        if offset < clicks.begin(partition):
            raise ValueError(
                f"{where}: it has been trimmed away; the oldest that is kept is "
                f"{describe_begin(clicks, partition)}: name it, or a later one"
            )
        if offset > clicks.end(partition):
            raise ValueError(
                f"{where}: the clicks log ends there with {clicks.end(partition)}; name that one, "
                "or an earlier one"
            )
