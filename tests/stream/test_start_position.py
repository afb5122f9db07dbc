from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from stream import topics
from stream.codec import Invalid
from stream.log import LogStore, LogStoreView, LogTrimmedError, Record
from stream.log.kafka.store import KafkaLogStore
from stream.log.local import LocalLogStore
from stream.ordering import RoundRobin
from stream.reader import ClickReader, nothing_follows
from stream.start_position import clicks_from, parse_start_position, start_offsets
from tests.stream import clicklog
from tests.stream.clicklog import END, SCHEMA, columnar

PARTITIONS = 2


@pytest.fixture(params=["embedded", "kafka"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> LogStore:
    """A home of each kind, whose clicks have two partitions; each append can be trimmed."""
    if request.param == "kafka":
        kafka: KafkaLogStore = request.getfixturevalue("kafka_home")
        kafka.create({topics.CLICKS: PARTITIONS})
        return kafka
    local = LocalLogStore(tmp_path)
    local.create({topics.CLICKS: PARTITIONS})
    return local


def write(home: LogStore, partition: int, *records: Record, trim: int | None = None) -> None:
    """Append records one by one, and trim what stands before an offset."""
    with closing(home.writer(topics.CLICKS)) as writer:
        for record in records:
            writer.append([record], partition)
        writer.flush()
    if trim is not None:
        home.trim(topics.CLICKS, partition, trim)


def second(number: float) -> datetime:
    """Tell the time of an event of :mod:`tests.stream.clicklog`."""
    return datetime.fromtimestamp(number, UTC)


def numbers(home: LogStore, size: int) -> list[list[int]]:
    """Tell which events are in which batch."""
    with closing(home.reader(topics.CLICKS)) as clicks:
        reader = ClickReader(clicks, SCHEMA, size, None, RoundRobin())
        return [[int(x) for x in one.batch.numeric[:, 0]] for one in iter(reader.next, None)]


def offsets(home: LogStore, given: Any) -> dict[int, int]:
    found = parse_start_position(given)
    assert found is not None
    with closing(home.reader(topics.CLICKS)) as clicks:
        return start_offsets(clicks, found)


def begin(home: LogStore, given: Any) -> LogStoreView:
    return clicks_from(home, offsets(home, given))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-05-01T12:00:00Z", datetime(2026, 5, 1, 12, tzinfo=UTC)),
        ("2026-05-01T12:00:00.250+02:00", datetime(2026, 5, 1, 10, 0, 0, 250_000, UTC)),
        (datetime(2026, 5, 1, 12, tzinfo=timezone(timedelta(hours=-3))), second(1_777_647_600)),
        ({"0": 5, "1": 0}, {0: 5, 1: 0}),
        ({0: 5}, {0: 5}),
        (None, None),
    ],
    ids=str,
)
def test_a_time_or_offsets_are_read_from_whatever_says_them(given: object, expected: Any) -> None:
    assert parse_start_position(given) == expected


@pytest.mark.parametrize(
    "given", [5, 5.0, True, "", "noon", "-1", [0, 5], "9999-12-31T23:59:59-02:00"], ids=str
)
def test_what_is_neither_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="neither a time, such as '2026-05-01T12:00:00Z', nor an"):
        parse_start_position(given)


@pytest.mark.parametrize("given", ["2026-05-01", "2026-05-01T12:00:00", datetime(2026, 5, 1)])  # noqa: DTZ001
def test_a_time_without_a_zone_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="needs its zone: write '2026-05-01T12:00:00Z' for UTC"):
        parse_start_position(given)


@pytest.mark.parametrize("given", [{"0": -1}, {"a": 1}, {0: 1.5}, {0: True}, {0: None}], ids=str)
def test_offsets_that_are_no_whole_numbers_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="is no whole number from 0 on"):
        parse_start_position(given)


def test_a_run_begins_with_the_offset_of_each_partition(home: LogStore) -> None:
    write(home, 0, *clicklog.json(0, 6))
    write(home, 1, *clicklog.json(100, 4))
    assert numbers(begin(home, {0: 4, 1: 2}), 2) == [[4, 102], [103, 5]]


