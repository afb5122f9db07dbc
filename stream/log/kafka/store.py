"""Logs on a Kafka broker: each is a topic."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from kafka import KafkaAdminClient

from stream.log.api import KafkaConfig
from stream.log.kafka.connection import Connector
from stream.log.kafka.reader import KafkaLogReader, OffsetCommitter
from stream.log.kafka.topics import Topics
from stream.log.kafka.writer import KafkaLogWriter, Lease


class KafkaLogStore:
    """The topics of a broker, as logs.

    It connects at once, so a wrong address or password is an error here. Several threads may open
    logs.

    Parameters
    ----------
    config
        How to reach the broker, and what topics are made of.
    worker
        Lag monitors see under this name how far the readers have come (group
        ``resprout.<worker>``); None: they see nothing.
    writable
        Whether a log that is not there is made when it is opened; else that is a
        :class:`stream.log.LogError`.

    Raises
    ------
    LogUnreachableError
        The broker was away for longer than ``gone_seconds``.
    LogAccessError
        It does not let us in: password, certificate, protocol.
    """

    def __init__(
        self, config: KafkaConfig, worker: str | None = None, *, writable: bool = True
    ) -> None:
        self._connector = Connector(config)
        self._worker, self.writable = worker, writable
        self._admin = self._connector.connect(KafkaAdminClient)
        self._topics = Topics(self._connector, self._admin, writable=writable)
        self._closing = ExitStack()
        self._closing.callback(self._admin.close)

    def exists(self, name: str) -> bool:
        """Tell whether a log is there."""
        return self._topics.exists(name)

    def create(self, logs: Mapping[str, int]) -> tuple[str, ...]:
        """Make the topics of logs that are not there; return the names of all topics."""
        self._topics.create(logs)
        return tuple(map(self._topics.name, logs))

    def reader(self, name: str) -> KafkaLogReader:
        """Open a log for reading; made with one partition if it is not there yet.

        Raises
        ------
        LogError
            It is not there, and the store is not writable.
        LogSettingsError
            The topic would lose records because of their event time, or change that.
        """
        topic = self._topics.open(name)
        group = f"resprout.{self._worker}"
        committer = OffsetCommitter(self._admin, group) if self._worker else None
        reader = KafkaLogReader(topic, self._connector, self._topics, committer)
        self._closing.callback(reader.close)
        return reader

    def writer(self, name: str) -> KafkaLogWriter:
        """Open a log for writing; made with one partition if it is not there yet.

        Raises
        ------
        LogError
            It is not there, and the store is not writable.
        LogLockedError
            Somebody else writes it.
        LogSettingsError
            The topic would lose records because of their event time, or change that.
        """
        topic = self._topics.open(name)
        lease = Lease(self._connector, self._admin, topic)
        try:
            writer = KafkaLogWriter(topic, self._connector, self._topics, lease)
        except BaseException:
            lease.close()
            raise
        self._closing.callback(writer.close)
        return writer

    def trim(self, name: str, partition: int, offset: int) -> None:
        """Delete the records before ``offset``, where ``allow_trim`` says so; else do nothing."""
        if self._connector.config.allow_trim:
            self._topics.trim(self._topics.open(name), partition, offset)

    def describe(self) -> str:
        """Say where the logs are."""
        return f"Kafka at {self._connector.config.bootstrap}"

    def close(self) -> None:
        """Close all readers and writers, and disconnect."""
        self._closing.close()
