from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from learner import LearnerStep
from resprout.wiring import LeadLimit, RateLimit, SourceStep, Throttle
from stream.columnar import predictions_to_bytes
from stream.log import LocalLogStore, LogStore, Record
from stream.messages import Position, PositionRange, PredictionBatch, Progress, dump
from stream.spec import Waiting


@dataclass
class Feed:
    """A source of chunks of 500 events, some of which may not be valid."""

    chunks: int
    appended: int = 0

    def step(self) -> int | None:
        if self.chunks == 0:
            return None
        self.chunks -= 1
        self.appended += 500
        return 500

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


@dataclass
class Learner:
    """Learns all but the invalid events of what the feed has appended, 100 a step."""

    feed: Feed
    valid: float = 1.0
    count: int = 0
    counts: list[int] = field(default_factory=list)

    def step(self) -> LearnerStep:
        events = 100 if self.count + 100 <= self.feed.appended * self.valid else 0
        self.count += events
        return LearnerStep(self.count, events)


def test_the_source_waits_for_the_learner_to_begin() -> None:
    feed = Feed(9)
    throttle = Throttle(feed, Learner(feed).step, ahead_events=1_000)
    assert throttle.feed() == SourceStep(0, waiting_for=Waiting("predictions.dense", "dense"))
    throttle.learn()
    assert throttle.feed() == SourceStep(500, 500)


def test_the_source_is_never_further_ahead_than_it_may_be() -> None:
    feed = Feed(20)
    learner = Learner(feed)
    throttle = Throttle(feed, learner.step, ahead_events=1_000)
    throttle.learn()
    throttle.feed()
    for _ in range(200):
        throttle.learn()
        throttle.feed()
        assert feed.appended - learner.count <= 1_000 + 500
    assert learner.count == 10_000


def test_events_that_are_not_valid_bring_nothing_to_a_halt() -> None:
    feed = Feed(200)
    learner = Learner(feed, valid=0.1)
    throttle = Throttle(feed, learner.step, ahead_events=1_000)
    throttle.learn()
    while not throttle.feed().done:
        throttle.learn()
    assert feed.chunks == 0


def test_a_learner_that_goes_on_far_into_the_stream_is_fed_from_there() -> None:
    feed = Feed(9)
    learner = Learner(feed, count=1_000_000)
    throttle = Throttle(feed, learner.step, ahead_events=1_000)
    throttle.learn()
    assert throttle.feed() == SourceStep(1_000_500, 500)


def test_the_end_of_the_input_is_the_end_of_the_source() -> None:
    feed = Feed(0)
    throttle = Throttle(feed, Learner(feed).step, ahead_events=1_000)
    throttle.learn()
    assert throttle.feed().done


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def appended_by(rated: RateLimit, clock: Clock, seconds: float) -> int:
    """Step a source every hundredth of a second, and return what it has appended."""
    until, events = clock.now + seconds, 0
    while clock.now < until:
        events += rated.step().events
        clock.now += 0.01
    return events


def test_a_source_of_its_own_keeps_to_its_rate_after_the_free_events() -> None:
    clock = Clock()
    rated = RateLimit(Feed(10_000), 0, 10_000, 2_000, clock)
    while rated.step().count < 10_000:
        """Full speed: the clock stands."""
    assert appended_by(rated, clock, 10) == pytest.approx(20_000, abs=1_000)


def test_a_source_that_begins_again_makes_no_burst() -> None:
    clock = Clock()
    rated = RateLimit(Feed(10_000), 1_000_000, 10_000, 2_000, clock)
    assert appended_by(rated, clock, 10) == pytest.approx(20_000, abs=1_000)


def test_a_source_does_not_catch_up_after_a_long_stretch_in_which_nothing_was_taken() -> None:
    clock = Clock()
    rated = RateLimit(Feed(10_000), 20_000, 10_000, 2_000, clock)
    appended_by(rated, clock, 5)
    clock.now += 600
    assert appended_by(rated, clock, 10) == pytest.approx(22_000, abs=1_000)


def test_a_source_held_back_by_its_rate_waits_for_nobody() -> None:
    clock = Clock()
    rated = RateLimit(Feed(10), 20_000, 10_000, 1, clock)
    assert rated.step() == SourceStep(20_500, 500)
    assert rated.step() == SourceStep(20_500)


def test_a_source_without_a_rate_goes_to_its_end_at_once() -> None:
    rated = RateLimit(Feed(2))
    assert [rated.step() for _ in range(3)] == [
        SourceStep(500, 500),
        SourceStep(1_000, 500),
        SourceStep(1_000, done=True),
    ]


@pytest.fixture(params=["embedded", "kafka"])
def logs(request: pytest.FixtureRequest, tmp_path: Path) -> LogStore:
    if request.param == "kafka":
        kafka: LogStore = request.getfixturevalue("kafka_home")
        return kafka
    return LocalLogStore(tmp_path)


