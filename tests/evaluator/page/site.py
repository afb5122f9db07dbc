"""A page over real HTTP: a log to write to, a server, and a client that knows none of our code."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from evaluator.page import PageFeed, Pages, Probe, Timetable, WebServer, listen, serve_page
from evaluator.page.feed import RECENT
from stream.log import LogWriter, Record
from stream.log.local import LocalLogStore
from stream.messages import Message, dump
from stream.spec import MODELS, ModelSpec
from stream.topics import WINDOWS

SECONDS = 20.0
"""After this long without a byte a test fails rather than hangs."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Sent(NamedTuple):
    """One server-sent event."""

    kind: str
    id: str | None
    data: str


@dataclass
class Site:
    """A page that is served, and the log that it shows."""

    server: WebServer
    writer: LogWriter
    feed: PageFeed
    streams: list[http.client.HTTPConnection] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.server.url

    def append(self, *messages: Message) -> None:
        self.writer.append([Record(dump(message)) for message in messages])

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        with closing(self._connect()) as connection:
            connection.request("GET", path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())

    def follow(self, path: str = "/api/stream", seen: str | None = None) -> Iterator[Sent]:
        """Yield server-sent events until the server hangs up."""
        connection = self._connect()
        self.streams.append(connection)
        connection.request("GET", path, headers={} if seen is None else {"Last-Event-ID": seen})
        answer = connection.getresponse()
        assert answer.headers.get_content_type() == "text/event-stream"
        fields: dict[str, str] = {}
        while line := answer.readline():
            name, colon, value = line.decode().rstrip("\r\n").partition(":")
            if name and colon:
                fields[name] = value.removeprefix(" ")
            elif not name and not colon and "data" in fields:
                yield Sent(fields.get("event", "message"), fields.get("id"), fields["data"])
                fields = {}

    def _connect(self) -> http.client.HTTPConnection:
        where = urlsplit(self.url)
        return http.client.HTTPConnection(str(where.hostname), where.port, timeout=SECONDS)


@contextmanager
def served(
    folder: Path,
    *messages: Message,
    live: bool = True,
    recent: int = RECENT,
    models: Sequence[ModelSpec] = MODELS,
    probes: Mapping[str, Probe] | None = None,
    timetable: Timetable | None = None,
) -> Iterator[Site]:
    """Serve a log that holds some messages, all of which the page knows."""
    home = LocalLogStore(folder)
    with closing(home.writer(WINDOWS)) as writer:
        writer.append([Record(dump(message)) for message in messages])
        feed = PageFeed(
            home.reader(WINDOWS),
            {"run": "x"},
            live=live,
            recent=recent,
            models=models,
        )
        feed.timetable = timetable
        feed.catch_up()
        server = serve_page(listen("127.0.0.1", 0), Pages(feed, probes or {}))
        site = Site(server, writer, feed)
        try:
            yield site
        finally:
            server.close()
            for connection in site.streams:
                connection.close()
