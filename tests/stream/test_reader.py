from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream import topics
from stream.codec import Invalid
from stream.log import LogIdentityError, Record, StoredRecord
from stream.log.local import LocalLogStore
from stream.messages import Position, PositionRange
from stream.reader import ClickCursor, ClickReader, CountedBatch, nothing_follows
from stream.spec import Waiting
from tests.stream import clicklog
from tests.stream.clicklog import (
    END,
    GOES_ON,
    SCHEMA,
    append,
    columnar,
    log_of,
    numbers,
    read_all,
    same,
)


def handed_out(reader: ClickReader) -> list[Invalid]:
    """Collect what the reader hands out."""
    met: list[Invalid] = []
    reader.on_invalid(met.extend)
    return met


class ManyPartitions:
    """A log that this reader is not made for."""

    identity = "a"
    partitions = (0, 1)

    def read(self, partition: int, offset: int, max_records: int = 64) -> Sequence[StoredRecord]:
        return ()

    def begin(self, partition: int) -> int:
        return 0

    def end(self, partition: int) -> int:
        return 0

    def last(self, partition: int) -> StoredRecord | None:
        return None

    def seek(self, partition: int, time_ms: int) -> int:
        return 0

    def sync(self) -> None: ...

    def close(self) -> None:
        pass


def test_batches_are_cut_by_count_across_records_of_all_sizes(tmp_path: Path) -> None:
    records = [*clicklog.json(0, 3), columnar(3, 9), *clicklog.json(12), columnar(13, 2), END]
    batches = read_all(ClickReader(log_of(tmp_path, records), SCHEMA, 5))
    assert numbers(batches) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]
    assert [(b.begin, b.end) for b in batches] == [(0, 5), (5, 10), (10, 15)]


def test_a_span_names_the_first_and_last_place(tmp_path: Path) -> None:
    records = [*clicklog.json(0, 3), columnar(3, 9)]
    batches = read_all(ClickReader(log_of(tmp_path, records), SCHEMA, 5))
    assert [b.spans for b in batches] == [
        (PositionRange(0, Position(0, 0), Position(3, 1), 5),),
        (PositionRange(0, Position(3, 2), Position(3, 6), 5),),
    ]


