"""Telling lag monitors how far a worker has read; nobody ever reads it back."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

from stream.log import LogCorruptError, LogLostError, LogTrimmedError, StoredRecord
from stream.log.kafka.connection import Connector, NotYetError, RetryPolicy
from stream.log.kafka.network import fetch_ahead
from stream.log.kafka.topics import Topic, Topics, from_kafka

log = logging.getLogger(__name__)

_EVERY_SECONDS: Final = 5.0


class OffsetCommitter:
    """Commits the positions of one reader to a group, now and then; a failure changes nothing.

    Parameters
    ----------
    admin
        The client that commits.
    group
        Whose positions they are, such as ``resprout.dense``.
    """

    def __init__(self, admin: KafkaAdminClient, group: str) -> None:
        self._admin = admin
        self._group = group
        self._positions: dict[TopicPartition, OffsetAndMetadata] = {}
        self._told = time.monotonic()
        self._failed = False

    def note(self, at: TopicPartition, offset: int) -> None:
        """Remember that everything before an offset has been dealt with."""
        self._positions[at] = OffsetAndMetadata(offset, "", -1)
        if time.monotonic() - self._told > _EVERY_SECONDS:
            self.tell()

    def tell(self) -> None:
        """Commit what has been noted."""
        self._told = time.monotonic()
        try:
            results = self._admin.alter_group_offsets(self._group, dict(self._positions))
            refused = {one for one in results.values() if one is not kafka_errors.NoError}
        except kafka_errors.KafkaError as error:
            refused = {type(error)}
        self._positions.clear()
        if refused and not self._failed:
            names = ", ".join(sorted(one.__name__ for one in refused))
            log.warning("lag monitors do not see group %s: %s", self._group, names)
        self._failed = bool(refused)


T = TypeVar("T")

_FETCH_BYTES: Final = 2 * 1024 * 1024
"""Much more holds up whoever learns meanwhile: kafka-python copies each fetch several times with
the interpreter lock held, into memory that is new each time. Much less costs more calls."""
_POLL_RECORDS: Final = 2_000_000_000
"""All that has come: kafka-python sets the rest of a fetch aside while its partition is paused, and
may never take it up again. How much comes at a time is bounded by bytes."""
_POLL_MS: Final = 200
_CALL_MS: Final = 1_000
_VERIFY_SECONDS: Final = 1.0
"""The topic is asked for its id this often while it is read."""


@dataclass(slots=True)
class FetchedPartition:
    """What has been fetched of a partition and not been handed out."""

    at: TopicPartition
    served: int = -1
    """Handed out up to here; -1 before the first read."""
    position: int = -1
    """Fetched up to here."""
    end: int = -1
    """Records up to here are known to be there."""
    fetched: deque[Any] = field(default_factory=deque)

    def goes_on_at(self, offset: int) -> bool:
        """Whether the records from an offset on are those that come next."""
        return 0 <= self.served <= offset <= self.position

    def take(self, offset: int, max_records: int) -> list[StoredRecord]:
        """Hand out records from an offset on."""
        taken: list[StoredRecord] = []
        while self.fetched and len(taken) < max_records:
            one = self.fetched.popleft()
            if one.offset >= offset:
                taken.append(from_kafka(one, self.at.partition))
        self.served = taken[-1].next_offset if taken else offset
        return taken

    def forget(self, offset: int = -1) -> None:
        """Drop what was fetched, to go on somewhere else."""
        self.fetched.clear()
        self.served = self.position = offset
        self.end = -1


class Fetch:
    """The client of one reader: it fetches, and says by name why it cannot.

    It asks the broker for the end of a partition before it waits for records, so it waits only for
    records that are there: holes and an empty log make it wait for nothing.

    Parameters
    ----------
    topic
        What to read.
    connector
        How to reach the broker.
    topics
        Where the topic is looked up again.
    """

    def __init__(self, topic: Topic, connector: Connector, topics: Topics) -> None:
        self._topic = topic
        self._doing = f"reading log {topic.log!r}"
        self._connector = connector
        self._topics = topics
        self._tails = {p: FetchedPartition(topic.at(p)) for p in topic.partitions}
        self._verified = time.monotonic()
        self._open: KafkaConsumer | None = None

    def records(self, partition: int, offset: int, max_records: int) -> list[StoredRecord]:
        """Return records from an offset on, those that are there."""
        tail = self._tails[partition]
        if not tail.goes_on_at(offset):
            self._consumer().seek(tail.at, offset)
            tail.forget(offset)
        found = tail.take(offset, max_records)
        if not found:
            self._fetch(tail)
            found = tail.take(offset, max_records)
        return found

    def begin(self, at: TopicPartition) -> int:
        """Return the offset of the oldest record."""
        return self._ask(lambda consumer: int(consumer.beginning_offsets([at], _CALL_MS)[at]))

    def end(self, at: TopicPartition) -> int:
        """Return the offset up to which records can be read."""
        return self._ask(lambda consumer: int(consumer.end_offsets([at], _CALL_MS)[at]))

    def seek(self, at: TopicPartition, time_ms: int) -> int | None:
        """Return the first offset with that time or a later one."""
        found = self._ask(lambda consumer: consumer.offsets_for_times({at: time_ms}, _CALL_MS)[at])
        return None if found is None else int(found.offset)

    def close(self) -> None:
        """Leave the broker; what is asked next connects again."""
        if self._open is not None:
            self._open.close(autocommit=False, timeout_ms=_CALL_MS)
            self._open = None
        for tail in self._tails.values():
            tail.forget()

    def _consumer(self) -> KafkaConsumer:
        """Return the client, connected and assigned all partitions, of which it fetches none."""
        if self._open is None:
            self._open = self._connector.consumer(
                auto_offset_reset="none",
                enable_auto_commit=False,
                isolation_level="read_committed",
                # Or what is asked next would stand behind a fetch that waits for more records.
                fetch_max_wait_ms=0,
                max_partition_fetch_bytes=_FETCH_BYTES,
                max_poll_records=_POLL_RECORDS,
            )
            ats = [tail.at for tail in self._tails.values()]
            self._open.assign(ats)
            for at in ats:
                self._open.seek(at, 0)
            self._open.pause(*ats)
        return self._open

    def _ask(self, question: Callable[[KafkaConsumer], T]) -> T:
        """Ask the broker about offsets; a topic that is gone is told from a broker that is."""
        patience = RetryPolicy(self._connector.config, self._doing)
        self._verify_now_and_then()
        while True:
            try:
                return question(self._consumer())
            except kafka_errors.KafkaError as error:
                self._verify()
                patience.wait(error)

    def _verify(self) -> None:
        """Raise where the topic is not what it was."""
        self._topics.verify(self._topic)
        self._verified = time.monotonic()

    def _verify_now_and_then(self) -> None:
        if time.monotonic() - self._verified > _VERIFY_SECONDS:
            self._verify()

    def _fetch(self, tail: FetchedPartition) -> None:
        """Fetch the next records of a partition, if there are any."""
        self._verify_now_and_then()
        if tail.position >= tail.end:
            self._find_end(tail)
        patience = RetryPolicy(self._connector.config, self._doing)
        while not tail.fetched and tail.position < tail.end:
            try:
                self._poll(tail)
            except kafka_errors.KafkaError as error:
                self._refuse(tail, error)
                patience.wait(error)
            if not tail.fetched and time.monotonic() - self._verified > _VERIFY_SECONDS:
                self._verify()
                self._find_end(tail)
                patience.wait(NotYetError("no record comes"))

    def _find_end(self, tail: FetchedPartition) -> None:
        """Ask how far the partition can be read; refuse a position beyond."""
        tail.end = self.end(tail.at)
        if tail.position > tail.end:
            self._verify()
            raise LogLostError(
                f"log {self._topic.log!r}, partition {tail.at.partition}: it ends at {tail.end}, "
                f"before offset {tail.position}: the broker has lost records; begin with a new "
                "state folder"
            )

    def _poll(self, tail: FetchedPartition) -> None:
        """Take what the broker sends, for this partition and those that were read before."""
        consumer = self._consumer()
        reading = [one for one in self._tails.values() if one.position >= 0]
        for one in reading:
            if one is tail or not one.fetched:
                consumer.resume(one.at)
            else:
                consumer.pause(one.at)
        for at, records in consumer.poll(timeout_ms=_POLL_MS).items():
            self._tails[at.partition].fetched.extend(records)
        for one in reading:
            one.position = consumer.position(one.at)
        if len(self._tails) == 1 and tail.fetched:
            # Of several, those that are paused would have their answers set aside.
            fetch_ahead(consumer)

    def _refuse(self, tail: FetchedPartition, error: Exception) -> None:
        """Say why records cannot be read; return where it may pass."""
        partition, wanted = tail.at.partition, tail.position
        if isinstance(error, kafka_errors.OffsetOutOfRangeError):
            self._verify()
            oldest = self.begin(tail.at)
            if wanted < oldest:
                tail.forget()
                raise LogTrimmedError(
                    f"log {self._topic.log!r}, partition {partition}: offset {wanted} has been "
                    f"trimmed away; the oldest kept is {oldest}: begin with a new state folder, "
                    "and let the topic keep more (retention.bytes, retention.ms)"
                ) from error
            self._find_end(tail)
        if isinstance(error, kafka_errors.CorruptRecordError):
            # Asked again, the client would look for the end of the damaged batch for ever.
            self.close()
            raise LogCorruptError(
                f"log {self._topic.log!r}, partition {partition}, from offset {wanted} on: {error};"
                " restore the topic from a copy"
            ) from error


class KafkaLogReader:
    """One of many readers of a topic; use :meth:`stream.log.kafka.store.KafkaLogStore.reader`.

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

    def __init__(self, topic: Topic, fetch: Fetch, progress: OffsetCommitter | None = None) -> None:
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
