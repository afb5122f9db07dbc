"""Writing a topic: by one writer; records are sent soon and acknowledged at a flush.

Kafka lets anybody write. So a writer joins the group ``resprout.writer.<topic>`` as its one static
member and stays in it by heartbeats; a second writer first looks who is there. A holder that died
on this machine is known to be dead and replaced at once; one that died elsewhere keeps the next one
out until its session ends (``session_seconds``).
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import MemberToRemove

from stream.log.api import LogError, LogLockedError, LogRefusedError, LogUnreachableError, Record
from stream.log.kafka.connection import (
    ATTEMPT_MS,
    PAUSE_SECONDS,
    Connector,
    NotYetError,
    RetryPolicy,
    client_name,
    explain,
)
from stream.log.kafka.network import discard
from stream.log.kafka.topics import Topic, Topics, to_kafka, wire_bytes

log = logging.getLogger(__name__)

_BATCH_BYTES: Final = 512 * 1024
_PENDING_BYTES: Final = 64 * 1024 * 1024
"""Appended and not acknowledged: more than this waits."""
_TOGETHER_SECONDS: Final = 0.2
"""Records appended within this time are handed to the client together: between two batches of
learning, a call of it costs several times as much as right after another call."""
_LINGER_MS: Final = 20
"""Time enough to hand them over, so that they are sent together."""
_FLUSH_SECONDS: Final = 1.0
_REFUSED: Final = (kafka_errors.InvalidTimestampError, kafka_errors.InvalidRecordError)
"""The second where several records of a batch are refused."""
_INSTANCE: Final = "writer"
_POLL_MS: Final = 100
_CALL_MS: Final = 1_000
_FOREVER_MS: Final = 2_000_000_000
_holders: set[str] = set()
"""The holders of this process."""


class Lease:
    """The right to write a topic.

    Parameters
    ----------
    connector
        How to reach the broker.
    admin
        The client that asks who is there.
    topic
        What is to be written.

    Raises
    ------
    LogLockedError
        Somebody else holds it.
    """

    def __init__(self, connector: Connector, admin: KafkaAdminClient, topic: Topic) -> None:
        self._connector, self._config = connector, connector.config
        self._admin, self._topic = admin, topic
        self._group = f"resprout.writer.{topic.name}"
        self._doing = f"opening log {topic.log!r} for writing"
        self._consumer: KafkaConsumer | None = None
        self._member = ""
        self._checked = time.monotonic()
        self.holder = f"{client_name()}-{_process(os.getpid())}"
        begin = time.monotonic()
        while (there := self._look()) is not None:
            alive = _is_alive(there["client_id"])
            if alive is False:
                self._evict(there["member_id"])
                break
            # A session that has just been renewed lasts its whole length, and a bit to notice.
            if alive or time.monotonic() - begin > 1.5 * self._config.session_seconds:
                raise self._locked(there)
            time.sleep(PAUSE_SECONDS)
        self._join()

    def check(self) -> None:
        """Raise :class:`LogLockedError` where somebody else took over; asks now and then."""
        if time.monotonic() - self._checked < self._config.session_seconds / 3:
            return
        there = self._look()
        if there is None:
            log.info("log %r: the session of its writer ended; joining anew", self._topic.log)
            self._leave()
            self._join()
        elif there["member_id"] != self._member:
            raise self._locked(there)
        self._checked = time.monotonic()

    def close(self) -> None:
        """Let the next writer in."""
        if self._consumer is not None:
            self._leave()
            self._evict(self._member)

    def _leave(self) -> None:
        """Stop the heartbeats."""
        _holders.discard(self.holder)
        if self._consumer is not None:
            self._consumer.close(autocommit=False, timeout_ms=_CALL_MS)
            self._consumer = None

    def _evict(self, member: str) -> None:
        """Take a member out of the group, if it is still there: it does not leave by itself."""
        out = MemberToRemove(group_instance_id=_INSTANCE, member_id=member)
        try:
            self._admin.remove_group_members(self._group, [out])
        except kafka_errors.KafkaError as error:
            log.info("log %r: its writer is free when the session ends: %s", self._topic.log, error)

    def _look(self) -> dict[str, Any] | None:
        """Return who is in the group, as the broker describes it."""

        def ask() -> dict[str, Any] | None:
            found = self._admin.describe_groups([self._group])[self._group]
            is_empty = found["group_state"] in ("Dead", "Empty")
            return None if is_empty else next(iter(found["members"]), None)

        return self._connector.retried(self._doing, ask)

    def _join(self) -> None:
        """Become the member."""
        session_ms = int(1000 * self._config.session_seconds)
        self._consumer = consumer = self._connector.connect(
            KafkaConsumer,
            metrics_enabled=False,
            client_id=self.holder,
            group_id=self._group,
            group_instance_id=_INSTANCE,
            enable_auto_commit=False,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 4,
            max_poll_interval_ms=_FOREVER_MS,
            auto_offset_reset="latest",
        )
        _holders.add(self.holder)
        at = [TopicPartition(self._topic.name, 0)]
        try:
            # The leader of the group must know the partitions, or all are asked to join again.
            self._connector.retried(
                "joining a group", lambda: consumer.beginning_offsets(at, timeout_ms=ATTEMPT_MS)
            )
            consumer.subscribe([self._topic.name])
            self._become(consumer)
        except BaseException:
            self._leave()
            raise
        self._checked = time.monotonic()

    def _become(self, consumer: KafkaConsumer) -> None:
        """Join until the group knows us.

        Afterwards heartbeats keep us in it; it is not polled again, so nothing is read. A broker
        keeps the first member of a group waiting for others, by default for 3 s, so joining may
        take as long as a session though a broker may be away for less.
        """
        seconds = max(self._config.gone_seconds, self._config.session_seconds)
        config = self._config.model_copy(update={"gone_seconds": seconds})
        retry = RetryPolicy(config, self._doing)
        while True:
            try:
                consumer.poll(timeout_ms=_POLL_MS)
                error: Exception = NotYetError("joining takes long")
            except kafka_errors.KafkaError as failed:
                error = failed
            self._member = consumer.group_metadata().member_id
            # Asked in any case: a broker that is away does not make the joining fail.
            there = self._look()
            if self._member and there is not None:
                if there["member_id"] == self._member:
                    return
                raise self._locked(there)
            retry.wait(error)

    def _locked(self, there: dict[str, Any]) -> LogLockedError:
        return LogLockedError(
            f"log {self._topic.log!r} (topic {self._topic.name!r}) is being written by "
            f"{there['client_id']} on {there['client_host'].lstrip('/')}; stop it first"
        )


def _process(pid: int) -> str | None:
    """Name a process of this machine for good: numbers come again, start times do not.

    None where there is none, or none can be seen. The last part of the name is that of what process
    numbers count in: this boot of this machine or container.
    """
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
    seen = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    return f"{pid}.{started}.{hashlib.sha256(seen.encode()).hexdigest()[:8]}"


def _is_alive(holder: str) -> bool | None:
    """Say whether a holder lives; None where that cannot be seen from here."""
    process = holder.rpartition("-")[2]
    if holder in _holders:
        return True
    pid, machine = process.partition(".")[0], process.rpartition(".")[2]
    mine = _process(os.getpid())
    if mine is None or not pid.isdigit() or machine != mine.rpartition(".")[2]:
        return None
    return process != mine and _process(int(pid)) == process


class KafkaLogWriter:
    """The one writer of a topic, used by one thread at a time.

    What :meth:`append` takes is sent a moment later; where the broker refuses it, the next
    ``append`` or :meth:`flush` raises the error, and the writer can be used again. Which of the
    records appended since the last flush are in the log is then not known: continue from the last
    checkpoint.

    Parameters
    ----------
    topic
        The topic; use :meth:`stream.log.kafka.KafkaLogStore.writer`.
    connector
        Connects to the broker.
    topics
        Looks the topic up again.
    lease
        The right to write it; given back by :meth:`close`.

    Attributes
    ----------
    identity
        The same as the readers see.
    """

    def __init__(self, topic: Topic, connector: Connector, topics: Topics, lease: Lease) -> None:
        self.topic, self.identity = topic, topic.identity
        self._doing = f"writing log {topic.log!r}"
        self._connector, self._config = connector, connector.config
        self._topics, self._lease = topics, lease
        self._pending_bytes = 0
        self._guard = threading.Lock()
        self._failures: list[tuple[Exception, int, int]] = []
        """Why records were not acknowledged, and the time and size of each."""
        self._held: list[tuple[Record, int, int]] = []
        """Records to be sent, the partition and size of each."""
        self._sending = threading.Lock()
        self._producer: KafkaProducer | None = self._make()
        self._asked, self._stop = threading.Event(), threading.Event()
        self._sender = threading.Thread(target=self._send_soon, name="sender", daemon=True)
        self._sender.start()

    @property
    def max_value_bytes(self) -> int:
        """The largest value of a record without headers."""
        return self.topic.max_record_bytes - wire_bytes(Record(b""))

    def end(self, partition: int = 0) -> int:
        """Return the offset up to which the broker has records."""
        return self._topics.end(self.topic, partition)

    def append(self, records: Sequence[Record], partition: int = 0) -> None:
        """Send records in order; none of them where one is too large.

        Raises
        ------
        LogRefusedError
            A record is larger than the topic takes, or one sent before was refused.
        """
        self.topic.at(partition)
        if self._stop.is_set():
            raise ValueError(f"log {self.topic.log!r}: this writer is closed; open another")
        sizes = [wire_bytes(record) for record in records]
        largest = max(sizes, default=0)
        if largest > self.topic.max_record_bytes:
            raise self._too_large(largest, self.topic.max_record_bytes)
        self._raise_failure()
        with self._guard:
            self._held += [(one, partition, size) for one, size in zip(records, sizes, strict=True)]
        self._asked.set()
        self._pending_bytes += sum(sizes)
        if self._pending_bytes > _PENDING_BYTES:
            self._await()

    def flush(self) -> None:
        """Return once all in-sync copies have acknowledged all that was appended."""
        self._await()
        self._lease.check()
        self._topics.verify(self.topic)

    def close(self) -> None:
        """Flush, and let the next writer in."""
        if self._stop.is_set():
            return
        try:
            self._await()
        finally:
            self._stop.set()
            self._asked.set()
            self._sender.join()
            self._give_up()
            self._lease.close()

    def _make(self) -> KafkaProducer:
        compression, largest = self._config.compression, self.topic.max_record_bytes
        return self._connector.connect(
            KafkaProducer,
            metrics_enabled=False,
            acks="all",
            enable_idempotence=True,
            batch_size=min(_BATCH_BYTES, largest),
            compression_type=None if compression == "none" else compression,
            delivery_timeout_ms=int(1000 * self._config.gone_seconds) + _LINGER_MS,
            linger_ms=_LINGER_MS,
            max_block_ms=int(1000 * _FLUSH_SECONDS),
            max_request_size=2 * largest,
        )

    def _send_soon(self) -> None:
        """Hand over what is appended a while after the first of it was, in a thread of its own."""
        # Whether to stop is looked at anew: what :meth:`close` asks may be cleared right below.
        while not self._stop.is_set():
            self._asked.wait()
            if not self._stop.wait(_TOGETHER_SECONDS):
                self._asked.clear()
                self._send_held()

    def _send_held(self) -> None:
        """Hand what was appended to the client, in the thread above or at a flush."""
        with self._sending:
            with self._guard:
                held, self._held = self._held, []
            if self._failures:
                # Nothing may follow what is lost; the next append or flush raises the error.
                return
            last: dict[int, Any] = {}
            for record, partition, size in held:
                failed = partial(self._failed, record.time_ms, size)
                try:
                    last[partition] = self._send(record, partition).add_errback(failed)
                except Exception as error:
                    # Raised by the next append or flush: nobody sees the errors of this thread.
                    failed(error)
                    return
            for sent in last.values():
                sent.add_callback(self._acknowledged)

    def _send(self, record: Record, partition: int) -> Any:
        """Hand a record to the client; return what becomes of it."""
        time_ms, headers = to_kafka(record)
        retry = RetryPolicy(self._config, self._doing)
        while True:
            self._producer = self._producer or self._make()
            try:
                return self._producer.send(
                    self.topic.name, record.value, None, headers, partition, time_ms
                )
            except kafka_errors.KafkaTimeoutError as error:
                # The producer does not know the topic; does the broker?
                self._topics.verify(self.topic)
                retry.wait(NotYetError(f"the producer does not see the topic ({error})"))

    def _await(self) -> None:
        """Wait until everything is acknowledged or has failed; look at the topic meanwhile."""
        self._send_held()
        self._raise_failure()
        retry = RetryPolicy(self._config, self._doing)
        try:
            while self._producer is not None:
                # The second: a batch was split while it was waited for; its parts are yet to be
                # sent.
                with suppress(kafka_errors.KafkaTimeoutError, kafka_errors.UnknownError):
                    self._producer.flush(timeout=_FLUSH_SECONDS)
                    break
                self._topics.verify(self.topic)
                retry.wait(NotYetError("records are not acknowledged"))
        except LogUnreachableError:
            self._give_up()
            raise
        self._pending_bytes = 0
        self._raise_failure()

    def _give_up(self) -> None:
        """Drop what is not acknowledged; the next record gets a new producer."""
        with self._guard:
            self._held = []
        with self._sending:
            if self._producer is not None:
                discard(self._producer, _FLUSH_SECONDS)
                self._producer = None
        with self._guard:
            self._failures = []
        self._pending_bytes = 0
        for partition in self.topic.partitions:
            self._topics.ends.pop(self.topic.at(partition), None)

    def _acknowledged(self, last: Any) -> None:
        """Tell the readers of this process; called by the thread that sends."""
        self._topics.ends[last.topic_partition] = last.offset + 1

    def _failed(self, time_ms: int, size: int, error: Exception) -> None:
        """Remember a record that was not acknowledged; called by the thread that sends."""
        with self._guard:
            self._failures.append((error, time_ms, size))

    def _raise_failure(self) -> None:
        """Raise what has failed, once, and drop the producer, which would fail again."""
        failures = self._failures
        if not failures:
            return
        self._give_up()
        for error, *_ in failures:
            if not isinstance(error, kafka_errors.KafkaError):
                raise error
        # Of a batch with one bad record, the others fail with an error that says only so.
        bad = [one for one in failures if isinstance(one[0], kafka_errors.BrokerResponseError)]
        raise self._meaning(*(bad or failures)[0], len(failures)) from failures[0][0]

    def _meaning(self, error: Exception, time_ms: int, size: int, count: int) -> LogError:
        """Say what an error of the producer means."""
        left = f"of the records appended since the last flush {count} were not written"
        if isinstance(error, kafka_errors.MessageSizeTooLargeError):
            limit = int(self._topics.settings(self.topic.log)["max.message.bytes"])
            return LogRefusedError(f"{self._too_large(size, limit)}; {left}")
        if isinstance(error, _REFUSED):
            settings = self._topics.settings(self.topic.log)
            limits = (f"message.timestamp.{side}.max.ms" for side in ("before", "after"))
            return LogRefusedError(
                f"{self._doing}: the broker refuses event time {time_ms} ms "
                f"({error}): topic {self.topic.name!r} has "
                f"{' and '.join(f'{x}={settings[x]}' for x in limits)}; raise them with "
                f"kafka-configs.sh --alter --add-config; {left}"
            )
        return explain(error, self._config, self._doing) or LogUnreachableError(
            f"{self._doing}: the broker at {self._config.bootstrap} has not acknowledged {count} "
            f"records for {self._config.gone_seconds:g} s ({error}); some may be in the log"
        )

    def _too_large(self, size: int, limit: int) -> LogRefusedError:
        return LogRefusedError(
            f"{self._doing}: a record of {size} bytes; topic {self.topic.name!r} takes at most "
            f"{limit} (max.message.bytes); write smaller records, or raise it with "
            "kafka-configs.sh --alter --add-config max.message.bytes=..."
        )
