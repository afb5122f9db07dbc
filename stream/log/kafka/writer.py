"""Writing a topic: records are sent soon after they are appended, and acknowledged at a flush."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from kafka import KafkaProducer
from kafka import errors as kafka_errors

from stream.log.api import LogError, LogRefusedError, LogUnreachableError, Record
from stream.log.kafka.connection import Connector, NotYetError, RetryPolicy, explain
from stream.log.kafka.lease import Lease
from stream.log.kafka.network import discard
from stream.log.kafka.topics import Topic, Topics, to_kafka, wire_bytes


class Debouncer:
    """Makes one call a while after it was asked for, however often it was, in a thread of its own.

    Parameters
    ----------
    call
        Raises nothing.
    seconds
        From the first time it is asked for.

    Examples
    --------
    >>> called = threading.Event()
    >>> debouncer = Debouncer(called.set, 0.01)
    >>> debouncer.ask()
    >>> called.wait(10)
    True
    >>> debouncer.close()
    """

    def __init__(self, call: Callable[[], None], seconds: float) -> None:
        self._call, self._seconds = call, seconds
        self._asked, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="debouncer", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Have the call made."""
        if not self._asked.is_set():
            self._asked.set()

    def close(self) -> None:
        """Make no more calls; returns once one under way has been made."""
        self._closed.set()
        self._asked.set()
        self._thread.join()

    def _run(self) -> None:
        while self._asked.wait() and not self._closed.wait(self._seconds):
            self._asked.clear()
            if self._closed.is_set():
                # What :meth:`close` asked for may have been cleared with the rest.
                return
            self._call()


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


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a record was not acknowledged."""

    error: Exception
    time_ms: int
    size: int


class KafkaLogWriter:
    """The one writer of a topic, used by one thread at a time.

    What :meth:`append` takes is sent a moment later; where the broker refuses it, the next
    ``append`` or :meth:`flush` raises the error, and the writer can be used again. Which of the
    records appended since the last flush are in the log is then not known: go on from the last
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
    """

    def __init__(self, topic: Topic, connector: Connector, topics: Topics, lease: Lease) -> None:
        self.name = topic.log
        self.topic = topic
        self._doing = f"writing log {topic.log!r}"
        self._connector = connector
        self._config = connector.config
        self._topics = topics
        self._lease = lease
        self._closed = False
        self._pending_bytes = 0
        self._guard = threading.Lock()
        self._failures: list[_Failure] = []
        self._error: Exception | None = None
        self._held: list[tuple[Record, int, int]] = []
        self._sending = threading.Lock()
        self._producer: KafkaProducer | None = self._make()
        self._debouncer = Debouncer(self._send_held, _TOGETHER_SECONDS)

    @property
    def identity(self) -> str:
        """The same as the readers see."""
        return self.topic.identity

    def append(self, records: Sequence[Record], partition: int = 0) -> None:
        """Send records in order; none of them where one is too large.

        Raises
        ------
        LogRefusedError
            A record is larger than the topic takes, or one sent before was refused.
        """
        self._check(partition)
        sizes = [wire_bytes(record) for record in records]
        largest = max(sizes, default=0)
        if largest > self.topic.max_record_bytes:
            raise self._too_large(largest, self.topic.max_record_bytes)
        self._raise_failure()
        with self._guard:
            self._held += [(one, partition, size) for one, size in zip(records, sizes, strict=True)]
        self._debouncer.ask()
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
        if self._closed:
            return
        try:
            self._await()
        finally:
            self._closed = True
            self._debouncer.close()
            self._give_up()
            self._lease.close()

    def _make(self) -> KafkaProducer:
        gone_ms = int(1000 * self._config.gone_seconds)
        return self._connector.producer(
            acks="all",
            enable_idempotence=True,
            batch_size=min(_BATCH_BYTES, self.topic.max_record_bytes),
            compression_type=None
            if self._config.compression == "none"
            else self._config.compression,
            delivery_timeout_ms=gone_ms + _LINGER_MS,
            linger_ms=_LINGER_MS,
            max_block_ms=int(1000 * _FLUSH_SECONDS),
            max_request_size=2 * self.topic.max_record_bytes,
        )

    def _check(self, partition: int) -> None:
        self.topic.at(partition)
        if self._closed:
            raise ValueError(f"log {self.name!r}: this writer is closed; open another")

    def _send_held(self) -> None:
        """Hand what was appended to the client, in the debouncer's thread or at a flush."""
        with self._sending:
            with self._guard:
                held, self._held = self._held, []
            if self._failures or self._error is not None:
                # Nothing may follow what is lost; the next append or flush raises the error.
                return
            try:
                for one in held:
                    self._send(*one)
            except Exception as error:
                # Raised by the next append or flush: nobody sees the errors of this thread.
                self._error = error

    def _send(self, record: Record, partition: int, size: int) -> None:
        time_ms, headers = to_kafka(record)
        retry: RetryPolicy | None = None
        while True:
            if self._producer is None:
                self._producer = self._make()
            try:
                future = self._producer.send(
                    self.topic.name,
                    value=record.value,
                    headers=headers,
                    partition=partition,
                    timestamp_ms=time_ms,
                )
            except kafka_errors.KafkaTimeoutError as error:
                # The producer does not know the topic; does the broker?
                self._topics.verify(self.topic)
                retry = retry or RetryPolicy(self._config, self._doing)
                retry.wait(NotYetError(f"the producer does not see the topic ({error})"))
            else:
                future.add_errback(partial(self._failed, record.time_ms, size))
                return

    def _await(self) -> None:
        """Wait until everything is acknowledged or has failed; look at the topic meanwhile."""
        self._send_held()
        self._raise_failure()
        retry = RetryPolicy(self._config, self._doing)
        try:
            while not self._flushed():
                self._topics.verify(self.topic)
                retry.wait(NotYetError("records are not acknowledged"))
        except LogUnreachableError:
            self._give_up()
            raise
        self._pending_bytes = 0
        self._raise_failure()

    def _flushed(self) -> bool:
        """Wait a while; say whether everything is acknowledged or has failed."""
        try:
            if self._producer is not None:
                self._producer.flush(timeout=_FLUSH_SECONDS)
        except (kafka_errors.KafkaTimeoutError, kafka_errors.UnknownError):
            # The second: a batch was split while it was waited for; its parts are yet to be sent.
            return False
        return True

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
        self._error = None
        self._pending_bytes = 0

    def _failed(self, time_ms: int, size: int, error: Exception) -> None:
        """Remember a record that was not acknowledged; called by the thread that sends."""
        with self._guard:
            self._failures.append(_Failure(error, time_ms, size))

    def _raise_failure(self) -> None:
        """Raise what has failed, once, and drop the producer, which would fail again."""
        failures, error = self._failures, self._error
        if error is not None:
            self._give_up()
            raise error
        if not failures:
            return
        self._give_up()
        # Of a batch with one bad record, the others fail with an error that says only so.
        bad = [one for one in failures if isinstance(one.error, kafka_errors.BrokerResponseError)]
        raise self._meaning((bad or failures)[0], len(failures)) from failures[0].error

    def _meaning(self, failure: _Failure, count: int) -> LogError:
        """Say what an error of the producer means."""
        left = f"of the records appended since the last flush {count} were not written"
        if isinstance(failure.error, kafka_errors.MessageSizeTooLargeError):
            limit = int(self._topics.settings(self.name)["max.message.bytes"])
            return LogRefusedError(f"{self._too_large(failure.size, limit)}; {left}")
        if isinstance(failure.error, _REFUSED):
            settings = self._topics.settings(self.name)
            limits = (f"message.timestamp.{side}.max.ms" for side in ("before", "after"))
            return LogRefusedError(
                f"{self._doing}: the broker refuses event time {failure.time_ms} ms "
                f"({failure.error}): topic {self.topic.name!r} has "
                f"{' and '.join(f'{x}={settings[x]}' for x in limits)}; raise them with "
                f"kafka-configs.sh --alter --add-config; {left}"
            )
        return explain(failure.error, self._config, self._doing) or LogUnreachableError(
            f"{self._doing}: the broker at {self._config.bootstrap} has not acknowledged {count} "
            f"records for {self._config.gone_seconds:g} s ({failure.error}); some may be in the log"
        )

    def _too_large(self, size: int, limit: int) -> LogRefusedError:
        return LogRefusedError(
            f"{self._doing}: a record of {size} bytes; topic {self.topic.name!r} takes at most "
            f"{limit} (max.message.bytes); write smaller records, or raise it with "
            "kafka-configs.sh --alter --add-config max.message.bytes=..."
        )
