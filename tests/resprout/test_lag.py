from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from resprout.monitoring.progress import MOST_LOOKS, AvailableEvents, LagClock
from stream.columnar import predictions_to_bytes
from stream.log import LogWriter, Record
from stream.log.local import LocalLogStore
from stream.messages import Position, PositionRange, PredictionBatch


def test_seconds_behind_are_those_since_as_many_events_were_there() -> None:
    """Events come at 10 a second; the worker stops at 100 and takes up the rest at 60 s."""
    behind, lags = LagClock(), []
    for second in range(0, 60, 5):
        behind.look(10 * second, now=second)
        lags.append(behind.seconds(min(10 * second, 100), now=second))
    assert lags == [*[0.0] * 3, *[float(second - 10) for second in range(15, 60, 5)]]
    behind.look(600, now=60)
    assert behind.seconds(350, now=60) == pytest.approx(25)
    assert behind.seconds(600, now=70) == 0


def test_a_worker_that_nobody_has_looked_at_is_not_behind() -> None:
    behind = LagClock()
    assert (behind.there, behind.seconds(500, now=10)) == (None, 0)


def test_before_the_first_look_the_lag_is_at_least_the_time_since() -> None:
    behind = LagClock()
    behind.look(900, now=10)
    assert behind.seconds(500, now=17) == 7


def test_a_worker_that_stands_still_falls_behind_also_while_nobody_looks() -> None:
    behind = LagClock()
    behind.look(500, now=0)
    behind.look(900, now=10)
    assert [behind.seconds(500, now) for now in (10, 20, 100)] == [10, 20, 100]


def test_a_stream_that_paused_is_behind_from_when_events_came_again() -> None:
    behind = LagClock()
    for now in (0, 10, 20, 30):
        behind.look(500, now)
        assert behind.seconds(500, now) == 0
    behind.look(600, now=40)
    assert behind.seconds(500, now=41) == 11


def test_looks_without_end_are_thinned_and_the_lag_stays_right() -> None:
    behind = LagClock()
    for second in range(5 * MOST_LOOKS):
        behind.look(10 * second + 10, now=second)
    assert behind.seconds(5, now=5 * MOST_LOOKS) == 5 * MOST_LOOKS
    assert behind.seconds(25_009, now=5 * MOST_LOOKS) == pytest.approx(2_500, abs=0.2)


def batch(begin: int, spans: tuple[PositionRange, ...], through: dict[int, Position]) -> Record:
    events = sum(span.events for span in spans)
    made = PredictionBatch("dense", 0, begin, spans, through, np.full(events, 0.1))
    return Record(predictions_to_bytes(made))


def span(partition: int, first: int, last: int, events: int) -> PositionRange:
    return PositionRange(partition, Position(first, 0), Position(last, 0), events)


@pytest.fixture
def home(tmp_path: Path) -> LocalLogStore:
    return LocalLogStore(tmp_path)


@pytest.fixture
def clicks(home: LocalLogStore) -> Callable[[int], None]:
    def write(records: int) -> None:
        with closing(home.writer("clicks")) as writer:
            writer.append([Record(b"click")] * records)

    return write


def predicted(home: LocalLogStore, *records: Record) -> None:
    writer: LogWriter
    with closing(home.writer("predictions.dense")) as writer:
        writer.append(records)


@pytest.mark.parametrize("worker", ["dense", "sparse"])
def test_nothing_is_known_before_dense_has_published(home: LocalLogStore, worker: str) -> None:
    with closing(AvailableEvents(home, worker)) as ahead:
        assert ahead() is None


def test_there_are_as_many_events_as_dense_has_published(home: LocalLogStore) -> None:
    with closing(AvailableEvents(home, "evaluator")) as ahead:
        predicted(home, batch(0, (span(0, 0, 3, 4),), {}))
        assert ahead() == 4
        predicted(home, batch(4, (span(0, 4, 7, 4),), {0: Position(3, 0)}))
        assert ahead() == 8


def test_for_dense_there_are_those_in_the_log_one_in_each_record(
    home: LocalLogStore, clicks: Callable[[int], None]
) -> None:
    with closing(AvailableEvents(home, "dense")) as ahead:
        clicks(10)
        predicted(home, batch(0, (span(0, 0, 3, 4),), {}))
        assert ahead() == 10


def test_for_dense_records_hold_as_many_events_as_those_before(
    home: LocalLogStore, clicks: Callable[[int], None]
) -> None:
    """Two records of 50 events each have been read, of seven."""
    with closing(AvailableEvents(home, "dense")) as ahead:
        clicks(7)
        predicted(home, batch(50, (span(0, 1, 1, 50),), {0: Position(0, 49)}))
        assert ahead() == 350


@pytest.mark.parametrize(("per_record", "ahead"), [(1, 30 + 12), (100, 3_000 + 1_200)])
def test_what_stands_before_the_begin_of_the_run_is_not_counted(
    per_record: int, ahead: int, tmp_path: Path
) -> None:
    """Of 142 records of one partition 100 stand before, and 30 of the others are learned."""
    home = LocalLogStore(tmp_path)
    with closing(home.writer("clicks")) as writer:
        writer.append([Record(b"") for _ in range(142)])
    learned = span(0, 100, 129, 30 * per_record)
    with closing(home.writer("predictions.dense")) as predictions:
        predictions.append([batch(0, (learned,), {})])
    with closing(AvailableEvents(home, "dense", {0: 100})) as found:
        assert found() == ahead
