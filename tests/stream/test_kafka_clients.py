"""What is said of a broker that does not do what it is asked; none is needed for that."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from kafka import TopicPartition
from kafka import errors as kafka_errors

from stream.log import KafkaConfig, LogAccessError, LogUnreachableError, Record
from stream.log.kafka.connection import NotYetError, RetryPolicy
from stream.log.kafka.reader import KafkaLogReader
from stream.log.kafka.store import KafkaLogStore
from stream.log.kafka.topics import Topic
from stream.log.kafka.writer import KafkaLogWriter

CONFIG = KafkaConfig(bootstrap="broker:9092", gone_seconds=1)


def said(error: Exception) -> str:
    """Meet an error again and again, and return what that ends with."""
    patience = RetryPolicy(CONFIG, "reading log 'clicks'")

    def work() -> None:
        while True:
            patience.wait(error)

    with pytest.raises(LogUnreachableError) as raised:
        work()
    return str(raised.value)


@pytest.mark.parametrize(
    ("error", "does"),
    [
        (NotYetError("no record comes"), "answers, but no record comes, and"),
        (kafka_errors.NotLeaderForPartitionError(), "answers [Error 6] NotLeaderForPartitionError"),
    ],
)
def test_a_broker_that_answers_is_not_said_to_be_away(error: Exception, does: str) -> None:
    told = said(error)
    assert told.startswith(f"reading log 'clicks': the broker at broker:9092 {does}")
    assert "that for 1 s; look at its own log; stream.kafka.gone_seconds says" in told
    assert "not answer" not in told


class Stuck:
    """A broker, and its clients, that answers every question and moves no record."""

    config = CONFIG
    ends: ClassVar[dict[TopicPartition, int]] = {}

    def __getattr__(self, _: str) -> Callable[..., Stuck]:
        """Do what is asked, and say nothing of it."""
        return lambda *_, **__: self

    def flush(self, timeout: float) -> None:
        raise kafka_errors.KafkaTimeoutError(f"after {timeout} s")

    def end_offsets(self, ats: Sequence[TopicPartition], _: int) -> dict[TopicPartition, int]:
        return dict.fromkeys(ats, 5)

    def poll(self, **_: object) -> dict[TopicPartition, list[object]]:
        time.sleep(0.1)
        return {}

    def position(self, _: TopicPartition) -> int:
        return 0


TOPIC = Topic("clicks", "t.clicks", "id", (0,), {"max.message.bytes": "1000"})


def test_a_writer_whose_records_are_not_acknowledged_says_so() -> None:
    stuck: Any = Stuck()
    writer = KafkaLogWriter(TOPIC, stuck, stuck, stuck)
    writer.append([Record(b"click")])
    with pytest.raises(LogUnreachableError, match="answers, but records are not acknowledged, and"):
        writer.flush()


def test_a_reader_to_whom_no_record_comes_says_so() -> None:
    stuck: Any = Stuck()
    with pytest.raises(LogUnreachableError, match="answers, but no record comes, and that for"):
        KafkaLogReader(TOPIC, stuck, stuck).read(0, 0, 1)


@pytest.mark.parametrize(
    "error", [kafka_errors.RequestTimedOutError("after 1 s"), kafka_errors.KafkaTimeoutError()]
)
def test_a_broker_that_does_not_answer_in_time_is_away(error: Exception) -> None:
    told = said(error)
    assert "the broker at broker:9092 has not answered for 1 s" in told
    assert "look at stream.kafka.bootstrap and stream.kafka.security_protocol" in told


@pytest.mark.parametrize("name", ["cafile", "certfile", "keyfile"])
def test_a_file_that_is_not_there_is_named_with_its_setting(name: str) -> None:
    files = {"certfile": Path(__file__)} | {name: Path("/nowhere/one.pem")}
    config = KafkaConfig(security_protocol="SSL", **files)
    with pytest.raises(
        LogAccessError, match=rf"no file /nowhere/one\.pem; .* stream\.kafka\.{name}"
    ):
        KafkaLogStore(config)
