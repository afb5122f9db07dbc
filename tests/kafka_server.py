"""A real Kafka broker for tests: one that is there, or one started for the tests."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient

from stream.log import KafkaConfig
from tests.servers import missing

BOOTSTRAP = "TEST_KAFKA_BOOTSTRAP"
"""The address of a broker that is there."""
START = "TEST_KAFKA_START"
"""A program that starts a broker, says in one line of JSON where it is, and stays."""


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker started for the tests."""

    bootstrap: str
    pid: int
    told: dict[str, Any]
    """What the starter said."""

    @property
    def port(self) -> int:
        return int(self.bootstrap.rpartition(":")[2])

    def config(self, **settings: Any) -> KafkaConfig:
        """Return how to reach it."""
        secure = {
            key: self.told[key]
            for key in ("security_protocol", "sasl_mechanism", "username", "password", "cafile")
            if self.told.get(key) is not None
        }
        return KafkaConfig(**{"bootstrap": self.bootstrap, **secure, **settings})


@contextmanager
def started(*options: str) -> Iterator[Broker]:
    """Start a broker with the starter's options, and stop it at the end."""
    start = os.environ.get(START)
    if start is None:
        missing("a Kafka broker of the test's own", f"set {START} to a program that starts one")
    command: Sequence[str] = [start, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            told = json.loads(process.stdout.readline())
            yield Broker(told["bootstrap"], told["pid"], told)
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def any_broker(folder: Path) -> Iterator[KafkaConfig]:
    """Reach a broker without passwords: the one that is there, else one that is started."""
    address = os.environ.get(BOOTSTRAP)
    if address is not None:
        yield KafkaConfig(bootstrap=address)
    elif START in os.environ:
        with started("--dir", str(folder)) as broker:
            yield broker.config()
    else:
        missing(
            "Kafka",
            f"run `docker compose up -d kafka` and set {BOOTSTRAP}=127.0.0.1:9092, or set {START} "
            "to a program that starts a broker",
        )


def forget(config: KafkaConfig) -> None:
    """Delete the topics that begin with a prefix."""
    admin = KafkaAdminClient(bootstrap_servers=config.bootstrap)
    topics = [name for name in admin.list_topics() if name.startswith(config.prefix)]
    if topics:
        admin.delete_topics(topics)
    admin.close()
