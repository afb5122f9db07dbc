"""What is answered at which address."""

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
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evaluator.page.feed import Feed
from evaluator.page.history import Lines, WindowTable, columns_of
from evaluator.page.marks import marks
from evaluator.page.replies import (
    REPLIES,
    Reply,
    WindowsReply,
    layers_reply,
    run_reply,
    scores_reply,
    workers_reply,
)
from evaluator.page.sheet import SCORES_HEAD, SEGMENTS_HEAD, score_rows, segment_rows

STATIC: Final = Path(__file__).parent / "static"
POINTS: Final = 1_000
MOST_POINTS: Final = 5_000
_ALL: Final = 2**62
"""More than there will ever be of anything."""
_PING_SECONDS: Final = 15
_RETRY_MS: Final = 1_000
"""Pause of a browser before it connects again."""
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Probe = Callable[[str], tuple[int, bytes, str]]
"""Makes status, content and its type from the formats that the client takes."""
Rows = Iterable[Sequence[object]]


@dataclass(frozen=True)
class Pages:
    """The addresses of a page.

    ::

        /                   the page
        /api/run            RunReply: all that the page begins with, but for its lines
        /api/windows[.csv]  WindowsReply: ?size= &columns=a,b &begin= &end= &points=
        /api/scores[.csv]   ScoresReply: the newest scores in full; ?size=
        /api/segments.csv   those of the segments; ?size=
        /api/layers[.csv]   LayersReply: sparsity and overlap by layer
        /api/workers[.csv]  WorkersReply: rates and lag by the wall clock; ?points=
        /api/marks.csv      what happened
        /api/stream         server-sent events: every message behind ?offset= or Last-Event-ID
        /api/schema         the JSON Schemas of the replies

    As CSV nothing is thinned. An event of the stream is of the message's kind, and its id is the
    offset in the log: a browser whose connection was cut says the last one that it has seen, and
    misses nothing. Before all others comes an event ``log`` with the identity of the log, and
    behind the last one, where no more may come, an event ``end`` with the RunReply as of then.

    Parameters
    ----------
    feed
        What there is to tell.
    probes
        Further addresses that are answered by whoever made the page, such as ``/metrics``.
    """

    feed: Feed
    probes: Mapping[str, Probe] = field(default_factory=dict)

    def application(self) -> ASGIApp:
        """Make the web application; while it runs it follows the log."""
        routes = [
            Route("/", self._index),
            Route("/api/run", self._run),
            Route("/api/windows", self._windows),
            Route("/api/windows.csv", self._windows_csv),
            Route("/api/scores", self._scores),
            Route("/api/scores.csv", self._scores_csv),
            Route("/api/segments.csv", self._segments_csv),
            Route("/api/layers", self._layers),
            Route("/api/layers.csv", self._layers_csv),
            Route("/api/workers", self._workers),
            Route("/api/workers.csv", self._workers_csv),
            Route("/api/marks.csv", self._marks_csv),
            Route("/api/stream", self._stream),
            Route("/api/schema", self._schema),
            *(Route(path, self._probe) for path in self.probes),
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

    async def _run(self, _: Request) -> Response:
        return _json(run_reply(self.feed, _now_ms()))

    async def _windows(self, request: Request) -> Response:
        size, table = self._table(request)
        points = min(_number(request, "points", POINTS, least=1), MOST_POINTS)
        found = self._lines(request, table, points)
        return _json(
            WindowsReply(
                size=size,
                offset=self.feed.history.offset,
                windows=found.rows,
                end=found.at,
                columns=found.columns,
            )
        )

    async def _windows_csv(self, request: Request) -> Response:
        size, table = self._table(request)
        found = self._lines(request, table, _ALL)
        rows = zip(found.at, *found.columns.values(), strict=True)
        return await _csv(f"windows-{size}", ["end", *found.columns], rows)

    async def _scores(self, request: Request) -> Response:
        size, _ = self._table(request)
        return _json(scores_reply(self.feed.history, size))

    async def _scores_csv(self, request: Request) -> Response:
        size, _ = self._table(request)
        rows = score_rows(scores_reply(self.feed.history, size))
        return await _csv(f"scores-{size}", SCORES_HEAD, rows)

    async def _segments_csv(self, request: Request) -> Response:
        size, _ = self._table(request)
        rows = segment_rows(scores_reply(self.feed.history, size))
        return await _csv(f"segments-{size}", SEGMENTS_HEAD, rows)

    async def _layers(self, _: Request) -> Response:
        return _json(layers_reply(self.feed.history))

    async def _layers_csv(self, _: Request) -> Response:
        found = layers_reply(self.feed.history)
        rows = [
            (count, found.numbers[at], layer.name, layer.sparsity[at], layer.overlap[at])
            for at, count in enumerate(found.counts)
            for layer in found.layers
        ]
        return await _csv("layers", ["count", "rebuild", "layer", "sparsity", "overlap"], rows)

    async def _workers(self, request: Request) -> Response:
        points = min(_number(request, "points", POINTS, least=1), MOST_POINTS)
        return _json(workers_reply(self.feed.history, points, _now_ms()))

    async def _workers_csv(self, _: Request) -> Response:
        found = workers_reply(self.feed.history, _ALL, _now_ms()).workers
        names = list(found[0].columns) if found else []
        rows = [
            (worker.name, *row)
            for worker in found
            for row in zip(worker.time_ms, *worker.columns.values(), strict=True)
        ]
        return await _csv("workers", ["worker", "time_ms", *names], rows)

    async def _marks_csv(self, _: Request) -> Response:
        found = marks(self.feed.history)
        rows = [(m.count, m.begin, m.kind, m.outcome, m.title, m.text) for m in found]
        return await _csv("marks", ["count", "begin", "kind", "outcome", "title", "text"], rows)

    async def _stream(self, request: Request) -> Response:
        seen = request.headers.get("last-event-id", request.query_params.get("offset", "-1"))
        if not re.fullmatch(r"-1|[0-9]{1,18}", seen):
            raise HTTPException(400, f"offset is {seen!r}; it must be a whole number, or -1")
        return EventSourceResponse(self._events(int(seen)), ping=_PING_SECONDS)

    async def _events(self, offset: int) -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(self.feed.identity, event="log", retry=_RETRY_MS)
        async for entry in self.feed.behind(offset):
            yield ServerSentEvent(entry.value.decode(), event=entry.kind, id=str(entry.offset))
            # Sending does not let the loop see that the viewer has gone.
            await asyncio.sleep(0)
        yield ServerSentEvent(run_reply(self.feed, _now_ms()).model_dump_json(), event="end")

    async def _schema(self, _: Request) -> Response:
        return JSONResponse(
            {model.__name__: model.model_json_schema(mode="serialization") for model in REPLIES}
        )

    async def _probe(self, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        probe = self.probes[request.url.path]
        status, content, media_type = await asyncio.to_thread(probe, accept)
        return Response(content, status, {"Cache-Control": "no-store"}, media_type)

    def _table(self, request: Request) -> tuple[int, WindowTable]:
        """Find the windows that somebody asks for; without a size the smallest."""
        history = self.feed.history
        size = _number(request, "size", history.sizes[0] if history.sizes else 0)
        if history.sizes and size not in history.sizes:
            sizes = ", ".join(f"{one:,}" for one in history.sizes)
            raise HTTPException(404, f"there are no windows of {size:,} events; sizes: {sizes}")
        return size, history.tables.get(size, WindowTable())

    def _lines(self, request: Request, table: WindowTable, points: int) -> Lines:
        """Read which columns and events somebody wants, and find them."""
        wanted = [c for c in request.query_params.get("columns", "").split(",") if c]
        known = columns_of(self.feed.history.models)
        for column in wanted:
            if self.feed.history.models and column not in known:
                raise HTTPException(404, f"no column {column!r}; columns: {', '.join(known)}")
        stretch = _number(request, "begin", 0), _number(request, "end", _ALL)
        return table.lines(wanted, stretch, points)


def _json(reply: Reply) -> Response:
    return Response(reply.model_dump_json(), media_type="application/json")


async def _csv(name: str, head: Sequence[str], rows: Rows) -> Response:
    """Write a table in a thread, for it may be long."""

    def write() -> str:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(head)
        writer.writerows(rows)
        return text.getvalue()

    attachment = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(await asyncio.to_thread(write), 200, attachment, "text/csv")


def _number(request: Request, name: str, otherwise: int, least: int = 0) -> int:
    text = request.query_params.get(name)
    if text is None:
        return otherwise
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least:
        raise HTTPException(400, f"{name} is {text!r}; it must be a whole number from {least} on")
    return int(text)


def _now_ms() -> int:
    return round(1_000 * time.time())


class _Headers:
    """Puts to every answer what it lacks of the headers that all have."""

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


_GRACE_SECONDS: Final = 3
"""What is left to be read has as long, and then what is left to be sent."""
_LOOK_SECONDS: Final = 0.01


class PageServer:
    """Serves a page in a thread of its own, until it is closed; the feed is closed with it.

    Parameters
    ----------
    listening
        Of :func:`listen`; closed with the server.
    pages
        What it serves.
    """

    def __init__(self, listening: socket.socket, pages: Pages) -> None:
        self._pages, self._socket = pages, listening
        self.url = _url(listening)
        config = uvicorn.Config(
            pages.application(),
            lifespan="on",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let every viewer have what is left, within a few seconds, and stop."""
        self._begun.wait()
        # Where it has ended by itself, its loop is closed.
        with suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _serve(self) -> None:
        try:
            asyncio.run(self._run())
        finally:
            self._begun.set()
            self._socket.close()

    async def _run(self) -> None:
        """Serve; who closes the server before it has begun waits until it has."""
        self._loop = asyncio.get_running_loop()
        serving = asyncio.create_task(self._server.serve([self._socket]))
        while not (self._server.started or serving.done()):
            await asyncio.sleep(_LOOK_SECONDS)
        self._begun.set()
        ending = asyncio.create_task(self._end())
        await serving
        ending.cancel()

    async def _end(self) -> None:
        """Once somebody wants it, end all streams; uvicorn waits until they have been sent."""
        await self._stop.wait()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._pages.feed.close(), _GRACE_SECONDS)
        finally:
            self._server.should_exit = True


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
