"""Clicks that are decoded once for all readers are those that each would have decoded."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream import topics
from stream.codec import Invalid, columnar_record
from stream.log import LogReader, LogStore, LogUnreachableError, LogWriter, Record, StoredRecord
from stream.log.local import LocalLogStore
from stream.ordering import RoundRobin
from stream.reader import ClickCursor, ClickReader, CountedBatch
from stream.schema import CategoricalFeature, FeatureSchema, NumericFeature
from stream.sharing import SharedClickReader, share_clicks
from tests.stream import clicklog
from tests.stream.clicklog import END, SCHEMA, append, columnar

OTHER = FeatureSchema(
    numeric=(NumericFeature(name="x", scale=2.0),),
    categorical=(CategoricalFeature(name="site", buckets=50),),
)


@dataclass
class Counting:
    """A store that notes what its readers of the clicks read."""

    store: LocalLogStore
    writable: bool = True
    read: list[tuple[int, int]] = field(default_factory=list)
    """Partition and offset of every record, as often as it is read."""
    opened: int = 0
    """Readers of the clicks that are open."""
    trouble: Exception | None = None
    """Is raised by every read, after a while."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def exists(self, name: str) -> bool:
        return self.store.exists(name)

    def create(self, logs: Any) -> tuple[str, ...]:
        return self.store.create(logs)

    def trim(self, name: str, partition: int, offset: int) -> None:
        self.store.trim(name, partition, offset)

    def describe(self) -> str:
        return self.store.describe()

    def close(self) -> None:
        self.store.close()

    def writer(self, name: str) -> LogWriter:
        return self.store.writer(name)

    def reader(self, name: str) -> LogReader:
        self.opened += 1
        return _CountingReader(self, self.store.reader(name))


class _CountingReader:
    def __init__(self, store: Counting, log: LogReader) -> None:
        self._store, self._log = store, log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    @property
    def identity(self) -> str:
        return self._log.identity

    @property
    def partitions(self) -> tuple[int, ...]:
        return self._log.partitions

    def begin(self, partition: int) -> int:
        return self._log.begin(partition)

    def end(self, partition: int) -> int:
        return self._log.end(partition)

    def last(self, partition: int) -> StoredRecord | None:
        return self._log.last(partition)

    def seek(self, partition: int, time_ms: int) -> int:
        return self._log.seek(partition, time_ms)

    def sync(self) -> None:
        self._log.sync()

    def read(self, partition: int, offset: int, max_records: int = 64) -> Sequence[StoredRecord]:
        if self._store.trouble is not None:
            time.sleep(0.2)
            raise self._store.trouble
        found = self._log.read(partition, offset, max_records)
        self._store.read += [(partition, one.offset) for one in found]
        return found

    def close(self) -> None:
        self._store.opened -= 1
        self._log.close()


def foreign(first: int) -> Record:
    """Make a columnar record that another schema has encoded."""
    return columnar_record(clicklog.batch(first, 5), OTHER)


JSON = [*clicklog.json(0, 700), END]
COLUMNAR = [*(columnar(50 * n, 50) for n in range(14)), END]
MIXED = [
    *clicklog.json(0, 100),
    Record(b"{"),
    columnar(100, 50, bad=[3, 49]),
    columnar(150, 50, bad=range(50)),
    clicklog.raw(7),
    Record(b'{"event_id": "x"}', (("kind", b"json"),)),
    *clicklog.json(200, 300),
    foreign(0),
    Record(b"?", (("kind", b"pickle"),)),
    columnar(500, 200, bad=[0]),
    END,
]
LOGS = {"JSON": [JSON], "columnar": [COLUMNAR], "mixed": [MIXED], "three": [MIXED, JSON, COLUMNAR]}


def store_of(folder: Path, parts: Sequence[Sequence[Record]]) -> Counting:
    store = LocalLogStore(folder)
    store.create({topics.CLICKS: len(parts)})
    for partition, records in enumerate(parts):
        append(store, records, partition)
    return Counting(store)


class Read:
    """A reader, and all that it has handed out, byte for byte."""

    def __init__(
        self, store: LogStore, size: int, cursor: ClickCursor | None = None, schema: Any = SCHEMA
    ) -> None:
        self.log = store.reader(topics.CLICKS)
        self.reader = ClickReader(self.log, schema, size, cursor, RoundRobin())
        self.batches: list[Any] = []
        self.invalid: list[Invalid] = []
        self.reader.on_invalid(self.invalid.extend)

    def next(self) -> bool:
        found = self.reader.next()
        if found is not None:
            self.batches.append((*plain(found), self.reader.cursor))
        return found is not None

    def all(self) -> Read:
        while self.next():
            """Read on."""
        self.log.close()
        return self

    @property
    def told(self) -> Any:
        rest = self.reader.drain() if self.reader.ended else None
        key = lambda one: (one.partition, one.offset, one.row)  # noqa: E731
        return self.batches, sorted(self.invalid, key=key), rest


