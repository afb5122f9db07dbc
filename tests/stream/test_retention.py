from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import topics
from stream.columnar import predictions_to_bytes
from stream.config import RetentionConfig
from stream.log import LogReader, LogStore, Record
from stream.log.local import LocalLogStore
from stream.messages import Alarm, Position, PositionRange, PredictionBatch, Window, dump
from stream.ordering import find_predictions
from stream.reader import ClickCursor
from stream.retention import (
    FIRST_CLICK,
    LogExtent,
    LogTrimmer,
    RestartPoint,
    RestartPoints,
    keep_from,
)
from stream.sources.files import FileSource
from stream.sources.generator import GeneratorSource
from stream.sources.truth import GeneratorConfig
from stream.state import Checkpoints
from tests.stream.clicklog import SCHEMA
from tests.stream.log_contract import numbered

HELD = LogExtent(begin=10, last=98, end=100)
"""Offset 99 is a hole, as a transaction leaves it."""


@pytest.mark.parametrize(
    ("changed", "log", "needed", "kept"),
    [
        ({}, "clicks", 40, 40),
        ({}, "clicks", 10, None),
        ({}, "clicks", 0, None),
        ({}, "clicks", 98, 98),
        ({}, "clicks", 100, 98),
        ({"clicks": "all"}, "clicks", 40, None),
        ({"predictions": "all"}, "clicks", 40, 40),
        ({}, "truth", 40, 40),
        ({"truth": "all"}, "truth", 40, None),
        ({}, "predictions.dense", 40, 40),
        ({}, "predictions.candidate", 100, 98),
        ({"predictions": "all"}, "predictions.dense", 40, None),
        ({}, "progress.dense", 100, None),
        ({"progress_records": 30}, "progress.dense", 100, 70),
        ({"progress_records": 30}, "progress.dense", 50, 50),
        ({"progress_records": 1}, "progress.dense", 100, 98),
        ({}, "windows", 100, None),
        ({"windows_events": 500}, "windows", 100, 60),
        ({"windows_events": 500}, "windows", 30, 30),
        ({}, "ledger", 100, None),
        ({}, "requests", 100, None),
        ({}, "maskchanges", 100, None),
        ({}, "deadletters", 100, None),
        ({}, "somebody.elses", 100, None),
    ],
)
def test_a_log_is_kept_from_where_the_settings_and_the_workers_say(
    changed: dict[str, object], log: str, needed: int, kept: int | None
) -> None:
    config = RetentionConfig.model_validate(changed)
    assert keep_from(config, log, needed, HELD, recent=60) == kept


logs = st.sampled_from(
    [
        topics.CLICKS,
        topics.TRUTH,
        topics.WINDOWS,
        topics.LEDGER,
        topics.REQUESTS,
        topics.MASK_CHANGES,
        topics.DEAD_LETTERS,
        topics.predictions("sparse"),
        topics.progress("dense"),
    ]
)
configs = st.builds(
    RetentionConfig,
    clicks=st.sampled_from(["needed", "all"]),
    predictions=st.sampled_from(["needed", "all"]),
    truth=st.sampled_from(["needed", "all"]),
    windows_events=st.none() | st.integers(1, 100),
    progress_records=st.integers(1, 100),
)


@given(
    config=configs,
    log=logs,
    needed=st.integers(0, 120),
    begin=st.integers(0, 50),
    length=st.integers(1, 50),
    recent=st.integers(0, 120),
)
def test_nothing_that_is_needed_nor_the_newest_record_is_ever_deleted(
    config: RetentionConfig, log: str, needed: int, begin: int, length: int, recent: int
) -> None:
    extent = LogExtent(begin, begin + length - 1, begin + length)
    kept = keep_from(config, log, needed, extent, recent)
    whole = (topics.LEDGER, topics.REQUESTS, topics.MASK_CHANGES, topics.DEAD_LETTERS)
    assert log not in whole or kept is None
    if kept is not None:
        assert extent.begin < kept <= min(needed, extent.last)
        assert keep_from(config, log, needed, LogExtent(kept, extent.last, extent.end), kept) in (
            None,
            keep_from(config, log, needed, extent, kept),
        )


