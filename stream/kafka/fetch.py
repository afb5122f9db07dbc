"""Fetching the records of a topic from where the caller says, ahead of what is asked for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors

from stream.kafka.clients import Connector, NotYetError, Patience
from stream.kafka.network import fetch_ahead
from stream.kafka.records import from_kafka
from stream.kafka.topics import Topic, Topics
from stream.log import LogCorruptError, LogLostError, LogTrimmedError, StoredRecord

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
class Tail:
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
        self._tails = {p: Tail(topic.at(p)) for p in topic.partitions}
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
        patience = Patience(self._connector.config, self._doing)
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

    def _fetch(self, tail: Tail) -> None:
        """Fetch the next records of a partition, if there are any."""
        self._verify_now_and_then()
        if tail.position >= tail.end:
            self._find_end(tail)
        patience = Patience(self._connector.config, self._doing)
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

    def _find_end(self, tail: Tail) -> None:
        """Ask how far the partition can be read; refuse a position beyond."""
        tail.end = self.end(tail.at)
        if tail.position > tail.end:
            self._verify()
            raise LogLostError(
                f"log {self._topic.log!r}, partition {tail.at.partition}: it ends at {tail.end}, "
                f"before offset {tail.position}: the broker has lost records; begin with a new "
                "state folder"
            )

    def _poll(self, tail: Tail) -> None:
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

    def _refuse(self, tail: Tail, error: Exception) -> None:
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
