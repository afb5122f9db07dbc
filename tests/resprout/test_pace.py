from __future__ import annotations

from dataclasses import dataclass, field

from learner.step import LearnerStep
from resprout.pace import Pace, SourceStep


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
    pace = Pace(feed, Learner(feed), ahead_events=1_000)
    assert pace.feed() == SourceStep(0, waiting_for="dense")
    pace.learn()
    assert pace.feed() == SourceStep(500, 500)


def test_the_source_is_never_further_ahead_than_it_may_be() -> None:
    feed = Feed(20)
    learner = Learner(feed)
    pace = Pace(feed, learner, ahead_events=1_000)
    pace.learn()
    pace.feed()
    for _ in range(200):
        pace.learn()
        pace.feed()
        assert feed.appended - learner.count <= 1_000 + 500
    assert learner.count == 10_000


def test_events_that_are_not_valid_bring_nothing_to_a_halt() -> None:
    feed = Feed(200)
    learner = Learner(feed, valid=0.1)
    pace = Pace(feed, learner, ahead_events=1_000)
    pace.learn()
    while not pace.feed().done:
        pace.learn()
    assert feed.chunks == 0


def test_a_learner_that_goes_on_far_into_the_stream_is_fed_from_there() -> None:
    feed = Feed(9)
    learner = Learner(feed, count=1_000_000)
    pace = Pace(feed, learner, ahead_events=1_000)
    pace.learn()
    assert pace.feed() == SourceStep(1_000_500, 500)


def test_the_end_of_the_input_is_the_end_of_the_source() -> None:
    feed = Feed(0)
    pace = Pace(feed, Learner(feed), ahead_events=1_000)
    pace.learn()
    assert pace.feed().done
