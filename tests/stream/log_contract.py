"""What every home of logs promises; a new home is put under the same checks.

Each check takes a home without logs. Offsets may have holes, so no check counts on their values;
what was appended need not be seen before it was flushed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from stream.log import (
    LogLockedError,
    LogLostError,
    LogReader,
    LogStore,
    LogTrimmedError,
    LogWriter,
    Record,
    StoredRecord,
)


def numbered(count: int, start: int = 0) -> list[Record]:
    """Make records that say their number in value, header and time."""
    return [
        Record(f"record {i}".encode(), (("number", str(i).encode()),), time_ms=1000 * i)
        for i in range(start, start + count)
    ]


def everything(reader: LogReader, max_records: int = 64, partition: int = 0) -> list[StoredRecord]:
    """Read a partition from its beginning to its end."""
    found: list[StoredRecord] = []
    offset = reader.begin(partition)
    while batch := reader.read(partition, offset, max_records):
        found += batch
        offset = batch[-1].next_offset
    return found


def records(stored: Sequence[StoredRecord]) -> list[Record]:
    return [one.record for one in stored]


def what_is_appended_is_read_back_in_order(home: LogStore) -> None:
    writer = home.writer("clicks")
    writer.append(numbered(3))
    writer.append(numbered(2, start=3))
    writer.flush()
    assert records(everything(home.reader("clicks"))) == numbered(5)
    writer.close()


def records_of_every_shape_come_back_as_they_were(home: LogStore) -> None:
    odd = [
        Record(b""),
        Record(bytes(range(256)), (("kind", b"\0\xff"), ("kind", b""), ("größe", b"x")), -1),
        Record(b"x" * 600_000, time_ms=2**53),
        Record(b"after the large one"),
    ]
    writer = home.writer("clicks")
    writer.append(odd)
    writer.flush()
    found = everything(home.reader("clicks"))
    assert records(found) == odd
    assert (found[1].header("kind"), found[1].header("none")) == (b"", None)
    writer.close()


def a_new_log_is_empty(home: LogStore) -> None:
    reader = home.reader("clicks")
    assert reader.partitions == (0,)
    assert reader.begin(0) == reader.end(0)
    assert reader.last(0) is None
    assert list(reader.read(0, reader.begin(0))) == []
    assert reader.seek(0, 0) == reader.end(0)


def a_reader_at_the_end_gets_nothing_until_there_is_more(home: LogStore) -> None:
    reader = home.reader("clicks")
    writer = home.writer("clicks")
    offset = reader.begin(0)
    for i in range(5):
        assert list(reader.read(0, offset)) == []
        writer.append(numbered(1, start=i))
        writer.flush()
        [found] = reader.read(0, offset)
        assert found.record == numbered(1, start=i)[0]
        offset = found.next_offset
    writer.close()


def a_read_returns_no_more_than_asked_for(home: LogStore) -> None:
    writer = home.writer("clicks")
    writer.append(numbered(10))
    writer.flush()
    reader = home.reader("clicks")
    assert len(reader.read(0, reader.begin(0), 3)) == 3
    assert records(everything(reader, max_records=3)) == numbered(10)
    writer.close()


def any_place_can_be_read_again(home: LogStore) -> None:
    writer = home.writer("clicks")
    writer.append(numbered(1000))
    writer.flush()
    reader = home.reader("clicks")
    stored = everything(reader)
    for i in (999, 0, 500, 499, 501, 130, 127, 128, 998):
        assert list(reader.read(0, stored[i].offset, 2)) == stored[i : i + 2]
    writer.close()


def offsets_grow_and_lead_from_one_record_to_the_next(home: LogStore) -> None:
    writer = home.writer("clicks")
    writer.append(numbered(10))
    writer.flush()
    reader = home.reader("clicks")
    stored = everything(reader)
    assert stored[0].offset >= reader.begin(0)
    for one, following in pairwise(stored):
        assert one.offset < one.next_offset <= following.offset
    assert stored[-1].next_offset <= reader.end(0)
    assert {one.partition for one in stored} == {0}
    writer.close()


def the_last_record_is_the_newest(home: LogStore) -> None:
    writer = home.writer("clicks")
    reader = home.reader("clicks")
    for i in range(300):
        writer.append(numbered(1, start=i))
        writer.flush()
        last = reader.last(0)
        assert last is not None
        assert last.record == numbered(1, start=i)[0]
        assert last.offset < reader.end(0)
    writer.close()


def a_time_is_found(home: LogStore) -> None:
    writer = home.writer("clicks")
    writer.append([Record(b"", time_ms=time) for time in (10, 30, 20, 40)])
    writer.flush()
    reader = home.reader("clicks")
    offsets = [one.offset for one in everything(reader)]
    assert reader.seek(0, 0) == offsets[0]
    assert reader.seek(0, 10) == offsets[0]
    assert reader.seek(0, 11) == offsets[1]
    assert reader.seek(0, 31) == offsets[3]
    assert reader.seek(0, 41) == reader.end(0)
    writer.close()


def a_log_keeps_its_identity_and_no_two_share_one(home: LogStore) -> None:
    writer = home.writer("clicks")
    assert writer.identity == home.reader("clicks").identity
    writer.close()
    again = home.writer("clicks")
    assert again.identity == writer.identity
    assert home.reader("truth").identity != writer.identity
    again.close()


def a_second_writer_is_refused_until_the_first_closes(home: LogStore) -> None:
    first = home.writer("clicks")
    with pytest.raises(LogLockedError, match="'clicks'"):
        home.writer("clicks")
    first.append(numbered(1))
    first.close()
    second = home.writer("clicks")
    second.append(numbered(1, start=1))
    second.flush()
    assert records(everything(home.reader("clicks"))) == numbered(2)
    second.close()


def a_writer_goes_on_where_the_one_before_ended(home: LogStore) -> None:
    for i in range(4):
        writer = home.writer("clicks")
        writer.append(numbered(3, start=3 * i))
        writer.flush()
        writer.close()
    assert records(everything(home.reader("clicks"))) == numbered(12)


def readers_do_not_disturb_each_other(home: LogStore) -> None:
    writer = home.writer("clicks")
    writer.append(numbered(6))
    writer.flush()
    one, other = home.reader("clicks"), home.reader("clicks")
    stored = everything(one)
    assert list(other.read(0, stored[2].offset, 1)) == stored[2:3]
    assert list(one.read(0, stored[5].offset, 1)) == stored[5:]
    one.close()
    assert list(other.read(0, stored[3].offset)) == stored[3:]
    writer.close()


def trimming_keeps_everything_from_the_offset_on(home: LogStore) -> None:
    writer = home.writer("clicks")
    for i in range(20):
        writer.append(numbered(1, start=i))
    writer.flush()
    reader = home.reader("clicks")
    stored = everything(reader)
    end = reader.end(0)
    home.trim("clicks", 0, stored[10].offset)
    assert stored[0].offset <= reader.begin(0) <= stored[10].offset
    assert list(home.reader("clicks").read(0, stored[10].offset)) == stored[10:]
    writer.append(numbered(1, start=20))
    writer.flush()
    assert reader.end(0) > end
    writer.close()


def what_was_trimmed_is_refused(home: LogStore) -> None:
    writer = home.writer("clicks")
    for i in range(20):
        writer.append(numbered(1, start=i))
    writer.flush()
    reader = home.reader("clicks")
    oldest = reader.begin(0)
    home.trim("clicks", 0, reader.end(0))
    if reader.begin(0) > oldest:
        with pytest.raises(LogTrimmedError, match=f"offset {oldest} has been trimmed away"):
            home.reader("clicks").read(0, oldest)
    writer.close()


def a_position_after_the_end_is_refused(home: LogStore) -> None:
    writer = home.writer("clicks")
    writer.append(numbered(3))
    writer.flush()
    reader = home.reader("clicks")
    end = reader.end(0)
    assert list(reader.read(0, end)) == []
    with pytest.raises(LogLostError, match=f"it ends at {end}, before offset {end + 1}"):
        home.reader("clicks").read(0, end + 1)
    writer.close()


def a_writer_knows_the_end_and_what_a_record_may_hold(home: LogStore) -> None:
    writer = home.writer("clicks")
    assert writer.end() == home.reader("clicks").end(0)
    writer.append([Record(b"x" * min(writer.max_value_bytes, 5_000_000))])
    writer.flush()
    assert writer.end() == home.reader("clicks").end(0) > 0
    writer.close()


def what_can_be_read_is_made_safe_by_whoever_reads_it(home: LogStore) -> None:
    writer, reader = home.writer("clicks"), home.reader("clicks")
    reader.sync()
    writer.append(numbered(3))
    writer.flush()
    reader.sync()
    assert records(everything(reader)) == numbered(3)
    writer.close()
    reader.sync()


def a_log_is_there_once_it_was_made(home: LogStore) -> None:
    assert home.writable
    assert not home.exists("clicks")
    names = home.create({"clicks": 3, "truth": 1})
    assert len(set(names)) == 2
    assert all(log in name for log, name in zip(("clicks", "truth"), names, strict=True))
    assert home.exists("clicks")
    assert home.reader("clicks").partitions == (0, 1, 2)
    assert not home.exists("ledger")
    home.reader("ledger")
    assert home.exists("ledger")


def what_is_there_stays_as_it_is(home: LogStore) -> None:
    writer = home.writer("clicks")
    writer.append(numbered(1))
    writer.close()
    assert home.create({"clicks": 3}) == home.create({"clicks": 1})
    assert home.reader("clicks").partitions == (0,)
    assert records(everything(home.reader("clicks"))) == numbered(1)


def a_store_says_in_words_where_it_is(home: LogStore) -> None:
    assert len(home.describe()) > 3
    assert isinstance(home, LogStore)


def a_partition_that_is_not_there_is_refused(home: LogStore) -> None:
    reader, writer = home.reader("clicks"), home.writer("clicks")
    with pytest.raises(ValueError, match="'clicks' has no partition 7"):
        reader.read(7, 0)
    with pytest.raises(ValueError, match="'clicks' has no partition 7"):
        writer.append(numbered(1), partition=7)
    writer.close()


def a_closed_writer_refuses_more(home: LogStore) -> None:
    writer = home.writer("clicks")
    writer.close()
    with pytest.raises(ValueError, match="log 'clicks': this writer is closed"):
        writer.append(numbered(1))


def readers_in_many_threads_see_every_record_while_it_is_written(home: LogStore) -> None:
    total = 1000
    seen: list[list[Record]] = [[] for _ in range(4)]

    def follow(into: list[Record]) -> None:
        reader = home.reader("clicks")
        offset = reader.begin(0)
        while len(into) < total:
            if found := reader.read(0, offset):
                into += records(found)
                offset = found[-1].next_offset
        reader.close()

    threads = [threading.Thread(target=follow, args=(one,), daemon=True) for one in seen]
    for thread in threads:
        thread.start()
    writer = home.writer("clicks")
    for i in range(0, total, 5):
        writer.append(numbered(5, start=i))
    writer.flush()
    for thread in threads:
        thread.join(timeout=60)
    assert all(one == numbered(total) for one in seen)
    writer.close()


# With several partitions: the log "clicks" of the home has three.


def parted(writer: LogWriter) -> dict[int, list[Record]]:
    """Write records to the partitions in turns, and say which went where."""
    written: dict[int, list[Record]] = {0: [], 1: [], 2: []}
    for i, record in enumerate(numbered(100)):
        writer.append([record], partition=i % 3)
        written[i % 3].append(record)
    writer.flush()
    return written


def each_partition_is_read_in_its_order(home: LogStore) -> None:
    writer, reader = home.writer("clicks"), home.reader("clicks")
    written = parted(writer)
    assert reader.partitions == (0, 1, 2)
    for partition in (2, 0, 1):
        stored = everything(reader, partition=partition)
        assert records(stored) == written[partition]
        assert {one.partition for one in stored} == {partition}
    writer.close()


def partitions_can_be_read_in_turns(home: LogStore) -> None:
    writer, reader = home.writer("clicks"), home.reader("clicks")
    written = parted(writer)
    found: dict[int, list[Record]] = {0: [], 1: [], 2: []}
    offsets = {partition: reader.begin(partition) for partition in found}
    while any(
        batches := {p: reader.read(p, offset, 3 + 2 * p) for p, offset in offsets.items()}.values()
    ):
        for batch in filter(None, batches):
            found[batch[0].partition] += records(batch)
            offsets[batch[0].partition] = batch[-1].next_offset
    assert found == written
    writer.close()


def a_partition_has_an_end_a_last_record_and_times_of_its_own(home: LogStore) -> None:
    writer, reader = home.writer("clicks"), home.reader("clicks")
    written = parted(writer)
    for partition, expected in written.items():
        stored = everything(reader, partition=partition)
        assert reader.last(partition) == stored[-1]
        assert reader.end(partition) >= stored[-1].next_offset
        assert reader.seek(partition, expected[7].time_ms) == stored[7].offset
    end = reader.end(1)
    writer.append(numbered(1), partition=2)
    writer.flush()
    assert reader.end(1) == end
    writer.close()


def trimming_one_partition_leaves_the_others(home: LogStore) -> None:
    writer, reader = home.writer("clicks"), home.reader("clicks")
    written = parted(writer)
    home.trim("clicks", 1, reader.end(1))
    for partition in (0, 2):
        assert records(everything(reader, partition=partition)) == written[partition]
    writer.close()


Check = Callable[[LogStore], None]

CHECKS: list[Check] = [
    what_is_appended_is_read_back_in_order,
    records_of_every_shape_come_back_as_they_were,
    a_new_log_is_empty,
    a_reader_at_the_end_gets_nothing_until_there_is_more,
    a_read_returns_no_more_than_asked_for,
    any_place_can_be_read_again,
    offsets_grow_and_lead_from_one_record_to_the_next,
    the_last_record_is_the_newest,
    a_time_is_found,
    a_log_keeps_its_identity_and_no_two_share_one,
    a_second_writer_is_refused_until_the_first_closes,
    a_writer_goes_on_where_the_one_before_ended,
    readers_do_not_disturb_each_other,
    trimming_keeps_everything_from_the_offset_on,
    what_was_trimmed_is_refused,
    a_position_after_the_end_is_refused,
    a_writer_knows_the_end_and_what_a_record_may_hold,
    what_can_be_read_is_made_safe_by_whoever_reads_it,
    a_log_is_there_once_it_was_made,
    what_is_there_stays_as_it_is,
    a_store_says_in_words_where_it_is,
    a_partition_that_is_not_there_is_refused,
    a_closed_writer_refuses_more,
    readers_in_many_threads_see_every_record_while_it_is_written,
]

PARTED_CHECKS: list[Check] = [
    each_partition_is_read_in_its_order,
    partitions_can_be_read_in_turns,
    a_partition_has_an_end_a_last_record_and_times_of_its_own,
    trimming_one_partition_leaves_the_others,
]
