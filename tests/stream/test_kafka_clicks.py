"""Clicks in several partitions of a topic, whose offsets have holes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import numpy as np
import pytest

from stream import topics
from stream.codec import Invalid
from stream.columnar import predictions_to_bytes
from stream.log import KafkaConfig, Record
from stream.log.kafka.store import KafkaLogStore
from stream.messages import PredictionBatch
from stream.ordering import LOG, Recorded, Resumed
from stream.reader import ClickReader, CountedBatch
from tests.stream import clicklog
from tests.stream.clicklog import END, SCHEMA, columnar
from tests.stream.kafka_tools import Stranger

SIZE = 7


@pytest.fixture
def home(kafka_home: KafkaLogStore) -> KafkaLogStore:
    kafka_home.create({topics.CLICKS: 2})
    return kafka_home


def lead(
    home: KafkaLogStore, before: Sequence[CountedBatch], checkpoint: int, most: int
) -> list[CountedBatch]:
    """Let dense live, from the end of some batch on; it repeats what it had published."""
    cursor = None
    if checkpoint:
        with closing(home.reader(topics.CLICKS)) as clicks, closing(home.reader(LOG)) as log:
            reader = ClickReader(clicks, SCHEMA, SIZE, None, Recorded(log))
            for _ in range(checkpoint):
                reader.next()
            cursor = reader.cursor
    found = list(before[:checkpoint])
    with (
        closing(home.writer(LOG)) as writer,
        closing(home.reader(LOG)) as log,
        closing(home.reader(topics.CLICKS)) as clicks,
    ):
        reader = ClickReader(clicks, SCHEMA, SIZE, cursor, Resumed(log))
        while len(found) < checkpoint + most and (batch := reader.next()) is not None:
            made = PredictionBatch(
                "dense", 0, batch.begin, batch.spans, {}, np.full(len(batch.batch), 0.5)
            )
            writer.append([Record(predictions_to_bytes(made))])
            found.append(batch)
    return found


def plain(batches: Sequence[CountedBatch]) -> list[object]:
    return [(b.begin, b.spans, b.skipped, b.last, b.batch.numeric.tolist()) for b in batches]


def played(home: KafkaLogStore, stranger: Stranger) -> list[CountedBatch]:
    """Let clicks come, with holes between them, while dense lives and is killed."""

    def send(first: int, commit: bool = True) -> None:
        values = [record.value for record in clicklog.json(first, 9)]
        stranger.transaction(topics.CLICKS, [*values[:4], b"{", *values[4:]], commit=commit)

    def write(partition: int, *records: Record) -> None:
        with closing(home.writer(topics.CLICKS)) as writer:
            writer.append(records, partition)

    send(0)
    send(900, commit=False)
    first = lead(home, [], checkpoint=0, most=100)
    assert [len(batch.spans) for batch in first] == [1]
    write(1, *clicklog.json(100, 3), columnar(103, 12), clicklog.raw(1), END)
    send(9)
    second = lead(home, first, checkpoint=0, most=3)
    assert plain(second[:1]) == plain(first)
    lead(home, second, checkpoint=1, most=1)
    write(0, END)
    third = lead(home, second, checkpoint=1, most=100)
    assert plain(third[:3]) == plain(second)
    return third


def test_dense_leads_and_others_follow_through_holes_and_restarts(
    home: KafkaLogStore, kafka_config: KafkaConfig
) -> None:
    expected = played(home, Stranger(kafka_config))
    with closing(home.reader(topics.CLICKS)) as clicks, closing(home.reader(LOG)) as log:
        follower = ClickReader(clicks, SCHEMA, SIZE, None, Recorded(log))
        met: list[Invalid] = []
        follower.on_invalid(met.extend)
        batches, cursors = [], [follower.cursor]
        while (batch := follower.next()) is not None:
            batches.append(batch)
            cursors.append(follower.cursor)
        trailing = follower.drain()
        assert follower.ended
        assert plain(batches) == plain(expected)
        for at, cursor in enumerate(cursors):
            resumed = ClickReader(clicks, SCHEMA, SIZE, cursor, Recorded(log))
            assert plain([*iter(resumed.next, None)]) == plain(batches[at:])
    assert_complete(batches, met)
    assert sum(sum(one.values()) for one in (*(b.skipped for b in batches), trailing)) == 3


def assert_complete(batches: Sequence[CountedBatch], skipped: Sequence[Invalid]) -> None:
    """Every event that was committed is there once, and so is what is no event."""
    numbers = [int(x) for batch in batches for x in batch.batch.numeric[:, 0]]
    assert [n for n in numbers if n < 100] == list(range(18))
    assert [n for n in numbers if n >= 100] == list(range(100, 115))
    assert sorted((one.partition, one.raw) for one in skipped) == [(0, b"{"), (0, b"{"), (1, b"?")]
