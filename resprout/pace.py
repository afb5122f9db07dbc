"""The source as a worker: kept in step with the dense learner, or at a rate of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from learner.step import LearnerStep
from stream.source import Feed

SLACK_SECONDS = 1.0
"""How far a source may be behind its rate and still catch up."""


@dataclass(frozen=True, slots=True)
class SourceStep:
    """One ``step()`` of the source: at most one chunk."""

    count: int
    """Events in the log, as far as this process knows."""
    events: int = 0
    """Events appended in this step."""
    waiting_for: str | None = None
    """Who must come on first, where nothing was appended."""
    done: bool = False
    """The input has ended."""


class Learner(Protocol):
    """Whoever the source is kept in step with."""

    def step(self) -> LearnerStep:
        """Learn at most one batch."""


class Pace:
    """Keeps a source no further ahead of the dense learner than it may be.

    What is ahead is counted from the moment the learner last found nothing to learn, so events
    that do not validate, which it never counts, cannot bring the two to a halt.

    Parameters
    ----------
    feed
        The source at work.
    dense
        The learner to keep in step with.
    ahead_events
        How far the source may be ahead.
    """

    def __init__(self, feed: Feed, dense: Learner, ahead_events: int) -> None:
        self._feed = feed
        self._dense = dense
        self._limit = ahead_events
        self._count = 0
        self._learned: int | None = None
        self._starved = True

    def learn(self) -> LearnerStep:
        """Step the learner; called in its thread."""
        step = self._dense.step()
        self._starved = step.events == 0
        self._learned = step.count
        return step

    def feed(self) -> SourceStep:
        """Step the source, if it is not too far ahead; called in its own thread."""
        if self._learned is None:
            return SourceStep(self._count, waiting_for="dense")
        if self._starved:
            self._count = self._learned
        if self._count - self._learned >= self._limit:
            return SourceStep(self._count, waiting_for="dense")
        events = self._feed.step()
        self._count += events or 0
        return SourceStep(self._count, events or 0, done=events is None)


class Rated:
    """A source at its own pace, for a process that is nothing else.

    It runs at full speed until there are ``free_events`` events, and then keeps to a rate, counted
    from where the log stands when the process begins or when it comes there: neither a restart nor
    a stretch in which the log took nothing is made good by a burst.

    Parameters
    ----------
    feed
        The source at work.
    count
        Events in the log.
    free_events
        Events through which it is not held back.
    rate
        Events a second after that; None: as fast as it goes.
    clock
        Seconds that never go back.
    """

    def __init__(
        self,
        feed: Feed,
        count: int = 0,
        free_events: int = 0,
        rate: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed = feed
        self._count = count
        self._free_events = free_events
        self._rate = rate
        self._clock = clock
        self._due = clock()

    def step(self) -> SourceStep:
        """Append the next chunk, if it is time."""
        now = self._clock()
        if now < self._due:
            return SourceStep(self._count)
        events = self._feed.step()
        self._count += events or 0
        if self._rate is not None and events and self._count > self._free_events:
            self._due = max(self._due, now - SLACK_SECONDS) + events / self._rate
        return SourceStep(self._count, events or 0, done=events is None)
