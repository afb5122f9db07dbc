"""Health and metrics of one process over HTTP: ``/healthz`` and ``/metrics``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

from resprout.monitoring.metrics import Metrics
from resprout.runner import Step, Worker

if TYPE_CHECKING:
    from evaluator.page import WebServer

STALE_SECONDS = 180.0
"""After this long in one step a worker counts as stuck; a broker may be away for shorter."""

Note = Callable[[], str | None]
"""Says in words what is amiss that no worker fails of, None where nothing is."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """How one worker is doing."""

    count: int = 0
    """Events through which it has come."""
    waiting_for: str | None = None
    done: bool = False
    progress_seconds: float = 0.0
    """Since its last step that did not merely wait, or since the start."""
    round_seconds: float = 0.0
    """Since its last step."""


@dataclass(frozen=True, slots=True)
class State:
    """How a process is doing."""

    status: Literal["healthy", "stale", "failed"]
    reason: str | None
    """Why it is not healthy."""
    workers: dict[str, WorkerState]
    notes: dict[str, str]
    """What is amiss though the workers go on, such as a store that is away."""


class Health:
    """Knows how the workers of a process are doing; called with every step, as an observer.

    A worker that waits is healthy, and says for whom. One that failed is not, nor is one whose
    step does not come to an end.

    Parameters
    ----------
    workers
        Their names.
    notes
        By name, who to ask what is amiss; called whenever somebody looks.
    stale_seconds
        How long a step may take.
    clock
        Seconds that never go back.

    Examples
    --------
    >>> from learner import LearnerStep
    >>> from stream.spec import Waiting
    >>> health = Health(["dense"], clock=lambda: 0.0)
    >>> health("dense", LearnerStep(count=500, waiting_for=Waiting("clicks")))
    >>> health.state().status, health.state().workers["dense"].waiting_for
    ('healthy', 'clicks')
    """

    def __init__(
        self,
        workers: Sequence[str],
        notes: Mapping[str, Note] | None = None,
        stale_seconds: float = STALE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        now = clock()
        self._notes, self._stale_seconds, self._clock = notes or {}, stale_seconds, clock
        self._states = {worker: WorkerState() for worker in workers}
        self._rounds = dict.fromkeys(workers, now)
        self._progress = dict.fromkeys(workers, now)
        self._failure: str | None = None

    def __call__(self, name: str, step: Step) -> None:
        """Observe a step; called in the worker's own thread."""
        now = self._clock()
        self._states[name] = WorkerState(
            step.count, str(step.waiting_for) if step.waiting_for else None, step.done
        )
        self._rounds[name] = now
        if step.waiting_for is None:
            self._progress[name] = now

    def watched(self, worker: Worker) -> Worker:
        """Return the same worker; if it fails, that is known from then on."""

        def step() -> Step:
            try:
                return worker.step()
            except BaseException as error:
                self._fail(worker.name, error)
                raise

        def close() -> None:
            try:
                worker.close()
            except BaseException as error:
                self._fail(worker.name, error)
                raise

        return replace(worker, step=step, close=close)

    def state(self) -> State:
        """Say how the process is doing now."""
        now = self._clock()
        workers = {
            name: replace(
                state,
                progress_seconds=round(now - self._progress[name], 3),
                round_seconds=round(now - self._rounds[name], 3),
            )
            for name, state in self._states.items()
        }
        notes = {name: text for name, note in self._notes.items() if (text := note()) is not None}
        if self._failure is not None:
            return State("failed", self._failure, workers, notes)
        for name, worker in workers.items():
            if not worker.done and worker.round_seconds > self._stale_seconds:
                reason = f"{name} has been in one step for {worker.round_seconds:.0f} s"
                return State("stale", reason, workers, notes)
        return State("healthy", None, workers, notes)

    def _fail(self, name: str, error: BaseException) -> None:
        """Keep the first failure; what comes after it follows from it."""
        self._failure = self._failure or f"{name} failed: {type(error).__name__}: {error}"


def serve_health(host: str, port: int, metrics: Metrics, health: Health) -> WebServer:
    """Answer ``/healthz`` and ``/metrics``, until the server is closed.

    Parameters
    ----------
    host
        The address to listen on.
    port
        0 takes any free one.
    metrics
        What ``/metrics`` says: what Prometheus scrapes.
    health
        What ``/healthz`` says: :class:`State` as JSON, with 200 while the process is healthy and
        503 otherwise.
    """
    # A web server is loaded by those who are asked how they are, and by nobody else.
    from evaluator.page import WebServer, listen, probe_application

    return WebServer(listen(host, port), probe_application(pages(metrics, health)), "health")


Answer = tuple[HTTPStatus, bytes, str]
"""Status, content and its type."""


def pages(metrics: Metrics, health: Health) -> dict[str, Callable[[str], Answer]]:
    """Make what is answered, by path, from the formats that the client takes."""
    return {
        "/healthz": lambda _: _healthz(health),
        "/metrics": lambda accept: (HTTPStatus.OK, *metrics.render(accept)),
    }


def _healthz(health: Health) -> Answer:
    state = health.state()
    status = HTTPStatus.OK if state.status == "healthy" else HTTPStatus.SERVICE_UNAVAILABLE
    return status, json.dumps(asdict(state), indent=1).encode() + b"\n", "application/json"
