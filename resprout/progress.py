"""The ``progress`` logs: all that belongs to the wall clock, and that no decision reads."""

from __future__ import annotations

import time
from collections.abc import Callable

from resprout.runner import Step
from stream.log import LogHome, LogWriter, Record
from stream.messages import Progress, dump
from stream.topics import progress

EVERY_SECONDS = 5.0
"""Pause between two records of one worker."""


class ProgressLogs:
    """Writes every few seconds how far each worker has come, each into a log of its own.

    Parameters
    ----------
    home
        Where the logs live.
    workers
        The workers' names.
    clock
        Seconds that never go back.
    """

    def __init__(
        self,
        home: LogHome,
        workers: tuple[str, ...],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._started = clock()
        self._due = dict.fromkeys(workers, self._started)
        self._writers: dict[str, LogWriter] = {w: home.writer(progress(w)) for w in workers}

    def __call__(self, name: str, step: Step) -> None:
        """Observe a step; called in the worker's own thread."""
        now = self._clock()
        if now < self._due[name] and not step.done:
            return
        self._due[name] = now + EVERY_SECONDS
        message = Progress(
            worker=name,
            count=step.count,
            wall_seconds=now - self._started,
            waiting_for=step.waiting_for,
        )
        self._writers[name].append([Record(dump(message))])

    def close(self) -> None:
        """Release the logs."""
        for writer in self._writers.values():
            writer.close()
