"""Who looks on while workers step: those who count, those who show, and what the log says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from resprout.runner import Observe, Step

log = logging.getLogger(__name__)

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

    Attributes
    ----------
    events
        Of that worker, in this process.
    """

    def __init__(self, counted: str, observers: Sequence[Observe]) -> None:
        self.events = 0
        self._counted = counted
        self._observers = observers

    def __call__(self, name: str, step: Step) -> None:
        """Observe a step; called in the worker's own thread."""
        if name == self._counted:
            self.events += step.events
        for observe in self._observers:
            observe(name, step)


@dataclass(slots=True)
class _Wait:
    reason: str
    since: float
    """When it began to wait, for whatever reason."""
    reason_since: float
    told: str | None = None
    """The reason that the log knows."""


class Waits:
    """Says in the log for whom a worker waits, once it has lasted, and when the worker goes on.

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
            self._go_on(name, now)
            if step.done:
                log.info("%s is done after %d events", name, step.count)
            return
        wait = self._waits.setdefault(name, _Wait(step.waiting_for, now, now))
        if wait.reason != step.waiting_for:
            wait.reason, wait.reason_since = step.waiting_for, now
        if wait.told != wait.reason and now - wait.reason_since >= self._say_seconds:
            wait.told = wait.reason
            log.info("%s waits for %s, after %d events", name, wait.reason, step.count)

    def _go_on(self, name: str, now: float) -> None:
        wait = self._waits.pop(name, None)
        if wait is not None and wait.told is not None:
            log.info("%s goes on after %.0f s", name, now - wait.since)
