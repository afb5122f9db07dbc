"""How far workers are: their lag, the logs of their progress, and what they wait for."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from types import MappingProxyType

from evaluator import EvaluatorStep
from evaluator.run import place
from resprout.runner import Observe, Step
from resprout.settings import DENSE, NEVER_REBUILT, SPARSE
from stream import MessageLog, Reason, Waiting, predictions_from_bytes
from stream.log import LogStore, LogWriter, Record
from stream.messages import DeadLetter, Progress, dump, parse
from stream.topics import (
    CLICKS,
    DEAD_LETTERS,
    LEDGER,
    SNAPSHOTS,
    TRUTH,
    WINDOWS,
    predictions,
    progress,
)

log = logging.getLogger(__name__)

MOST_LOOKS = 1_000
"""Looks that are remembered; of more, every second one is forgotten."""


class AvailableEvents:
    """Tells how many events there are for a worker of another process than the others.

    All workers follow dense, so for them these are what dense has published. For dense they are
    those in the log of the clicks: exactly where a record holds one event, else by how many a
    record has held so far.

    Parameters
    ----------
    home
        Where the logs live.
    worker
        Who asks.
    begins
        By partition the offset of the clicks with which the run begins; not named: 0.
    """

    def __init__(
        self, home: LogStore, worker: str, begins: Mapping[int, int] = MappingProxyType({})
    ) -> None:
        self._published = home.reader(predictions(DENSE))
        self._clicks = home.reader(CLICKS) if worker == DENSE else None
        self._begins = begins

    def __call__(self) -> int | None:
        """Look; None while dense has published nothing."""
        newest = self._published.last(0)
        if newest is None:
            return None
        batch = predictions_from_bytes(newest.record.value)
        if self._clicks is None:
            return batch.end
        begins = self._begins
        through = {partition: place.offset for partition, place in batch.trained_through.items()}
        through |= {span.partition: span.last.offset for span in batch.spans}
        read = sum(offset + 1 - begins.get(p, 0) for p, offset in through.items())
        there = sum(self._clicks.end(p) - begins.get(p, 0) for p in self._clicks.partitions)
        return batch.end + round(max(there - read, 0) * batch.end / read)

    def close(self) -> None:
        """Release the logs."""
        self._published.close()
        if self._clicks is not None:
            self._clicks.close()


class LagClock:
    """Tells for how long the events that a worker has not come through have been there.

    Event time need not be anywhere near the clock's, so it is not asked: at every look it is noted
    how many events there are, and the lag is the time since there were as many as the worker has
    come through, in between two looks by a straight line. Before the first look nothing is known,
    and the lag is at least the time since then.

    Examples
    --------
    >>> behind = LagClock()
    >>> behind.look(there=100, now=0)
    >>> behind.look(there=200, now=10)
    >>> behind.seconds(count=150, now=12), behind.seconds(count=200, now=12)
    (7.0, 0.0)
    """

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque()

    @property
    def there(self) -> int | None:
        """How many events there were at the last look; None before the first."""
        return self._looks[-1][1] if self._looks else None

    def look(self, there: int, now: float) -> None:
        """Note how many events there are now, by any clock that does not go back."""
        if len(self._looks) >= MOST_LOOKS:
            self._looks = deque(list(self._looks)[::2])
        self._looks.append((now, there))

    def seconds(self, count: int, now: float) -> float:
        """Return the lag of a worker that has come through ``count`` events."""
        while len(self._looks) > 1 and self._looks[1][1] <= count:
            self._looks.popleft()
        if self.there is None or self.there <= count:
            return 0.0
        then, had = self._looks[0]
        if had > count:
            return float(now - then)
        later, has = self._looks[1]
        return float(now - then - (later - then) * (count - had) / (has - had))


LOOK_SECONDS = 5.0
"""Pause between two looks for how many events there are."""


class Lags:
    """Compares how far the workers have come with how far they could.

    Parameters
    ----------
    workers
        Those of the process.
    clock
        Unix time.

    Examples
    --------
    >>> lags = Lags(["source", "dense"], clock=lambda: 1_000.0)
    >>> lags.came("source", 500)
    >>> lags.came("dense", 200)
    >>> lags.of("source"), lags.of("dense")
    ((0, 0.0), (300, 0.0))
    """

    def __init__(self, workers: Sequence[str], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: dict[str, int | None] = dict.fromkeys(workers)
        self._clocks = {worker: LagClock() for worker in workers}
        self._ahead: dict[str, Callable[[], int | None]] = {}
        self._looked = dict.fromkeys(workers, -math.inf)
        self._looking = threading.Lock()

    def follow(self, worker: str, ahead: Callable[[], int | None]) -> None:
        """Compare a worker with how many events there are, rather than with the others."""
        self._ahead[worker] = ahead

    def came(self, worker: str, count: int) -> None:
        """Note how far a worker has come; called in its own thread."""
        self._counts[worker] = count
        now = self._clock()
        if worker in self._ahead and now >= self._looked[worker] + LOOK_SECONDS:
            self._looked[worker] = now
            there = self._ahead[worker]()
            if there is not None:
                with self._looking:
                    self._clocks[worker].look(there, self._clock())

    def of(self, worker: str) -> tuple[int, float] | None:
        """Return how far a worker is behind, in events and in seconds; None: not known."""
        count, clock = self._counts[worker], self._clocks[worker]
        if count is None:
            return None
        with self._looking:
            if worker not in self._ahead and len(self._counts) > 1:
                clock.look(max(count or 0 for count in self._counts.values()), self._clock())
            if clock.there is None:
                return None
            return max(clock.there - count, 0), clock.seconds(count, self._clock())


EVERY_SECONDS = 2.0
"""Pause between two records of one worker."""


class ProgressLogs:
    """Writes every few seconds how far each worker has come, each into a log of its own.

    Parameters
    ----------
    home
        Where the logs live.
    workers
        The workers' names.
    lag
        Tells by a worker's name how far it is behind, in events and in seconds, where that is
        known.
    clock
        Seconds that never go back.
    wall_clock
        Unix time.
    """

    def __init__(
        self,
        home: LogStore,
        workers: tuple[str, ...],
        lag: Callable[[str], tuple[int, float] | None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._lag, self._clock, self._wall_clock = lag, clock, wall_clock
        self._started = clock()
        self._due = dict.fromkeys(workers, self._started)
        self._events = dict.fromkeys(workers, 0)
        self._writers: dict[str, LogWriter] = {w: home.writer(progress(w)) for w in workers}

    def __call__(self, name: str, step: Step) -> None:
        """Observe a step; called in the worker's own thread."""
        now = self._clock()
        self._events[name] += step.events
        if now < self._due[name] and not step.done:
            return
        self._due[name] = now + EVERY_SECONDS
        # A worker that has not begun is not behind.
        lag = self._lag(name) if step.count else None
        message = Progress(
            worker=name,
            count=step.count,
            events=self._events[name],
            wall_seconds=now - self._started,
            waiting_for=str(step.waiting_for) if step.waiting_for else None,
            waiting_log=step.waiting_for.log if step.waiting_for else None,
            time_ms=round(1_000 * self._wall_clock()),
            lag_events=lag[0] if lag else None,
            lag_seconds=lag[1] if lag else None,
            done=step.done,
        )
        self._writers[name].append([Record(dump(message))])
        if step.done:
            # Whoever copies it looks once more, and no later.
            self._writers[name].flush()

    def close(self) -> None:
        """Release the logs."""
        for writer in self._writers.values():
            writer.close()


