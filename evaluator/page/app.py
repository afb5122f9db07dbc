"""The page's web server, and what is answered at which address.

The same server answers the probes of a process that shows no page.
"""

from __future__ import annotations

import asyncio
import csv
import errno
import hmac
import io
import ipaddress
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import uvicorn
from pydantic import BaseModel, ConfigDict
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from evaluator.config import DETECTORS
from evaluator.metrics import Metric, installed
from evaluator.metrics.roc_auc import ROC_AUC
from evaluator.page.feed import FeedState, PageFeed, Timetable
from evaluator.run.history import (
    EDGES,
    OF_EVENTS,
    PSI,
    Band,
    Threshold,
    WindowTable,
    WorkerRates,
    figures,
)
from evaluator.run.tables import TimelineEntry, invalid_events, timeline, warnings
from stream import ModelSpec
from stream.messages import Lifetime, Progress, Segment, Window

STATIC: Final = Path(__file__).parent / "static"
_ALL: Final = 2**62
"""More than there will ever be of anything."""
_LAST: Final = 1_000
"""Of what happened, so many things are told, and so many grafts."""
_MAX_CONNECTIONS: Final = 256
"""At a time; a process may have 1 024 files open, and a worker needs some."""
_SILENT_SECONDS: Final = 20.0
"""How long a client may take to ask for anything after it has connected."""
_COOKIE: Final = "resprout-token"
_OPEN: Final = "/healthz"
"""What is answered without a token: that a process is alive is no secret."""
_GRACE_SECONDS: Final = 3
"""What is left to be read has as long, and then what is left to be sent."""
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Probe = Callable[[str], tuple[int, bytes, str]]
"""Makes status, content and its type from the formats that the client takes."""


