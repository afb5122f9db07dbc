"""End records of producers that a run does not know."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from stream import topics
from stream.codec import end_record
from stream.log import LogReader, LogStore, Record, StoredRecord
from stream.log.local import LocalLogStore
from stream.reader import ClickReader, nothing_follows
from stream.start_position import clicks_with_known_ends
from tests.stream.clicklog import END, SCHEMA, append, columnar, json, numbers, read_all

STRAY = end_record(headers=(("source", b"stranger"),))


def counts(stored: StoredRecord) -> bool:
    return stored.header("source") is None


def known(folder: Path, records: Sequence[Record]) -> LogStore:
    store = LocalLogStore(folder)
    append(store, records)
    return clicks_with_known_ends(store, counts)


def opened(folder: Path, records: Sequence[Record]) -> LogReader:
    return known(folder, records).reader(topics.CLICKS)


MIXED = [columnar(0, 7), STRAY, *json(7, 2), STRAY, STRAY, columnar(9, 3), END]


def test_batches_are_those_of_a_log_without_strays(tmp_path: Path) -> None:
    for at, records in enumerate([MIXED, [STRAY, *MIXED], [*MIXED, STRAY, STRAY]]):
        reader = ClickReader(opened(tmp_path / str(at), records), SCHEMA, 5)
        assert numbers(read_all(reader)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
        assert reader.ended


def test_without_an_end_that_counts_the_input_goes_on(tmp_path: Path) -> None:
    log = opened(tmp_path, [columnar(0, 10), STRAY])
    reader = ClickReader(log, SCHEMA, 5)
    assert len(read_all(reader)) == 2
    assert not reader.ended
    assert not nothing_follows(log, SCHEMA, reader.cursor)
    append(LocalLogStore(tmp_path), [columnar(10, 5), END, STRAY])
    assert numbers(read_all(reader)) == [[10, 11, 12, 13, 14]]
    assert reader.ended
    assert nothing_follows(log, SCHEMA, reader.cursor)


def test_an_input_that_has_ended_goes_on_after_an_event_but_not_after_a_stray(
    tmp_path: Path,
) -> None:
    reader = ClickReader(opened(tmp_path, [columnar(0, 5), END, STRAY]), SCHEMA, 5)
    assert len(read_all(reader)) == 1
    assert reader.ended
    append(LocalLogStore(tmp_path), [STRAY, columnar(5, 5)])
    assert numbers(read_all(reader)) == [[5, 6, 7, 8, 9]]


@pytest.mark.parametrize("seed", range(20))
def test_reading_and_the_newest_record_are_those_of_the_whole_log_without_strays(
    seed: int, tmp_path: Path
) -> None:
    """However many stand at its end: more than are looked at first."""
    rng = np.random.default_rng(seed)
    records = [
        (STRAY, END, *json(number))[kind] for number, kind in enumerate(rng.integers(0, 3, 20))
    ]
    records += [STRAY] * int(rng.integers(0, 400))
    rng.shuffle(records[: int(rng.integers(1, len(records)))])
    store = known(tmp_path, records)
    with closing(LocalLogStore(tmp_path).reader(topics.CLICKS)) as log:
        whole = [one for one in log.read(0, 0, 1_000) if one.record != STRAY]
    with closing(store.reader(topics.CLICKS)) as log:
        assert list(log.read(0, 0, 1_000)) == whole
        assert log.last(0) == (whole[-1] if whole else None)
        found: list[StoredRecord] = []
        at = 0
        while part := log.read(0, at, 3):
            found += part
            at = part[-1].next_offset
        assert found == whole


def test_a_log_of_strays_alone_is_empty(tmp_path: Path) -> None:
    log = opened(tmp_path, [STRAY] * 300)
    assert log.read(0, 0) == ()
    assert log.last(0) is None


def test_a_stray_is_told_once_by_its_place_and_producer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = known(tmp_path, MIXED)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            read_all(ClickReader(store.reader(topics.CLICKS), SCHEMA, 5))
    [said] = caplog.messages
    assert said.startswith(
        "the end record at offset 1 of partition 0 of the clicks is passed over: it is of source "
        "'stranger', which this run does not know (stream.ends names whose ends count)"
    )
