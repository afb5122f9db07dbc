"""The topics that hold the logs: made, looked up, and refused where they would lose records."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from kafka import KafkaAdminClient, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, OffsetSpec

from stream.log.api import (
    Headers,
    LogDeletedError,
    LogError,
    LogIdentityError,
    LogSettingsError,
    Record,
    StoredRecord,
    check_name,
)
from stream.log.kafka.connection import PAUSE_SECONDS, Connector
from stream.topics import DEAD_LETTERS

logger = logging.getLogger(__name__)

_ANY_TIME: Final = str(2**63 - 1)
_KEEPING: Final = ("cleanup.policy", "retention.ms", "retention.bytes")
"""Settings that say what is deleted and when."""
_TIME_HEADER: Final = "resprout-time-ms"
"""Holds an event time that Kafka cannot: one before 1970."""
_NEGATIVE: Final = re.compile(rb"-[0-9]{1,19}")
_FIRST_MS: Final = -(2**63)
_RECORD_BYTES: Final = 61 + 36
"""The heads of a batch and of a record, at most."""
_HEADER_BYTES: Final = 10
"""The lengths of a header's name and value, at most."""
_SURE: Final = 10
"""Times that a topic must be missing to count as deleted."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic, as it was when its log was opened."""

    log: str
    """The name of its log."""
    name: str
    """Its name on the broker."""
    identity: str
    """Its id: a topic made again under its old name has another."""
    partitions: tuple[int, ...]
    settings: Mapping[str, str]
    """Names and values as Kafka has them."""

    @property
    def max_record_bytes(self) -> int:
        """The largest record that it takes."""
        return int(self.settings["max.message.bytes"])

    def at(self, partition: int) -> TopicPartition:
        """Return a partition; ``ValueError`` where there is none."""
        if partition not in self.partitions:
            raise ValueError(
                f"log {self.log!r} has no partition {partition}; it has "
                f"{', '.join(map(str, self.partitions))}"
            )
        return TopicPartition(self.name, partition)