class Reply(BaseModel):
    """Base of all replies."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)


class PanelReply(Reply):
    """What is drawn over the count of events: a metric of every model, or columns of its own.

    What it has in common with a :class:`evaluator.metrics.Metric` is explained there.
    """

    name: str
    label: str
    title: str
    format: str
    view: Literal["main", "panel", "choice"]
    level: float | None = None
    band: float | None = None
    compares: bool = False
    level_label: str = ""
    explains: str = ""
    of_models: bool = True
    """It has a line for each model, except for the root where it compares with that."""
    columns: dict[str, str] = {}
    """Further lines: column and label."""
    alarms: tuple[str, ...] = ()
    """The detectors whose alarms are marked."""
    lacking: str | None = None
    """Why there may be nothing to draw."""


class WindowsReply(Reply):
    """Figures of the whole windows of a size: ``/api/windows``."""

    size: int
    offset: int
    windows: int
    """How many there were before downsampling."""
    end: list[int]
    """The count at which each window that is shown ends."""
    columns: dict[str, list[float | None]]


class ScoresReply(Reply):
    """The newest scores in full: ``/api/scores``."""

    window: Window | None
    """The newest whole window of the size asked for."""
    lifetimes: list[Lifetime]
    """So far, by where they begin."""


class LayerHistory(Reply):
    """One pruned layer over the promoted rebuilds."""

    name: str
    sparsity: list[float | None]
    overlap: list[float | None]
    """Share of the kept weights that the mask before kept too; None for the first."""


class LayersReply(Reply):
    """What the masks of the promoted rebuilds look like: ``/api/layers``.

    Only fully connected layers are pruned; the weights of embeddings are not among these.
    """

    counts: list[int]
    """At which each took over."""
    numbers: list[int]
    """Of the rebuilds; 1 is the first mask."""
    kept: list[float | None]
    """Share of all prunable weights that each mask keeps."""
    weights: int
    """All prunable weights, as of the newest mask."""
    kept_weights: int
    """Those of them that it keeps."""
    layers: list[LayerHistory]


class GraftsReply(Reply):
    """How the mask of the served model changed between its versions."""

    number: int
    """How many grafts there were."""
    counts: list[int]
    """The events after which the last of them took place, of so many at most."""
    moved: list[float]
    """The share of the kept weights, over all layers, that each of these replaced."""


class WorkerReply(Reply):
    """One worker over the wall clock."""

    name: str
    last: Progress
    time_ms: list[int]
    columns: dict[str, list[float | None]]


class WorkersReply(Reply):
    """How fast the workers are: ``/api/workers``."""

    now_ms: int
    workers: list[WorkerReply]


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
    """Of the newest record: the stream continues after it."""
    events: int
    """The count up to which anything is known."""
    timetable: Timetable | None
    """When what is due, where that is known."""
    start: int | None
    """The count after which the first mask serves; None before."""
    thresholds: list[Threshold]
    """The lines above which a rebuild may start, where the trigger has one."""
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
    grafts: GraftsReply
    timeline: list[TimelineEntry]
    """What happened, the last things at most."""
    warnings: list[str]
    """How many events were skipped, and which models are no better than much simpler ones, in
    sentences."""


_MORE: Final[dict[str, dict[str, Any]]] = {
    "ce": {"columns": {"bayes_ce": "true probability"}},
    "ne": {"alarms": ("dense_loss",)},
    "relative_ce": {"alarms": DETECTORS},
}
"""What the panels of some metrics show besides."""
_RATE: Final = PanelReply(
    name="click_rate",
    label="click rate",
    title="Click rate, observed",
    format=".4f",
    view="panel",
    explains="The share of events with a click. Where it moves, the events have become easier or "
    "harder for all models.",
    of_models=False,
    columns={"click_rate": "click rate"},
    alarms=("click_rate",),
)
_PSI: Final = PanelReply(
    name=PSI,
    label="PSI",
    title="input: population stability index",
    format=".3f",
    view="choice",
    explains="How far the values of the feature that has moved most are from where they were. 0.1 "
    "is a moderate change, 0.25 a major one.",
    of_models=False,
    columns={PSI: "worst feature"},
    alarms=("input",),
    lacking="the input is compared over windows of one size only, the smallest unless "
    "evaluator.alarms says otherwise",
)


def panels(root: str, metrics: Sequence[Metric]) -> list[PanelReply]:
    """List all panels; ``root`` is what people call the root model."""
    made = []
    for metric in metrics:
        if metric.view != "data":
            worded = ("label", "title", "level_label", "explains")
            names = {one: getattr(metric, one).format(root=root) for one in worded}
            update = {**names, **_MORE.get(metric.name, {})}
            made.append(PanelReply.model_validate(metric).model_copy(update=update))
    views = ("main", "panel", "choice")
    # What pruning costs is what people come for.
    return sorted((*made, _RATE, _PSI), key=lambda one: (views.index(one.view), not one.compares))


def columns_of(models: Sequence[ModelSpec], metrics: Sequence[Metric]) -> list[str]:
    """Name every column that windows of some models can have, without errors and intervals.

    >>> from evaluator.metrics import METRICS
    >>> from stream.spec import MODELS
    >>> [name for name in columns_of(MODELS[:2], METRICS) if "ce" in name][:4]
    ['bayes_ce', 'dense.ce', 'dense.ece', 'sparse.ce']
    """
    own = [
        f"{model.name}.{metric.name}"
        for model in models
        for metric in metrics
        if not (metric.compares and model.role == "root")
    ]
    return [*OF_EVENTS, PSI, *own]


Row = tuple[object, ...]
Csv = tuple[Sequence[str], Iterable[Row]]
"""Head and rows of a table."""
_FIGURE: Final = ("model", "figure", "value", *EDGES)
_EDGES: Final = ("", *(f".{edge}" for edge in EDGES))
"""What the name of a column ends with: its value, its error, the bounds of its interval."""


def _figure_rows(scores: Window | Lifetime | Segment, *beside: object) -> list[Row]:
    """List the figures that are known, with error or interval of each, and what stands beside."""
    known = figures(scores)
    return [
        (model, metric, *(known.get(f"{model}.{metric}{edge}") for edge in _EDGES), *beside)
        for model, score in scores.models.items()
        for metric in (score.metrics if score else ())
        if f"{model}.{metric}" in known
    ]


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
        /api/grafts.csv     how the mask changed between versions
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
            Route("/", lambda _: FileResponse(STATIC / "index.html")),
            Route("/api/run", _json(self._run)),
            Route("/api/windows", _json(self._windows)),
            Route("/api/windows.csv", self._csv(self._windows_csv, sized=True)),
            Route("/api/scores", _json(self._scores)),
            Route("/api/scores.csv", self._csv(self._scores_csv, sized=True)),
            Route("/api/segments.csv", self._csv(self._segments_csv, sized=True)),
            Route("/api/layers", _json(self._layers)),
            Route("/api/layers.csv", self._csv(self._layers_csv)),
            Route("/api/grafts.csv", self._csv(self._grafts_csv)),
            Route("/api/workers", _json(self._workers)),
            Route("/api/workers.csv", self._csv(self._workers_csv)),
            Route("/api/timeline.csv", self._csv(self._timeline_csv)),
            Route("/api/stream", self._stream),
            Route("/api/schema", self._schema),
            *_probe_routes(self.probes),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        return _with_headers(Starlette(routes=routes, lifespan=self._following))

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

    def _csv(self, table: Callable[[Request], Csv], sized: bool = False) -> Answer:
        """Answer with a table; it is written in a thread, for it may be long."""

        async def answer(request: Request) -> Response:
            head, rows = table(request)

            def write() -> str:
                text = io.StringIO()
                csv.writer(text).writerows([map(_cell, row) for row in [head, *rows]])
                return text.getvalue()

            name = Path(request.url.path).stem + (f"-{self._size(request)}" if sized else "")
            attachment = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
            return Response(await asyncio.to_thread(write), 200, attachment, "text/csv")

        return answer

    async def _stream(self, request: Request) -> Response:
        seen = request.headers.get("last-event-id", request.query_params.get("offset", "-1"))
        if not re.fullmatch(r"-1|[0-9]{1,18}", seen):
            raise HTTPException(400, f"offset is {seen!r}; it must be a whole number, or -1")
        return EventSourceResponse(self._events(int(seen)), ping=15)

    async def _events(self, offset: int) -> AsyncIterator[ServerSentEvent]:
        # A browser waits as many milliseconds before it connects again.
        yield ServerSentEvent(self.feed.identity, event="log", retry=1_000)
        async for entry in self.feed.after(offset):
            yield ServerSentEvent(
                entry.value.decode(), event=entry.message.kind, id=str(entry.offset)
            )
            # Sending does not let the loop see that the viewer has gone.
            await asyncio.sleep(0)
        yield ServerSentEvent(self._run().model_dump_json(), event="end")

    async def _schema(self, _: Request) -> Response:
        replies = (RunReply, WindowsReply, ScoresReply, LayersReply, WorkersReply)
        schemas = {one.__name__: one.model_json_schema(mode="serialization") for one in replies}
        return JSONResponse(schemas)

    def _size(self, request: Request) -> int:
        """Read the size of the windows that somebody asks for; by default the smallest."""
        sizes = self.feed.history.sizes
        size = _number(request, "size", sizes[0] if sizes else 0)
        if sizes and size not in sizes:
            known = ", ".join(f"{one:,}" for one in sizes)
            raise HTTPException(404, f"there are no windows of {size:,} events; sizes: {known}")
        return size

    def _run(self, _: Request | None = None) -> RunReply:
        """Sum the run up."""
        feed, history = self.feed, self.feed.history
        plan, lines = feed.timetable, list[Threshold]()
        if plan and plan.threshold is not None:
            lines = history.thresholds(plan.window_events, plan.threshold)
        return RunReply(
            about=feed.about,
            identity=feed.identity,
            state=feed.state,
            live=feed.live,
            now_ms=round(1_000 * time.time()),
            offset=feed.offset,
            events=history.events,
            timetable=plan,
            start=history.start,
            thresholds=lines,
            sizes=history.sizes,
            models=history.models or history.specs,
            panels=panels(history.root.label, self.metrics),
            choice=ROC_AUC.name,
            signs=dict(zip(DETECTORS, "◇◆◈❖", strict=True)),
            columns=columns_of(history.models, self.metrics),
            bands=history.bands,
            grafts=GraftsReply(
                number=len(history.grafts),
                counts=list(history.grafts.counts[-_LAST:]),
                moved=list(history.grafts.moved[-_LAST:]),
            ),
            timeline=timeline(history)[-_LAST:],
            warnings=[*invalid_events(history), *warnings(history)],
        )

    def _windows(self, request: Request, points: int | None = None) -> WindowsReply:
        """Read which columns and events somebody wants, and find them."""
        size, history = self._size(request), self.feed.history
        table = history.tables.get(size, WindowTable())
        wanted = [c for c in request.query_params.get("columns", "").split(",") if c]
        known = columns_of(history.models, self.metrics)
        named = {f"{column}{edge}" for column in known for edge in _EDGES}
        for column in wanted:
            if history.models and column not in table and column not in named:
                raise HTTPException(404, f"no column {column!r}; columns: {', '.join(known)}")
        between = _number(request, "begin", 0), _number(request, "end", _ALL)
        found = table.lines(wanted, between, points or _points(request))
        reply = {"size": size, "offset": self.feed.offset, "windows": found.rows}
        return WindowsReply(end=found.at, columns=found.columns, **reply)

    def _windows_csv(self, request: Request) -> Csv:
        reply = self._windows(request, _ALL)
        return ("end", *reply.columns), zip(reply.end, *reply.columns.values(), strict=True)

    def _scores(self, request: Request) -> ScoresReply:
        history = self.feed.history
        table = history.tables.get(self._size(request))
        newest = [lifetime for _, lifetime in sorted(history.lifetimes.items())]
        return ScoresReply(window=table.newest if table else None, lifetimes=newest)

    def _scores_csv(self, request: Request) -> Csv:
        """List every figure of the newest window, and of the events since each beginning so far."""
        reply = self._scores(request)
        found: list[Window | Lifetime] = [
            *([reply.window] if reply.window else []),
            *reply.lifetimes,
        ]
        rows = [row for one in found for row in _figure_rows(one, one.kind, one.begin, one.end)]
        return (*_FIGURE, "on", "begin", "end"), rows

    def _segments_csv(self, request: Request) -> Csv:
        """List every figure of every segment of the newest window."""
        head = ("feature", "segment", *_FIGURE, "events", "click_rate", "begin", "end")
        if (window := self._scores(request).window) is None:
            return head, ()
        rows = [
            (one.feature, one.value, *row)
            for one in window.segments
            for row in _figure_rows(one, one.events, one.click_rate, window.begin, window.end)
        ]
        return head, rows

    def _layers(self, _: Request) -> LayersReply:
        """Gather sparsity and overlap, layer by layer, over the promoted rebuilds."""
        promoted = self.feed.history.promoted
        newest = promoted[-1].layers.values() if promoted else ()
        layers = []
        for name in dict.fromkeys(name for verdict in promoted for name in verdict.layers):
            found = [verdict.layers.get(name) for verdict in promoted]
            sparsity = [one.sparsity if one else None for one in found]
            overlap = [one.overlap if one else None for one in found]
            layers.append(LayerHistory(name=name, sparsity=sparsity, overlap=overlap))
        return LayersReply(
            counts=[verdict.count for verdict in promoted],
            numbers=[verdict.rebuild.number for verdict in promoted],
            kept=[None if one.sparsity is None else 1 - one.sparsity for one in promoted],
            weights=sum(one.weights for one in newest),
            kept_weights=sum(one.kept for one in newest),
            layers=layers,
        )

    def _layers_csv(self, request: Request) -> Csv:
        """List sparsity and overlap of every layer of every mask."""
        reply = self._layers(request)
        rows = [
            (count, reply.numbers[at], layer.name, layer.sparsity[at], layer.overlap[at])
            for at, count in enumerate(reply.counts)
            for layer in reply.layers
        ]
        return ("count", "rebuild", "layer", "sparsity", "overlap"), rows

    def _grafts_csv(self, _: Request) -> Csv:
        """List every graft, and the share of the kept weights that it replaced."""
        grafts = self.feed.history.grafts
        return ("count", "moved"), zip(grafts.counts, grafts.moved, strict=True)

    def _workers(self, request: Request, points: int | None = None) -> WorkersReply:
        points, workers = points or _points(request), []
        for name, rates in self.feed.history.workers.items():
            lines = rates.lines(points)
            found = WorkerReply(name=name, last=rates.last, time_ms=lines.at, columns=lines.columns)
            workers.append(found)
        return WorkersReply(now_ms=round(1_000 * time.time()), workers=workers)

    def _workers_csv(self, request: Request) -> Csv:
        """List every report of every worker."""
        rows = [
            (worker.name, *row)
            for worker in self._workers(request, _ALL).workers
            for row in zip(worker.time_ms, *worker.columns.values(), strict=True)
        ]
        return ("worker", "time_ms", *WorkerRates.COLUMNS), rows

    def _timeline_csv(self, _: Request) -> Csv:
        head = ("count", "begin", "kind", "outcome", "title", "text")
        rows = [tuple(getattr(one, name) for name in head) for one in timeline(self.feed.history)]
        return head, rows


def _cell(value: object) -> object:
    """Keep a spreadsheet from taking a text for a formula; numbers stay as they are.

    >>> _cell("=HYPERLINK(1)"), _cell("site=a"), _cell(-0.5)
    ("'=HYPERLINK(1)", 'site=a', -0.5)
    """
    risky = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if risky else value


Answer = Callable[[Request], Coroutine[None, None, Response]]


def _json(reply: Callable[[Request], Reply]) -> Answer:
    async def answer(request: Request) -> Response:
        return Response(reply(request).model_dump_json(), media_type="application/json")

    return answer


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


def _number(request: Request, name: str, otherwise: int, least: int = 0) -> int:
    text = request.query_params.get(name)
    if text is None:
        return otherwise
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least:
        raise HTTPException(400, f"{name} is {text!r}; it must be a whole number from {least} on")
    return int(text)


def _points(request: Request) -> int:
    return min(_number(request, "points", 1_000, least=1), 5_000)


def _with_headers(application: ASGIApp) -> ASGIApp:
    """Add to every answer what it lacks of the headers that all have."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def put(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: Any = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await application(scope, receive, put)

    return answer


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask a server, and how."""

    hosts: Sequence[str] = ()
    """The names under which it is asked, beside ``localhost`` and addresses of numbers. Any other
    is refused: a page of somebody else, whose name was made to lead here, cannot read the answers
    (DNS rebinding)."""
    token: str | None = None
    """What everybody must show, but for ``/healthz``; None: nothing."""
    certfile: str | None = None
    """The certificate in PEM, with which it speaks TLS; None: it does not."""
    keyfile: str | None = None
    """The key of ``certfile``, where that does not hold it."""

    def admits(self, host: str) -> bool:
        """Whether a server may be asked under the name in a request's header ``Host``.

        >>> access = Access(hosts=["evaluator"])
        >>> access.admits("[::1]:8000"), access.admits("evaluator:8000"), access.admits("evil.org")
        (True, True, False)
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        with suppress(ValueError):
            return bool(ipaddress.ip_address(name))
        return name in {"localhost", *(one.lower() for one in self.hosts)}