def last_reports(home: LogStore, workers: Iterable[str]) -> list[Progress]:
    """Return the last report of each worker that has written any."""
    found = []
    for worker in workers:
        with closing(home.reader(progress(worker))) as reader:
            last = reader.last(0)
        if last and isinstance(message := parse(last.record.value), Progress):
            found.append(message)
    return found


SAY_SECONDS = 5.0
"""How long a worker must have waited before the log says so."""


class Watch:
    """Passes every step on to all who look on, and counts the events of one worker.

    Parameters
    ----------
    counted
        The worker's name.
    observers
        Called with every step, in this order.
    tell
        Turns what a worker waits for into what the observers get.

    Attributes
    ----------
    events
        Of that worker, in this process.
    """

    def __init__(
        self,
        counted: str,
        observers: Sequence[Observe],
        tell: Callable[[Waiting], Waiting] = lambda waiting: waiting,
    ) -> None:
        self.events = 0
        self._counted = counted
        self._observers = observers
        self._tell = tell

    def __call__(self, name: str, step: Step) -> None:
        """Observe a step; called in the worker's own thread."""
        if name == self._counted:
            self.events += step.events
        if step.waiting_for is not None:
            step = replace(step, waiting_for=self._tell(step.waiting_for))
        for observe in self._observers:
            observe(name, step)