def plain(found: CountedBatch) -> tuple[Any, ...]:
    batch = found.batch
    arrays = (batch.label, batch.weight, batch.time_ms, batch.numeric, batch.categorical)
    content = [(one.dtype.str, one.shape, one.tobytes()) for one in arrays]
    return found.begin, found.spans, dict(found.skipped), found.last, content


@pytest.mark.parametrize("parts", LOGS.values(), ids=LOGS)
@pytest.mark.parametrize("size", [1, 30, 64])
def test_shared_batches_positions_and_invalid_events_are_those_of_one_reader(
    tmp_path: Path, parts: Sequence[Sequence[Record]], size: int
) -> None:
    store = store_of(tmp_path, parts)
    alone = Read(store, size).all().told
    shared = share_clicks(store, SCHEMA)
    turns = [Read(shared, size) for _ in range(3)]
    while any([one.next() for one in turns]):
        """Read in turns."""
    for one in (*turns, Read(shared, size).all()):
        assert one.told == alone


@pytest.mark.parametrize("parts", LOGS.values(), ids=LOGS)
def test_each_record_is_read_and_decoded_once(
    tmp_path: Path, parts: Sequence[Sequence[Record]]
) -> None:
    store = store_of(tmp_path, parts)
    shared = share_clicks(store, SCHEMA)
    readers = [Read(shared, size) for size in (30, 30, 30, 64, 1)]
    for one in readers:
        one.all()
    assert len(readers[0].batches) > 10
    assert len(store.read) == len(set(store.read)) == sum(map(len, parts))


@pytest.mark.parametrize("after", [1, 3, 7, 12, 20])
def test_a_reader_goes_on_inside_what_others_have_decoded(tmp_path: Path, after: int) -> None:
    store = store_of(tmp_path, [MIXED])
    whole = Read(store, 30).all()
    cursor = whole.batches[after - 1][-1]
    alone = Read(store, 30, cursor).all().told
    shared = share_clicks(store, SCHEMA)
    first = Read(shared, 30)
    while first.next():
        """Let others have decoded it all."""
    read = len(store.read)
    assert Read(shared, 30, cursor).all().told == alone
    assert alone[0] == whole.batches[after:]
    assert len(store.read) == read


def test_readers_that_start_apart_share_from_where_they_meet(tmp_path: Path) -> None:
    store = store_of(tmp_path, [COLUMNAR])
    whole = Read(store, 25).all()
    ahead_at, expected = whole.batches[5][-1], whole.batches
    store.read.clear()
    shared = share_clicks(store, SCHEMA)
    ahead = Read(shared, 25, ahead_at)
    assert ahead.next()
    behind = Read(shared, 25)
    ahead.all()
    behind.all()
    assert (behind.batches, ahead.batches) == (expected, expected[6:])
    assert max(store.read.count(one) for one in set(store.read)) == 2
    assert store.read.count((0, 14)) == 1


def test_one_that_lags_behind_what_is_kept_decodes_for_itself(tmp_path: Path) -> None:
    parts = [[*(columnar(50 * n, 50) for n in range(100)), END]]
    store = store_of(tmp_path, parts)
    alone = Read(store, 20).all().told
    store.read.clear()
    shared = share_clicks(store, SCHEMA, max_bytes=50_000)
    laggard = Read(shared, 20)
    assert laggard.next()
    ahead = Read(shared, 20).all()
    assert laggard.all().told == ahead.told == alone
    assert len(set(store.read)) == 101
    assert 150 < len(store.read) < 202


def test_no_more_is_kept_than_asked_for(tmp_path: Path) -> None:
    parts = [[*(columnar(50 * n, 50, bad=range(25)) for n in range(200)), END]]
    shared = share_clicks(store_of(tmp_path, parts), SCHEMA, max_bytes=150_000)
    log = shared.reader(topics.CLICKS)
    assert isinstance(log, SharedClickReader)
    reader = ClickReader(log, SCHEMA, 20)
    while reader.next() is not None:
        assert sum(log.shared.kept_bytes.values()) <= 150_000
    assert sum(log.shared.kept_bytes.values()) > 30_000


ACT = st.tuples(
    st.sampled_from(["json", "columnar", "bad", "read", "read", "resume"]), st.integers(0, 40)
)