class Guarded:
    """An application that answers only those whom its access admits.

    A browser shows the token once, in the address ``/?token=...``, and then as a cookie; a program
    in the header ``Authorization: Bearer ...``.

    Parameters
    ----------
    application
        What is guarded.
    access
        Whom it admits.
    """

    def __init__(self, application: ASGIApp, access: Access) -> None:
        self._application, self._access = application, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        refused = self._refuse(Request(scope)) if scope["type"] == "http" else None
        await (refused or self._application)(scope, receive, send)

    def _refuse(self, request: Request) -> Response | None:
        host, access = request.headers.get("host", ""), self._access
        if not access.admits(host):
            text = f"{host[:100]!r} is no name of this server; serve.hosts lists further ones\n"
            return PlainTextResponse(text, 400)
        if access.token is None or request.url.path == _OPEN:
            return None
        if self._is_token(request.query_params.get("token", "")):
            admitted = RedirectResponse(request.url.remove_query_params("token").path, 303)
            secure = access.certfile is not None
            admitted.set_cookie(
                _COOKIE, access.token, httponly=True, samesite="strict", secure=secure
            )
            return admitted
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        shown = shown if scheme.lower() == "bearer" else request.cookies.get(_COOKIE, "")
        if self._is_token(shown):
            return None
        text = (
            "show the token of serve.token: open /?token=..., or send Authorization: Bearer ...\n"
        )
        return PlainTextResponse(text, 401, {"WWW-Authenticate": "Bearer"})

    def _is_token(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode(), (self._access.token or "").encode())


