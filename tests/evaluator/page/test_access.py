"""Who is answered by the servers of page, health and metrics, and who is not."""

from __future__ import annotations

import csv
import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from evaluator.page import Access, Probe, WebServer, app, listen, probe_application
from stream.messages import Alarm
from tests.evaluator.messages import alarm
from tests.evaluator.page.site import served
from tests.evaluator.runs import window
from tests.redis_server import certificates

TOKEN = "0123456789abcdef"


def probe(path: str) -> Probe:
    return lambda _: (200, path.encode(), "text/plain")


ANYBODY = Access()
PROBES = {path: probe(path) for path in ("/", "/healthz", "/metrics")}


@contextmanager
def web(access: Access = ANYBODY) -> Iterator[int]:
    """Serve three addresses, and give the port."""
    server = WebServer(listen("127.0.0.1", 0), probe_application(PROBES), access=access)
    with closing(server):
        yield int(server.url.rstrip("/").rpartition(":")[2])


def ask(port: int, path: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with closing(connection):
        connection.request("GET", path, headers=dict(headers))
        answer = connection.getresponse()
        answer.read()
        return answer


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("LOCALHOST", 200),
        ("evaluator:8000", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example:8000", 400),
        ("[::1", 400),
        ("", 400),
    ],
)
def test_only_names_of_the_server_are_answered(host: str, status: int) -> None:
    with web(Access(hosts=["Evaluator"])) as port:
        assert ask(port, "/metrics", {"Host": host}).status == status


def test_the_page_is_no_other_sites_to_read(tmp_path: Path) -> None:
    """What DNS rebinding asks: this address, under a name of somebody else."""
    with served(tmp_path, window(100, 0, {"dense": 0.4})) as site:
        port = int(site.url.rstrip("/").rpartition(":")[2])
        assert ask(port, "/api/run", {"Host": "localhost"}).status == 200
        assert ask(port, "/api/run", {"Host": "rebound.example"}).status == 400


def test_without_the_token_only_health_is_answered() -> None:
    with web(Access(token=TOKEN)) as port:
        assert ask(port, "/healthz", {}).status == 200
        refused = ask(port, "/metrics", {})
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        for shown in ("Bearer " + TOKEN[:-1], "Basic " + TOKEN, TOKEN, "Bearer é"):
            headers = {"Authorization": shown.encode().decode("latin-1")}
            assert ask(port, "/metrics", headers).status == 401
        assert ask(port, "/metrics", {"Authorization": f"Bearer {TOKEN}"}).status == 200


def test_a_browser_shows_the_token_once() -> None:
    with web(Access(token=TOKEN)) as port:
        assert ask(port, "/?token=wrong", {}).status == 401
        admitted = ask(port, f"/?token={TOKEN}", {})
        assert (admitted.status, admitted.headers["location"]) == (303, "/")
        cookie = admitted.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
        assert ask(port, "/metrics", {"Cookie": cookie.partition(";")[0]}).status == 200
        assert ask(port, "/metrics", {"Cookie": f"resprout-token={TOKEN[1:]}"}).status == 401


def test_over_tls_it_is_asked_as_https(tmp_path: Path) -> None:
    made = certificates(tmp_path / "tls")
    access = Access(certfile=made.certificate, keyfile=made.key)
    server = WebServer(listen("127.0.0.1", 0), probe_application(PROBES), access=access)
    with closing(server):
        assert server.url.startswith("https://127.0.0.1:")
        port = int(server.url.rstrip("/").rpartition(":")[2])
        trusting = ssl.create_default_context(cafile=made.authority)
        connection = http.client.HTTPSConnection("localhost", port, timeout=10, context=trusting)
        with closing(connection):
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b"/healthz"


def test_files_that_are_no_certificate_are_named_before_anything_is_served(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("no certificate")
    listening = listen("127.0.0.1", 0)
    access = Access(certfile=str(tmp_path / "c.pem"))
    with pytest.raises(OSError, match=r"serve.certfile = .*c\.pem and serve.keyfile = None are no"):
        WebServer(listening, probe_application(PROBES), access=access)
    assert listening.fileno() == -1


def test_clients_that_ask_nothing_are_let_go_and_others_are_still_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "_MAX_CONNECTIONS", 20)
    monkeypatch.setattr(app, "_SILENT_SECONDS", 0.5)
    with web() as port, ExitStack() as opened:
        silent = [
            opened.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(60)
        ]
        silent[0].sendall(b"GET /")
        for one in silent:
            one.settimeout(20)
            try:
                assert one.recv(1) == b""
            except ConnectionResetError:
                """That it was one too many."""
        assert ask(port, "/healthz", {}).status == 200


def test_a_client_that_asks_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_SILENT_SECONDS", 0.2)
    with web() as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with closing(connection):
            for _ in range(3):
                connection.request("GET", "/healthz")
                assert connection.getresponse().read() == b"/healthz"
                time.sleep(0.2)


def test_a_cell_that_a_spreadsheet_would_run_is_text(tmp_path: Path) -> None:
    row = [app._cell(one) for one in ("=1+1", "+1", "-1", "@x", "\t=1", "x=1", "", -1.5, 3, None)]
    assert row == ["'=1+1", "'+1", "'-1", "'@x", "'\t=1", "x=1", "", -1.5, 3, None]
    with served(tmp_path, window(100, 0, {"dense": 0.4}), said("=HYPERLINK(0)")) as site:
        rows = list(csv.reader(io.StringIO(site.get("/api/timeline.csv").text)))
    assert "=HYPERLINK(0)" in "".join(rows[1])
    assert not any(cell.startswith("=") for cell in rows[1])


def said(reason: str) -> Alarm:
    """An alarm whose reason comes from outside, as names of features do."""
    return alarm(100).model_copy(update={"reason": reason})