def test_nothing_is_handed_out_before_a_batch_is_whole(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    reader = ClickReader(home.reader(topics.CLICKS), SCHEMA, 5)
    assert reader.next() is None
    append(home, [columnar(0, 4)])
    assert reader.next() is None
    append(home, [*clicklog.json(4, 2)])
    assert numbers(read_all(reader)) == [[0, 1, 2, 3, 4]]
    assert not reader.ended


def test_a_short_batch_comes_only_at_the_end(tmp_path: Path) -> None:
    reader = ClickReader(log_of(tmp_path, [columnar(0, 7), END]), SCHEMA, 5)
    batches = read_all(reader)
    assert numbers(batches) == [[0, 1, 2, 3, 4], [5, 6]]
    assert [b.last for b in batches] == [False, True]
    assert reader.ended
    assert reader.cursor.ended


def test_an_input_that_ends_where_a_batch_does_has_no_short_batch(tmp_path: Path) -> None:
    reader = ClickReader(log_of(tmp_path, [columnar(0, 10), END]), SCHEMA, 5)
    assert [b.last for b in read_all(reader)] == [False, False]
    assert reader.ended


def test_an_empty_input_ends_at_once(tmp_path: Path) -> None:
    reader = ClickReader(log_of(tmp_path, [END]), SCHEMA, 5)
    assert not reader.ended
    assert reader.next() is None
    assert reader.ended


def test_an_input_that_is_continued_is_cut_at_its_end_and_then_as_it_would_be(
    tmp_path: Path,
) -> None:
    records = [columnar(0, 3), END, GOES_ON, columnar(3, 9), *clicklog.json(12, 9), END]
    reader = ClickReader(log_of(tmp_path, records), SCHEMA, 5)
    batches = read_all(reader)
    assert numbers(batches) == [
        [0, 1, 2],
        [3, 4],
        [5, 6, 7, 8, 9],
        [10, 11, 12, 13, 14],
        [15, 16, 17, 18, 19],
        [20],
    ]
    assert [b.last for b in batches] == [True, False, False, False, False, True]
    assert reader.ended


@pytest.mark.parametrize("first", [8, 10])
@pytest.mark.parametrize("after", [(), (GOES_ON,)])
def test_a_reader_that_has_come_to_the_end_sees_what_continues_it(
    first: int, after: tuple[Record, ...], tmp_path: Path
) -> None:
    """In the same life, and in the next one from its cursor."""
    home = LocalLogStore(tmp_path)
    append(home, [columnar(0, first), clicklog.raw(1), END])
    reader = ClickReader(home.reader(topics.CLICKS), SCHEMA, 5)
    read_all(reader)
    assert reader.ended
    drained = ClickReader(home.reader(topics.CLICKS), SCHEMA, 5, reader.cursor)
    assert drained.next() is None
    drained.drain()
    assert drained.ended
    assert nothing_follows(home.reader(topics.CLICKS), SCHEMA, reader.cursor)
    append(home, [*after, clicklog.raw(2), columnar(first, 12 - first), END])
    assert not reader.ended
    assert not nothing_follows(home.reader(topics.CLICKS), SCHEMA, reader.cursor)
    later = ClickReader(home.reader(topics.CLICKS), SCHEMA, 5, drained.cursor)
    met = handed_out(later)
    expected = [[8, 9], [10, 11]] if first == 8 else [[10, 11]]
    for one in (reader, drained, later):
        batches = read_all(one)
        assert numbers(batches) == expected
        assert one.ended
    assert batches[0].skipped == {"unparsable": 1}
    assert [one.line for one in met] == [2]


def test_what_continues_an_input_without_a_valid_event_changes_nothing(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    append(home, [columnar(0, 7), END])
    reader = ClickReader(home.reader(topics.CLICKS), SCHEMA, 5)
    read_all(reader)
    append(home, [GOES_ON, clicklog.raw(1), END])
    assert nothing_follows(home.reader(topics.CLICKS), SCHEMA, reader.cursor)
    assert reader.next() is None
    assert (reader.ended, reader.count) == (True, 7)


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), batch=st.integers(1, 5))
def test_wherever_an_input_ends_and_goes_on_batches_end_at_their_multiples_and_there(
    sizes: list[int], batch: int
) -> None:
    """Against cutting a list of numbers by hand."""
    records: list[Record] = []
    bounds, first = {0}, 0
    for size in sizes:
        records += [columnar(first, size)] if size else []
        records.append(END)
        first += size
        bounds.add(first)
    cuts = sorted(bounds | set(range(0, first, batch)))
    with TemporaryDirectory() as folder:
        found = read_all(ClickReader(log_of(Path(folder), records), SCHEMA, batch))
    assert numbers(found) == [list(range(a, b)) for a, b in pairwise(cuts)]


def test_invalid_events_come_with_the_batch_around_them(tmp_path: Path) -> None:
    records = [
        clicklog.raw(1),
        columnar(0, 6, bad=[1, 3]),
        clicklog.raw(2),
        columnar(6, 4),
        clicklog.raw(3),
        END,
    ]
    reader = ClickReader(log_of(tmp_path, records), SCHEMA, 3)
    met = handed_out(reader)
    batches = read_all(reader)
    assert numbers(batches) == [[0, 2, 4], [5, 6, 7], [8, 9]]
    assert [b.skipped for b in batches] == [
        {"unparsable": 1, "label": 2},
        {"unparsable": 1},
        {"unparsable": 1},
    ]
    places = [Position(0, 0), Position(1, 1), Position(1, 3), Position(2, 0), Position(4, 0)]
    assert [one.place for one in met] == places
    assert reader.drain() == {}


def test_an_invalid_event_is_handed_out_long_before_its_batch_is_there(tmp_path: Path) -> None:
    home = LocalLogStore(tmp_path)
    reader = ClickReader(home.reader(topics.CLICKS), SCHEMA, 3)
    met = handed_out(reader)
    append(home, [*clicklog.json(0), clicklog.raw(1)])
    assert reader.next() is None
    assert [one.line for one in met] == [1]
    append(home, [*clicklog.json(1, 2), clicklog.raw(2)])
    [batch] = read_all(reader)
    assert [one.line for one in met] == [1, 2]
    # The second one stands behind the batch, and counts for the next.
    assert batch.skipped == {"unparsable": 1}
    append(home, [*clicklog.json(3, 3)])
    assert [b.skipped for b in read_all(reader)] == [{"unparsable": 1}]


