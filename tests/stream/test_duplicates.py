"""Events whose id stands shortly before them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from stream import topics
from stream.batch import Reason
from stream.codec import Invalid, json_record
from stream.config import RetentionConfig
from stream.log import LogTrimmedError, Record
from stream.log.local import LocalLogStore
from stream.messages import Position
from stream.ordering import RoundRobin
from stream.reader import ClickCursor, ClickReader
from stream.retention import LogTrimmer, RestartPoint
from stream.sharing import share_clicks
from tests.stream.clicklog import END, SCHEMA, append, columnar, event, numbers, read_all

BAD = Record(b'{"event_id": "0", "label": 7}')


def of(number: int, event_id: str) -> Record:
    return json_record(event(number).model_copy(update={"event_id": event_id}))


def reader_of(
    store: LocalLogStore, window: int, size: int, cursor: ClickCursor | None = None
) -> tuple[ClickReader, list[Invalid]]:
    shared = share_clicks(store, SCHEMA, deduplicate_events=window)
    found: list[Invalid] = []
    reader = ClickReader(shared.reader(topics.CLICKS), SCHEMA, size, cursor, RoundRobin())
    reader.on_invalid(found.extend)
    return reader, found


def mixed(seed: int, records: int = 200) -> tuple[list[Record], list[str | None]]:
    """Make records, and the ids of those that are valid JSON events."""
    rng = np.random.default_rng(seed)
    made: list[Record] = []
    ids: list[str | None] = []
    for number, kind in enumerate(rng.integers(0, 10, records)):
        name = str(rng.integers(0, 30))
        record = {0: BAD, 1: columnar(number, 2), 2: END}.get(int(kind), of(number, name))
        made.append(record)
        ids.append(name if kind > 2 else None)
    return made, ids


def expected(ids: Sequence[str | None], window: int) -> list[int]:
    """Look, for each event, at every record before it."""
    return [
        at for at, one in enumerate(ids) if one is not None and one in ids[max(0, at - window) : at]
    ]


@pytest.mark.parametrize("window", [1, 7, 40, 1_000])
@pytest.mark.parametrize("seed", range(3))
def test_duplicates_are_those_that_a_look_at_every_record_finds(
    window: int, seed: int, tmp_path: Path
) -> None:
    made, ids = mixed(seed)
    store = LocalLogStore(tmp_path)
    append(store, made)
    reader, found = reader_of(store, window, 10)
    read_all(reader)
    duplicates = [one for one in found if one.reason == Reason.DUPLICATE]
    assert [one.offset for one in duplicates] == expected(ids, window)
    for one in duplicates:
        at = max(i for i in range(one.offset) if ids[i] == ids[one.offset])
        assert one.detail == f"event_id stands at offset {at} already: {ids[one.offset]!r}"
        assert one.raw == made[one.offset].value


def test_without_a_window_nothing_is_a_duplicate(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    append(store, [of(0, "a"), of(1, "a"), of(2, "a"), END])
    reader, found = reader_of(store, 0, 3)
    assert numbers(read_all(reader)) == [[0, 1, 2]]
    assert not found


def test_an_event_sent_again_after_one_that_was_not_valid_is_learned(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    append(store, [BAD, of(1, "0"), of(2, "0"), END])
    reader, found = reader_of(store, 10, 5)
    assert numbers(read_all(reader)) == [[1]]
    assert [one.offset for one in found] == [0, 2]
    assert found[1].reason == Reason.DUPLICATE


@pytest.mark.parametrize("window", [3, 25])
def test_a_reader_that_continues_anywhere_finds_the_same(window: int, tmp_path: Path) -> None:
    """And so do readers side by side that have come to different places."""
    made, _ = mixed(5)
    store = LocalLogStore(tmp_path)
    append(store, made)
    whole, found = reader_of(store, window, 7)
    cursors, batches = [whole.cursor], []
    while (batch := whole.next()) is not None:
        batches.append(batch)
        cursors.append(whole.cursor)
    duplicates = {one.offset for one in found if one.reason == Reason.DUPLICATE}
    assert len(duplicates) > 5
    shared = share_clicks(store, SCHEMA, max_bytes=2_000, deduplicate_events=window)
    side: list[tuple[int, ClickReader]] = []
    for at, cursor in enumerate(cursors):
        side.append((at, ClickReader(shared.reader(topics.CLICKS), SCHEMA, 7, cursor)))
        again, found = reader_of(store, window, 7, cursor)
        assert numbers(read_all(again)) == numbers(batches[at:])
        place = cursor.places.get(0, Position(0, 0))
        later = {one.offset for one in found if one.reason == Reason.DUPLICATE}
        after = {offset for offset in duplicates if (offset, 0) >= place}
        # What stands between the last event and an end was found before the cursor was taken.
        assert later <= after if cursor.ended else later == after
    left = {at: numbers(batches[at:]) for at, _ in side}
    while any(left.values()):
        for at, reader in side:
            if left[at]:
                got = reader.next()
                assert got is not None
                assert numbers([got]) == [left[at].pop(0)]


def test_each_partition_has_its_own_window(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    store.create({topics.CLICKS: 2})
    append(store, [of(0, "a"), of(2, "a"), END], 0)
    append(store, [of(1, "a"), END], 1)
    reader, found = reader_of(store, 10, 5)
    assert sorted(chain.from_iterable(numbers(read_all(reader)))) == [0, 1]
    assert [(one.partition, one.offset) for one in found] == [(0, 1)]


def test_the_ids_before_what_a_worker_reads_are_kept_and_missed_where_they_are_gone(
    tmp_path: Path,
) -> None:
    store = LocalLogStore(tmp_path)
    append(store, [*(of(number, str(number)) for number in range(40)), of(40, "30"), END])
    reader, _ = reader_of(store, 10, 8)
    while reader.count < 32:
        assert reader.next() is not None
    with closing(LogTrimmer(store, RetentionConfig(), 10)) as trimmer:
        needed = trimmer.needed([RestartPoint([reader.cursor])])
        assert needed == {topics.CLICKS: {0: 31 - 10}}
        assert trimmer.trim(needed) == {(topics.CLICKS, 0): 21}
    again, found = reader_of(store, 10, 8, reader.cursor)
    assert numbers(read_all(again)) == [[*range(32, 40)]]
    assert [one.offset for one in found] == [40]
    for offset in (25, 31):
        store.trim(topics.CLICKS, 0, offset)
        lost, _ = reader_of(store, 10, 8, reader.cursor)
        with pytest.raises(LogTrimmedError, match=r"depends on the 10 offsets before it \(stream"):
            lost.next()