@settings(max_examples=40, deadline=None)
@given(
    acts=st.lists(ACT, max_size=40),
    size=st.integers(1, 40),
    max_bytes=st.sampled_from([1, 5_000, 10**8]),
)
def test_whenever_clicks_come_and_whoever_reads_they_are_the_same(
    acts: Sequence[tuple[str, int]], size: int, max_bytes: int
) -> None:
    with TemporaryDirectory() as folder:
        store = Counting(LocalLogStore(Path(folder)))
        shared = share_clicks(store, SCHEMA, max_bytes)
        readers = [Read(shared, size) for _ in range(3)]
        made = 0
        for act, n in [*acts, ("end", 0)]:
            if act == "read":
                for _ in range(n // 3 + 1):
                    readers[n % 3].next()
            elif act == "resume":
                before = readers[n % 3]
                readers[n % 3] = Read(shared, size, before.reader.cursor)
                readers[n % 3].batches = before.batches
            else:
                records = {
                    "json": clicklog.json(made, n),
                    "columnar": [columnar(made, n + 1)],
                    "bad": [columnar(made, n + 1, bad=[n]), Record(b"{"), clicklog.raw(n)],
                    "end": [END],
                }[act]
                append(store.store, records)
                made += n + 1
        expected = Read(store, size).all().batches
        for one in readers:
            assert one.all().batches == expected


def test_readers_in_many_threads_share_while_clicks_come(tmp_path: Path) -> None:
    store = Counting(LocalLogStore(tmp_path))
    store.create({topics.CLICKS: 2})
    shared, found, failed = share_clicks(store, SCHEMA), {}, []

    def read(number: int) -> None:
        try:
            one = Read(shared, 30)
            while not one.reader.ended:
                one.next()
            one.log.close()
            found[number] = [int(x) for b in one.batches for x in np.frombuffer(b[4][3][2], "<f4")]
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=read, args=(n,), daemon=True) for n in range(6)]
    for thread in threads:
        thread.start()
    with closing(store.writer(topics.CLICKS)) as writer:
        for n in range(200):
            writer.append([columnar(20 * n, 20), *clicklog.json(10_000 + 3 * n, 3)], n % 2)
        for partition in (0, 1):
            writer.append([END], partition)
    for thread in threads:
        thread.join(60)
    assert not failed
    assert len(found) == 6
    expected = sorted([*range(4_000), *range(10_000, 10_600)])
    assert all(sorted(one) == expected for one in found.values())
    assert len(store.read) == len(set(store.read)) == 200 + 600 + 2


def test_nobody_waits_for_a_broker_longer_than_the_others(tmp_path: Path) -> None:
    store = store_of(tmp_path, [COLUMNAR])
    shared = share_clicks(store, SCHEMA)
    store.trouble = LogUnreachableError("the broker has been away for 120 s")
    told: list[str] = []

    def read() -> None:
        try:
            Read(shared, 30).next()
        except LogUnreachableError as error:
            told.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(8)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == ["the broker has been away for 120 s"] * 8
    assert time.monotonic() - started < 8 * 0.2
    store.trouble = None
    assert len(Read(shared, 30).all().batches) == 24


def test_a_reader_with_another_schema_decodes_for_itself(tmp_path: Path) -> None:
    store = store_of(tmp_path, [[*clicklog.json(0, 60), foreign(0), END]])
    shared = share_clicks(store, SCHEMA)
    ours, theirs = Read(shared, 30).all(), Read(shared, 30, schema=OTHER).all()
    assert theirs.told == Read(store, 30, schema=OTHER).all().told
    assert theirs.told != ours.told


def test_what_is_shared_cannot_be_written(tmp_path: Path) -> None:
    shared = share_clicks(store_of(tmp_path, [COLUMNAR]), SCHEMA)
    found = ClickReader(shared.reader(topics.CLICKS), SCHEMA, 30).next()
    assert found is not None
    with pytest.raises(ValueError, match="read-only"):
        found.batch.label[0] = 1


def test_the_last_reader_closes_the_log(tmp_path: Path) -> None:
    store = store_of(tmp_path, [COLUMNAR])
    shared = share_clicks(store, SCHEMA)
    one, other = Read(shared, 30), Read(shared, 30)
    one.next()
    other.all()
    assert store.opened == 1
    one.all()
    assert store.opened == 0


def test_other_logs_and_questions_are_passed_on(tmp_path: Path) -> None:
    store = store_of(tmp_path, [COLUMNAR])
    shared = share_clicks(store, SCHEMA)
    with closing(shared.writer("truth")) as writer:
        writer.append([Record(b"x")])
    assert shared.reader("truth").read(0, 0)[0].record.value == b"x"
    assert (shared.exists("truth"), shared.exists("ledger")) == (True, False)
    assert shared.describe() == str(tmp_path)
    log, own = shared.reader(topics.CLICKS), store.reader(topics.CLICKS)
    assert (log.identity, log.partitions) == (own.identity, own.partitions)
    assert (log.begin(0), log.end(0), log.last(0)) == (own.begin(0), own.end(0), own.last(0))
    assert log.seek(0, 60_000) == own.seek(0, 60_000)
    assert list(log.read(0, 3, 2)) == list(own.read(0, 3, 2))
