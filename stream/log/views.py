"""Logs seen in another way than they are stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stream.log import LogReader, LogStore, LogWriter, StoredRecord


@dataclass(frozen=True, slots=True)
class LogStoreView:
    """A store in which one log is read in another way.

    Parameters
    ----------
    store
        The store.
    name
        Of the log.
    open_view
        Opens a reader of it.
    """

    store: LogStore
    name: str
    open_view: Callable[[], LogReader]

    @property
    def writable(self) -> bool:
        """As of the store."""
        return self.store.writable

    def exists(self, name: str) -> bool:
        """Tell whether a log is there."""
        return self.store.exists(name)

    def create(self, logs: Mapping[str, int]) -> tuple[str, ...]:
        """Make the logs that are not there."""
        return self.store.create(logs)

    def reader(self, name: str) -> LogReader:
        """Open a log for reading."""
        return self.open_view() if name == self.name else self.store.reader(name)

    def writer(self, name: str) -> LogWriter:
        """Open a log for writing."""
        return self.store.writer(name)

    def trim(self, name: str, partition: int, offset: int) -> None:
        """Allow everything before ``offset`` to be deleted."""
        self.store.trim(name, partition, offset)

    def describe(self) -> str:
        """Say where the logs are."""
        return self.store.describe()

    def close(self) -> None:
        """Release what the store holds."""
        self.store.close()


@dataclass(frozen=True, slots=True)
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
        """Return the newest record, None where there is none after the hole."""
        last = self.log.last(partition)
        return None if last is None or last.offset < self._from(partition) else last

    def seek(self, partition: int, time_ms: int) -> int:
        """Return the first offset after the hole at or after ``time_ms``, else the end."""
        return max(self.log.seek(partition, time_ms), self._from(partition))

    def close(self) -> None:
        """Release what the log holds."""
        self.log.close()

    def _from(self, partition: int) -> int:
        return self.offsets.get(partition, 0)