def test_a_partition_that_is_added_later_is_seen_from_its_beginning(home: LogStore) -> None:
    write(home, 0, *clicklog.json(0, 6))
    write(home, 1, *clicklog.json(100, 4))
    assert numbers(clicks_from(home, {0: 4}), 2) == [[4, 100], [101, 5], [102, 103]]
    with closing(clicks_from(home, {0: 4}).reader(topics.CLICKS)) as clicks:
        last = clicks.last(1)
        assert last is not None
        assert (last.offset, clicks.seek(1, 0)) == (3, 0)


def test_offsets_of_no_partition_are_refused() -> None:
    with pytest.raises(ValueError, match="it names no partition; name an offset for each"):
        parse_start_position({})


def test_a_run_begins_with_the_first_event_at_or_after_a_time(home: LogStore) -> None:
    write(home, 0, *clicklog.json(0, 6))
    write(home, 1, *clicklog.json(3, 4))
    assert numbers(begin(home, second(4)), 2) == [[4, 4], [5, 5]]
    assert numbers(begin(home, second(4.001)), 2) == [[5, 5]]


def test_a_columnar_record_has_the_time_of_its_first_event(home: LogStore) -> None:
    write(home, 0, columnar(0, 4), columnar(4, 4))
    write(home, 1, END)
    assert numbers(begin(home, second(3)), 2) == [[4, 5], [6, 7]]


def test_times_need_not_grow_along_the_log(home: LogStore) -> None:
    write(home, 0, *clicklog.json(5), *clicklog.json(9), *clicklog.json(6), *clicklog.json(8))
    write(home, 1, END)
    assert numbers(begin(home, second(8)), 1) == [[9], [6], [8]]


def test_what_stands_before_is_not_read_even_if_it_is_no_event(home: LogStore) -> None:
    write(home, 0, clicklog.raw(1), *clicklog.json(1, 3), clicklog.raw(2), *clicklog.json(4), END)
    write(home, 1, clicklog.raw(3), END)
    later = begin(home, {0: 3, 1: 1})
    with closing(later.reader(topics.CLICKS)) as clicks:
        reader = ClickReader(clicks, SCHEMA, 5, None, RoundRobin())
        met: list[Invalid] = []
        reader.on_invalid(met.extend)
        found = reader.next()
        assert found is not None
        assert ([one.offset for one in met], found.skipped) == ([4], {"unparsable": 1})
        assert reader.ended
        assert nothing_follows(clicks, SCHEMA, reader.cursor)
    assert numbers(later, 5) == [[3, 4]]


def test_a_cursor_holds_the_same_places_as_in_the_whole_log(home: LogStore) -> None:
    write(home, 0, *clicklog.json(0, 9))
    later = begin(home, {0: 2, 1: 0})
    with closing(later.reader(topics.CLICKS)) as clicks, closing(home.reader("clicks")) as whole:
        reader = ClickReader(clicks, SCHEMA, 3, None, RoundRobin())
        reader.next()
        for log in (clicks, whole):
            again = ClickReader(log, SCHEMA, 3, reader.cursor, RoundRobin())
            found = again.next()
            assert found is not None
            assert found.batch.numeric[:, 0].tolist() == [5, 6, 7]
            assert (found.begin, found.end) == (3, 6)


def test_what_has_been_trimmed_away_may_stand_before(home: LogStore) -> None:
    write(home, 0, *clicklog.json(0, 6), trim=3)
    write(home, 1, END)
    with pytest.raises(
        LogTrimmedError,
        match=r"begins with offset 3 of partition 0, of 1970-01-01T00:00:03Z: what stood before "
        r"has been trimmed away, .* others write, say with stream\.begin from which time or offset",
    ):
        numbers(home, 1)
    assert numbers(begin(home, {0: 4, 1: 0}), 1) == [[4], [5]]
    # Before the oldest that is kept no time is lost: it is the oldest that is at or after.
    assert numbers(begin(home, second(-7)), 1) == [[3], [4], [5]]


