from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from learner import LearnerStep
from resprout.wiring import RateLimit, SourceStep, Throttle
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