class _Connection(H11Protocol):
    """A connection of so many at most, which is closed where nothing is asked on it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or refuse it."""
        super().connection_made(transport)
        if len(self.connections) > _MAX_CONNECTIONS:
            transport.abort()
        else:
            self.loop.call_later(_SILENT_SECONDS, self._close_silent)

    def _close_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class WebServer:
    """Serves a web application in a thread of its own, until it is closed.

    It has a few hundred connections at most, and closes one on which nothing is asked for a while:
    so clients that stay cannot take the files that a worker needs.

    Parameters
    ----------
    listening
        Of :func:`listen`; closed with the server.
    application
        What it serves.
    name
        Of its thread.
    access
        Who may ask.
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
        access: Access = Access(),
        finish: Callable[[], Coroutine[None, None, None]] | None = None,
    ) -> None:
        host, port = listening.getsockname()[:2]
        if ipaddress.ip_address(host).is_unspecified:
            # Who listens everywhere is found here.
            host = "::1" if ":" in host else "127.0.0.1"
        scheme = "http" if access.certfile is None else "https"
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"
        self._socket, self._finish = listening, finish
        config = uvicorn.Config(
            Guarded(application, access),
            http=_Connection,
            ssl_certfile=access.certfile,
            ssl_keyfile=access.keyfile,
            lifespan="on",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        try:
            # A certificate is read here, so that one that cannot be is refused at the start.
            config.load()
        except (OSError, ValueError) as error:
            listening.close()
            raise OSError(
                f"serve.certfile = {access.certfile} and serve.keyfile = {access.keyfile} are no "
                f"certificate and key in PEM: {error}"
            ) from error
        self._server = uvicorn.Server(config)
        self._runner = asyncio.Runner()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)

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


def serve_page(listening: socket.socket, pages: Pages, access: Access = Access()) -> WebServer:
    """Serve a page, until it is closed; its feed is closed with it."""
    return WebServer(listening, pages.application(), "page", access, pages.feed.close)


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
