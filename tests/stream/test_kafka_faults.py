"""A Kafka broker that crashes, hangs, stays away, forgets or damages what it was given."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kafka.admin import MemberToRemove

from stream.log import (
    KafkaConfig,
    LogCorruptError,
    LogLockedError,
    LogUnreachableError,
    Record,
    StoredRecord,
)
from stream.log.kafka.store import KafkaLogStore
from tests.kafka_server import Broker, started
from tests.stream.kafka_tools import Stranger, until, values
from tests.stream.log_contract import everything, numbered, records

QUICK = (
    "group.min.session.timeout.ms=500",
    "log.retention.check.interval.ms=300",
    "log.initial.task.delay.ms=300",
)


@pytest.fixture(scope="module")
def quick() -> Iterator[Broker]:
    """A broker that looks often for what has expired."""
    with started(*(word for setting in QUICK for word in ("--set", setting))) as broker:
        yield broker


@pytest.fixture
def config(quick: Broker) -> KafkaConfig:
    return quick.config(prefix=f"t{uuid.uuid4().hex[:8]}.", session_seconds=1)


@pytest.fixture
def home(config: KafkaConfig) -> Iterator[KafkaLogStore]:
    opened = KafkaLogStore(config)
    yield opened
    opened.close()


# Away.


def test_a_crash_of_the_broker_loses_and_doubles_nothing(tmp_path: Path) -> None:
    total, crash, back = 3000, threading.Event(), threading.Event()
    found: list[StoredRecord] = []
    with started("--dir", str(tmp_path)) as broker:
        home = KafkaLogStore(broker.config())
        writer, reader = home.writer("clicks"), home.reader("clicks")

        def write() -> None:
            for i in range(0, total, 10):
                writer.append(numbered(10, start=i))
                writer.flush()
                if i == total // 2:
                    crash.set()
                    back.wait(60)

        def follow() -> None:
            while len(found) < total:
                found.extend(reader.read(0, found[-1].next_offset if found else 0))

        threads = [threading.Thread(target=run, daemon=True) for run in (write, follow)]
        for thread in threads:
            thread.start()
        assert crash.wait(60)
        os.kill(broker.pid, signal.SIGKILL)
        # Both meet the broker while it is away.
        back.set()
    with started("--dir", str(tmp_path), "--port", str(broker.port)):
        for thread in threads:
            thread.join(60)
        assert records(found) == numbered(total)
        with pytest.raises(LogLockedError, match="is being written by"):
            home.writer("clicks")
        home.close()


def test_a_broker_that_stays_away_is_named_and_used_again_when_it_is_back(tmp_path: Path) -> None:
    with started("--dir", str(tmp_path)) as broker:
        config = broker.config(gone_seconds=1)
        home = KafkaLogStore(config)
        writer, reader = home.writer("clicks"), home.reader("clicks")
        writer.append(numbered(3))
        writer.flush()
        assert records(everything(reader)) == numbered(3)
        os.kill(broker.pid, signal.SIGKILL)
    away = (
        rf"the broker at {broker.bootstrap} has not answered for \d+ s .*kafka\.gone_seconds says"
    )
    with pytest.raises(LogUnreachableError, match=f"log 'clicks': {away}"):
        reader.end(0)
    with pytest.raises(LogUnreachableError, match=away):
        reader.read(0, 3)
    with pytest.raises(LogUnreachableError, match=f"connecting: {away}"):
        KafkaLogStore(config)
    with pytest.raises(LogUnreachableError, match=f"'truth': {away}"):
        home.reader("truth")
    writer.append(numbered(2, start=3))
    with pytest.raises(LogUnreachableError, match=f"the broker at {broker.bootstrap} has"):
        writer.flush()
    with started("--dir", str(tmp_path), "--port", str(broker.port)):
        assert records(everything(reader))[:3] == numbered(3)
        writer.append([Record(b"after")])
        writer.flush()
        assert values(everything(reader))[-1] == b"after"
        home.close()


def test_a_broker_that_hangs_is_waited_for(quick: Broker, config: KafkaConfig) -> None:
    home = KafkaLogStore(config.model_copy(update={"gone_seconds": 60, "session_seconds": 30}))
    writer, reader = home.writer("clicks"), home.reader("clicks")
    writer.append(numbered(3))
    writer.flush()
    os.kill(quick.pid, signal.SIGSTOP)
    resuming = threading.Timer(2, os.kill, (quick.pid, signal.SIGCONT))
    resuming.start()
    writer.append(numbered(2, start=3))
    writer.flush()
    resuming.join()
    assert records(everything(reader)) == numbered(5)
    home.close()


def test_a_broker_that_hangs_for_too_long_is_named(
    quick: Broker, config: KafkaConfig, home: KafkaLogStore
) -> None:
    writer = home.writer("clicks")
    writer.append(numbered(3))
    writer.close()
    hurried = KafkaLogStore(config.model_copy(update={"gone_seconds": 1}))
    reader = hurried.reader("clicks")
    os.kill(quick.pid, signal.SIGSTOP)
    try:
        with pytest.raises(LogUnreachableError, match=f"the broker at {quick.bootstrap} has not"):
            reader.read(0, 0)
    finally:
        os.kill(quick.pid, signal.SIGCONT)
    until(lambda: _answers(reader.end, 0))
    assert records(everything(reader)) == numbered(3)
    hurried.close()


def _answers(question: object, *words: object) -> bool:
    assert callable(question)
    try:
        question(*words)
    except LogUnreachableError:
        return False
    return True


# Slow.


def test_a_broker_that_lets_a_writer_wait_for_others_is_not_said_to_be_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As brokers do by default, and for longer than they may be away."""
    with started("--set", "group.initial.rebalance.delay.ms=3000") as broker:
        home = KafkaLogStore(broker.config(gone_seconds=2))
        home.writer("clicks").close()
        home.close()
    assert f"{broker.bootstrap} answers, but joining takes long; trying for 10 s" in caplog.text