def test_a_log_that_loses_its_beginning_later_is_not_read_on_silently(home: LogStore) -> None:
    write(home, 0, *clicklog.json(0, 6))
    later = begin(home, {0: 2, 1: 0})
    write(home, 0, *clicklog.json(6), trim=4)
    with pytest.raises(LogTrimmedError, match=r"offset 2 has been trimmed|offset 2 .*trimmed"):
        numbers(later, 1)


def test_a_time_that_nothing_has_reached_begins_with_what_comes_next(home: LogStore) -> None:
    write(home, 0, *clicklog.json(0, 3))
    write(home, 1, *clicklog.json(50, 2))
    later = begin(home, second(50))
    assert numbers(later, 1) == [[50], [51]]
    write(home, 0, *clicklog.json(3, 1))
    assert sorted(numbers(later, 1)) == [[3], [50], [51]]


def test_an_end_record_is_not_passed_over(home: LogStore) -> None:
    write(home, 0, *clicklog.json(0, 3), END)
    write(home, 1, *clicklog.json(50, 2), END)
    for given in (second(51), {0: 4, 1: 1}):
        later = begin(home, given)
        assert offsets(home, given) == {0: 3, 1: 1}
        with closing(later.reader(topics.CLICKS)) as clicks:
            reader = ClickReader(clicks, SCHEMA, 5, None, RoundRobin())
            found = reader.next()
            assert found is not None
            assert (len(found.batch), found.last, reader.ended) == (1, True, True)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({0: 2}, r"names the partitions 0, the clicks log has 0, 1; name an offset for each"),
        ({0: 2, 1: 0, 7: 0}, r"names the partitions 0, 1, 7, the clicks log has 0, 1"),
        (
            {0: 1, 1: 0},
            r"= 1 in partition 0: it has been trimmed away; the oldest that is kept is offset 2 "
            r"of partition 0, of 1970-01-01T00:00:02Z: name it, or a later one",
        ),
        ({0: 2, 1: 9}, r"= 9 in partition 1: the clicks log ends there with 1; name that one"),
    ],
    ids=str,
)
def test_offsets_that_the_log_does_not_hold_are_refused(
    home: LogStore, given: object, text: str
) -> None:
    write(home, 0, *clicklog.json(0, 5), trim=2)
    write(home, 1, *clicklog.json(0, 1))
    with pytest.raises(ValueError, match=rf"stream\.begin {text}"):
        begin(home, given)


def test_a_partition_that_holds_nothing_is_told_without_a_time(kafka_home: KafkaLogStore) -> None:
    """Of a folder the newest segment always stays."""
    write(kafka_home, 0, *clicklog.json(0, 3), trim=3)
    with pytest.raises(LogTrimmedError, match=r"begins with offset 3 of partition 0: what stood"):
        numbers(kafka_home, 1)


def contents(values: Sequence[Any]) -> list[bytes]:
    return [one.record.value for one in values]


def test_other_logs_and_what_is_told_of_the_clicks_are_as_they_are(home: LogStore) -> None:
    write(home, 0, *clicklog.json(0, 3))
    later = begin(home, {0: 2, 1: 0})
    with closing(later.writer(topics.WINDOWS)) as writer:
        writer.append([Record(b"a")])
    with closing(later.reader(topics.WINDOWS)) as windows:
        assert contents(windows.read(0, 0)) == [b"a"]
    with closing(later.reader(topics.CLICKS)) as clicks, closing(home.reader("clicks")) as whole:
        assert (clicks.identity, clicks.partitions) == (whole.identity, (0, 1))
        assert (clicks.begin(0), clicks.end(0)) == (0, 3)
        assert (clicks.seek(0, 0), clicks.seek(0, 9_000)) == (2, 3)
        assert clicks.last(0) == whole.last(0)
        assert clicks.last(1) is None
    with closing(begin(home, {0: 3, 1: 0}).reader(topics.CLICKS)) as clicks:
        assert clicks.last(0) is None
