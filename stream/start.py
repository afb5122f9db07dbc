"""Where in the clicks a run begins, if not with the first event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from stream.codec import END, kind_of
from stream.events import EPOCH
from stream.log import LogReader, LogStore, LogWriter, StoredRecord
from stream.topics import CLICKS

SETTING = "stream.begin"
"""The setting that says it."""
Begin = datetime | dict[int, int]
"""A time, in UTC, or an offset for each partition."""
_MILLISECOND = timedelta(milliseconds=1)


def parse_begin(given: object) -> Begin | None:
    """Read the setting, as any of its sources may give it.

    >>> parse_begin("2026-05-01T14:00:00+02:00").isoformat(), parse_begin({"0": 1234})
    ('2026-05-01T12:00:00+00:00', {0: 1234})
    >>> parse_begin(1234)
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
    time = _time(given)
    if time is None:
        raise ValueError(
            "it is neither a time, such as '2026-05-01T12:00:00Z', nor an offset for each "
            'partition, such as {"0": 1234}'
        )
    if time.tzinfo is None:
        raise ValueError("a time needs its zone: write '2026-05-01T12:00:00Z' for UTC")
    return time.astimezone(UTC)


def offsets_at(clicks: LogReader, begin: Begin) -> dict[int, int]:
    """Find the offset of each partition from which a run is to read.

    For a time, it is that of the first record at or after it; of a partition that has none, the
    end, so that it begins with what comes next. An end record is never passed over: behind it
    nobody would know that the input has ended.

    Raises :class:`ValueError` for offsets that the log does not hold.
    """
    if isinstance(begin, datetime):
        time_ms = (begin - EPOCH) // _MILLISECOND
        found = {p: clicks.seek(p, time_ms) for p in clicks.partitions}
    else:
        _check(clicks, begin)
        found = {p: begin[p] for p in clicks.partitions}
    return {p: min(offset, _end_record(clicks, p, offset)) for p, offset in found.items()}


def moment(time_ms: int) -> str:
    """Write an event time for people.

    >>> moment(1_767_225_600_000), moment(10**17)
    ('2026-01-01T00:00:00Z', '100000000000000000 ms')
    """
    try:
        time = EPOCH + time_ms * _MILLISECOND
    except OverflowError:
        return f"{time_ms} ms"
    return time.isoformat().removesuffix("+00:00") + "Z"


def oldest(clicks: LogReader, partition: int) -> str:
    """Say in words with which record a partition begins."""
    begin = clicks.begin(partition)
    first = clicks.read(partition, begin, 1)
    bearing = f", of {moment(first[0].record.time_ms)}" if first else ""
    return f"offset {first[0].offset if first else begin} of partition {partition}{bearing}"


@dataclass(frozen=True, slots=True)
class SkippingLogStore:
    """A home of logs in which nobody sees the clicks before the places where the run begins.

    Parameters
    ----------
    home
        Where the logs live.
    offsets
        Of the clicks, for each partition the first that is seen.
    """

    home: LogStore
    offsets: Mapping[int, int]

    @property
    def writable(self) -> bool:
        """That of the whole."""
        return self.home.writable

    def exists(self, name: str) -> bool:
        """Tell whether a log is there."""
        return self.home.exists(name)

    def create(self, logs: Mapping[str, int]) -> tuple[str, ...]:
        """Make the logs that are not there."""
        return self.home.create(logs)

    def trim(self, name: str, partition: int, offset: int) -> None:
        """Allow everything before ``offset`` to be deleted."""
        self.home.trim(name, partition, offset)

    def describe(self) -> str:
        """Say where the logs are."""
        return self.home.describe()

    def close(self) -> None:
        """Release what the whole holds."""
        self.home.close()

    def reader(self, name: str) -> LogReader:
        """Open a log for reading."""
        log = self.home.reader(name)
        return SkippingLogReader(log, self.offsets) if name == CLICKS else log

    def writer(self, name: str) -> LogWriter:
        """Open a log for writing."""
        return self.home.writer(name)


@dataclass(frozen=True, slots=True)
class SkippingLogReader:
    """A log as if it had a hole in front: up to the offset of each partition from which it is seen.

    So it begins with offset 0, as the log of every run does, and positions in it are those in the
    whole log.
    """

    log: LogReader
    offsets: Mapping[int, int]

    @property
    def identity(self) -> str:
        """That of the whole log."""
        return self.log.identity

    @property
    def partitions(self) -> tuple[int, ...]:
        """The partitions, ascending."""
        return self.log.partitions

    def read(self, partition: int, offset: int, max_records: int = 64) -> Sequence[StoredRecord]:
        """Return up to ``max_records`` records from ``offset`` on, without those in the hole."""
        return self.log.read(partition, max(offset, self._from(partition)), max_records)

    def begin(self, partition: int) -> int:
        """Return 0, where the hole begins."""
        return 0

    def end(self, partition: int) -> int:
        """Return the offset that the next record will get."""
        return self.log.end(partition)

    def last(self, partition: int) -> StoredRecord | None:
        """Return the newest record, None where there is none behind the hole."""
        last = self.log.last(partition)
        return None if last is None or last.offset < self._from(partition) else last

    def seek(self, partition: int, time_ms: int) -> int:
        """Return the first offset behind the hole at or after ``time_ms``, else the end."""
        return max(self.log.seek(partition, time_ms), self._from(partition))

    def close(self) -> None:
        """Release what the log holds."""
        self.log.close()

    def _from(self, partition: int) -> int:
        """Return where a partition is seen from; one that was added later, from its beginning."""
        return self.offsets.get(partition, 0)


def _time(given: object) -> datetime | None:
    """Read a time as ISO 8601 writes it; None where it is none."""
    with suppress(ValueError, OverflowError):
        time = datetime.fromisoformat(given) if isinstance(given, str) else given
        if isinstance(time, datetime) and (time.tzinfo is None or time.astimezone(UTC)):
            return time
    return None


def _whole(given: object) -> int:
    """Read the number of a partition, or an offset."""
    text = str(given)
    if not text.isdecimal() or isinstance(given, bool):
        raise ValueError(f"{given!r} is no whole number from 0 on; partitions and offsets are")
    return int(text)


def _check(clicks: LogReader, begin: Mapping[int, int]) -> None:
    """Refuse offsets of other partitions than the log has, or that it does not hold."""
    if set(begin) != set(clicks.partitions):
        named, there = (", ".join(map(str, sorted(some))) for some in (begin, clicks.partitions))
        raise ValueError(
            f"{SETTING} names the partitions {named}, the clicks log has {there}; "
            "name an offset for each of them"
        )
    for partition, offset in sorted(begin.items()):
        if offset < clicks.begin(partition):
            raise ValueError(
                f"{SETTING} = {offset} in partition {partition}: it has been trimmed away; the "
                f"oldest that is kept is {oldest(clicks, partition)}: name it, or a later one"
            )
        if offset > clicks.end(partition):
            raise ValueError(
                f"{SETTING} = {offset} in partition {partition}: the clicks log ends there with "
                f"{clicks.end(partition)}; name that one, or an earlier one"
            )


def _end_record(clicks: LogReader, partition: int, otherwise: int) -> int:
    """Return where the record stands that ends a partition, if one does."""
    last = clicks.last(partition)
    return last.offset if last is not None and kind_of(last) == END else otherwise