def test_a_reader_that_hands_nothing_out_holds_none_of_it(tmp_path: Path) -> None:
    """However many come, and nothing else: what is held does not grow."""
    home = LocalLogStore(tmp_path)
    reader = ClickReader(home.reader(topics.CLICKS), SCHEMA, 3)
    append(home, [*clicklog.json(0), *[Record(b"x" * 1_000)] * 500])
    reader.next()
    tracemalloc.start()
    for _ in range(10):
        append(home, [Record(b"x" * 1_000)] * 500)
        reader.next()
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1_000_000
    append(home, [*clicklog.json(1, 2)])
    assert [b.skipped for b in read_all(reader)] == [{"unparsable": 5_500}]


def test_of_a_heap_of_invalid_events_a_part_is_read_at_a_time(tmp_path: Path) -> None:
    records = [Record(b"{")] * 15_000
    reader = ClickReader(log_of(tmp_path, [*records, *clicklog.json(0, 3)]), SCHEMA, 3)
    met = handed_out(reader)
    assert reader.next() is None
    assert 10_000 <= len(met) < 15_000
    assert str(reader.waits_for).startswith("valid clicks: of those that came most are not")
    assert [b.skipped for b in read_all(reader)] == [{"unparsable": 15_000}]


def test_that_nothing_follows_is_found_behind_any_number_of_invalid_events(tmp_path: Path) -> None:
    log = log_of(tmp_path, [*clicklog.json(0, 3), *[Record(b"{")] * 21_000, END])
    reader = ClickReader(log, SCHEMA, 3)
    assert reader.next() is not None
    assert nothing_follows(log, SCHEMA, reader.cursor)


def test_invalid_events_behind_the_last_batch_are_drained(tmp_path: Path) -> None:
    log = log_of(tmp_path, [columnar(0, 3), clicklog.raw(1), END])
    reader = ClickReader(log, SCHEMA, 3)
    assert [b.skipped for b in read_all(reader)] == [{}]
    again = ClickReader(log, SCHEMA, 3, reader.cursor)
    met = handed_out(again)
    assert again.next() is None
    assert [one.line for one in met] == [1]
    assert reader.drain() == {"unparsable": 1}
    assert again.drain() == {"unparsable": 1}
    assert reader.drain() == {}
    drained = ClickReader(log, SCHEMA, 3, reader.cursor)
    met = handed_out(drained)
    assert (drained.next(), drained.ended, drained.drain(), met) == (None, True, {}, [])


def test_nothing_is_drained_while_the_input_goes_on(tmp_path: Path) -> None:
    reader = ClickReader(log_of(tmp_path, [columnar(0, 3), clicklog.raw(1)]), SCHEMA, 3)
    read_all(reader)
    assert reader.drain() == {}


def test_a_cursor_survives_json(tmp_path: Path) -> None:
    reader = ClickReader(log_of(tmp_path, [columnar(0, 7)]), SCHEMA, 5)
    read_all(reader)
    assert ClickCursor.model_validate_json(reader.cursor.model_dump_json()) == reader.cursor


def test_a_cursor_of_a_log_that_was_made_again_is_refused(tmp_path: Path) -> None:
    log = log_of(tmp_path, [columnar(0, 7)])
    cursor = ClickCursor(identity="other", count=5, places={0: Position(0, 5)})
    with pytest.raises(LogIdentityError, match=r"clicks log other.*deleted and made again"):
        ClickReader(log, SCHEMA, 5, cursor)


def test_several_partitions_without_an_order_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"has partitions \(0, 1\).*that the dense learner records"
    ):
        ClickReader(ManyPartitions(), SCHEMA, 5)


def test_batches_without_events_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_events is 0; it must be at least 1"):
        ClickReader(log_of(tmp_path, []), SCHEMA, 0)


RECORD = st.sampled_from(["json", "broken", "raw", "foreign"]) | st.tuples(
    st.integers(1, 12), st.sets(st.integers(0, 11), max_size=3)
)


