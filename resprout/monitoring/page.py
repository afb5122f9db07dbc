"""What a process answers over HTTP: the live page, ``/healthz`` and ``/metrics``.

A web server is loaded by processes that answer, and by no others.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resprout.folder import RunFolder
from resprout.monitoring.metrics import Metrics
from resprout.monitoring.progress import last_reports
from resprout.runner import Step, Worker
from resprout.settings import EVALUATOR, ServeConfig, Settings
from stream import open_logs
from stream.log import LogStore
from stream.topics import WINDOWS, progress

if TYPE_CHECKING:
    from evaluator.page import Access, PageFeed, Probe, Timetable, WebServer

log = logging.getLogger(__name__)

PORT = 8_000
"""Of the page, where no other is set and this one is free."""


class Page:
    """A page that is served, until it is closed.

    Parameters
    ----------
    settings
        Of the run; they say where the page is served.
    state
        The state folder.
    probes
        What else is answered at its port.
    feed
        What it shows; by default the run of this process, once :meth:`show` says where its logs
        are.
    """

    def __init__(
        self,
        settings: Settings,
        state: Path,
        probes: Mapping[str, Probe] | None = None,
        feed: PageFeed | None = None,
    ) -> None:
        from evaluator.page import PageFeed, Pages, serve_page

        self._feed = feed or PageFeed(about=about(settings, state))
        self._feed.timetable = timetable(settings)
        pages = Pages(self._feed, probes or {})
        self._server = serve_page(listen(settings.serve), pages, access(settings.serve))
        self.url = self._server.url
        """Where people find it."""
        log.info("the page is at %s", self.url)

    def show(self, logs: LogStore) -> None:
        """Show what the logs hold, and what comes; close the page before them."""
        self._feed.attach(logs.reader(WINDOWS))

    def close(self) -> None:
        """Let the viewers go, and stop."""
        self._server.close()


@contextmanager
def replayed(settings: Settings, folder: RunFolder) -> Iterator[Page]:
    """Show a run of the past: all that its log holds, before anybody knows the address.

    Raises as reading the log does. A run that is under way in another process is followed.
    """
    from evaluator.page import PageFeed

    with (
        open_logs(settings.stream, folder.home.folder, writable=False) as logs,
        closing(logs.reader(WINDOWS)) as reader,
    ):
        feed = PageFeed(reader, about(settings, folder.path), live=False)
        feed.catch_up()
        last = last_reports(logs, [one for one in settings.workers if logs.exists(progress(one))])
        # While the run is under way, more may be copied into the log that the page shows.
        if any(one.worker == EVALUATOR and one.done for one in last):
            for report in last:
                feed.history.complete(report)
        with closing(Page(settings, folder.path, feed=feed)) as page:
            yield page


def listen(serve: ServeConfig) -> socket.socket:
    """Take the address that the settings name; without a port, the usual one or any free one."""
    from evaluator import page

    if "port" in serve.model_fields_set:
        return page.listen(serve.host, serve.port or 0)
    try:
        return page.listen(serve.host, PORT)
    except page.AddressTakenError:
        log.info("port %d is taken; serve.port sets another", PORT)
        return page.listen(serve.host, 0)


def access(serve: ServeConfig) -> Access:
    """Say who may ask, as the settings have it."""
    from evaluator.page import Access

    token = serve.token.get_secret_value() if serve.token is not None else None
    return Access(serve.hosts, token, serve.certfile, serve.keyfile)


def about(settings: Settings, state: Path) -> dict[str, str]:
    """Say in words which run it is.

    >>> about(Settings(seed=4), Path("runs/demo"))
    {'run': 'demo', 'seed': '4', 'criterion': 'fisher_ema @ 80 %', 'trigger': 'divergence'}
    """
    return {
        "run": state.resolve().name,
        "seed": str(settings.seed),
        "criterion": f"{settings.pruner.criterion} @ {100 * settings.pruner.sparsity:g} %",
        "trigger": settings.trigger.name,
    }


def timetable(settings: Settings) -> Timetable:
    """Say when what is due.

    >>> timetable(Settings()).first_mask_events, timetable(Settings()).threshold
    (1000000, 0.003)
    """
    from evaluator.page import Timetable

    pruner, trigger = settings.pruner, settings.trigger
    return Timetable(
        first_mask_events=pruner.first_mask_events,
        rebuild_events=pruner.rebuild_events,
        window_events=trigger.window_events,
        threshold=trigger.threshold if trigger.name == "divergence" else None,
    )


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
    """What is amiss though the workers continue, such as a store that is away."""


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
        self._notes, self._stale_seconds, self._clock = notes or {}, stale_seconds, clock
        # Until they are shown, seconds are by the clock.
        now = clock()
        self._states = {
            name: WorkerState(progress_seconds=now, round_seconds=now) for name in workers
        }
        self._failure: str | None = None

    def __call__(self, name: str, step: Step) -> None:
        """Observe a step; called in the worker's own thread."""
        waiting_for = str(step.waiting_for) if step.waiting_for else None
        now = self._clock()
        progress = self._states[name].progress_seconds if waiting_for else now
        self._states[name] = WorkerState(step.count, waiting_for, step.done, progress, now)

    def watched(self, worker: Worker) -> Worker:
        """Return the same worker; if it fails, that is known from then on."""

        @contextmanager
        def watching() -> Iterator[None]:
            try:
                yield
            except BaseException as error:
                # What comes after the first failure follows from it.
                self._failure = (
                    self._failure or f"{worker.name} failed: {type(error).__name__}: {error}"
                )
                raise

        return replace(worker, step=watching()(worker.step), close=watching()(worker.close))

    def state(self) -> State:
        """Say how the process is doing now."""
        now = self._clock()
        workers = {
            name: replace(
                state,
                progress_seconds=round(now - state.progress_seconds, 3),
                round_seconds=round(now - state.round_seconds, 3),
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


def serve_health(serve: ServeConfig, metrics: Metrics, health: Health) -> WebServer:
    """Answer ``/healthz`` and ``/metrics``, until the server is closed.

    Parameters
    ----------
    serve
        The address to listen on, and who may ask.
    metrics
        What ``/metrics`` says: what Prometheus scrapes.
    health
        What ``/healthz`` says: :class:`State` as JSON, with 200 while the process is healthy and
        503 otherwise.
    """
    from evaluator import page

    listening = page.listen(serve.host, serve.port or 0)
    probes = page.probe_application(pages(metrics, health))
    return page.WebServer(listening, probes, "health", access(serve))


def pages(metrics: Metrics, health: Health) -> dict[str, Probe]:
    """Make what is answered, by path, from the formats that the client takes."""

    def healthz(_: str) -> tuple[int, bytes, str]:
        state = health.state()
        healthy = state.status == "healthy"
        status = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
        return status, json.dumps(asdict(state), indent=1).encode() + b"\n", "application/json"

    return {
        "/healthz": healthz,
        "/metrics": lambda accept: (HTTPStatus.OK, *metrics.render(accept)),
    }