def test_logs_are_trimmed_by_partition_and_what_is_not_named_stays(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    store.create({topics.CLICKS: 3})
    for log, partitions in ((topics.CLICKS, 3), (topics.LEDGER, 1), ("predictions.dense", 1)):
        with closing(store.writer(log)) as writer:
            for partition in range(partitions):
                writer.append(numbered(20), partition)
    with closing(LogTrimmer(store, RetentionConfig())) as trimmer:
        needed = {
            topics.CLICKS: {0: 5, 1: 100},
            topics.LEDGER: {0: 20},
            "predictions.dense": {0: 0},
            "truth": {0: 7},
        }
        assert trimmer.trim(needed) == {(topics.CLICKS, 0): 5, (topics.CLICKS, 1): 19}
        assert trimmer.trim(needed) == {}
        assert trimmer.trim({topics.CLICKS: {0: 6}}) == {(topics.CLICKS, 0): 6}
    with closing(store.reader(topics.CLICKS)) as reader:
        assert [reader.begin(partition) for partition in (0, 1, 2)] == [6, 19, 0]
    assert store.reader(topics.LEDGER).begin(0) == 0
    assert not store.exists("truth")


@pytest.fixture(params=["embedded", "kafka"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> LogStore:
    """A store that may delete, of each kind."""
    if request.param == "kafka":
        kafka: LogStore = request.getfixturevalue("kafka_home")
        return kafka
    return LocalLogStore(tmp_path)


def test_what_is_recent_stays_though_nobody_needs_it_and_what_is_needed_though_old(
    either: LogStore,
) -> None:
    """Of 20 records, a second apart, the last is of second 19."""
    logs = (topics.CLICKS, topics.TRUTH, "predictions.dense", "progress.dense")
    for log in logs:
        with closing(either.writer(log)) as writer:
            writer.append(numbered(20))
            writer.flush()

    def trimmed(seconds: float, needed: int) -> list[int]:
        config = RetentionConfig(recent_seconds=seconds, progress_records=1)
        with closing(LogTrimmer(either, config)) as trimmer:
            done = trimmer.trim({log: {0: needed} for log in logs})
        return [done.get((log, 0), 0) for log in logs]

    assert trimmed(1e9, 20) == [0, 0, 0, 19]
    assert trimmed(15.5, 20) == [4, 4, 4, 0]
    assert trimmed(5, 7) == [7, 7, 7, 0]
    assert trimmed(5, 20) == [14, 14, 14, 0]
    assert trimmed(0, 20) == [19, 19, 19, 0]


def test_an_empty_log_is_left_alone(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    store.create({topics.CLICKS: 2})
    with closing(LogTrimmer(store, RetentionConfig())) as trimmer:
        assert trimmer.trim({topics.CLICKS: {0: 0, 1: 9}}) == {}


def window(size: int, number: int) -> Window:
    return Window(
        size=size,
        number=number,
        begin=size * number,
        end=size * (number + 1),
        partial=False,
        weight=1,
        clicks=1,
        click_rate=0.5,
        models={},
        bayes_ce=None,
        drift=(),
    )


def test_of_the_windows_those_of_the_last_events_stay(tmp_path: Path) -> None:
    """A small and a large window: 0 1 | 2 3 L | 5 6 | 7 8 L, and an alarm between."""
    store = LocalLogStore(tmp_path)
    alarm = Alarm(
        detector="click_rate",
        feature=None,
        count=0,
        since=0,
        statistic=2,
        threshold=1,
        reason="it fell",
    )

    def write(numbers: range) -> None:
        with closing(store.writer(topics.WINDOWS)) as writer:
            for number in numbers:
                writer.append([Record(dump(window(100, number))), Record(dump(alarm))])
                if number % 2:
                    writer.append([Record(dump(window(200, number // 2)))])

    write(range(4))
    needed = {topics.WINDOWS: {0: 1_000}}
    with closing(LogTrimmer(store, RetentionConfig(windows_events=250))) as trimmer:
        # Of 400 events the last 250: the windows that end after 150, so from the second one on.
        assert trimmer.trim(needed) == {(topics.WINDOWS, 0): 2}
        write(range(4, 6))
        assert trimmer.trim(needed) == {(topics.WINDOWS, 0): 7}
        assert trimmer.trim({topics.WINDOWS: {0: 3}}) == {}
    with closing(LogTrimmer(store, RetentionConfig(windows_events=100))) as again:
        assert again.trim(needed) == {(topics.WINDOWS, 0): 12}
    with closing(LogTrimmer(store, RetentionConfig())) as whole:
        assert whole.trim(needed) == {}


def test_a_generator_goes_on_from_the_newest_record_that_is_left(tmp_path: Path) -> None:
    config = GeneratorConfig(events=4_000, block_events=1_000, record_events=500, drifts=())
    whole = LocalLogStore(tmp_path / "whole")
    with closing(GeneratorSource(config, 0).attach(whole)) as feed:
        while feed.step() is not None:
            pass
    store = LocalLogStore(tmp_path / "trimmed")
    for _ in range(4):
        with closing(GeneratorSource(config, 0).attach(store)) as feed:
            feed.step()
        with closing(LogTrimmer(store, RetentionConfig())) as trimmer:
            trimmer.trim({topics.CLICKS: {0: 1_000}, topics.TRUTH: {0: 1_000}})
    for log in (topics.CLICKS, topics.TRUTH):
        left, expected = store.reader(log).last(0), whole.reader(log)
        assert left is not None
        assert expected.read(0, left.offset, 1) == [left]
        assert store.reader(log).begin(0) == left.offset


def test_a_file_is_gone_on_with_from_the_newest_record_that_is_left(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    rows = "".join(f"{n},{n % 2},{n},s{n}\n" for n in range(100))
    path.write_text(f"event_time,label,x,site\n{rows}")
    source = FileSource(path, SCHEMA, records_events=30)
    store = LocalLogStore(tmp_path / "logs")
    while True:
        with closing(source.attach(store)) as feed:
            if feed.step() is None:
                break
        with closing(LogTrimmer(store, RetentionConfig())) as trimmer:
            trimmer.trim({topics.CLICKS: {0: 1_000}})
    with closing(store.reader(topics.CLICKS)) as reader:
        last = reader.last(0)
        assert last is not None
        assert (last.header("kind"), last.header("rows")) == (b"end", b"100")
        assert (reader.end(0), reader.begin(0)) == (5, 4)


def cursor(store: LocalLogStore, count: int, *places: int) -> ClickCursor:
    with closing(store.reader(topics.CLICKS)) as reader:
        at = {partition: Position(offset, 0) for partition, offset in enumerate(places)}
        return ClickCursor(identity=reader.identity, count=count, places=at)


def predicted(begin: int) -> Record:
    spans = (PositionRange(0, Position(begin, 0), Position(begin, 0), 1),)
    batch = PredictionBatch("dense", 0, begin, spans, {}, np.array([0.5]))
    return Record(predictions_to_bytes(batch))


def store_of(folder: Path, partitions: int, predictions: Sequence[int] = ()) -> LocalLogStore:
    store = LocalLogStore(folder)
    store.create({topics.CLICKS: partitions})
    with closing(store.writer("predictions.dense")) as writer:
        writer.append([predicted(begin) for begin in predictions])
    return store


@pytest.mark.parametrize(("partitions", "order"), [(1, 5), (2, 3)])
def test_of_every_log_the_lowest_place_of_all_restart_points_is_needed(
    tmp_path: Path, partitions: int, order: int
) -> None:
    """Of several partitions, the predictions of dense say which clicks are read at a place."""
    store = store_of(tmp_path, partitions, range(10))
    low, high = cursor(store, 3, *[4] * partitions), cursor(store, 8, *[6] * partitions)
    points = [
        RestartPoint([high, low], {"predictions.dense": 7, "truth": 2}),
        RestartPoint([high], {"truth": 5}, {"predictions.dense": 5, "predictions.other": 0}),
    ]
    with closing(LogTrimmer(store, RetentionConfig())) as trimmer:
        assert trimmer.needed(points) == {
            topics.CLICKS: dict.fromkeys(range(partitions), 4),
            "predictions.dense": {0: order},
            "truth": {0: 2},
        }


def test_what_is_not_known_is_needed(tmp_path: Path) -> None:
    store = store_of(tmp_path / "one", partitions=2)
    with closing(LogTrimmer(store, RetentionConfig())) as trimmer:
        for strange in (FIRST_CLICK, cursor(store_of(tmp_path / "other", 2), 9, 9, 9)):
            needed = trimmer.needed([RestartPoint([strange, cursor(store, 5, 7, 7)])])
            assert needed[topics.CLICKS] == {0: 0, 1: 0}
        needed = trimmer.needed([RestartPoint([cursor(store, 5, 7)])])
        assert needed[topics.CLICKS] == {0: 7, 1: 0}
        assert trimmer.needed([])[topics.CLICKS] == {0: 0, 1: 0}
    with closing(LogTrimmer(LocalLogStore(tmp_path / "none"), RetentionConfig())) as trimmer:
        assert trimmer.needed([RestartPoint()]) == {}


def test_windows_that_a_worker_still_reads_stay_however_few_are_kept(tmp_path: Path) -> None:
    store = LocalLogStore(tmp_path)
    with closing(store.writer(topics.WINDOWS)) as writer:
        writer.append([Record(dump(window(100, number))) for number in range(6)])
    needed = {topics.WINDOWS: {0: 1_000}}
    with closing(LogTrimmer(store, RetentionConfig(windows_events=100))) as trimmer:
        assert trimmer.trim(needed, windows_after=0) == {}
        assert trimmer.trim(needed, windows_after=200) == {(topics.WINDOWS, 0): 2}
        assert trimmer.trim(needed, windows_after=900) == {(topics.WINDOWS, 0): 5}


def point_of(parts: Mapping[str, bytes]) -> RestartPoint:
    return RestartPoint(offsets={"log": int(parts["offset"])})


def test_a_worker_with_one_whole_checkpoint_may_have_to_begin_anew(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    points, begin = RestartPoints(checkpoints, point_of), RestartPoint(offsets={"log": 0})

    def offsets() -> list[int]:
        return [point.offsets["log"] for point in points.poll(begin)]

    assert offsets() == [0]
    written = []
    for count in (1, 2, 3, 4):
        written.append(checkpoints.write(count, {"offset": str(10 * count).encode()}))
        assert offsets() == {1: [0, 10], 2: [10, 20], 3: [10, 20, 30], 4: [20, 30, 40]}[count]
    for path in written[2:]:
        (path / "offset").write_bytes(b"")
    assert RestartPoints(checkpoints, point_of).poll(begin) == [begin, *points.poll(begin)[:1]]


def test_a_place_in_predictions_is_found_while_they_are_trimmed(tmp_path: Path) -> None:
    """The trim comes after the first look at where they begin."""
    store = store_of(tmp_path, 1, range(64))
    reader = store.reader("predictions.dense")

    class Trimmed:
        """The log, of which somebody deletes all that is not looked for."""

        def begin(self, partition: int) -> int:
            found = reader.begin(partition)
            store.trim("predictions.dense", 0, 50)
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(reader, name)

    assert find_predictions(cast(LogReader, Trimmed()), 53) == 53
    assert find_predictions(reader, 50) == find_predictions(reader, 20) == 50
    assert find_predictions(reader, 99) == 63
    reader.close()