def build(
    plan: Sequence[str | tuple[int, set[int]]],
) -> tuple[list[Record], list[tuple[int, Position]], list[tuple[Position, str]]]:
    """Make records; tell number and place of each valid event, place and reason of the others."""
    records: list[Record] = []
    invalid: list[tuple[Position, str]] = []
    valid: list[tuple[int, Position]] = []
    number = 0
    for offset, kind in enumerate(plan):
        if isinstance(kind, tuple):
            size, bad = kind[0], sorted(row for row in kind[1] if row < kind[0])
            records.append(columnar(number, size, bad))
            valid += [
                (number + row, Position(offset, row)) for row in range(size) if row not in bad
            ]
            invalid += [(Position(offset, row), "label") for row in bad]
            number += size
            continue
        if kind == "json":
            records += clicklog.json(number)
            valid.append((number, Position(offset, 0)))
            number += 1
            continue
        odd = {
            "broken": Record(b"{"),
            "raw": clicklog.raw(offset),
            "foreign": Record(b"", (("kind", b"x"),)),
        }
        records.append(odd[kind])
        invalid.append((Position(offset, 0), "unparsable"))
    return records, valid, invalid


def passed(
    batches: Sequence[CountedBatch], invalid: Sequence[tuple[Position, str]], *, ended: bool
) -> list[Counter[str]]:
    """Count what is invalid by the batch around it, and what is behind them all."""
    found: list[Counter[str]] = [Counter() for _ in range(len(batches) + 1)]
    for place, reason in invalid:
        at = next((n for n, b in enumerate(batches) if place < b.spans[0].last), len(batches))
        if at == len(batches) and batches and batches[-1].last:
            at -= 1
        if at < len(batches) or ended:
            found[at][reason] += 1
    return found


@settings(max_examples=60, deadline=None)
@given(plan=st.lists(RECORD, max_size=25), size=st.integers(1, 9), ended=st.booleans())
def test_batches_are_slices_of_the_valid_events_and_every_cursor_resumes(
    plan: list[str | tuple[int, set[int]]], size: int, ended: bool
) -> None:
    records, valid, invalid = build(plan)
    with TemporaryDirectory() as folder:
        log = log_of(Path(folder), [*records, END] if ended else records)
        reader = ClickReader(log, SCHEMA, size)
        met = handed_out(reader)
        batches, cursors = [], [reader.cursor]
        while (found := reader.next()) is not None:
            batches.append(found)
            cursors.append(reader.cursor)
        trailing = reader.drain()

        through = len(valid) if ended else len(valid) // size * size
        expected = [valid[at : min(at + size, through)] for at in range(0, through, size)]
        assert numbers(batches) == [[number for number, _ in part] for part in expected]
        assert [b.spans for b in batches] == [
            (PositionRange(0, part[0][1], part[-1][1], len(part)),) for part in expected
        ]
        if ended:
            assert [one.place for one in met] == [place for place, _ in invalid]
        assert [*(b.skipped for b in batches), trailing] == passed(batches, invalid, ended=ended)
        for at, cursor in enumerate(cursors):
            again = ClickReader(log, SCHEMA, size, cursor)
            assert same(read_all(again), batches[at:])
            assert again.drain() == trailing
        log.close()


@settings(max_examples=30, deadline=None)
@given(plan=st.lists(RECORD, max_size=20), size=st.integers(1, 9))
def test_batches_do_not_depend_on_when_records_arrive(
    plan: list[str | tuple[int, set[int]]], size: int
) -> None:
    records, _, _ = build(plan)
    with TemporaryDirectory() as folder:
        home = LocalLogStore(Path(folder))
        live = ClickReader(home.reader(topics.CLICKS), SCHEMA, size)
        batches = []
        for record in [*records, END]:
            append(home, [record])
            batches += read_all(live)
        late = ClickReader(home.reader(topics.CLICKS), SCHEMA, size)
        assert same(read_all(late), batches)
        assert late.drain() == live.drain()


def test_where_nothing_that_comes_is_valid_a_reader_says_so(tmp_path: Path) -> None:
    log = log_of(tmp_path, [clicklog.raw(1), clicklog.raw(2)])
    reader = ClickReader(log, SCHEMA, 3)
    assert reader.next() is None
    told = "valid clicks: of those that came most are not, the first: no row"
    assert reader.waits_for == Waiting("clicks", told)


def test_a_few_invalid_events_among_valid_ones_are_not_what_is_waited_for(tmp_path: Path) -> None:
    reader = ClickReader(log_of(tmp_path, [columnar(0, 2), clicklog.raw(1)]), SCHEMA, 5)
    assert reader.next() is None
    assert str(reader.waits_for) == "clicks"
