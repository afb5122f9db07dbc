"""Health and metrics of one process over HTTP: ``/healthz`` and ``/metrics``."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Literal

from resprout.monitoring.metrics import Metrics
from resprout.runner import Step, Worker

log = logging.getLogger(__name__)

STALE_SECONDS = 180.0
"""After this long in one step a worker counts as stuck; a broker may be away for shorter."""
REQUEST_SECONDS = 10.0
"""How long a client may take over its request."""

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
    >>> from learner.trainer import LearnerStep
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


class HealthServer:
    """Answers ``/healthz`` and ``/metrics`` in threads of its own, until it is closed.

    ``/healthz`` is 200 while the process is healthy and 503 otherwise, with :class:`State` as JSON;
    ``/metrics`` is what Prometheus scrapes.

    Parameters
    ----------
    host
        The address to listen on.
    port
        0 takes any free one.
    metrics
        What ``/metrics`` says.
    health
        What ``/healthz`` says.
    """

    def __init__(self, host: str, port: int, metrics: Metrics, health: Health) -> None:
        try:
            self._server = _Server(host, port, pages(metrics, health))
        except OSError as error:
            raise OSError(
                f"cannot listen on {host}:{port} ({error.strerror or error}); set serve.host and "
                "serve.port to a free address, or the port to 0 for any free one"
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="health", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Where people find it, without a path."""
        host = str(self._server.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def close(self) -> None:
        """Stop listening, and hang up on whoever is still there."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


Answer = tuple[HTTPStatus, bytes, str]
"""Status, content and its type."""
Page = Callable[[str], Answer]
"""Makes an answer from the formats that the client takes."""


def pages(metrics: Metrics, health: Health) -> dict[str, Page]:
    """Make what is answered, by path."""
    return {
        "/healthz": lambda _: _healthz(health),
        "/metrics": lambda accept: (HTTPStatus.OK, *metrics.render(accept)),
    }


def _healthz(health: Health) -> Answer:
    state = health.state()
    status = HTTPStatus.OK if state.status == "healthy" else HTTPStatus.SERVICE_UNAVAILABLE
    return status, json.dumps(asdict(state), indent=1).encode() + b"\n", "application/json"


class _Server(ThreadingMixIn, TCPServer):
    """A thread for each request, and none that outlives the server."""

    allow_reuse_address = True
    request_queue_size = 32

    def __init__(self, host: str, port: int, pages: Mapping[str, Page]) -> None:
        self.pages = pages
        self._clients: set[Any] = set()
        self._changing = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changing:
            self._clients.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._changing:
            self._clients.discard(request)
            super().shutdown_request(request)

    def server_close(self) -> None:
        """Hang up, so that the threads that wait for a client end, and wait for them."""
        with self._changing:
            for client in self._clients:
                # It may have hung up by itself.
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with one request; the others go on."""
        log.debug("request of %s", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: _Server
    timeout = REQUEST_SECONDS
    server_version = "resprout"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the page."""
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        """Answer as for GET, without the content."""
        self._answer(with_content=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of every request to those who watch the log."""
        log.debug(format, *args)

    def _answer(self, *, with_content: bool) -> None:
        page = self.server.pages.get(self.path.partition("?")[0], self._missing)
        status, content, content_type = page(self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def _missing(self, _: str) -> Answer:
        known = ", ".join(self.server.pages)
        text = f"there is no {self.path}; known: {known}\n"
        return HTTPStatus.NOT_FOUND, text.encode(), "text/plain; charset=utf-8"
