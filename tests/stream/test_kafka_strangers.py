"""What any producer may send to a topic: headers and records that no reader may stumble over."""

from __future__ import annotations

import base64
import hashlib
from contextlib import closing

import pytest
from kafka import TopicPartition
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from stream import topics
from stream.batch import Reason
from stream.codec import Invalid, dead_letter, json_record
from stream.follow import MessageLog
from stream.log import KafkaConfig, Record
from stream.log.kafka.store import KafkaLogStore
from stream.messages import DeadLetter, dump
from stream.reader import ClickReader
from tests.stream.clicklog import END, SCHEMA, event, read_all
from tests.stream.kafka_tools import Stranger
from tests.stream.log_contract import everything


@pytest.fixture
def stranger(kafka_config: KafkaConfig) -> Stranger:
    return Stranger(kafka_config)


class Key(str):
    """The name of a header that is written as bytes that are not UTF-8."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"\xff\xfe" + str(self)[2:].encode()


def test_a_header_whose_name_is_not_utf8_is_read_with_its_name_escaped() -> None:
    """Without any broker: as the client reads what a fetch brings."""
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 4096)
    for offset, headers in enumerate([[("a", b"1")], [(Key("??name"), b"2")], [("größe", b"3")]]):
        builder.append(offset, 0, None, b"%d" % offset, headers)
    found = [(one.offset, one.value, one.headers) for one in DefaultRecordBatch(builder.build())]
    assert found == [
        (0, b"0", [("a", b"1")]),
        (1, b"1", [("\\xff\\xfename", b"2")]),
        (2, b"2", [("größe", b"3")]),
    ]


def test_events_with_strange_headers_are_read(
    kafka_home: KafkaLogStore, stranger: Stranger
) -> None:
    kafka_home.create({topics.CLICKS: 1})
    value = json_record(event(7)).value
    strange = [
        [("resprout-time-ms", b"yesterday")],
        [("resprout-time-ms", b"-" + b"9" * 40)],
        [("resprout-time-ms", b"")],
        [(Key("??name"), b"x")],
        [("resprout-time-ms", b"-7")],
    ]
    with stranger.producer() as producer:
        for headers in strange:
            sent = producer.send(
                stranger.topic(topics.CLICKS), value, None, headers, 0, timestamp_ms=5_000
            )
            sent.get(30)
    with closing(kafka_home.writer(topics.CLICKS)) as writer:
        writer.append([END])
    with closing(kafka_home.reader(topics.CLICKS)) as reader:
        found = everything(reader)
        assert [one.record.time_ms for one in found[:5]] == [5_000] * 4 + [-7]
        assert [one.record.headers for one in found[3:5]] == [(("\\xff\\xfename", b"x"),), ()]
        [batch] = read_all(ClickReader(reader, SCHEMA, 10))
    assert batch.batch.numeric[:, 0].tolist() == [7] * 5


def test_the_letter_of_a_record_that_only_fits_compressed_is_kept_in_part(
    kafka_home: KafkaLogStore, stranger: Stranger
) -> None:
    """30 MB of gzip is some kilobytes on the wire; its letter is written as it is."""
    kafka_home.create({topics.CLICKS: 1, topics.DEAD_LETTERS: 1})
    raw = b"{" + b"x" * 30_000_000
    with stranger.producer(compression_type="gzip", max_request_size=2**26) as producer:
        producer.send(stranger.topic(topics.CLICKS), raw, partition=0).get(60)
    with closing(kafka_home.reader(topics.CLICKS)) as reader:
        [stored] = everything(reader)
    assert stored.record.value == raw
    with closing(kafka_home.writer(topics.DEAD_LETTERS)) as writer:
        most = writer.max_value_bytes
        letter = dead_letter(Invalid(0, 0, 0, Reason.UNPARSABLE, "no JSON", raw), most)
        writer.append([Record(dump(letter))])
        writer.flush()
        assert writer.end() == 1
    [found] = MessageLog(kafka_home, topics.DEAD_LETTERS).read(DeadLetter)
    kept = base64.b64decode(found.raw)
    assert raw.startswith(kept)
    assert len(kept) > 10_000_000
    assert (found.raw_bytes, found.raw_sha256) == (len(raw), hashlib.sha256(raw).hexdigest())


def test_a_writer_knows_the_end_of_its_topic(kafka_home: KafkaLogStore, stranger: Stranger) -> None:
    with closing(kafka_home.writer("clicks")) as writer:
        assert writer.end() == 0
        writer.append([Record(b"a"), Record(b"b")])
        writer.flush()
        assert writer.end() == 2
    stranger.trim("clicks", 1)
    with closing(kafka_home.writer("clicks")) as writer:
        assert writer.end() == 2
    with stranger.consumer() as consumer:
        at = TopicPartition(stranger.topic("clicks"), 0)
        assert consumer.end_offsets([at])[at] == 2