# Forgetting.


def test_old_events_stay_in_our_topics_where_those_of_others_lose_them(
    home: KafkaLogStore, config: KafkaConfig
) -> None:
    """The same acknowledged records of 2014, in a topic that keeps a week and in one of ours."""
    stranger = Stranger(config)
    stranger.create("theirs", retention_ms="604800000", segment_ms="1000")
    old = [Record(b"%d" % i, time_ms=1_400_000_000_000 + i) for i in range(100)]
    ours = home.writer("ours")
    ours.append(old)
    ours.flush()
    with stranger.producer() as producer:
        for record in old:
            producer.send(stranger.topic("theirs"), record.value, timestamp_ms=record.time_ms)
    allowing = KafkaLogStore(config.model_copy(update={"allow_retention": True}))
    reader = allowing.reader("theirs")
    until(lambda: reader.begin(0) == 100)
    assert records(everything(home.reader("ours"))) == old
    allowing.close()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    with started("--dir", str(tmp_path)) as broker:
        home = KafkaLogStore(broker.config(compression="none"))
        writer = home.writer("clicks")
        for value in (b"whole", b"damaged"):
            writer.append([Record(value)])
            writer.flush()
        home.close()
    [segment] = (tmp_path / "data" / "clicks-0").glob("*.log")
    segment.write_bytes(segment.read_bytes().replace(b"damaged", b"dAmaged"))
    with started("--dir", str(tmp_path)) as broker:
        home = KafkaLogStore(broker.config())
        reader = home.reader("clicks")
        assert values(reader.read(0, 0)) == [b"whole"]
        with pytest.raises(
            LogCorruptError, match=r"'clicks', partition 0, from offset 1 on: .*crc"
        ):
            reader.read(0, 1)
        with pytest.raises(LogCorruptError, match="restore the topic from a copy"):
            reader.read(0, 1)
        home.close()


# The one writer.


@contextmanager
def held(stranger: Stranger, log: str) -> Iterator[None]:
    """Hold a log as a process of another machine does; it does not say goodbye."""
    with stranger.consumer(
        client_id="resprout-elsewhere-1-2-1.99.abcdef01",
        group_id=f"resprout.writer.{stranger.topic(log)}",
        group_instance_id="writer",
        session_timeout_ms=1_000,
        heartbeat_interval_ms=200,
    ) as consumer:
        assert consumer.partitions_for_topic(stranger.topic(log))
        consumer.subscribe([stranger.topic(log)])
        until(lambda: consumer.poll(timeout_ms=50) is not None and consumer.assignment())
        yield


def test_a_writer_that_crashed_elsewhere_is_replaced_when_its_session_ends(
    home: KafkaLogStore, config: KafkaConfig
) -> None:
    home.create({"clicks": 1})
    with held(Stranger(config), "clicks"):
        pass
    writer = home.writer("clicks")
    writer.append(numbered(1))
    writer.close()


def test_a_writer_that_lives_elsewhere_is_named(home: KafkaLogStore, config: KafkaConfig) -> None:
    home.create({"clicks": 1})
    with (
        held(Stranger(config), "clicks"),
        pytest.raises(
            LogLockedError, match=r"written by resprout-elsewhere-.* on 127\.0\.0\.1; stop it"
        ),
    ):
        home.writer("clicks")


def test_a_writer_whose_place_was_taken_stops(home: KafkaLogStore, config: KafkaConfig) -> None:
    writer = home.writer("clicks")
    writer.append(numbered(1))
    writer.flush()

    def write() -> bool:
        writer.append(numbered(1))
        writer.flush()
        return False

    stranger = Stranger(config)
    with held(stranger, "clicks"):
        with pytest.raises(LogLockedError, match="'clicks'"):
            until(write)
        writer.close()
        group = f"resprout.writer.{stranger.topic('clicks')}"
        with stranger.admin() as admin:
            assert len(admin.describe_groups([group])[group]["members"]) == 1


def test_a_writer_whose_session_was_ended_joins_anew(
    home: KafkaLogStore, config: KafkaConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "stream")
    writer = home.writer("clicks")
    stranger = Stranger(config)
    group = f"resprout.writer.{stranger.topic('clicks')}"
    with stranger.admin() as admin:
        admin.remove_group_members(group, [MemberToRemove(group_instance_id="writer")])

        def joined_anew() -> bool:
            writer.append(numbered(1))
            writer.flush()
            return bool(admin.describe_groups([group])[group]["members"])

        until(joined_anew)
    assert "the session of its writer ended; joining anew" in caplog.text
    with pytest.raises(LogLockedError, match="is being written by"):
        home.writer("clicks")
