"""Sharing the partitions of a topic among readers that keep nothing of what they read."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Final

from kafka import errors as kafka_errors

from stream.log import StoredRecord
from stream.log.kafka.connection import Connector, RetryPolicy
from stream.log.kafka.records import from_kafka
from stream.log.kafka.topics import Topic, Topics

log = logging.getLogger(__name__)

_VERIFY_SECONDS: Final = 1.0
_ANEW: Final = (
    kafka_errors.CommitFailedError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.RetriableError,
)
"""The partitions are being shared out anew, or the broker is away."""
_CALL_MS: Final = 2_000


class KafkaSubscription:
    """One member of a group: the broker shares the partitions out, anew when members come or go.

    For stateless readers only: a model that learned from a partition must go on with it, so the
    learners read fixed partitions (:class:`stream.log.kafka.reader.KafkaLogReader`). Nothing is
    lost when a member leaves or dies; what it had not committed comes again, to somebody else.

    Parameters
    ----------
    topic
        What to read; from its beginning where the group has committed nothing.
    connector
        How to reach the broker.
    topics
        Where the topic is looked up again.
    group
        Who shares.
    """

    def __init__(self, topic: Topic, connector: Connector, topics: Topics, group: str) -> None:
        self.topic = topic
        self._doing = f"reading log {topic.log!r} in group {group!r}"
        self._topics = topics
        self._verified = time.monotonic()
        self._patience = RetryPolicy(connector.config, self._doing)
        self._consumer = connector.member(
            topic.name,
            group_id=group,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        self._uncommitted = False

    @property
    def partitions(self) -> tuple[int, ...]:
        """The partitions that are ours now, ascending."""
        return tuple(sorted(at.partition for at in self._consumer.assignment()))

    def poll(self, seconds: float = 0.0) -> Sequence[StoredRecord]:
        """Return the next records of our partitions; none where none come within ``seconds``.

        Raises
        ------
        LogDeletedError, LogIdentityError
            The topic was deleted, or deleted and made again.
        LogUnreachableError
            The broker was away for longer than ``gone_seconds``.
        """
        try:
            polled = self._consumer.poll(timeout_ms=int(1000 * seconds))
        except kafka_errors.KafkaError as error:
            self._patience.wait(error)
            return ()
        if not polled and time.monotonic() - self._verified > _VERIFY_SECONDS:
            self._topics.verify(self.topic)
            self._patience.reset()
            self._verified = time.monotonic()
        self._uncommitted = self._uncommitted or bool(polled)
        return [from_kafka(one, at.partition) for at, records in polled.items() for one in records]

    def commit(self) -> bool:
        """Say that all that was returned has been dealt with; False where it will come again."""
        if not self._uncommitted:
            return True
        try:
            self._consumer.commit(timeout_ms=_CALL_MS)
        except _ANEW as error:
            log.info("%s: not committed, so some records come again (%s)", self._doing, error)
            return False
        self._uncommitted = False
        return True

    def close(self) -> None:
        """Leave the group; the others take over, at once or when the session ends."""
        self._consumer.close(autocommit=False, timeout_ms=_CALL_MS)