class Topics:
    """Makes topics and looks them up.

    Parameters
    ----------
    connector
        Connects to the broker.
    admin
        The client that asks.
    writable
        Whether a topic that is not there is made when it is opened, or refused.

    Attributes
    ----------
    ends
        Of the partitions that are written here: up to where records are acknowledged.
    """

    def __init__(self, connector: Connector, admin: KafkaAdminClient, *, writable: bool) -> None:
        self.ends: dict[TopicPartition, int] = {}
        self._connector, self._config = connector, connector.config
        self._admin, self._writable = admin, writable
        self._opened: dict[str, None] = {}
        """The names of topics that were opened, all of which are verified together."""
        self._identities: dict[str, str] = {}
        self._asked = -math.inf
        """When the broker was asked for the identities, in seconds that never go back."""

    def open(self, log: str) -> Topic:
        """Look a topic up; made with one partition if it is not there, or refused.

        Raises
        ------
        LogError
            It is not there, and topics are not made here.
        LogSettingsError
            Its settings would delete records because of their event time, or change that.
        """
        described = self._describe(log, again=0 if self._writable else _SURE)
        if described is None:
            if not self._writable:
                raise LogError(
                    f"there is no log {log!r} (topic {self.name(log)!r}) on the broker at "
                    f"{self._config.bootstrap}: either its run has not begun, or the topic is "
                    f"gone; look at stream.kafka.bootstrap and stream.kafka.prefix "
                    f"(now: {self._config.prefix!r})"
                )
            self.create({log: 1})
            described = self._connector.retried(f"making log {log!r}", lambda: self._find(log))
        partitions = sorted(one["partition_index"] for one in described["partitions"])
        identity, settings = str(described["topic_id"]), self.settings(log)
        topic = Topic(log, self.name(log), identity, tuple(partitions), settings)
        self._check(topic)
        self._opened[topic.name] = None
        return topic

    def exists(self, log: str) -> bool:
        """Tell whether the topic of a log is there."""
        return self._describe(log) is not None

    def verify(self, topic: Topic, max_age_seconds: float = 0.0) -> None:
        """Raise where a topic is no longer what it was when it was opened.

        Parameters
        ----------
        topic
            As it was opened.
        max_age_seconds
            How old the answer of the broker may be; it is asked for all opened topics at once.
        """
        if max_age_seconds:
            now = time.monotonic()
            if now - self._asked > max_age_seconds:
                names = list(self._opened)
                answer = self._connector.retried(
                    "looking up all logs", lambda: self._admin.describe_topics(names)
                )
                # One about which there is an error is left out.
                there = [one for one in answer if not one["error_code"]]
                self._identities = {str(one["name"]): str(one["topic_id"]) for one in there}
                self._asked = now
            if self._identities.get(topic.name) == topic.identity:
                return
        described = self._describe(topic.log, again=_SURE)
        if described is None:
            raise LogDeletedError(
                f"log {topic.log!r} (topic {topic.name!r}) was deleted while it was in use; begin "
                "with a new state folder"
            )
        found = str(described["topic_id"])
        if found != topic.identity:
            raise LogIdentityError(
                f"log {topic.log!r} was {topic.identity} when it was opened, it is {found} now:"
                " the topic was deleted and made again; begin with a new state folder"
            )

    def end(self, topic: Topic, partition: int) -> int:
        """Return the offset up to which the broker has records."""
        at = topic.at(partition)
        found = self._connector.retried(
            f"looking up the end of log {topic.log!r}",
            lambda: self._admin.list_partition_offsets({at: OffsetSpec.LATEST}),
        )
        return int(found[at].offset)

    def trim(self, topic: Topic, partition: int, offset: int) -> None:
        """Delete the records before an offset."""
        before = {topic.at(partition): offset}
        self._connector.retried(
            f"trimming log {topic.log!r}", lambda: self._admin.delete_records(before)
        )

    def name(self, log: str) -> str:
        """Return the topic of a log."""
        return self._config.prefix + check_name(log)

    def _describe(self, log: str, again: int = 0) -> dict[str, Any] | None:
        """Return what the broker knows about a topic; None where there is none.

        A broker that has just started may not know all its topics yet: then it is asked again, so
        many times.
        """

        def ask() -> dict[str, Any] | None:
            with suppress(kafka_errors.UnknownTopicOrPartitionError):
                return self._find(log)
            return None

        found = self._connector.retried(f"looking up log {log!r}", ask)
        if found is None and again:
            time.sleep(PAUSE_SECONDS)
            return self._describe(log, again - 1)
        return found

    def _find(self, log: str) -> dict[str, Any]:
        [found] = self._admin.describe_topics([self.name(log)])
        if found["error_code"]:
            raise kafka_errors.for_code(found["error_code"])
        return dict(found)

    def settings(self, log: str) -> dict[str, str]:
        """Return the settings of a topic, as they are now."""
        name = self.name(log)

        def ask() -> dict[str, str]:
            resource = ConfigResource("TOPIC", name)
            found = self._admin.describe_configs([resource], config_filter="all")
            return {key: data["value"] for key, data in found["topic"][name].items()}

        return self._connector.retried(f"looking up the settings of log {log!r}", ask)

    def create(self, logs: Mapping[str, int]) -> None:
        """Make the topics that are not there, with so many partitions each."""
        for log, partitions in logs.items():
            make = partial(self._make, log, partitions)
            self._connector.retried(f"making log {log!r}", make)

    def _make(self, log: str, partitions: int) -> None:
        # A dead letter holds the bytes of a whole record as base64, and says why.
        times, name = 2 if log == DEAD_LETTERS else 1, self.name(log)
        settings = {
            "cleanup.policy": "delete",
            "max.message.bytes": str(times * self._config.max_record_bytes),
            "message.timestamp.after.max.ms": _ANY_TIME,
            "message.timestamp.before.max.ms": _ANY_TIME,
            "message.timestamp.type": "CreateTime",
            "retention.bytes": str(self._config.retention_bytes),
            "retention.ms": "-1",
        }
        asked = {
            "num_partitions": partitions,
            "replication_factor": self._config.replication_factor,
            "configs": settings,
        }
        with suppress(kafka_errors.TopicAlreadyExistsError):
            self._admin.create_topics({name: asked})
            kept = ", ".join(f"{key}={settings[key]}" for key in _KEEPING)
            logger.info("made topic %s: partitions=%d, %s", name, partitions, kept)
        self._admin.wait_for_topics([name])

    def _check(self, topic: Topic) -> None:
        """Refuse settings that would lose records, or change their times."""
        found = topic.settings
        why, way_out, wanted = "", "", ""
        if found["retention.ms"] != "-1" and not self._config.allow_retention:
            wanted = "retention.ms=-1"
            why = (
                "the broker deletes records whose event time is further back than that, however "
                "new they are"
            )
            way_out = (
                ", or set stream.kafka.allow_retention = true where event time is the wall clock"
            )
        elif "compact" in found["cleanup.policy"]:
            wanted = "cleanup.policy=delete"
            why = "the broker would drop records without a key"
        elif found["message.timestamp.type"] != "CreateTime":
            wanted = "message.timestamp.type=CreateTime"
            why = "the broker would replace event times"
        if wanted:
            name = wanted.partition("=")[0]
            raise LogSettingsError(
                f"topic {topic.name!r} has {name}={found[name]}: {why}; set it with "
                f"kafka-configs.sh --alter --add-config {wanted}{way_out}"
            )


def to_kafka(record: Record) -> tuple[int, list[tuple[str, bytes]]]:
    """Return the timestamp and the headers with which a record is sent.

    >>> to_kafka(Record(b"", (("kind", b"json"),), time_ms=-7))
    (0, [('kind', b'json'), ('resprout-time-ms', b'-7')])
    """
    headers = list(record.headers)
    if record.time_ms >= 0:
        return record.time_ms, headers
    return 0, [*headers, (_TIME_HEADER, b"%d" % record.time_ms)]


def from_kafka(one: Any, partition: int) -> StoredRecord:
    """Turn a record of a consumer into ours; what is null to Kafka is empty to us."""
    headers: Headers = tuple((name, value or b"") for name, value in one.headers)
    time_ms = one.timestamp
    name, value = headers[-1] if headers else ("", b"")
    # Anybody may send a header of this name: what is no time before 1970 is a header like others.
    if name == _TIME_HEADER and _NEGATIVE.fullmatch(value) and int(value) >= _FIRST_MS:
        time_ms, headers = int(value), headers[:-1]
    record = Record(one.value or b"", headers, time_ms)
    return StoredRecord(partition, one.offset, one.offset + 1, record)


def wire_bytes(record: Record) -> int:
    """Return at most how large a record is on the wire, alone in its batch and not compressed.

    >>> wire_bytes(Record(b"x" * 1000, (("kind", b"json"),)))
    1115
    """
    headers = sum(_HEADER_BYTES + len(name.encode()) + len(value) for name, value in record.headers)
    return _RECORD_BYTES + len(record.value) + headers
