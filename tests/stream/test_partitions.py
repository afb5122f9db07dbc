from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from stream import topics
from stream.codec import Invalid
from stream.log import LogTrimmedError, Record, StoredRecord
from stream.log.local import LocalLogStore
from stream.messages import Position, PositionRange
from stream.ordering import PartitionReader
from stream.reader import ClickReader
from tests.stream import clicklog
from tests.stream.clicklog import END, SCHEMA, append, columnar, log_of


class Holes:
    """A log whose offsets are ten apart and begin at 0, as a broker may have them."""

    identity = "holes"
    partitions = (0,)

    def __init__(self, records: Sequence[Record]) -> None:
        self._stored = [
            StoredRecord(0, 10 * i, 10 * i + 3, record) for i, record in enumerate(records)
        ]

    def read(self, partition: int, offset: int, max_records: int = 64) -> Sequence[StoredRecord]:
        return [one for one in self._stored if one.offset >= offset][:max_records]

    def begin(self, partition: int) -> int:
        return 0

    def end(self, partition: int) -> int:
        return 10 * len(self._stored)

    def last(self, partition: int) -> StoredRecord | None:
        return self._stored[-1]

    def seek(self, partition: int, time_ms: int) -> int:
        return 0

    def sync(self) -> None: ...

    def close(self) -> None:
        pass


def trimmed(folder: Path) -> LocalLogStore:
    """Make a log that has lost its first ten events."""
    home = LocalLogStore(folder)
    append(home, [columnar(0, 10)])
    append(home, [columnar(10, 10), END])
    home.trim(topics.CLICKS, 0, 1)
    return home


def test_a_log_that_has_lost_its_first_events_is_refused(tmp_path: Path) -> None:
    reader = ClickReader(trimmed(tmp_path).reader(topics.CLICKS), SCHEMA, 5)
    with pytest.raises(LogTrimmedError, match=r"begins with offset 1 of partition 0.*trimmed away"):
        reader.next()


def test_it_is_read_on_from_a_place_that_it_still_has(tmp_path: Path) -> None:
    reader = PartitionReader(trimmed(tmp_path).reader(topics.CLICKS), 0, SCHEMA, Position(1, 4))
    reader.fill(10)
    assert (reader.ready, reader.at_end, reader.span(6)) == (
        6,
        True,
        PositionRange(0, Position(1, 4), Position(1, 9), 6),
    )


def test_offsets_with_holes_lose_nothing() -> None:
    log = Holes([columnar(0, 4), *clicklog.json(4, 2), columnar(6, 5), clicklog.raw(1), END])
    reader, batches = ClickReader(log, SCHEMA, 3), []
    met: list[Invalid] = []
    while (found := reader.next()) is not None:
        batches.append(found)
        reader = ClickReader(log, SCHEMA, 3, reader.cursor)
        reader.on_invalid(met.extend)
    assert [b.batch.numeric[:, 0].tolist() for b in batches] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8],
        [9, 10],
    ]
    assert [(b.spans[0].first, b.spans[0].last) for b in batches] == [
        (Position(0, 0), Position(0, 2)),
        (Position(0, 3), Position(20, 0)),
        (Position(30, 0), Position(30, 2)),
        (Position(30, 3), Position(30, 4)),
    ]
    assert {one.place for one in met} == {Position(40, 0)}
    assert [b.skipped for b in batches] == [{}, {}, {}, {"unparsable": 1}]


def test_no_more_is_read_ahead_than_asked_for_by_a_few_records(tmp_path: Path) -> None:
    reader = PartitionReader(log_of(tmp_path, [columnar(10 * i, 10) for i in range(50)]), 0, SCHEMA)
    reader.fill(15)
    assert 15 <= reader.ready <= 200


def test_events_that_are_taken_are_counted_off(tmp_path: Path) -> None:
    reader = PartitionReader(log_of(tmp_path, [columnar(0, 4), columnar(4, 3), END]), 0, SCHEMA)
    reader.fill(100)
    assert (reader.ready, reader.exhausted) == (7, False)
    taken = [number for part in reader.take(5) for number in part.numeric[:, 0].tolist()]
    assert taken == [0, 1, 2, 3, 4]
    assert reader.span(2) == PositionRange(0, Position(1, 1), Position(1, 2), 2)
    reader.take(2)
    assert (reader.ready, reader.exhausted) == (0, True)