@dataclass
class Others:
    """The workers of other processes and a producer of clicks, as their logs show them."""

    logs: LogStore
    clock: Clock = field(default_factory=Clock)
    written: int = 0

    def write(self, records: int) -> None:
        """Append clicks, one event each."""
        self._append("clicks", [Record(b"click")] * records)
        self.written += records

    def publish(self, begin: int, end: int) -> None:
        """Publish dense's predictions for some of them."""
        spans = (PositionRange(0, Position(begin, 0), Position(end - 1, 0), end - begin),)
        batch = PredictionBatch("dense", 0, begin, spans, {}, np.full(end - begin, 0.1))
        self._append("predictions.dense", [Record(predictions_to_bytes(batch))])

    def report(self, worker: str, count: int, waiting_log: str | None = None) -> None:
        """Report how far a worker has come; time passes."""
        report = Progress(
            worker=worker,
            count=count,
            events=count,
            wall_seconds=1.0,
            waiting_for=waiting_log,
            waiting_log=waiting_log,
            time_ms=0,
        )
        self._append(f"progress.{worker}", [Record(dump(report))])
        self.clock.now += 2

    def _append(self, log: str, records: list[Record]) -> None:
        with closing(self.logs.writer(log)) as writer:
            writer.append(records)
            writer.flush()


@pytest.fixture
def others(logs: LogStore) -> Others:
    return Others(logs)


@pytest.fixture
def lead(others: Others) -> Iterator[LeadLimit]:
    workers = ("dense", "sparse", "evaluator")
    with closing(LeadLimit(others.logs, workers, 1_000, others.clock)) as made:
        yield made


def holder(waiting: Waiting | None) -> str | None:
    """Return the worker that is waited for."""
    return None if waiting is None else waiting.log.removeprefix("progress.")


def test_before_anybody_has_learned_the_lead_begins_with_the_first_event(lead: LeadLimit) -> None:
    assert lead(999) is None
    assert lead(1_000) == Waiting(
        "progress.dense", "dense to be less than 1,000 events behind (stream.max_lead_events)"
    )


def test_the_slowest_worker_that_has_begun_is_the_one_that_is_waited_for(
    others: Others, lead: LeadLimit
) -> None:
    others.write(1_000)
    others.publish(0, 600)
    others.report("sparse", 0)
    others.report("dense", 600)
    assert lead(1_000) is None
    others.report("sparse", 500)
    others.report("evaluator", 400)
    assert [holder(lead(count)) for count in (1_000, 1_399, 1_400)] == [None, None, "evaluator"]
    others.write(400)
    others.report("evaluator", 600)
    assert [holder(lead(count)) for count in (1_400, 1_500)] == [None, "sparse"]


def test_a_worker_that_is_away_for_long_holds_the_source_until_it_comes_again(
    others: Others, lead: LeadLimit
) -> None:
    others.write(1_500)
    others.publish(0, 500)
    others.report("dense", 500)
    for _ in range(100):
        others.clock.now += 3_600
        assert holder(lead(1_500)) == "dense"
    others.publish(500, 1_000)
    others.report("dense", 1_000)
    assert lead(1_500) is None


def test_events_of_all_who_write_clicks_count(others: Others, lead: LeadLimit) -> None:
    """This source has written 100 events, others all that are there beside them."""
    others.write(1_500)
    others.publish(0, 500)
    others.report("dense", 500)
    assert holder(lead(100)) == "dense"


def test_events_without_end_that_are_not_valid_bring_nothing_to_a_halt(
    others: Others, lead: LeadLimit
) -> None:
    """Dense has read them and waits for more, so it counts no further."""
    others.write(500)
    others.publish(0, 500)
    others.report("dense", 500)
    assert lead(500) is None
    for _ in range(5):
        while lead(others.written) is None:
            others.write(250)
            others.clock.now += 2
        assert holder(lead(others.written)) == "dense"
        others.report("dense", 500, "clicks")
    assert others.written == 500 + 5 * 1_000


def test_what_a_worker_said_before_it_was_stopped_does_not_let_a_source_go_on(
    others: Others,
) -> None:
    """It waited for clicks then; since, others have come, and so has another source."""
    others.write(500)
    others.publish(0, 500)
    others.report("dense", 500, "clicks")
    others.write(1_000)
    with closing(LeadLimit(others.logs, ("dense",), 1_000, others.clock)) as lead:
        assert holder(lead(1_500)) == "dense"


def test_clicks_that_are_no_longer_kept_change_nothing(others: Others, lead: LeadLimit) -> None:
    others.write(1_500)
    others.publish(0, 600)
    others.report("dense", 600)
    others.logs.trim("clicks", 0, 400)
    assert [holder(lead(count)) for count in (1_500, 1_599, 1_600)] == [None, None, "dense"]


def test_a_source_too_far_ahead_appends_nothing_and_says_for_whom_it_waits() -> None:
    feed = Feed(10)
    limited = RateLimit(feed)
    limited.too_far_ahead = lambda count: Waiting("progress.dense") if count >= 1_000 else None
    assert [limited.step().events for _ in range(4)] == [500, 500, 0, 0]
    assert limited.step().waiting_for == Waiting("progress.dense")
    assert feed.appended == 1_000
