"""What every home promises about a log of several partitions.

Each check takes a home whose log ``clicks`` has two partitions and holds nothing; its other logs
have one.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stream.log import LogLockedError, LogReader, LogStore, StoredRecord
from tests.stream.log_contract import numbered, records


def partition(reader: LogReader, number: int) -> list[StoredRecord]:
    """Read a partition from its beginning to its end."""
    found: list[StoredRecord] = []
    offset = reader.begin(number)
    while batch := reader.read(number, offset):
        found += batch
        offset = batch[-1].next_offset
    return found


def partitions_are_numbered_from_0(home: LogStore) -> None:
    assert home.reader("clicks").partitions == (0, 1)
    assert home.reader("truth").partitions == (0,)


def what_is_appended_to_one_partition_stays_there(home: LogStore) -> None:
    writer, reader = home.writer("clicks"), home.reader("clicks")
    writer.append(numbered(3), partition=1)
    writer.append(numbered(2, start=10))
    writer.append(numbered(1, start=3), partition=1)
    writer.flush()
    assert records(partition(reader, 0)) == numbered(2, start=10)
    assert records(partition(reader, 1)) == numbered(4)
    assert [{one.partition for one in partition(reader, p)} for p in (0, 1)] == [{0}, {1}]
    writer.close()


def an_empty_partition_is_empty_beside_a_full_one(home: LogStore) -> None:
    writer, reader = home.writer("clicks"), home.reader("clicks")
    writer.append(numbered(3), partition=0)
    writer.flush()
    assert reader.begin(1) == reader.end(1) == reader.seek(1, 0)
    assert reader.last(1) is None
    assert list(reader.read(1, reader.begin(1))) == []
    writer.close()


def each_partition_has_an_end_a_newest_record_and_times_of_its_own(home: LogStore) -> None:
    writer, reader = home.writer("clicks"), home.reader("clicks")
    writer.append(numbered(3), partition=0)
    writer.append(numbered(5, start=100), partition=1)
    writer.flush()
    for number, newest in ((0, numbered(3)[-1]), (1, numbered(5, start=100)[-1])):
        last = reader.last(number)
        assert last is not None
        assert (last.partition, last.record) == (number, newest)
        assert last.offset < reader.end(number)
    assert reader.seek(0, 100_000) == reader.end(0)
    assert reader.seek(1, 101_000) == partition(reader, 1)[1].offset
    writer.close()


def reading_one_partition_does_not_move_another(home: LogStore) -> None:
    writer, reader = home.writer("clicks"), home.reader("clicks")
    for i in range(40):
        writer.append(numbered(5, start=5 * i), partition=i % 2)
    writer.flush()
    offsets = [reader.begin(0), reader.begin(1)]
    found: list[list[StoredRecord]] = [[], []]
    for turn in range(80):
        number = turn % 2
        batch = reader.read(number, offsets[number], max_records=3)
        found[number] += batch
        offsets[number] = batch[-1].next_offset if batch else offsets[number]
    assert found == [partition(reader, 0), partition(reader, 1)]
    assert [len(one) for one in found] == [100, 100]
    writer.close()


def long_partitions_are_read_in_turns(home: LogStore) -> None:
    """Of each, more records than a client fetches at a time."""
    writer, reader = home.writer("clicks"), home.reader("clicks")
    for number in (0, 1):
        writer.append(numbered(6_000), partition=number)
    writer.flush()
    offsets, counts = [reader.begin(0), reader.begin(1)], [0, 0]
    for turn in range(200):
        number = turn % 2
        batch = reader.read(number, offsets[number], max_records=64)
        counts[number] += len(batch)
        offsets[number] = batch[-1].next_offset if batch else offsets[number]
    assert counts == [6_000, 6_000]
    writer.close()


def a_writer_goes_on_in_each_partition(home: LogStore) -> None:
    for i in range(3):
        writer = home.writer("clicks")
        writer.append(numbered(2, start=2 * i), partition=1)
        writer.append(numbered(1, start=i), partition=0)
        writer.close()
    reader = home.reader("clicks")
    assert records(partition(reader, 0)) == numbered(3)
    assert records(partition(reader, 1)) == numbered(6)


def a_log_has_one_identity_and_one_writer_however_many_partitions(home: LogStore) -> None:
    writer = home.writer("clicks")
    assert home.reader("clicks").identity == writer.identity
    with pytest.raises(LogLockedError, match="'clicks'"):
        home.writer("clicks")
    writer.close()


def trimming_one_partition_leaves_the_other(home: LogStore) -> None:
    writer, reader = home.writer("clicks"), home.reader("clicks")
    for number in (0, 1):
        for i in range(20):
            writer.append(numbered(1, start=i), partition=number)
    writer.flush()
    stored = partition(reader, 1)
    home.trim("clicks", 1, stored[10].offset)
    assert records(partition(reader, 0)) == numbered(20)
    assert reader.begin(1) <= stored[10].offset
    assert list(home.reader("clicks").read(1, stored[10].offset)) == stored[10:]
    writer.close()


def a_third_partition_of_two_is_refused(home: LogStore) -> None:
    reader, writer = home.reader("clicks"), home.writer("clicks")
    for number in (2, -1):
        with pytest.raises(ValueError, match=rf"'clicks' has no partition {number}; it has 0, 1"):
            reader.read(number, 0)
        with pytest.raises(ValueError, match=rf"'clicks' has no partition {number}; it has 0, 1"):
            writer.append(numbered(1), partition=number)
    writer.close()


Check = Callable[[LogStore], None]

CHECKS: list[Check] = [
    partitions_are_numbered_from_0,
    what_is_appended_to_one_partition_stays_there,
    an_empty_partition_is_empty_beside_a_full_one,
    each_partition_has_an_end_a_newest_record_and_times_of_its_own,
    reading_one_partition_does_not_move_another,
    long_partitions_are_read_in_turns,
    a_writer_goes_on_in_each_partition,
    a_log_has_one_identity_and_one_writer_however_many_partitions,
    trimming_one_partition_leaves_the_other,
    a_third_partition_of_two_is_refused,
]
