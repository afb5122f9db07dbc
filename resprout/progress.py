"""The ``progress`` logs: all that belongs to the wall clock, and that no decision reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import closing

from resprout.runner import Step
from stream.log import LogHome, LogWriter, Record
from stream.messages import Progress, dump, parse
from stream.topics import progress

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
        home: LogHome,
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
        lag = self._lag(name)
        message = Progress(
            worker=name,
            count=step.count,
            events=self._events[name],
            wall_seconds=now - self._started,
            waiting_for=step.waiting_for,
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


def last_told(home: LogHome, workers: Iterable[str]) -> list[Progress]:
    """Return what each worker told last, of those that have told anything."""
    found = []
    for worker in workers:
        with closing(home.reader(progress(worker))) as reader:
            last = reader.last(0)
        message = parse(last.record.value) if last else None
        found += [message] if isinstance(message, Progress) else []
    return found