ENOUGH_EVENTS = 1_000
"""Events, invalid ones counted, before which no share of invalid events stops a run."""
_MOST_REASONS = 3


class InvalidLimit:
    """Ends a run in which too many events are invalid, as a person would who stops it.

    Parameters
    ----------
    logs
        Where the logs are. Dead letters of an earlier start of the run count as well.
    most
        The share of invalid events that lets a run continue.
    batch_events
        Events of a batch: of so many the evaluator may have read the invalid ones only.

    Attributes
    ----------
    stop
        Called once it is exceeded.
    exceeded
        Why the run is to end; None while it is not.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from evaluator import EvaluatorStep
    >>> from stream.log import LocalLogStore
    >>> from stream.messages import DeadLetter
    >>> limit = InvalidLimit(LocalLogStore(Path(tempfile.mkdtemp())), most=0.01, batch_events=500)
    >>> bad = DeadLetter(
    ...     reason="label",
    ...     detail="label = 'x'",
    ...     partition=0,
    ...     offset=7,
    ...     row=0,
    ...     raw="",
    ...     line=8,
    ...     file="a",
    ... )
    >>> limit("evaluator", EvaluatorStep(500, 500, dead_letters=(bad,) * 10))
    >>> limit("evaluator", EvaluatorStep(1_000, 500))
    >>> limit("evaluator", EvaluatorStep(1_500, 500, dead_letters=(bad,) * 6))
    >>> limit.exceeded
    "16 of 1,516 events are invalid, 1.06 %, more than stream.max_invalid_ratio = 0.01 lets pass:
    16 label (a:8: label = 'x'); ..."
    """

    def __init__(self, logs: LogStore, most: float, batch_events: int) -> None:
        self._most, self._batch_events = most, batch_events
        self.stop: Callable[[], None] = lambda: None
        self.exceeded: str | None = None
        self._counts: Counter[str] = Counter()
        self._first: dict[str, DeadLetter] = {}
        self._take(MessageLog(logs, DEAD_LETTERS).read(DeadLetter))
        # The letters of an earlier start may be ahead of what is scored now.
        self._scored = 0
        with closing(logs.reader(predictions(DENSE))) as published:
            newest = published.last(0)
            if newest is not None and self._counts:
                self._scored = predictions_from_bytes(newest.record.value).end

    def __call__(self, name: str, step: Step) -> None:
        """Look at a step."""
        if not isinstance(step, EvaluatorStep) or self.exceeded is not None:
            return
        self._take(step.dead_letters)
        invalid = self._counts.total()
        in_hand = 0 if step.events else self._batch_events
        count = max(step.count + in_hand, self._scored) + invalid
        if step.count + invalid < ENOUGH_EVENTS or invalid <= self._most * count:
            return
        known = [(many, self._first[why]) for why, many in self._counts.most_common(_MOST_REASONS)]
        said = "; ".join(
            f"{many:,} {one.reason} ({place(one)}: {one.detail})" for many, one in known
        )
        others = invalid - sum(many for many, _ in known)
        said += f"; and {others:,} other{'s' if others > 1 else ''}" if others else ""
        self.exceeded = (
            f"{invalid:,} of {count:,} events are invalid, {100 * invalid / count:.2f} %, more "
            f"than stream.max_invalid_ratio = {self._most:g} lets pass: {said}; they are kept in "
            f"the log `{DEAD_LETTERS}`. Correct the input or its schema (`resprout schema check` "
            "tells what does not fit) and start afresh, or continue with a larger ratio"
        )
        self.stop()

    def _take(self, letters: Iterable[DeadLetter]) -> None:
        for letter in letters:
            # Whoever has duplicates looked for expects some: they are no sign of a wrong schema.
            if letter.reason == Reason.DUPLICATE:
                continue
            self._counts[letter.reason] += 1
            self._first.setdefault(letter.reason, letter)


