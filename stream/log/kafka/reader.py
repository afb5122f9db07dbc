"""Reading a topic: records are fetched ahead, and everything that goes wrong has a name."""

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

from stream.log.api import LogCorruptError, LogLostError, LogTrimmedError, StoredRecord
from stream.log.kafka.connection import Connector, NotYetError, RetryPolicy
from stream.log.kafka.network import fetch_ahead
from stream.log.kafka.topics import Topic, Topics, from_kafka

log = logging.getLogger(__name__)

T = TypeVar("T")
_COMMIT_SECONDS: Final = 5.0
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


class OffsetCommitter:
    """Commits the positions of one reader to a group, now and then, for lag monitors.

    Nothing reads them back, and a failure changes nothing.

    Parameters
    ----------
    admin
        The client that commits.
    group
        The group that monitors look at, such as ``resprout.dense``.
    """

    def __init__(self, admin: KafkaAdminClient, group: str) -> None:
        self._admin, self._group = admin, group
        self._positions: dict[TopicPartition, OffsetAndMetadata] = {}
        self._committed = time.monotonic()
        self._failed = False

    def note(self, at: TopicPartition, offset: int) -> None:
        """Remember that everything before an offset has been processed."""
        self._positions[at] = OffsetAndMetadata(offset, "", -1)
        if time.monotonic() - self._committed > _COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Commit what has been noted."""
        if not self._positions:
            return
        self._committed = time.monotonic()
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


@dataclass(slots=True)
class FetchedPartition:
    """What has been fetched of a partition and not been returned yet."""

    at: TopicPartition
    served: int = -1
    """Returned up to here; -1 before the first read."""
    position: int = -1
    """Fetched up to here."""
    end: int = -1
    """Records up to here are known to be there."""
    fetched: deque[Any] = field(default_factory=deque)

    def take(self, offset: int, max_records: int) -> list[StoredRecord]:
        """Return records from an offset on."""
        taken: list[StoredRecord] = []
        while self.fetched and len(taken) < max_records:
            one = self.fetched.popleft()
            if one.offset >= offset:
                taken.append(from_kafka(one, self.at.partition))
        self.served = taken[-1].next_offset if taken else offset
        return taken

    def forget(self, offset: int = -1) -> None:
        """Drop what was fetched, to continue somewhere else."""
        self.fetched.clear()
        self.served = self.position = offset
        self.end = -1


class KafkaLogReader:
    """One of many readers of a topic, used by one thread at a time.

    Records of transactions that were aborted or are open are not seen, nor the holes that they
    leave in the offsets. Reading on from where the last read ended asks the broker only once the
    records fetched ahead (some MB) have been returned. It asks for the end of a partition before it
    waits for records, so it waits only for records that are there; where the one writer of the log
    is of the same store, that is asked, and the broker once a second. All methods may raise

    - :class:`~stream.log.LogUnreachableError`: the broker was away longer than ``gone_seconds``,
    - :class:`~stream.log.LogDeletedError`, :class:`~stream.log.LogIdentityError`: the topic was
      deleted, or deleted and made again,
    - :class:`~stream.log.LogAccessError`: this user may not read it.

    Parameters
    ----------
    topic
        The topic; use :meth:`stream.log.kafka.KafkaLogStore.reader`.
    connector
        Connects to the broker.
    topics
        Looks the topic up again.
    committer
        Shows lag monitors how far the reading has come; None: they see nothing.

    Attributes
    ----------
    identity
        The id of the topic.
    partitions
        The partitions, ascending.
    """

    def __init__(
        self,
        topic: Topic,
        connector: Connector,
        topics: Topics,
        committer: OffsetCommitter | None = None,
    ) -> None:
        self.topic, self.identity, self.partitions = topic, topic.identity, topic.partitions
        self._doing = f"reading log {topic.log!r}"
        self._connector, self._topics, self._committer = connector, topics, committer
        self._fetched = {p: FetchedPartition(topic.at(p)) for p in topic.partitions}
        self._verified = time.monotonic()
        self._open: KafkaConsumer | None = None

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
        found = self._read(self._fetched[partition], offset, max_records)
        if self._committer is not None:
            self._committer.note(at, offset)
        return found

    def begin(self, partition: int) -> int:
        """Return the offset of the oldest record that is kept."""
        at = self.topic.at(partition)
        return self._ask(lambda consumer: int(consumer.beginning_offsets([at], _CALL_MS)[at]))

    def end(self, partition: int) -> int:
        """Return the offset up to which records can be read; less a position, it is the lag."""
        at = self.topic.at(partition)
        return self._ask(lambda consumer: int(consumer.end_offsets([at], _CALL_MS)[at]))

    def last(self, partition: int) -> StoredRecord | None:
        """Return the newest record, None where the partition holds none.

        Goes back from the end over the holes.
        """
        begin, end = self.begin(partition), self.end(partition)
        back = 1
        found: Sequence[StoredRecord] = ()
        while not found and end - back / 2 > begin:
            offset = max(begin, end - back)
            while batch := self._read(self._fetched[partition], offset, 64):
                found, offset = batch, batch[-1].next_offset
            back *= 2
        return found[-1] if found else None

    def seek(self, partition: int, time_ms: int) -> int:
        """Return the first offset whose event time is at or after ``time_ms``, else the end.

        To the broker every time before 1970 is 1970.
        """
        at, wanted = self.topic.at(partition), max(time_ms, 0)
        found = self._ask(lambda consumer: consumer.offsets_for_times({at: wanted}, _CALL_MS)[at])
        return self.end(partition) if found is None else int(found.offset)

    def sync(self) -> None:
        """Do nothing: what can be read is on all in-sync copies already."""

    def close(self) -> None:
        """Disconnect; reading connects again."""
        if self._committer is not None:
            self._committer.commit()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._open is not None:
            self._open.close(autocommit=False, timeout_ms=_CALL_MS)
            self._open = None
        for one in self._fetched.values():
            one.forget()

    def _consumer(self) -> KafkaConsumer:
        """Return the client, connected and assigned all partitions, of which it fetches none."""
        if self._open is None:
            self._open = self._connector.connect(
                KafkaConsumer,
                metrics_enabled=False,
                auto_offset_reset="none",
                enable_auto_commit=False,
                isolation_level="read_committed",
                # Else the next question would have to wait until a fetch has more records.
                fetch_max_wait_ms=0,
                max_partition_fetch_bytes=_FETCH_BYTES,
                max_poll_records=_POLL_RECORDS,
            )
            ats = [one.at for one in self._fetched.values()]
            self._open.assign(ats)
            for at in ats:
                self._open.seek(at, 0)
            self._open.pause(*ats)
        return self._open

    def _ask(self, question: Callable[[KafkaConsumer], T]) -> T:
        """Ask the broker about offsets; find out whether the topic is gone, or the broker."""
        retry = RetryPolicy(self._connector.config, self._doing)
        self._verify(_VERIFY_SECONDS)
        while True:
            try:
                return question(self._consumer())
            except kafka_errors.KafkaError as error:
                self._verify()
                retry.wait(error)

    def _verify(self, every_seconds: float = 0.0) -> bool:
        """Raise where the topic is not what it was; return whether it was time to ask."""
        if time.monotonic() - self._verified <= every_seconds:
            return False
        self._topics.verify(self.topic, every_seconds)
        self._verified = time.monotonic()
        return True

    def _read(self, one: FetchedPartition, offset: int, max_records: int) -> list[StoredRecord]:
        """Return records from an offset on, those that are there."""
        if not 0 <= one.served <= offset <= one.position:
            self._consumer().seek(one.at, offset)
            one.forget(offset)
        found = one.take(offset, max_records)
        if not found:
            self._fetch(one)
            found = one.take(offset, max_records)
        return found

    def _fetch(self, one: FetchedPartition) -> None:
        """Fetch the next records of a partition, if there are any."""
        known = None if self._verify(_VERIFY_SECONDS) else self._topics.ends.get(one.at)
        if known is not None and one.end <= one.position <= known:
            one.end = known
        elif one.position >= one.end:
            self._find_end(one)
        retry = RetryPolicy(self._connector.config, self._doing)
        while not one.fetched and one.position < one.end:
            try:
                self._poll(one)
            except kafka_errors.KafkaError as error:
                self._refuse(one, error)
                retry.wait(error)
            if not one.fetched and self._verify(_VERIFY_SECONDS):
                self._find_end(one)
                retry.wait(NotYetError("no record comes"))

    def _find_end(self, one: FetchedPartition) -> None:
        """Ask how far the partition can be read; refuse a position beyond."""
        one.end = self.end(one.at.partition)
        if one.position > one.end:
            self._verify()
            raise LogLostError(
                f"log {self.topic.log!r}, partition {one.at.partition}: it ends at {one.end}, "
                f"before offset {one.position}: the broker has lost records; begin with a new "
                "state folder"
            )

    def _poll(self, wanted: FetchedPartition) -> None:
        """Take what the broker sends, for this partition and those that were read before."""
        consumer = self._consumer()
        reading = [one for one in self._fetched.values() if one.position >= 0]
        for one in reading:
            if one is wanted or not one.fetched:
                consumer.resume(one.at)
            else:
                consumer.pause(one.at)
        for at, records in consumer.poll(timeout_ms=_POLL_MS).items():
            self._fetched[at.partition].fetched.extend(records)
        for one in reading:
            one.position = consumer.position(one.at)
        if len(self._fetched) == 1 and wanted.fetched:
            # With several, those that are paused would have their answers set aside.
            fetch_ahead(consumer)

    def _refuse(self, one: FetchedPartition, error: Exception) -> None:
        """Say why records cannot be read; return where it may pass."""
        where = f"log {self.topic.log!r}, partition {one.at.partition}"
        if isinstance(error, kafka_errors.OffsetOutOfRangeError):
            self._verify()
            wanted, oldest = one.position, self.begin(one.at.partition)
            if wanted < oldest:
                one.forget()
                raise LogTrimmedError(
                    f"{where}: offset {wanted} has been trimmed away; the oldest kept is {oldest}: "
                    "begin with a new state folder, and let the topic keep more (retention.bytes, "
                    "retention.ms)"
                ) from error
            self._find_end(one)
        if isinstance(error, kafka_errors.CorruptRecordError):
            wanted = one.position
            # Asked again, the client would look for the end of the damaged batch for ever.
            self._disconnect()
            raise LogCorruptError(
                f"{where}, from offset {wanted} on: {error}; restore the topic from a copy"
            ) from error
