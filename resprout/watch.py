"""Who looks on while workers step: those who count, those who show, and what the log says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from resprout.runner import Observe, Step
from resprout.settings import DENSE, EVALUATOR, NEVER_REBUILT, PRUNER, SOURCE, SPARSE
from stream.topics import CLICKS, LEDGER, TRUTH, WINDOWS, predictions

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
    tell
        Makes of what a worker waits for what the observers are told.

    Attributes
    ----------
    events
        Of that worker, in this process.
    """

    def __init__(
        self, counted: str, observers: Sequence[Observe], tell: Callable[[str], str] = str
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


_WRITERS = {
    CLICKS: SOURCE,
    TRUTH: SOURCE,
    LEDGER: PRUNER,
    WINDOWS: EVALUATOR,
    **{predictions(model): model for model in (DENSE, SPARSE, NEVER_REBUILT)},
    predictions("candidate-1"): PRUNER,
}
"""Who writes the logs that workers wait for."""
_CALLED = {
    SOURCE: "the source",
    DENSE: "the dense learner",
    SPARSE: "the sparse learner",
    NEVER_REBUILT: "the learner that is never rebuilt",
    PRUNER: "the prune worker",
    EVALUATOR: "the evaluator",
}
_STANDS_IN = {
    "first mask": LEDGER,
    "decision on": LEDGER,
    "verdict o": LEDGER,
    "judgement of": WINDOWS,
    "window ending": WINDOWS,
}
"""The logs of what is waited for by another name than its log's."""


def whose(waiting_for: str, *, sent: bool = False) -> str:
    """Say of what a worker waits for which log it stands in, and which worker writes that.

    Parameters
    ----------
    waiting_for
        What it is, as the worker has it.
    sent
        Whether the clicks come from outside, so that perhaps no worker writes them.

    Examples
    --------
    >>> whose("predictions.dense"), whose("clicks", sent=True)
    ('predictions.dense (the dense learner)', 'clicks')
    >>> whose("the verdict on rebuild 3")
    'the verdict on rebuild 3 (the prune worker, log ledger)'
    """
    what = waiting_for.removeprefix("the ")
    if what.startswith("dense snapshot"):
        return f"{waiting_for} ({_CALLED[DENSE]})"
    found = [log for begin, log in _STANDS_IN.items() if what.startswith(begin)]
    log_name = found[0] if found else waiting_for
    if log_name not in _WRITERS or (sent and log_name == CLICKS):
        return waiting_for
    beside = f", log {log_name}" if found else ""
    return f"{waiting_for} ({_CALLED[_WRITERS[log_name]]}{beside})"


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
