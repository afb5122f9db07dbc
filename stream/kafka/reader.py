"""Reading a topic from any position, with the caller as the only owner of positions."""

from __future__ import annotations

from collections.abc import Sequence

from stream.kafka.fetch import Fetch
from stream.kafka.progress import Progress
from stream.kafka.topics import Topic
from stream.log import StoredRecord


class KafkaReader:
    """One of many readers of a topic; use :meth:`stream.kafka.home.KafkaHome.reader`.

    Records of transactions that were aborted or are open are not seen, nor the holes that they
    leave. Reading on from where the last read ended asks the broker only once the records fetched
    ahead (some MB) have been handed out. A reader is used by one thread at a time. All methods
    may raise

    - :class:`~stream.log.LogUnreachableError`: the broker was away longer than ``gone_seconds``,
    - :class:`~stream.log.LogDeletedError`, :class:`~stream.log.LogIdentityError`: the topic was
      deleted, or deleted and made again,
    - :class:`~stream.log.LogAccessError`: this user may not read it.

    Parameters
    ----------
    topic
        What to read.
    fetch
        Its client.
    progress
        Tells lag monitors how far the reading has come; None tells nobody.
    """

    def __init__(self, topic: Topic, fetch: Fetch, progress: Progress | None = None) -> None:
        self.name = topic.log
        self.topic = topic
        self._fetch = fetch
        self._progress = progress

    @property
    def identity(self) -> str:
        """The id of the topic."""
        return self.topic.identity

    @property
    def partitions(self) -> tuple[int, ...]:
        """The partitions, ascending."""
        return self.topic.partitions

    def read(self, partition: int, offset: int, max_records: int = 64) -> Sequence[StoredRecord]:
        """Return up to ``max_records`` records from ``offset`` on; none at the end.

        Raises
        ------
        LogTrimmedError
            The broker has deleted what stood there.
        LogLostError
            The log ends before ``offset``.
        LogCorruptError
            A record does not match its checksum.
        """
        at = self.topic.at(partition)
        found = self._fetch.records(partition, offset, max_records)
        if self._progress is not None:
            self._progress.note(at, offset)
        return found

    def begin(self, partition: int) -> int:
        """Return the offset of the oldest record that is kept."""
        return self._fetch.begin(self.topic.at(partition))

    def end(self, partition: int) -> int:
        """Return the offset up to which records can be read; less a position, it is the lag."""
        return self._fetch.end(self.topic.at(partition))

    def last(self, partition: int) -> StoredRecord | None:
        """Return the newest record, None where the partition holds none.

        Walks back from the end over the holes.
        """
        begin, end = self.begin(partition), self.end(partition)
        back = 1
        found: Sequence[StoredRecord] = ()
        while not found and end - back / 2 > begin:
            offset = max(begin, end - back)
            while batch := self._fetch.records(partition, offset, 64):
                found, offset = batch, batch[-1].next_offset
            back *= 2
        return found[-1] if found else None

    def seek(self, partition: int, time_ms: int) -> int:
        """Return the first offset whose event time is at or after ``time_ms``, else the end.

        To the broker every time before 1970 is 1970.
        """
        found = self._fetch.seek(self.topic.at(partition), max(time_ms, 0))
        return self.end(partition) if found is None else found

    def close(self) -> None:
        """Leave the broker; reading connects again."""
        if self._progress is not None:
            self._progress.tell()
        self._fetch.close()
