"""The page's web server, and what is answered at which address.

The same server answers the probes of a process that shows no page.
"""

from __future__ import annotations

import asyncio
import csv
import errno
import io
import ipaddress
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evaluator.config import DETECTORS
from evaluator.metrics import Metric, installed
from evaluator.metrics.roc_auc import ROC_AUC
from evaluator.page.feed import (
    Csv,
    FeedState,
    LayersReply,
    PageFeed,
    PanelReply,
    Reply,
    ScoresReply,
    WindowsReply,
    WorkersReply,
    columns_of,
    layer_rows,
    layers_reply,
    panels,
    score_rows,
    scores_reply,
    segment_rows,
    worker_rows,
    workers_reply,
)
from evaluator.run.history import EDGES, Band, Lines, RunHistory, WindowTable
from evaluator.run.tables import TimelineEntry, timeline
from stream import ModelSpec

STATIC: Final = Path(__file__).parent / "static"
POINTS: Final = 1_000
MAX_POINTS: Final = 5_000
_ALL: Final = 2**62
"""More than there will ever be of anything."""
MAX_ENTRIES: Final = 1_000
"""Of what happened, as many of the last things are listed at once."""
_PING_SECONDS: Final = 15
_RETRY_MS: Final = 1_000
"""Pause of a browser before it connects again."""
_GRACE_SECONDS: Final = 3
"""What is left to be read has as long, and then what is left to be sent."""
_LOOK_SECONDS: Final = 0.01
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Probe = Callable[[str], tuple[int, bytes, str]]
"""Makes status, content and its type from the formats that the client takes."""


class RunReply(Reply):
    """All that a page begins with, except its lines: ``/api/run``."""

    about: dict[str, str]
    identity: str
    """Of the log; another one is another run."""
    state: FeedState
    """``live`` while this server runs with it; else ``finished`` where the log says that the input
    has ended and everything is written, and ``stopped`` where it does not: stopped, or still under
    way elsewhere."""
    live: bool
    """Whether more may come from this server."""
    now_ms: int
    """Unix time, milliseconds."""
    offset: int
    """Of the newest record: the stream goes on after it."""
    events: int
    """The count up to which anything is known."""
    sizes: tuple[int, ...]
    """Of the windows that there are, in events."""
    models: tuple[ModelSpec, ...]
    """Those that windows name, the root first; before there is one, all that there can be."""
    panels: list[PanelReply]
    """Large ones, small ones, and those to choose from."""
    choice: str
    """Of the panels to choose from, the one that is shown first."""
    signs: dict[str, str]
    """What marks the alarms of each detector."""
    columns: list[str]
    """What :class:`WindowsReply` can be asked for; a metric's column may be followed by
    ``.error``, ``.low`` or ``.high``."""
    bands: list[Band]
    """True drift, where it is known."""
    timeline: list[TimelineEntry]
    """What happened, the last things at most."""


def run_reply(feed: PageFeed, metrics: Sequence[Metric], now_ms: int) -> RunReply:
    """Sum a run up."""
    history = feed.history
    return RunReply(
        about=feed.about,
        identity=feed.identity,
        state=feed.state,
        live=feed.live,
        now_ms=now_ms,
        offset=feed.offset,
        events=history.events,
        sizes=history.sizes,
        models=history.models or history.specs,
        panels=panels(history.root.label, metrics),
        choice=ROC_AUC.name,
        signs=dict(zip(DETECTORS, "◇◆◈❖", strict=True)),
        columns=columns_of(history.models, metrics),
        bands=history.bands,
        timeline=timeline(history)[-MAX_ENTRIES:],
    )


def timeline_rows(history: RunHistory) -> Csv:
    """List what happened."""
    head = ("count", "begin", "kind", "outcome", "title", "text")
    return head, [tuple(getattr(one, name) for name in head) for one in timeline(history)]


REPLIES: Final = (RunReply, WindowsReply, ScoresReply, LayersReply, WorkersReply)
"""All of them."""


