"""A plain Kafka client for tests: what a stranger does to a topic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource

from stream.log import KafkaConfig, StoredRecord


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


def values(stored: Sequence[StoredRecord]) -> list[bytes]:
    return [one.record.value for one in stored]


class Stranger:
    """Somebody with an ordinary client.

    Parameters
    ----------
    config
        The broker, and the prefix of the topics.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self.config = config

    def topic(self, log: str) -> str:
        return self.config.prefix + log

    @contextmanager
    def admin(self) -> Iterator[KafkaAdminClient]:
        client = KafkaAdminClient(bootstrap_servers=self.config.bootstrap)
        try:
            yield client
        finally:
            client.close()

    @contextmanager
    def producer(self, **options: Any) -> Iterator[KafkaProducer]:
        client = KafkaProducer(bootstrap_servers=self.config.bootstrap, **options)
        try:
            yield client
        finally:
            client.close()

    @contextmanager
    def consumer(self, **options: Any) -> Iterator[KafkaConsumer]:
        client = KafkaConsumer(bootstrap_servers=self.config.bootstrap, **options)
        try:
            yield client
        finally:
            client.close(autocommit=False)

    def create(self, log: str, **settings: str) -> None:
        """Make a topic; ``_`` in the names of settings stands for ``.``."""
        named = {name.replace("_", "."): value for name, value in settings.items()}
        with self.admin() as admin:
            admin.create_topics(
                {self.topic(log): {"num_partitions": 1, "configs": named}}, wait_for_metadata=True
            )

    def alter(self, log: str, **settings: str) -> None:
        """Change settings of a topic, and wait until the broker goes by them."""
        named = {name.replace("_", "."): value for name, value in settings.items()}
        resource = ConfigResource("TOPIC", self.topic(log), named)
        with self.admin() as admin:
            admin.alter_configs([resource])
            asked = ConfigResource("TOPIC", self.topic(log))

            def altered() -> bool:
                found = admin.describe_configs([asked], config_filter="all")
                now = found["topic"][self.topic(log)]
                return all(now[name]["value"] == value for name, value in named.items())

            until(altered)

    def delete(self, log: str) -> None:
        """Delete a topic, and wait until the broker does not know it any more."""
        with self.admin() as admin:
            admin.delete_topics([self.topic(log)])
            until(lambda: self.topic(log) not in admin.list_topics())

    def trim(self, log: str, offset: int) -> None:
        with self.admin() as admin:
            admin.delete_records({TopicPartition(self.topic(log), 0): offset})

    def transaction(self, log: str, written: Sequence[bytes], commit: bool = True) -> None:
        """Write records in a transaction, which takes one offset more than there are records."""
        with self.producer(transactional_id=f"{self.config.prefix}{commit}") as producer:
            producer.init_transactions()
            producer.begin_transaction()
            for value in written:
                producer.send(self.topic(log), value, partition=0)
            producer.flush()
            if commit:
                producer.commit_transaction()
            else:
                producer.abort_transaction()
