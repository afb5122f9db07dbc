"""What a Kafka home does beyond the contract that all homes keep (``test_log_contract``)."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from kafka import TopicPartition

from stream.log import (
    KafkaConfig,
    LogDeletedError,
    LogError,
    LogIdentityError,
    LogLockedError,
    LogLostError,
    LogRefusedError,
    LogSettingsError,
    LogTrimmedError,
    LogUnreachableError,
    Record,
)
from stream.log.kafka.reader import KafkaLogReader
from stream.log.kafka.store import KafkaLogStore
from tests.stream.kafka_tools import Stranger, until, values
from tests.stream.log_contract import everything, numbered, records


@pytest.fixture
def home(kafka_home: KafkaLogStore) -> KafkaLogStore:
    return kafka_home


@pytest.fixture
def stranger(kafka_config: KafkaConfig) -> Stranger:
    return Stranger(kafka_config)


@pytest.fixture
def patient(kafka_config: KafkaConfig) -> Iterator[KafkaLogStore]:
    """Another home on the same topics, as another worker has it."""
    other = KafkaLogStore(kafka_config, worker="dense")
    yield other
    other.close()


def fill(home: KafkaLogStore, count: int, log: str = "clicks") -> None:
    writer = home.writer(log)
    writer.append(numbered(count))
    writer.close()


# Topics.


def test_lag_is_the_end_less_the_position(home: KafkaLogStore) -> None:
    fill(home, 10)
    reader = home.reader("clicks")
    [*_, last] = reader.read(0, 0, 4)
    assert reader.end(0) - last.next_offset == 6


def test_topics_are_made_so_that_they_keep_events_of_any_time(
    home: KafkaLogStore, stranger: Stranger
) -> None:
    home.create({"clicks": 3})
    home.create({"clicks": 1})
    assert home.reader("clicks").partitions == (0, 1, 2)
    settings = home.reader("clicks").topic.settings
    assert settings["retention.ms"] == "-1"
    assert settings["retention.bytes"] == str(stranger.config.retention_bytes)
    assert settings["message.timestamp.after.max.ms"] == str(2**63 - 1)
    assert settings["cleanup.policy"] == "delete"


def test_a_topic_that_is_made_is_told_once_with_what_it_keeps(
    home: KafkaLogStore, stranger: Stranger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "stream")
    home.create({"clicks": 3})
    home.create({"clicks": 3})
    home.reader("clicks")
    home.reader("ledger")
    kept = (
        f"cleanup.policy=delete, retention.ms=-1, retention.bytes={stranger.config.retention_bytes}"
    )
    assert [record.getMessage() for record in caplog.records] == [
        f"made topic {stranger.topic('clicks')}: partitions=3, {kept}",
        f"made topic {stranger.topic('ledger')}: partitions=1, {kept}",
    ]


def test_a_topic_that_cannot_be_made_is_named(home: KafkaLogStore) -> None:
    with pytest.raises(LogError, match=r"making log 'clicks': .* answers .*InvalidPartitionsError"):
        home.create({"clicks": 0})


def test_a_broker_whose_name_is_not_known_is_named() -> None:
    config = KafkaConfig(bootstrap="no.such.host.invalid:9092", gone_seconds=1)
    with pytest.raises(
        LogUnreachableError, match=r"invalid:9092: the name is not known\); start it"
    ):
        KafkaLogStore(config)


def test_a_name_that_is_no_topic_name_is_refused(home: KafkaLogStore) -> None:
    with pytest.raises(ValueError, match=r"log name '\.\./clicks'; use letters"):
        home.reader("../clicks")


# Records that strangers write.


def test_what_is_null_to_kafka_is_empty(home: KafkaLogStore, stranger: Stranger) -> None:
    reader = home.reader("clicks")
    with stranger.producer() as producer:
        producer.send(stranger.topic("clicks"), None, key=b"user 7", timestamp_ms=5)
        producer.send(stranger.topic("clicks"), b"{}", timestamp_ms=6, headers=[("kind", b"json")])
    assert records(everything(reader)) == [
        Record(b"", time_ms=5),
        Record(b"{}", (("kind", b"json"),), 6),
    ]


# Reading ahead.


def test_reading_on_asks_the_broker_for_nothing_that_it_has_fetched(
    home: KafkaLogStore, stranger: Stranger
) -> None:
    """Once the first record is read, the others are here: their topic can even go away."""
    fill(home, 500)
    reader = home.reader("clicks")
    [first] = reader.read(0, 0, 1)
    stranger.delete("clicks")
    rest = [reader.read(0, offset, 1)[0] for offset in range(first.next_offset, 500)]
    assert records([first, *rest]) == numbered(500)


def test_a_closed_reader_connects_again_when_asked(home: KafkaLogStore) -> None:
    fill(home, 3)
    reader = home.reader("clicks")
    assert values(reader.read(0, 0)) == values(reader.read(0, 0))
    reader.close()
    assert records(everything(reader)) == numbered(3)


# Holes: offsets that no record has.


def test_markers_of_transactions_are_passed(home: KafkaLogStore, stranger: Stranger) -> None:
    reader = home.reader("clicks")
    stranger.transaction("clicks", [b"a", b"b"])
    stranger.transaction("clicks", [b"never", b"seen"], commit=False)
    stranger.transaction("clicks", [b"c"])
    stored = everything(reader, max_records=1)
    assert [(one.offset, one.record.value) for one in stored] == [(0, b"a"), (1, b"b"), (6, b"c")]
    assert reader.end(0) == 8
    assert list(reader.read(0, 2, 1)) == stored[2:]
    assert list(reader.read(0, 7)) == []
    last = reader.last(0)
    assert last == stored[2]


def test_the_last_record_is_found_before_many_holes(
    home: KafkaLogStore, stranger: Stranger
) -> None:
    reader = home.reader("clicks")
    stranger.transaction("clicks", [b"the last"])
    stranger.transaction("clicks", [b"%d" % i for i in range(70)], commit=False)
    last = reader.last(0)
    assert last is not None
    assert last.record.value == b"the last"
    assert (last.offset, reader.end(0)) == (0, 73)


def test_a_log_of_holes_alone_has_no_last_record(home: KafkaLogStore, stranger: Stranger) -> None:
    reader = home.reader("clicks")
    stranger.transaction("clicks", [b"a", b"b", b"c"], commit=False)
    assert reader.end(0) == 4
    assert reader.last(0) is None
    assert list(reader.read(0, 0)) == []


def test_an_open_transaction_is_the_end_until_it_is_committed(
    home: KafkaLogStore, stranger: Stranger
) -> None:
    reader = home.reader("clicks")
    with stranger.producer(transactional_id=stranger.topic("open")) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(stranger.topic("clicks"), b"a")
        producer.flush()
        assert list(reader.read(0, 0)) == []
        assert reader.end(0) == 0
        producer.commit_transaction()
    until(lambda: reader.end(0) == 2)
    assert values(reader.read(0, 0)) == [b"a"]


# Positions that are not there.


def test_an_offset_that_expired_is_named(home: KafkaLogStore, stranger: Stranger) -> None:
    fill(home, 10)
    reader, fresh = home.reader("clicks"), home.reader("clicks")
    assert len(reader.read(0, 0, 2)) == 2
    stranger.trim("clicks", 6)
    with pytest.raises(LogTrimmedError, match=r"'clicks', partition 0: offset 1 has been trimmed"):
        fresh.read(0, 1)
    with pytest.raises(LogTrimmedError, match="oldest kept is 6: begin with a new state folder"):
        fresh.read(0, 5)
    assert records(fresh.read(0, 6)) == numbered(4, start=6)


def test_nothing_is_deleted_from_topics_unless_the_settings_say_so(
    home: KafkaLogStore, patient: KafkaLogStore
) -> None:
    fill(home, 10)
    patient.trim("clicks", 0, 5)
    assert home.reader("clicks").begin(0) == 0
    home.trim("clicks", 0, 5)
    assert home.reader("clicks").begin(0) == 5


def test_a_position_after_the_end_means_that_records_were_lost(home: KafkaLogStore) -> None:
    fill(home, 3)
    with pytest.raises(LogLostError, match="it ends at 3, before offset 5: the broker has lost"):
        home.reader("clicks").read(0, 5)


# Topics that go away.


def test_a_deleted_topic_is_named_by_whoever_uses_it(
    home: KafkaLogStore, stranger: Stranger
) -> None:
    fill(home, 3)
    reader, writer = home.reader("clicks"), home.writer("clicks")
    stored = everything(reader)
    stranger.delete("clicks")
    with pytest.raises(LogDeletedError, match=r"'clicks' \(topic .* was deleted while it was in"):
        reader.read(0, stored[-1].next_offset)
    with pytest.raises(LogDeletedError, match="begin with a new state folder"):
        reader.end(0)
    writer.append(numbered(1))
    with pytest.raises(LogDeletedError, match="'clicks'"):
        writer.flush()


def test_records_on_their_way_to_a_topic_that_is_deleted_are_not_waited_for(
    home: KafkaLogStore, stranger: Stranger
) -> None:
    writer = home.writer("clicks")
    writer.append(numbered(1))
    writer.flush()
    stranger.delete("clicks")
    writer.append(numbered(1))
    with pytest.raises(LogDeletedError, match="'clicks'"):
        writer.flush()
    with pytest.raises(LogDeletedError, match="'clicks'"):
        writer.close()
    with pytest.raises(ValueError, match="this writer is closed"):
        writer.append(numbered(1))


def test_a_topic_deleted_and_made_again_is_not_read_on(
    home: KafkaLogStore, stranger: Stranger
) -> None:
    """It has more records than before, so an offset alone would not tell."""
    fill(home, 3)
    reader, writer = home.reader("clicks"), home.writer("clicks")
    before = reader.identity
    position = everything(reader)[-1].next_offset
    stranger.delete("clicks")
    home.create({"clicks": 1})
    with stranger.producer() as producer:
        for i in range(10):
            producer.send(stranger.topic("clicks"), b"other %d" % i)
    until(lambda: _refuses(lambda: reader.read(0, position), LogIdentityError))
    with pytest.raises(LogIdentityError, match=f"was {before} when it was opened.* made again"):
        reader.read(0, position)
    with pytest.raises(LogIdentityError, match="begin with a new state folder"):
        reader.seek(0, 0)
    with pytest.raises(LogIdentityError, match="'clicks'"):
        writer.flush()
    assert home.reader("clicks").identity != before


def _refuses(call: object, error: type[Exception]) -> bool:
    assert callable(call)
    try:
        call()
    except error:
        return True
    return False


# Settings that lose records.


def test_a_topic_that_deletes_by_event_time_is_refused(
    home: KafkaLogStore, stranger: Stranger
) -> None:
    stranger.create("clicks", retention_ms="604800000")
    for way in (home.reader, home.writer):
        with pytest.raises(
            LogSettingsError,
            match=r"has retention\.ms=604800000: the broker deletes records whose event time .*"
            r"--add-config retention\.ms=-1, or set stream\.kafka\.allow_retention = true",
        ):
            way("clicks")
    stranger.alter("clicks", retention_ms="-1")
    assert home.reader("clicks").end(0) == 0


def test_a_topic_that_deletes_by_event_time_can_be_allowed(stranger: Stranger) -> None:
    stranger.create("clicks", retention_ms="604800000")
    home = KafkaLogStore(stranger.config.model_copy(update={"allow_retention": True}))
    assert home.reader("clicks").end(0) == 0
    home.close()


def test_a_topic_that_is_compacted_is_refused(home: KafkaLogStore, stranger: Stranger) -> None:
    stranger.create("clicks", retention_ms="-1", cleanup_policy="compact")
    with pytest.raises(LogSettingsError, match=r"cleanup\.policy=compact: .* without a key; set"):
        home.writer("clicks")


def test_a_topic_that_replaces_event_times_is_refused(
    home: KafkaLogStore, stranger: Stranger
) -> None:
    stranger.create("clicks", retention_ms="-1", message_timestamp_type="LogAppendTime")
    with pytest.raises(LogSettingsError, match=r"type=LogAppendTime: .* replace event times"):
        home.reader("clicks")


# Records that are refused.


def test_a_record_too_large_is_refused_and_nothing_is_appended(
    home: KafkaLogStore, stranger: Stranger
) -> None:
    writer = home.writer("clicks")
    size = stranger.config.max_record_bytes
    with pytest.raises(
        LogRefusedError,
        match=rf"a record of {size + 97} bytes; topic .* takes at most {size} "
        r"\(max\.message\.bytes\); write smaller records, or raise it",
    ):
        writer.append([Record(b"small"), Record(bytes(size))])
    writer.append(numbered(3))
    writer.flush()
    assert records(everything(home.reader("clicks"))) == numbered(3)


def test_the_largest_record_is_taken(home: KafkaLogStore, stranger: Stranger) -> None:
    largest = Record(os.urandom(stranger.config.max_record_bytes - 97))
    writer = home.writer("clicks")
    writer.append([largest])
    writer.close()
    assert records(everything(home.reader("clicks"))) == [largest]


def test_the_dead_letter_of_the_largest_record_is_taken(home: KafkaLogStore) -> None:
    """It holds the bytes as base64, and those of noise cannot be compressed."""
    size = KafkaConfig().max_record_bytes
    writer = home.writer("deadletters")
    letter = Record(base64.b64encode(os.urandom(size)))
    writer.append([letter])
    writer.close()
    assert records(everything(home.reader("deadletters"))) == [letter]


def test_a_record_that_has_become_too_large_is_named_and_the_writer_goes_on(
    home: KafkaLogStore, stranger: Stranger
) -> None:
    writer = home.writer("clicks")
    writer.append(numbered(1))
    writer.flush()
    stranger.alter("clicks", max_message_bytes="5000")
    writer.append([Record(os.urandom(6000))])
    with pytest.raises(LogRefusedError, match=r"a record of 6097 .* 5000 .* 1 were not written"):
        writer.flush()
    writer.append(numbered(2, start=1))
    writer.flush()
    assert records(everything(home.reader("clicks"))) == numbered(3)


def test_records_that_only_together_are_too_large_are_written(
    home: KafkaLogStore, stranger: Stranger
) -> None:
    writer = home.writer("clicks")
    stranger.alter("clicks", max_message_bytes="5000")
    several = [Record(os.urandom(2000)) for _ in range(9)]
    writer.append(several)
    writer.flush()
    assert records(everything(home.reader("clicks"))) == several


@pytest.mark.parametrize("further", [0, 7])
def test_a_time_that_the_broker_refuses_is_named_and_the_writer_goes_on(
    home: KafkaLogStore, stranger: Stranger, further: int
) -> None:
    """A second one, further ahead, changes nothing."""
    writer = home.writer("clicks")
    stranger.alter("clicks", message_timestamp_after_max_ms="3600000")
    ahead = int(1000 * time.time()) + 10**8
    times = [5, ahead, 6, ahead + further if further else 7]
    writer.append([Record(b"", time_ms=time_ms) for time_ms in times])
    with pytest.raises(
        LogRefusedError,
        match=rf"refuses event time {ahead} ms .*: topic .*after\.max\.ms=3600000; raise .* "
        r"flush 4 were not written",
    ):
        writer.flush()
    writer.append(numbered(5))
    writer.flush()
    assert records(everything(home.reader("clicks"))) == numbered(5)


def test_more_than_fits_in_memory_is_waited_for(home: KafkaLogStore) -> None:
    writer, reader = home.writer("clicks"), home.reader("clicks")
    large = [Record(bytes(4_000_000), time_ms=i) for i in range(17)]
    writer.append(large)
    assert reader.end(0) == 17
    writer.close()


# One writer.

HOLD = """
import sys
from stream.log import KafkaConfig
from stream.log.kafka.reader import KafkaLogReader
from stream.log.kafka.store import KafkaLogStore
from stream.log import Record
writer = KafkaLogStore(KafkaConfig.model_validate_json(sys.argv[1])).writer("clicks")
writer.append([Record(b"held")])
writer.flush()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_writer_in_another_process_is_named_and_replaced_once_it_is_killed(
    home: KafkaLogStore, stranger: Stranger
) -> None:
    command = [sys.executable, "-c", HOLD, stranger.config.model_dump_json()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(
            LogLockedError, match=rf"is being written by resprout-.*-{holder.pid}-.* on .*; stop it"
        ):
            home.writer("clicks")
        holder.kill()
        holder.wait()
        writer = home.writer("clicks")
    writer.append([Record(b"taken over")])
    writer.close()
    assert values(everything(home.reader("clicks"))) == [b"held", b"taken over"]


# Lag monitors.


def test_positions_are_committed_for_lag_monitors_and_never_read_back(
    patient: KafkaLogStore, stranger: Stranger
) -> None:
    fill(patient, 10)
    reader = patient.reader("clicks")
    for offset in (0, 4, 7):
        reader.read(0, offset, 3)
    reader.close()
    at = TopicPartition(stranger.topic("clicks"), 0)
    with stranger.admin() as admin:
        committed = admin.list_group_offsets({"resprout.dense": [at]})["resprout.dense"]
    assert committed[at].offset == 7
    assert records(patient.reader("clicks").read(0, 0, 2)) == numbered(2)


def test_a_group_that_somebody_subscribed_with_does_not_stop_the_reading(
    patient: KafkaLogStore, stranger: Stranger, caplog: pytest.LogCaptureFixture
) -> None:
    fill(patient, 10)
    reader = patient.reader("clicks")
    with stranger.consumer(group_id="resprout.dense") as consumer:
        consumer.subscribe([stranger.topic("clicks")])
        until(lambda: consumer.poll(timeout_ms=100) is not None and consumer.assignment())
        assert records(everything(reader)) == numbered(10)
        reader.close()
    assert "lag monitors do not see group resprout.dense: UnknownMemberIdError" in caplog.text


def test_what_is_appended_comes_in_order_though_nobody_flushes(home: KafkaLogStore) -> None:
    reader, writer = home.reader("clicks"), home.writer("clicks")
    for number in range(50):
        writer.append(numbered(1, number))
        time.sleep(0.004)
    until(lambda: reader.end(0) == 50)
    assert [one.record for one in everything(reader)] == numbered(50)


def test_what_goes_wrong_on_the_way_is_told_once_and_nothing_follows_it(
    home: KafkaLogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = home.writer("clicks")

    def fail(*_: object) -> None:
        raise RuntimeError("the client broke")

    with monkeypatch.context() as broken:
        broken.setattr(writer, "_send", fail)
        writer.append(numbered(1))
        until(lambda: writer._failures)
    writer._held.extend((one, 0, 100) for one in numbered(1, 7))
    writer._send_held()
    with pytest.raises(RuntimeError, match="the client broke"):
        writer.flush()
    assert everything(home.reader("clicks")) == []
    writer.append(numbered(2))
    writer.flush()
    assert [one.record for one in everything(home.reader("clicks"))] == numbered(2)


def test_a_reader_asks_the_writer_beside_it_rather_than_the_broker(
    home: KafkaLogStore, patient: KafkaLogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    end = KafkaLogReader.end

    def ask(reader: KafkaLogReader, partition: int) -> int:
        asked.append(partition)
        return end(reader, partition)

    monkeypatch.setattr(KafkaLogReader, "end", ask)
    monkeypatch.setattr("stream.log.kafka.reader._VERIFY_SECONDS", 1_000.0)
    writer, reader = home.writer("clicks"), home.reader("clicks")
    assert list(reader.read(0, 0)) == []
    assert asked == [0]
    for number in range(3):
        writer.append(numbered(1, start=number))
        writer.flush()
        assert records(reader.read(0, number)) == numbered(1, start=number)
        assert list(reader.read(0, number + 1)) == []
    assert asked == [0]
    writer.close()
    other = patient.writer("clicks")
    other.append(numbered(1, start=3))
    other.close()
    assert records(reader.read(0, 3)) == numbered(1, start=3)
    assert len(asked) > 1


def test_what_others_write_is_read_though_a_writer_is_beside(
    home: KafkaLogStore, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.log.kafka.reader._VERIFY_SECONDS", 0.0)
    writer, reader = home.writer("clicks"), home.reader("clicks")
    writer.append(numbered(1))
    writer.flush()
    with stranger.producer() as producer:
        producer.send(stranger.topic("clicks"), b"from elsewhere").get(30)
    assert len(everything(reader)) == 2
    writer.close()