_WRITERS = {
    CLICKS: "the source",
    TRUTH: "the source",
    LEDGER: "the prune worker",
    WINDOWS: "the evaluator",
    SNAPSHOTS: "the dense learner",
    predictions(DENSE): "the dense learner",
    predictions(SPARSE): "the sparse learner",
    predictions(NEVER_REBUILT): "the learner that is never rebuilt",
    predictions("candidate-1"): "the prune worker",
}
"""Who writes what workers wait for."""


def name_writer(waiting: Waiting, *, external_clicks: bool = False) -> Waiting:
    """Say in words which worker writes what is waited for.

    Parameters
    ----------
    waiting
        As the worker that waits has it.
    external_clicks
        Whether the clicks come from outside, so that perhaps no worker writes them.

    Examples
    --------
    >>> str(name_writer(Waiting("predictions.dense")))
    'predictions.dense (the dense learner)'
    >>> str(name_writer(Waiting("ledger", "the verdict on rebuild 3")))
    'the verdict on rebuild 3 (the prune worker, log ledger)'
    >>> str(name_writer(Waiting("clicks"), external_clicks=True))
    'clicks'
    """
    model = waiting.log.removeprefix(predictions(""))
    writer = _WRITERS.get(waiting.log, f"the learner of {model}")
    is_known = waiting.log in _WRITERS or model != waiting.log
    if not is_known or (external_clicks and waiting.log == CLICKS):
        return waiting
    is_named = waiting.what and waiting.log in (CLICKS, TRUTH, LEDGER, WINDOWS)
    beside = f", log {waiting.log}" if is_named else ""
    return Waiting(waiting.log, f"{waiting} ({writer}{beside})")


@dataclass(slots=True)
class _Wait:
    reason: Waiting
    since: float
    """When it began to wait, for whatever reason."""
    reason_since: float
    logged: Waiting | None = None
    """The reason that the log knows."""


class Waits:
    """Says in the log for whom a worker waits, once it has lasted, and when the worker continues.

    Parameters
    ----------
    say_seconds
        How long it must have lasted: workers that keep up wait for a moment again and again.
    clock
        Seconds that never go back.
    """

    def __init__(
        self, say_seconds: float = SAY_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say_seconds = say_seconds
        self._clock = clock
        self._waits: dict[str, _Wait] = {}

    def __call__(self, name: str, step: Step) -> None:
        """Observe a step."""
        now = self._clock()
        if step.waiting_for is None:
            ended = self._waits.pop(name, None)
            if ended is not None and ended.logged is not None:
                log.info("%s continues after %.0f s", name, now - ended.since)
            if step.done:
                log.info("%s is done after %s events", name, f"{step.count:,}")
            return
        wait = self._waits.setdefault(name, _Wait(step.waiting_for, now, now))
        if wait.reason != step.waiting_for:
            wait.reason, wait.reason_since = step.waiting_for, now
        if wait.logged != wait.reason and now - wait.reason_since >= self._say_seconds:
            wait.logged = wait.reason
            log.info("%s waits for %s, after %s events", name, wait.reason, f"{step.count:,}")