@dataclass(frozen=True)
class Pages:
    """The addresses of a page.

    ::

        /                   the page
        /api/run            RunReply: all that the page begins with, except its lines
        /api/windows[.csv]  WindowsReply: ?size= &columns=a,b &begin= &end= &points=
        /api/scores[.csv]   ScoresReply: the newest scores in full; ?size=
        /api/segments.csv   those of the segments; ?size=
        /api/layers[.csv]   LayersReply: sparsity and overlap by layer
        /api/workers[.csv]  WorkersReply: rates and lag by the wall clock; ?points=
        /api/timeline.csv   what happened
        /api/stream         server-sent events: every message after ?offset= or Last-Event-ID
        /api/schema         the JSON Schemas of the replies

    As CSV nothing is downsampled. An event of the stream is of the message's kind, and its id is
    the offset in the log: a browser whose connection was cut says the last one that it has seen,
    and misses nothing. Before all others comes an event ``log`` with the identity of the log, and
    after the last one, where no more may come, an event ``end`` with the RunReply as of then.

    Parameters
    ----------
    feed
        What there is to show.
    probes
        Further addresses that are answered by whoever made the page, such as ``/metrics``.
    metrics
        Those that the page knows by name, title and format.
    """

    feed: PageFeed
    probes: Mapping[str, Probe] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = field(default_factory=installed)

    def application(self) -> ASGIApp:
        """Make the web application; while it runs it follows the log."""
        routes = [
            Route("/", self._index),
            Route("/api/stream", self._stream),
            Route("/api/schema", self._schema),
            Route("/api/{name}.csv", self._csv),
            Route("/api/{name}", self._json),
            *_probe_routes(self.probes),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        return _Headers(Starlette(routes=routes, lifespan=self._following))

    @asynccontextmanager
    async def _following(self, _: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(self.feed.follow())
        try:
            yield
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            await self.feed.release()

    async def _index(self, _: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def _json(self, request: Request) -> Response:
        history = self.feed.history
        replies: dict[str, Callable[[], Reply]] = {
            "run": lambda: run_reply(self.feed, self.metrics, _now_ms()),
            "windows": lambda: self._windows(request),
            "scores": lambda: scores_reply(history, self._size(request)),
            "layers": lambda: layers_reply(history),
            "workers": lambda: workers_reply(history, _points(request), _now_ms()),
        }
        reply = _known(replies, request)()
        return Response(reply.model_dump_json(), media_type="application/json")

    async def _csv(self, request: Request) -> Response:
        """Write a table in a thread, for it may be long."""
        history = self.feed.history
        tables: dict[str, Callable[[], Csv]] = {
            "windows": lambda: self._windows_csv(request),
            "scores": lambda: score_rows(scores_reply(history, self._size(request))),
            "segments": lambda: segment_rows(scores_reply(history, self._size(request))),
            "layers": lambda: layer_rows(layers_reply(history)),
            "workers": lambda: worker_rows(workers_reply(history, _ALL, _now_ms())),
            "timeline": lambda: timeline_rows(history),
        }
        head, rows = _known(tables, request)()

        def write() -> str:
            text = io.StringIO()
            csv.writer(text).writerows([head, *rows])
            return text.getvalue()

        name = request.path_params["name"]
        if name in ("windows", "scores", "segments"):
            name = f"{name}-{self._size(request)}"
        attachment = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
        return Response(await asyncio.to_thread(write), 200, attachment, "text/csv")

    async def _stream(self, request: Request) -> Response:
        seen = request.headers.get("last-event-id", request.query_params.get("offset", "-1"))
        if not re.fullmatch(r"-1|[0-9]{1,18}", seen):
            raise HTTPException(400, f"offset is {seen!r}; it must be a whole number, or -1")
        return EventSourceResponse(self._events(int(seen)), ping=_PING_SECONDS)

    async def _events(self, offset: int) -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(self.feed.identity, event="log", retry=_RETRY_MS)
        async for entry in self.feed.after(offset):
            yield ServerSentEvent(entry.value.decode(), event=entry.kind, id=str(entry.offset))
            # Sending does not let the loop see that the viewer has gone.
            await asyncio.sleep(0)
        last = run_reply(self.feed, self.metrics, _now_ms())
        yield ServerSentEvent(last.model_dump_json(), event="end")

    async def _schema(self, _: Request) -> Response:
        return JSONResponse(
            {model.__name__: model.model_json_schema(mode="serialization") for model in REPLIES}
        )

    def _size(self, request: Request) -> int:
        """Read the size of the windows that somebody asks for; by default the smallest."""
        sizes = self.feed.history.sizes
        size = _number(request, "size", sizes[0] if sizes else 0)
        if sizes and size not in sizes:
            known = ", ".join(f"{one:,}" for one in sizes)
            raise HTTPException(404, f"there are no windows of {size:,} events; sizes: {known}")
        return size

    def _windows(self, request: Request) -> WindowsReply:
        found = self._lines(request, _points(request))
        return WindowsReply(
            size=self._size(request),
            offset=self.feed.offset,
            windows=found.rows,
            end=found.at,
            columns=found.columns,
        )

    def _windows_csv(self, request: Request) -> Csv:
        found = self._lines(request, _ALL)
        return ("end", *found.columns), zip(found.at, *found.columns.values(), strict=True)

    def _lines(self, request: Request, points: int) -> Lines:
        """Read which columns and events somebody wants, and find them."""
        size, history = self._size(request), self.feed.history
        table = history.tables.get(size, WindowTable())
        wanted = [c for c in request.query_params.get("columns", "").split(",") if c]
        known = columns_of(history.models, self.metrics)
        edges = {f"{column}.{edge}" for column in known for edge in EDGES}
        for column in wanted:
            if history.models and column not in table and column not in edges.union(known):
                raise HTTPException(404, f"no column {column!r}; columns: {', '.join(known)}")
        between = _number(request, "begin", 0), _number(request, "end", _ALL)
        return table.lines(wanted, between, points)


def probe_application(probes: Mapping[str, Probe]) -> ASGIApp:
    """Make a web application that answers probes and nothing else."""

    async def missing(request: Request, _: Exception) -> Response:
        known = ", ".join(probes)
        return PlainTextResponse(f"there is no {request.scope['path']}; known: {known}\n", 404)

    async def read_only(request: Request, _: Exception) -> Response:
        return PlainTextResponse(f"{request.method} is not supported; use GET\n", 501)

    handlers = {404: missing, 405: read_only}
    application = Starlette(routes=_probe_routes(probes), exception_handlers=handlers)
    application.router.redirect_slashes = False
    return application


def _probe_routes(probes: Mapping[str, Probe]) -> list[Route]:
    async def answer(request: Request) -> Response:
        accept = request.headers.get("accept", "")
        probe = probes[request.scope["path"]]
        status, content, media_type = await asyncio.to_thread(probe, accept)
        return Response(content, status, {"Cache-Control": "no-store"}, media_type)

    return [Route(path, answer) for path in probes]


T = TypeVar("T")


def _known(found: Mapping[str, T], request: Request) -> T:
    """Find what is asked for; raises where there is no such thing."""
    name = request.path_params["name"]
    if name not in found:
        raise HTTPException(404)
    return found[name]


def _number(request: Request, name: str, otherwise: int, least: int = 0) -> int:
    text = request.query_params.get(name)
    if text is None:
        return otherwise
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least:
        raise HTTPException(400, f"{name} is {text!r}; it must be a whole number from {least} on")
    return int(text)


def _points(request: Request) -> int:
    return min(_number(request, "points", POINTS, least=1), MAX_POINTS)


def _now_ms() -> int:
    return round(1_000 * time.time())


class _Headers:
    """Adds to every answer what it lacks of the headers that all have."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def put(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: Any = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._application(scope, receive, put)


class WebServer:
    """Serves a web application in a thread of its own, until it is closed.

    Parameters
    ----------
    listening
        Of :func:`listen`; closed with the server.
    application
        What it serves.
    name
        Of its thread.
    finish
        What is awaited before it closes, for a few seconds: that all streams end.

    Examples
    --------
    >>> from urllib.request import urlopen
    >>> probes = {"/healthz": lambda accept: (200, b"fine", "text/plain")}
    >>> server = WebServer(listen("127.0.0.1", 0), probe_application(probes))
    >>> urlopen(f"{server.url}healthz").read()
    b'fine'
    >>> server.close()
    """

    def __init__(
        self,
        listening: socket.socket,
        application: ASGIApp,
        name: str = "web",
        finish: Callable[[], Coroutine[None, None, None]] | None = None,
    ) -> None:
        self.url = _url(listening)
        self._socket, self._finish = listening, finish
        config = uvicorn.Config(
            application,
            lifespan="on",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        self._server = uvicorn.Server(config)
        self._runner = asyncio.Runner()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(_LOOK_SECONDS)

    def close(self) -> None:
        """Let every client have what is left, within a few seconds, and stop."""
        if self._finish is not None and self._thread.is_alive():
            loop = self._runner.get_loop()
            with suppress(TimeoutError, RuntimeError):
                asyncio.run_coroutine_threadsafe(self._finish(), loop).result(_GRACE_SECONDS)
        self._server.should_exit = True
        self._thread.join()

    def _serve(self) -> None:
        with self._socket, self._runner:
            self._runner.run(self._server.serve([self._socket]))


def serve_page(listening: socket.socket, pages: Pages) -> WebServer:
    """Serve a page, until it is closed; its feed is closed with it."""
    return WebServer(listening, pages.application(), "page", pages.feed.close)


class AddressTakenError(OSError):
    """Somebody else listens there."""


def listen(host: str, port: int) -> socket.socket:
    """Take an address; ``OSError`` names it where it cannot be had.

    That is :class:`AddressTakenError` where somebody else has it.

    Parameters
    ----------
    host
        The address to listen on.
    port
        0 takes any free one.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()
    except OSError as error:
        listening.close()
        kind = AddressTakenError if error.errno == errno.EADDRINUSE else OSError
        raise kind(
            f"cannot listen on {host}:{port} ({error.strerror or error}); set serve.host and "
            "serve.port to a free address, or the port to 0 for any free one"
        ) from error
    return listening


def _url(listening: socket.socket) -> str:
    """Write where people find it; who listens everywhere is found here."""
    host, port = listening.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = "127.0.0.1" if isinstance(address, ipaddress.IPv4Address) else "::1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
